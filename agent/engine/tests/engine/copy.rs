//! cp and export, and what hostile containers and archives try with them (CVE-2018-15664, CVE-2019-14271,
//! CVE-2021-41089, CVE-2026-41567).
#![allow(clippy::too_many_lines)]

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use pontoon_engine::{Chunks, Error};
use pontoon_image::Limits;
use pontoon_image::archive::{Head, Kind, TarReader, TarWriter};
use pontoon_proto::v1::{ContainerPathRequest, ContainerState, CopyToStart, Mount, MountType};
use tokio::sync::mpsc;

use crate::bed::{Bed, cases, command, eventually, sh, with};

cases![
    copies_out_of_every_state,
    copies_in_and_keeps_what_archives_say,
    mounts_are_seen,
    read_only_is_refused,
    export_has_the_root_file_system,
    special_files_are_archived_not_opened,
    compressed_archives_are_taken,
    hostile_archives_stay_inside,
    swapped_links_lead_nowhere,
    planted_libraries_are_not_loaded,
    a_client_that_leaves_leaves_nothing,
];

pub fn path(target: &str, path: &str) -> ContainerPathRequest {
    ContainerPathRequest {
        target: target.to_owned(),
        path: path.to_owned(),
    }
}

async fn collect(mut chunks: Chunks) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Name, kind and content of each entry.
fn entries(archive: &[u8]) -> Vec<(String, Kind, String)> {
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = String::new();
        if entry.size < 4096 {
            reader.read_to_string(&mut content).unwrap();
        }
        let link = String::from_utf8(entry.link.clone()).unwrap();
        found.push((entry.shown(), entry.kind, content + &link));
    }
    found
}

async fn out(bed: &Bed, id: &str, from: &str) -> Vec<(String, Kind, String)> {
    let (_, chunks) = bed
        .engine
        .copy_out(&path(id, from))
        .await
        .map_err(|e| e.chain())
        .unwrap();
    entries(&collect(chunks).await.unwrap())
}

/// The text of the file that a path is.
async fn text(bed: &Bed, id: &str, from: &str) -> String {
    let found = out(bed, id, from).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap().2
}

