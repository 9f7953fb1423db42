//! What `cp` takes and brings: every state of a container, every kind of file, what archives say of owners and modes.
#![allow(clippy::too_many_lines)]

use pontoon_image::Limits;
use pontoon_image::archive::{Head, Kind, TarReader};
use pontoon_proto::v1::{ContainerState, CopyToStart};

use super::{TREE, archive, collect, out, path, put, put_with, start, text};
use crate::bed::{Bed, cases, command, eventually, sh, with};

cases![
    copies_out_of_every_state,
    copies_in_and_keeps_what_archives_say,
    special_files_are_archived_not_opened,
    compressed_archives_are_taken,
];

async fn stat_error(bed: &Bed, id: &str, from: &str) -> String {
    bed.engine.stat_path(&path(id, from)).await.unwrap_err().chain()
}

pub async fn copies_out_of_every_state() {
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

pub async fn copies_in_and_keeps_what_archives_say() {
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
