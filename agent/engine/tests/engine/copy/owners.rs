//! Whose files are after a copy when the container's users are not the host's: inside those that the archive says, on the host the
//! mapped ones where files are the host's to see, and in an archive that comes out again those inside.

use std::os::unix::fs::MetadataExt as _;

use pontoon_image::Limits;
use pontoon_image::archive::{Head, Kind, TarReader};
use pontoon_proto::v1::{CopyToStart, MountType};

use super::{archive, collect, path, put_with, start};
use crate::bed::{Bed, cases, mount, sh, with};
use crate::remap::{self, ROOT};

cases![
    remapped_copies_are_the_containers,
    remapped_copies_in_archive_mode,
];

/// What is copied in: a folder of root's with a file of root's and one of somebody's.
fn tree() -> Vec<u8> {
    let dir = Head {
        kind: Kind::Dir,
        mode: 0o755,
        ..Head::file("in")
    };
    let app = Head {
        uid: 1000,
        gid: 2000,
        ..Head::file("in/app")
    };
    archive(&[(dir, ""), (app, "app's"), (Head::file("in/root"), "root's")])
}

/// Name and owner of each entry of what comes out.
async fn owners(bed: &Bed, id: &str, from: &str) -> Vec<(String, u32, u32)> {
    let copied = bed.engine.copy_out(&path(id, from)).await;
    let (_, chunks) = copied.map_err(|error| error.chain()).unwrap();
    let archive = collect(chunks).await.unwrap();
    let limits = Limits::default();
    let mut reader = TarReader::new(archive.as_slice(), &limits);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        found.push((entry.shown(), entry.uid, entry.gid));
    }
    found
}

fn expected(of_dir: (u32, u32), of_app: (u32, u32), of_root: (u32, u32)) -> Vec<(String, u32, u32)> {
    [("in/", of_dir), ("in/app", of_app), ("in/root", of_root)]
        .map(|(name, (uid, gid))| (name.to_owned(), uid, gid))
        .into()
}

async fn remapped_copies_are_the_containers() {
    let bed = remap::bed().await;
    let request = with(sh("sleep 1000"), |config, _| {
        config.mounts = vec![mount(MountType::Volume, "data", "/data")];
    });
    let id = bed.create(request).await;
    let all = expected((0, 0), (1000, 2000), (0, 0));
    for folder in ["/data/before", "/root/before", "/data/running", "/root/running"] {
        if folder == "/data/running" {
            bed.engine.start(&id).await.unwrap();
        }
        let name = folder.rsplit('/').next().unwrap();
        let made = Head {
            kind: Kind::Dir,
            mode: 0o755,
            ..Head::file(name)
        };
        let parent = folder.trim_end_matches(&format!("/{name}"));
        put_with(&bed, start(&id, parent), archive(&[(made, "")]))
            .await
            .unwrap();
        put_with(&bed, start(&id, folder), tree()).await.unwrap();
        assert_eq!(owners(&bed, &id, &format!("{folder}/in")).await, all, "{folder}");
    }
    // What was copied before the start is seen by the container as what was copied later.
    let script = "for d in /data /root; do for t in before running; do for f in in in/app in/root; do \
                  busybox stat -c %u:%g $d/$t/$f; done; done; done";
    let seen = bed.exec(&id, &["sh", "-c", script]).await;
    assert_eq!(seen, "0:0\n1000:2000\n0:0\n".repeat(4));
    // A volume's files belong on the host to the mapped users.
    for time in ["before", "running"] {
        let folder = bed.path().join("data/volumes/data/_data").join(time).join("in");
        let owner = |name: &str| {
            let found = std::fs::metadata(folder.join(name)).unwrap();
            (found.uid(), found.gid())
        };
        let groups = ROOT + 100_000;
        assert_eq!(owner(""), (ROOT, groups), "{time}");
        assert_eq!(owner("root"), (ROOT, groups), "{time}");
        assert_eq!(owner("app"), (ROOT + 1000, groups + 2000), "{time}");
    }
    bed.finish().await;
}

/// With `-a` everything becomes the container's user's, if it has one; else the archive's owners hold.
async fn remapped_copies_in_archive_mode() {
    let bed = remap::bed().await;
    for (user, all) in [
        ("", expected((0, 0), (1000, 2000), (0, 0))),
        ("app", expected((1000, 1000), (1000, 1000), (1000, 1000))),
    ] {
        let request = with(sh("sleep 1000"), |config, _| config.user = user.to_owned());
        let id = bed.create(request).await;
        for to in ["/tmp", "/root"] {
            if to == "/root" {
                bed.engine.start(&id).await.unwrap();
            }
            let start = CopyToStart {
                copy_uid_gid: true,
                ..start(&id, to)
            };
            put_with(&bed, start, tree()).await.unwrap();
            let copied = owners(&bed, &id, &format!("{to}/in")).await;
            assert_eq!(copied, all, "user {user:?}, {to}");
        }
        let script = "busybox stat -c %u:%g /tmp/in /tmp/in/app /tmp/in/root";
        let seen: Vec<String> = all.iter().map(|(_, uid, gid)| format!("{uid}:{gid}\n")).collect();
        assert_eq!(bed.exec(&id, &["sh", "-c", script]).await, seen.concat());
    }
    bed.finish().await;
}