fn archive(heads: &[(Head, &str)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (head, data) in heads {
        let mode = if head.mode == 0 { 0o644 } else { head.mode };
        let size = data.len() as u64;
        let head = Head {
            size,
            mode,
            ..head.clone()
        };
        tar.file(&head, &mut data.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

fn start(id: &str, to: &str) -> CopyToStart {
    CopyToStart {
        target: id.to_owned(),
        path: to.to_owned(),
        no_overwrite_dir_non_dir: true,
        copy_uid_gid: false,
    }
}

async fn put_with(bed: &Bed, start: CopyToStart, archive: Vec<u8>) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel(4);
    let send = async {
        for part in archive.chunks(100_000) {
            if sender.send(Ok(Bytes::copy_from_slice(part))).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let (copied, ()) = tokio::join!(bed.engine.copy_in(start, receiver), send);
    copied.map_err(|error| error.chain())
}

async fn put(bed: &Bed, id: &str, to: &str, archive: Vec<u8>) -> Result<(), String> {
    put_with(bed, start(id, to), archive).await
}

async fn stat_error(bed: &Bed, id: &str, from: &str) -> String {
    bed.engine.stat_path(&path(id, from)).await.unwrap_err().chain()
}

const TREE: &str = "mkdir -p /d/s; echo text >/d/f; ln /d/f /d/s/hard; ln -s /d/f /d/l; ln -s d /ld; mkfifo /d/p; mknod /d/n c 1 3";

async fn copies_out_of_every_state() {
    let bed = Bed::new().await;
    let id = bed.create(sh(&format!("{TREE}; sleep 1000"))).await;
    // Created: the image's files.
    assert_eq!(text(&bed, &id, "/plain").await, "not a program\n");
    assert_eq!(
        stat_error(&bed, &id, "/d").await,
        format!("Could not find the file /d in container {id}")
    );
    bed.engine.start(&id).await.unwrap();
    eventually("the tree is there", || async {
        bed.engine.stat_path(&path(&id, "/d/n")).await.ok()
    })
    .await;
    let expected = [
        ("d/", Kind::Dir, ""),
        ("d/f", Kind::File, "text\n"),
        ("d/l", Kind::Symlink, "/d/f"),
        ("d/n", Kind::Char, ""),
        ("d/p", Kind::Fifo, ""),
        ("d/s/", Kind::Dir, ""),
        ("d/s/hard", Kind::Hardlink, "d/f"),
    ]
    .map(|(name, kind, text)| (name.to_owned(), kind, text.to_owned()));
    assert_eq!(out(&bed, &id, "/d").await, expected);
    bed.engine.pause(&id).await.unwrap();
    assert_eq!(out(&bed, &id, "d").await, expected);
    bed.engine.unpause(&id).await.unwrap();
    let names =
        |found: Vec<(String, Kind, String)>| found.into_iter().map(|entry| entry.0).collect::<Vec<_>>();
    assert_eq!(names(out(&bed, &id, "/ld").await), ["ld"]);
    assert_eq!(names(out(&bed, &id, "/ld/s/").await), ["s/", "s/hard"]);
    assert_eq!(names(out(&bed, &id, "/ld/s/.").await), ["./", "./hard"]);
    let stat = bed.engine.stat_path(&path(&id, "/ld")).await.unwrap();
    assert_eq!((stat.name.as_str(), stat.link_target.as_str()), ("ld", "/d"));
    // What the kernel serves is not the container's files.
    assert!(
        stat_error(&bed, &id, "/proc/cpuinfo")
            .await
            .starts_with("Could not find the file")
    );
    assert!(
        !names(out(&bed, &id, "/").await)
            .iter()
            .any(|name| name.starts_with("/proc/") && name != "/proc/")
    );
    assert_eq!(
        stat_error(&bed, &id, "/d/f/").await,
        "lstat /d/f/: not a directory"
    );
    assert_eq!(stat_error(&bed, "nobody", "/").await, "No such container: nobody");
    bed.engine.kill(&id, "").await.unwrap();
    bed.until(&id, "it ends", |view| view.state() == ContainerState::Exited)
        .await;
    assert_eq!(out(&bed, &id, "/d").await, expected);
    bed.finish().await;
}

async fn copies_in_and_keeps_what_archives_say() {
    let bed = Bed::new().await;
    let request = with(sh("trap exit TERM; while :; do sleep 0.1; done"), |config, _| {
        config.user = "app".into()
    });
    let id = bed.create(request).await;
    let file = Head {
        mode: 0o6755,
        uid: 12,
        gid: 34,
        mtime: 1_000_000_000,
        ..Head::file("in/f")
    };
    let dir = Head {
        kind: Kind::Dir,
        mode: 0o1700,
        uid: 56,
        gid: 78,
        mtime: 1_100_000_000,
        ..Head::file("in")
    };
    let link = Head {
        kind: Kind::Symlink,
        link: b"../../x".to_vec(),
        uid: 12,
        gid: 34,
        ..Head::file("in/l")
    };
    let hard = Head {
        kind: Kind::Hardlink,
        link: b"in/f".to_vec(),
        ..Head::file("in/h")
    };
    let note = vec![("user.note".to_owned(), b"a\n\0b".to_vec())];
    let noted = Head {
        xattrs: note.clone(),
        ..Head::file("in/noted")
    };
    let all = archive(&[(dir, ""), (file, "hello"), (link, ""), (hard, ""), (noted, "")]);
    for running in [false, true] {
        if running {
            bed.engine.start(&id).await.unwrap();
        }
        let to = if running { "/tmp" } else { "/root" };
        put(&bed, &id, to, all.clone()).await.unwrap();
        let (_, chunks) = bed
            .engine
            .copy_out(&path(&id, &format!("{to}/in")))
            .await
            .unwrap();
        let copied = collect(chunks).await.unwrap();
        let limits = Limits::default();
        let mut reader = TarReader::new(&copied[..], &limits);
        let mut next = || reader.next_entry().unwrap().unwrap();
        let dir = next();
        assert_eq!(
            (dir.mode, dir.uid, dir.gid, dir.mtime.0),
            (0o1700, 56, 78, 1_100_000_000)
        );
        let file = next();
        assert_eq!(
            (file.mode, file.uid, file.gid, file.mtime.0),
            (0o6755, 12, 34, 1_000_000_000)
        );
        assert_eq!(next().kind, Kind::Hardlink);
        let link = next();
        assert_eq!((link.uid, link.link.as_slice()), (12, &b"../../x"[..]));
        assert_eq!(next().xattrs, note);
    }
    // -a: the container's user gets it, by the container's own passwd.
    let all = CopyToStart {
        copy_uid_gid: true,
        ..start(&id, "/tmp")
    };
    put_with(
        &bed,
        all,
        archive(&[(
            Head {
                uid: 7,
                gid: 7,
                ..Head::file("owned")
            },
            "x",
        )]),
    )
    .await
    .unwrap();
    let (_, chunks) = bed.engine.copy_out(&path(&id, "/tmp/owned")).await.unwrap();
    let copied = collect(chunks).await.unwrap();
    let limits = Limits::default();
    let entry = TarReader::new(&copied[..], &limits)
        .next_entry()
        .unwrap()
        .unwrap();
    assert_eq!((entry.uid, entry.gid), (1000, 1000));
    // Refusals, in Docker's words.
    let plain = || archive(&[(Head::file("f"), "x")]);
    let refused = |to: &'static str, archive| {
        let (bed, id) = (&bed, id.clone());
        async move { put(bed, &id, to, archive).await.unwrap_err() }
    };
    assert_eq!(
        refused("/nodir", plain()).await,
        format!("Could not find the file /nodir in container {id}")
    );
    assert_eq!(
        refused("/plain", plain()).await,
        "extraction point is not a directory"
    );
    let over = archive(&[(Head::file("tmp"), "x")]);
    assert_eq!(
        refused("/", over).await,
        "cannot overwrite directory \"/tmp\" with non-directory \"/\""
    );
    assert!(
        refused(
            "/tmp",
            b"this is no archive, but it is longer than a block".repeat(50)
        )
        .await
        .contains("not an image archive")
    );
    // An empty stream is an empty archive.
    put(&bed, &id, "/tmp", Vec::new()).await.unwrap();
    bed.finish().await;
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        r#type: MountType::Bind.into(),
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only,
        ..Mount::default()
    }
}

async fn mounts_are_seen() {
    let bed = Bed::new().await;
    let volume = bed.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("here"), "in the volume").unwrap();
    let id = bed
        .create(with(sh("echo up >/scratch/up; sleep 1000"), |config, _| {
            config.mounts.push(bind(&volume, "/deep/volume", false));
            config.mounts.push(Mount {
                r#type: MountType::Tmpfs.into(),
                target: "/scratch".into(),
                ..Mount::default()
            });
        }))
        .await;
    let new = |name: &str| archive(&[(Head::file(name), "new")]);
    // Not running: the volume, but no tmpfs.
    assert_eq!(text(&bed, &id, "/deep/volume/here").await, "in the volume");
    put(&bed, &id, "/deep/volume", new("stopped")).await.unwrap();
    bed.engine.start(&id).await.unwrap();
    eventually("it is up", || async {
        bed.engine.stat_path(&path(&id, "/scratch/up")).await.ok()
    })
    .await;
    put(&bed, &id, "/deep/volume", new("running")).await.unwrap();
    put(&bed, &id, "/scratch", new("memory")).await.unwrap();
    assert_eq!(text(&bed, &id, "/scratch/memory").await, "new");
    assert!(text(&bed, &id, "/etc/hosts").await.contains("localhost"));
    for name in ["stopped", "running"] {
        assert_eq!(std::fs::read_to_string(volume.join(name)).unwrap(), "new");
    }
    // Export leaves them out.
    let exported = entries(&collect(bed.engine.export(&id).await.unwrap()).await.unwrap());
    let names: Vec<&str> = exported.iter().map(|entry| entry.0.as_str()).collect();
    assert!(names.contains(&"deep/volume/") && !names.contains(&"deep/volume/here"));
    assert!(names.contains(&"scratch/") && !names.contains(&"scratch/up"));
    bed.finish().await;
}

async fn read_only_is_refused() {
    let bed = Bed::new().await;
    let volume = bed.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let id = bed
        .create(with(sh("sleep 1000"), |config, _| {
            config.read_only = true;
            config.mounts.push(bind(&volume, "/rw", false));
            config.mounts.push(bind(&volume, "/ro", true));
        }))
        .await;
    for running in [false, true] {
        if running {
            bed.engine.start(&id).await.unwrap();
        }
        let file = || archive(&[(Head::file("f"), "x")]);
        let root = put(&bed, &id, "/tmp", file()).await.unwrap_err();
        assert_eq!(root, "container rootfs is marked read-only");
        let volume = put(&bed, &id, "/ro", file()).await.unwrap_err();
        assert_eq!(volume, "mounted volume is marked read-only");
        put(&bed, &id, "/rw", file()).await.unwrap();
    }
    bed.finish().await;
}

async fn export_has_the_root_file_system() {
    let bed = Bed::new().await;
    let id = bed
        .start(sh(&format!("{TREE}; rm /plain; touch /done; sleep 1000")))
        .await;
    eventually("it is done", || async {
        bed.engine.stat_path(&path(&id, "/done")).await.ok()
    })
    .await;
    let running = collect(bed.engine.export(&id).await.unwrap()).await.unwrap();
    bed.engine.kill(&id, "").await.unwrap();
    bed.until(&id, "it ends", |view| view.state() == ContainerState::Exited)
        .await;
    let stopped = collect(bed.engine.export(&id).await.unwrap()).await.unwrap();
    assert!(running == stopped, "the same files give the same archive");
    let names: Vec<String> = entries(&stopped).into_iter().map(|entry| entry.0).collect();
    for name in [
        "d/",
        "d/f",
        "d/s/hard",
        "bin/busybox",
        "proc/",
        "etc/hosts",
        "dev/",
    ] {
        assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
    }
    assert!(!names.contains(&"plain".to_owned()));
    bed.finish().await;
}

async fn special_files_are_archived_not_opened() {
    let bed = Bed::new().await;
    // Opening the FIFO would hang; a terminal's or watchdog's device would do worse.
    let id = bed.start(sh("mkfifo /pipe; mknod /dev/../block b 7 200; nc -lU /sock & while [ ! -S /sock ]; do :; done; touch /up; wait")).await;
    let up = eventually("it is up or has no such nc", || async {
        let up = bed.engine.stat_path(&path(&id, "/up")).await.is_ok();
        let ended = bed.inspect(&id).state() == ContainerState::Exited;
        (up || ended || bed.engine.stat_path(&path(&id, "/block")).await.is_ok()).then_some(up)
    })
    .await;
    assert_eq!(
        out(&bed, &id, "/pipe").await,
        [("pipe".to_owned(), Kind::Fifo, String::new())]
    );
    assert_eq!(
        out(&bed, &id, "/block").await,
        [("block".to_owned(), Kind::Block, String::new())]
    );
    if up {
        assert!(out(&bed, &id, "/sock").await.is_empty());
    }
    // The same over names that exist.
    let nodes = archive(&[
        (
            Head {
                kind: Kind::Fifo,
                ..Head::file("made")
            },
            "",
        ),
        (
            Head {
                kind: Kind::Char,
                dev: (1, 7),
                ..Head::file("full")
            },
            "",
        ),
        (Head::file("pipe"), "a file now"),
    ]);
    put(&bed, &id, "/", nodes).await.unwrap();
    assert_eq!(text(&bed, &id, "/pipe").await, "a file now");
    assert_eq!(out(&bed, &id, "/full").await[0].1, Kind::Char);
    bed.finish().await;
}

async fn compressed_archives_are_taken() {
    let bed = Bed::new().await;
    let id = bed.create(command(&["true"])).await;
    let work = bed.path().join("work");
    std::fs::create_dir(&work).unwrap();
    for (program, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
        let tar = work.join(format!("{suffix}.tar"));
        std::fs::write(&tar, archive(&[(Head::file(suffix), program)])).unwrap();
        let packed = std::process::Command::new(program).arg("-k").arg(&tar).status();
        if !packed.is_ok_and(|status| status.success()) {
            println!("skipped: no {program} on this host");
            continue;
        }
        let packed = std::fs::read(work.join(format!("{suffix}.tar.{suffix}"))).unwrap();
        put(&bed, &id, "/tmp", packed).await.unwrap();
        assert_eq!(text(&bed, &id, &format!("/tmp/{suffix}")).await, program);
    }
    bed.finish().await;
}

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
    assert!(refused.contains("sparse entry"), "{refused}");
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
