//! Files in and out of containers by the command line: cp, diff, export, commit, image prune.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use anyhow::{Result, ensure};
use pontoon_tests::{process, with_host};

/// Names in a tar archive, without leading `./` and final slashes.
fn names(archive: &[u8]) -> Result<BTreeSet<String>> {
    let output = process::run_with_input(
        {
            let mut tar = Command::new("tar");
            tar.arg("-t");
            tar
        },
        archive,
    )?;
    let clean = |name: &str| name.trim_start_matches("./").trim_end_matches('/').to_owned();
    Ok(output
        .ok()?
        .lines()
        .map(clean)
        .filter(|name| !name.is_empty())
        .collect())
}

#[test]
fn copies_go_both_ways() {
    with_host(|host, _| {
        let folder = host.folder().join("copies");
        fs::create_dir_all(folder.join("tree/sub"))?;
        fs::write(folder.join("tree/sub/file"), "text\n")?;
        fs::set_permissions(folder.join("tree/sub/file"), fs::Permissions::from_mode(0o640))?;
        let local = |name: &str| folder.join(name).display().to_string();
        host.line("run --detach --name running --volume kept:/data busybox sleep 1000")?;
        host.line("create --name stopped --volume kept:/data busybox true")?;
        for container in ["running", "stopped"] {
            // A new name takes the content; an old folder takes the folder.
            host.ok(&["cp", &local("tree"), &format!("{container}:/new")])?;
            host.ok(&["cp", "--quiet", &local("tree"), &format!("{container}:/tmp")])?;
            host.ok(&[
                "cp",
                &format!("{}/.", local("tree")),
                &format!("{container}:/data"),
            ])?;
            for inside in ["/new/sub/file", "/tmp/tree/sub/file", "/data/sub/file"] {
                let back = local(&format!("back-{container}"));
                host.ok(&["cp", &format!("{container}:{inside}"), &back])?;
                ensure!(fs::read_to_string(&back)? == "text\n", "{container}:{inside}");
                ensure!(fs::metadata(&back)?.mode() & 0o777 == 0o640, "its mode");
                fs::remove_file(&back)?;
            }
            host.pontoon(&["cp", &format!("{container}:/nosuch"), &local("x")])?
                .fails(1, &["Could not find the file /nosuch in container"])?;
            host.pontoon(&["cp", &local("nosuch"), &format!("{container}:/x")])?
                .fails(1, &["nosuch"])?;
        }
        ensure!(host.ok(&["exec", "running", "cat", "/data/sub/file"])? == "text");
        host.pontoon(&["cp", "running:/new", "stopped:/new"])?
            .fails(1, &["copying between containers is not supported"])?;
        Ok(())
    });
}

#[test]
fn archives_stream_through_standard_streams() {
    with_host(|host, _| {
        host.ok(&[
            "run",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            "mkdir /made && echo one >/made/a && ln -s a /made/link",
        ])?;
        let archive = host.command(&["cp", "box:/made", "-"]).output()?;
        ensure!(archive.status.success());
        let listed = names(&archive.stdout)?;
        ensure!(
            listed
                .iter()
                .map(String::as_str)
                .eq(["made", "made/a", "made/link"]),
            "{listed:?}"
        );
        host.ok(&["create", "--name", "other", "busybox", "cat", "/tmp/made/link"])?;
        process::run_with_input(host.command(&["cp", "-", "other:/tmp"]), &archive.stdout)?.ok()?;
        ensure!(host.ok(&["start", "--attach", "other"])? == "one");

        let exported = host.command(&["export", "box"]).output()?;
        ensure!(exported.status.success());
        let listed = names(&exported.stdout)?;
        ensure!(
            ["bin/busybox", "made/a", "made/link"]
                .iter()
                .all(|name| listed.contains(*name)),
            "{listed:?}"
        );
        let path = host.folder().join("export.tar").display().to_string();
        host.ok(&["export", "--output", &path, "other"])?;
        ensure!(names(&fs::read(&path)?)?.contains("tmp/made/a"));
        host.pontoon(&["export", "nosuch"])?
            .fails(1, &["No such container: nosuch"])?;
        Ok(())
    });
}

#[test]
fn changes_become_an_image() {
    with_host(|host, _| {
        host.ok(&[
            "run",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            "echo new >/added; rm /etc/passwd; echo more >>/etc/group",
        ])?;
        let changes = host.ok(&["diff", "box"])?;
        let expected = ["A /added", "C /etc", "C /etc/group", "D /etc/passwd"];
        let found: BTreeSet<&str> = changes.lines().collect();
        ensure!(expected.iter().all(|line| found.contains(line)), "{changes}");
        let id = host.ok(&[
            "commit",
            "--author",
            "me",
            "--message",
            "why",
            "--change",
            "CMD [\"cat\", \"/added\"]",
            "--change",
            "ENV A=1",
            "box",
            "made:1",
        ])?;
        ensure!(id.starts_with("sha256:"), "{id}");
        ensure!(host.ok(&["run", "--rm", "made:1"])? == "new");
        let gone = host.pontoon(&["run", "--rm", "made:1", "cat", "/etc/passwd"])?;
        ensure!(gone.code == 1, "{gone}");
        ensure!(
            host.ok(&[
                "image",
                "inspect",
                "--format",
                "{{.Author}} {{.Comment}}",
                "made:1"
            ])? == "me why"
        );
        ensure!(
            host.ok(&["history", "--format", "{{.Comment}}", "made:1"])?
                .starts_with("why")
        );
        host.pontoon(&["commit", "--change", "FOO x", "box"])?
            .fails(1, &["FOO"])?;

        // The name moves on; what it leaves behind is dangling, and a prune takes it.
        host.ok(&["commit", "--message", "again", "box", "made:1"])?;
        ensure!(
            host.ok(&["images", "--quiet", "--filter", "dangling=true"])?
                .lines()
                .count()
                == 1
        );
        let pruned = host.ok(&["image", "prune", "--force"])?;
        ensure!(pruned.contains(&format!("deleted: {id}")), "{pruned}");
        ensure!(
            host.ok(&["run", "--rm", "made:1", "cat", "/added"])? == "new",
            "the layer is the new image's too"
        );
        Ok(())
    });
}
