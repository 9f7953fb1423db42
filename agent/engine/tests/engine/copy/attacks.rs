//! What hostile containers, archives and clients try with `cp` (CVE-2018-15664, CVE-2019-14271, CVE-2021-41089, CVE-2026-41567).
#![allow(clippy::too_many_lines)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use pontoon_image::archive::{Head, Kind};
use pontoon_proto::v1::CopyToStart;
use tokio::sync::mpsc;

use super::{archive, collect, entries, path, put, put_with, start, text};
use crate::bed::{Bed, cases, eventually, sh, with};

cases![
    hostile_archives_stay_inside,
    swapped_links_lead_nowhere,
    planted_libraries_are_not_loaded,
    a_client_that_leaves_leaves_nothing,
];

async fn hostile_archives_stay_inside() {
    let bed = Bed::new().await;
    let id = bed.start(sh("sleep 1000")).await;
    let host = bed.path().join("host");
    std::fs::write(&host, "the host's").unwrap();
    let before = std::fs::metadata(&host).unwrap();
    let host_text = host.display().to_string();
    let link = |name: &str, kind, target: &str| {
        (
            Head {
                kind,
                link: target.into(),
                ..Head::file(name)
            },
            "",
        )
    };
    let up = "../".repeat(20);
    let parent = bed.path().display().to_string();
    let hostile: Vec<Vec<u8>> = vec![
        archive(&[(Head::file(format!("{up}{host_text}")), "owned")]),
        archive(&[
            link("way", Kind::Symlink, &format!("{up}{parent}")),
            (Head::file("way/host"), "owned"),
        ]),
        archive(&[
            link("abs", Kind::Symlink, &parent),
            (Head::file("abs/host"), "owned"),
        ]),
        archive(&[link("stolen", Kind::Hardlink, &host_text)]),
        archive(&[link("stolen", Kind::Hardlink, &format!("{up}{host_text}"))]),
        archive(&[
            link("dir", Kind::Symlink, &parent),
            (
                Head {
                    kind: Kind::Dir,
                    mode: 0o4777,
                    ..Head::file("dir")
                },
                "",
            ),
        ]),
    ];
    for archive in hostile {
        // Some are refused, some end inside; none may reach the host.
        let _ = put(&bed, &id, "/tmp", archive).await;
    }
    // An absolute name is taken from the folder.
    put(
        &bed,
        &id,
        "/tmp",
        archive(&[(Head::file(host_text.clone()), "inside")]),
    )
    .await
    .unwrap();
    assert_eq!(text(&bed, &id, &format!("/tmp{host_text}")).await, "inside");
    // A size that the PAX header and the header don't agree on, and a sparse file of an exabyte.
    let mut conflict = archive(&[(
        Head {
            xattrs: vec![("user.x".into(), b"1234567".to_vec())],
            ..Head::file("a")
        },
        "x",
    )]);
    let record = conflict.windows(7).position(|w| w == b"1234567").unwrap();
    let start_of = conflict[..record]
        .iter()
        .rposition(|b| *b == b'\n' || *b == 0)
        .map_or(0, |i| i + 1);
    let text_of = String::from_utf8_lossy(&conflict[start_of..record]).into_owned();
    let size = format!("{} size=", text_of.split(' ').next().unwrap());
    let padded = format!("{size}{:0>width$}", 7, width = text_of.len() + 7 - size.len());
    conflict[start_of..record + 7].copy_from_slice(padded.as_bytes());
    let refused = put(&bed, &id, "/tmp", conflict).await.unwrap_err();
    assert!(refused.contains("PAX says"), "{refused}");
    let mut sparse = archive(&[(Head::file("sparse"), "x")]);
    sparse[156] = b'S';
    let sum: u32 = sparse[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| {
            if (148..156).contains(&i) {
                32
            } else {
                u32::from(*b)
            }
        })
        .sum();
    sparse[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let refused = put(&bed, &id, "/tmp", sparse).await.unwrap_err();
    assert!(refused.contains("sparse map"), "{refused}");
    let after = std::fs::metadata(&host).unwrap();
    assert_eq!(std::fs::read_to_string(&host).unwrap(), "the host's");
    assert_eq!(
        (after.mode(), after.nlink(), after.ino()),
        (before.mode(), 1, before.ino())
    );
    assert_ne!(std::fs::metadata(bed.path()).unwrap().mode() & 0o7777, 0o4777);
    bed.finish().await;
}

/// CVE-2018-15664: the container swaps a folder for a link to `/` as fast as it can while we copy in both directions.
async fn swapped_links_lead_nowhere() {
    let bed = Bed::new().await;
    let marker = bed.path().join("marker");
    std::fs::create_dir(&marker).unwrap();
    std::fs::write(marker.join("secret"), "the host's").unwrap();
    let inside = marker.display().to_string();
    // In the container the same path holds something else, and a link that climbs out of any folder. Each turn makes its link anew:
    // a copy that comes between two of them may have made a folder there.
    let script = format!(
        "mkdir -p {inside} /x; echo container >{inside}/secret; touch /up; \
         while :; do busybox rm -rf /x; ln -s / /x; busybox rm -rf /x; ln -s ../../../../../../../../../.. /x; \
         busybox rm -rf /x; mkdir /x; done"
    );
    let id = bed.start(sh(&script)).await;
    eventually("it is up", || async {
        bed.engine.stat_path(&path(&id, "/up")).await.ok()
    })
    .await;
    // The loop really runs when some copies have met a link and some the folder.
    let (mut through, mut stopped, mut round) = (0, 0, 0);
    while round < 60 || through == 0 || stopped == 0 {
        round += 1;
        assert!(round < 5000, "{through} copies met a link, {stopped} none");
        let from = path(&id, &format!("/x{inside}/secret"));
        if let Ok((_, chunks)) = bed.engine.copy_out(&from).await
            && let Ok(archive) = collect(chunks).await
        {
            through += 1;
            assert_eq!(entries(&archive)[0].2, "container\n");
        } else {
            stopped += 1;
        }
        let to = format!("/x{inside}");
        let name = format!("planted-{round}");
        let _ = put(&bed, &id, &to, archive(&[(Head::file(name.clone()), "x")])).await;
        let _ = put(
            &bed,
            &id,
            "/",
            archive(&[(Head::file(format!("x{inside}/{name}")), "x")]),
        )
        .await;
        assert!(!marker.join(name).exists(), "a copy came out of the container");
    }
    assert_eq!(
        std::fs::read_to_string(marker.join("secret")).unwrap(),
        "the host's"
    );
    assert_eq!(std::fs::read_dir(&marker).unwrap().count(), 1);
    bed.finish().await;
}

/// CVE-2019-14271: nothing in the container is loaded or run by a copy, not its name service, not its unpackers.
async fn planted_libraries_are_not_loaded() {
    let bed = Bed::new().await;
    let id = bed
        .create(with(sh("true"), |config, _| config.user = "app".into()))
        .await;
    let evil = "#!/bin/sh\ntouch /pwned\n";
    let program = |name: &str| {
        (
            Head {
                mode: 0o755,
                ..Head::file(name)
            },
            evil,
        )
    };
    let planted = archive(&[
        program("lib/libnss_files.so.2"),
        program("lib/x86_64-linux-gnu/libnss_files.so.2"),
        program("usr/bin/unpigz"),
        program("usr/bin/gunzip"),
        program("usr/bin/getent"),
        (Head::file("etc/ld.so.preload"), "/lib/libnss_files.so.2\n"),
        (Head::file("etc/nsswitch.conf"), "passwd: files\n"),
    ]);
    put(&bed, &id, "/", planted).await.unwrap();
    let all = CopyToStart {
        copy_uid_gid: true,
        ..start(&id, "/tmp")
    };
    put_with(&bed, all, archive(&[(Head::file("f"), "x")]))
        .await
        .unwrap();
    assert_eq!(text(&bed, &id, "/tmp/f").await, "x");
    assert!(bed.engine.stat_path(&path(&id, "/pwned")).await.is_err());
    assert!(!Path::new("/pwned").exists());
    bed.finish().await;
}

async fn a_client_that_leaves_leaves_nothing() {
    let bed = Bed::new().await;
    let id = bed
        .start(sh("yes | head -c 20000000 >/big; touch /up; sleep 1000"))
        .await;
    eventually("it is up", || async {
        bed.engine.stat_path(&path(&id, "/up")).await.ok()
    })
    .await;
    // Reads a little and goes.
    let (_, mut chunks) = bed.engine.copy_out(&path(&id, "/big")).await.unwrap();
    chunks.recv().await.unwrap().unwrap();
    drop(chunks);
    // Sends a little and breaks off: that is no archive.
    let (sender, receiver) = mpsc::channel(4);
    let head = archive(&[(Head::file("cut"), &"x".repeat(100_000))]);
    sender
        .send(Ok(Bytes::copy_from_slice(&head[..50_000])))
        .await
        .unwrap();
    sender.send(Err(std::io::Error::other("gone"))).await.unwrap();
    drop(sender);
    let error = bed
        .engine
        .copy_in(start(&id, "/tmp"), receiver)
        .await
        .unwrap_err()
        .chain();
    assert!(error.contains("the archive's sender went away"), "{error}");
    // A reader that never reads keeps nobody from removing the container.
    let (_, stalled) = bed.engine.copy_out(&path(&id, "/big")).await.unwrap();
    bed.engine.remove(&id, true).await.unwrap();
    drop(stalled);
    bed.finish().await;
}
