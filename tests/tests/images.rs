//! Images by the command line: listed with filters and formats, tagged, saved, loaded, removed, pruned, imported, checked.

use std::fs;

use anyhow::{Result, ensure};
use pontoon_tests::{Host, view, with_host};

#[test]
fn images_are_listed_tagged_saved_and_removed() {
    with_host(|host, fleet| {
        let names = |host: &pontoon_tests::Host| -> Result<Vec<String>> {
            let rows = view::rows(host, &["images"])?;
            Ok(rows
                .iter()
                .map(|row| format!("{}:{}", view::field(row, "Repository"), view::field(row, "Tag")))
                .collect())
        };
        let mut listed = names(host)?;
        listed.sort();
        ensure!(listed == ["busybox:latest", "web:1", "web:2"], "{listed:?}");
        host.ok(&["tag", "busybox", "registry.example/team/box:v1"])?;
        let archive = fleet.folder().join("saved.tar");
        let archive = archive.display().to_string();
        host.ok(&["save", "--output", &archive, "registry.example/team/box:v1"])?;
        host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
        host.ok(&["rmi", "registry.example/team/box:v1"])?;
        host.pontoon(&["rmi", "busybox"])?
            .fails(1, &["busybox", "in use"])
            .or_else(|_| host.pontoon(&["rmi", "busybox"])?.fails(1, &["is using"]))?;
        host.ok(&["rm", "--force", "box"])?;
        host.ok(&["rmi", "busybox"])?;
        ensure!(
            !names(host)?.iter().any(|name| name.starts_with("busybox")),
            "{:?}",
            names(host)?
        );
        let said = host.ok(&["load", "--input", &archive])?;
        ensure!(said.contains("registry.example/team/box:v1"), "{said}");
        host.ok(&["run", "--rm", "registry.example/team/box:v1", "true"])?;
        host.pontoon(&["rmi", "no-such-image"])?
            .fails(1, &["no-such-image"])?;
        Ok(())
    });
}

#[test]
fn import_makes_an_image_of_a_plain_tar() {
    with_host(|host, fleet| {
        let folder = fleet.folder().join("import");
        std::fs::create_dir_all(&folder)?;
        std::fs::copy("/bin/busybox", folder.join("busybox"))?;
        let archive = fleet.folder().join("plain.tar").display().to_string();
        pontoon_tests::process::tool(
            "tar",
            &["-C", &folder.display().to_string(), "-cf", &archive, "busybox"],
        )?;
        host.ok(&[
            "import",
            "--change",
            "CMD [\"/busybox\",\"echo\",\"imported\"]",
            &archive,
            "plain:1",
        ])?;
        ensure!(host.ok(&["run", "--rm", "plain:1"])? == "imported");
        Ok(())
    });
}

/// Images one after the other, `one:1`, `two:1` and so on, each with a label of its name and `kind=made`.
fn made(host: &Host, names: &[&str]) -> Result<()> {
    for name in names {
        host.ok(&[
            "run",
            "--name",
            name,
            "--network",
            "none",
            "busybox",
            "touch",
            &format!("/{name}"),
        ])?;
        let (label, image) = (format!("LABEL name={name} kind=made"), format!("{name}:1"));
        host.ok(&["commit", "--change", &label, "--message", "why not", name, &image])?;
        host.ok(&["rm", name])?;
    }
    Ok(())
}

/// What a listing of images gives, sorted.
fn listed(host: &Host, arguments: &[&str]) -> Result<Vec<String>> {
    let format = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let output = host.ok(&[&format[..], arguments].concat())?;
    let mut lines: Vec<String> = output.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

#[test]
fn listings_filter_as_docker_does() {
    with_host(|host, _| {
        made(host, &["one", "two", "three"])?;
        host.ok(&["tag", "one:1", "registry.example/team/one:v1"])?;
        // An image without a name: its tag goes to another one.
        host.ok(&["tag", "three:1", "lost:1"])?;
        made(host, &["lost"])?;
        host.ok(&["tag", "two:1", "lost:1"])?;
        let all = ["busybox:latest", "web:1", "web:2"];
        let cases: &[(&[&str], &[&str])] = &[
            (&["one"], &["one:1"]),
            (&["one:2"], &[]),
            (&["registry.example/team/one"], &["registry.example/team/one:v1"]),
            (&["--filter", "label=name=two"], &["lost:1", "two:1"]),
            (
                &["--filter", "label=kind=made", "--filter", "label=name=one"],
                &["one:1", "registry.example/team/one:v1"],
            ),
            (&["--filter", "label=nosuch"], &[]),
            (&["--filter", "reference=t*:1"], &["three:1", "two:1"]),
            (
                &["--filter", "reference=*/*/one"],
                &["registry.example/team/one:v1"],
            ),
            (&["--filter", "dangling=true"], &["<none>:<none>"]),
            (&["--filter", "before=one:1"], &all),
            (
                &["--filter", "since=two:1", "--filter", "dangling=false"],
                &["three:1"],
            ),
            (&["--filter", "until=24h", "--filter", "label=kind=made"], &[]),
        ];
        for (arguments, expected) in cases {
            let found = listed(host, arguments)?;
            ensure!(found == *expected, "{arguments:?}: {found:?}");
        }
        for (filter, text) in [
            ("nosuch=1", "invalid filter 'nosuch'"),
            ("dangling=maybe", "invalid filter 'dangling=maybe'"),
            ("before=nosuch", "No such image: nosuch"),
            ("until=whenever", "whenever"),
        ] {
            host.pontoon(&["images", "--filter", filter])?.fails(1, &[text])?;
        }
        host.pontoon(&["images", "--tree"])?
            .fails(1, &["--tree is not supported"])?;

        // Formats.
        let id = host.ok(&["images", "--quiet", "--no-trunc", "one:1"])?;
        ensure!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        ensure!(host.ok(&["images", "-q", "one"])? == id["sha256:".len()..][..12]);
        let row = &view::rows(host, &["images", "one"])?[0];
        ensure!(
            view::field(row, "ID") == id[7..][..12] && view::field(row, "Digest") == "<none>",
            "{row}"
        );
        let table = host.ok(&[
            "images",
            "--digests",
            "--format",
            "table {{.Repository}}\t{{.Digest}}\t{{.Size}}",
            "one",
        ])?;
        let words: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        ensure!(
            words[0] == ["REPOSITORY", "DIGEST", "SIZE"] && words[1][..2] == ["one", "<none>"],
            "{table}"
        );
        let headings = host.ok(&["images", "--digests"])?;
        let headings: Vec<&str> = headings
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        ensure!(
            headings == ["REPOSITORY", "TAG", "DIGEST", "IMAGE", "ID", "CREATED", "SIZE"],
            "{headings:?}"
        );
        ensure!(host.ok(&["image", "ls", "--quiet", "one"])? == host.ok(&["image", "list", "-q", "one"])?);
        Ok(())
    });
}

#[test]
fn history_shows_how_an_image_came_about() {
    with_host(|host, _| {
        made(host, &["one"])?;
        let rows = view::rows(host, &["history", "one:1"])?;
        ensure!(rows.len() == 2, "{rows:?}");
        ensure!(view::field(&rows[0], "Comment") == "why not" && view::field(&rows[1], "ID") == "<missing>");
        let id = host.ok(&["images", "-q", "--no-trunc", "one"])?;
        ensure!(host.ok(&["history", "-q", "--no-trunc", "one:1"])? == format!("{id}\n<missing>"));
        let sizes = host.ok(&["history", "--human=false", "--format", "{{.Size}}", "one:1"])?;
        ensure!(
            sizes
                .lines()
                .nth(1)
                .and_then(|size| size.parse::<u64>().ok())
                .is_some_and(|size| size > 1_000_000),
            "{sizes}"
        );
        let table = host.ok(&["image", "history", "one:1"])?;
        ensure!(table.starts_with("IMAGE"), "{table}");
        host.pontoon(&["history", "nosuch"])?
            .fails(1, &["No such image: nosuch"])?;
        Ok(())
    });
}

#[test]
fn pruning_takes_what_fits_and_nobody_uses() {
    with_host(|host, _| {
        made(host, &["one", "two", "three"])?;
        host.ok(&["create", "--name", "box", "three:1", "true"])?;
        ensure!(
            host.ok(&["image", "prune", "--force"])?
                .ends_with("Total reclaimed space: 0B")
        );
        // Too young, or without the label.
        host.ok(&["image", "prune", "-af", "--filter", "until=24h"])?;
        host.ok(&["image", "prune", "-af", "--filter", "label=nosuch"])?;
        ensure!(listed(host, &["--filter", "label=kind=made"])? == ["one:1", "three:1", "two:1"]);
        let said = host.ok(&["image", "prune", "-af", "--filter", "label=name=one"])?;
        ensure!(
            said.starts_with("Deleted Images:\nuntagged: one:1\ndeleted: sha256:"),
            "{said}"
        );
        host.ok(&[
            "image",
            "prune",
            "-af",
            "--filter",
            "label=kind=made",
            "--filter",
            "label!=name=two",
        ])?;
        ensure!(listed(host, &["--filter", "label=kind=made"])? == ["three:1", "two:1"]);
        host.ok(&["image", "prune", "-af", "--filter", "label=kind"])?;
        ensure!(
            listed(host, &["--filter", "label=kind=made"])? == ["three:1"],
            "a container was made from it"
        );
        host.pontoon(&["image", "prune", "-f", "--filter", "nosuch=1"])?
            .fails(1, &["invalid filter 'nosuch'"])?;
        ensure!(host.ok(&["image", "check"])?.ends_with("0 problems, 0 repaired"));
        Ok(())
    });
}

#[test]
fn damage_is_found_and_repaired() {
    with_host(|host, _| {
        let folder = host.data_dir().join("image");
        let layer = fs::read_dir(folder.join("layers"))?.next().transpose()?;
        let layer = layer.map(|entry| entry.path()).unwrap_or_default();
        fs::remove_dir_all(layer.join("diff"))?;
        let output = host.pontoon(&["image", "check"])?;
        ensure!(
            output.code == 1 && output.stdout.contains("unpacked files are missing"),
            "{output}"
        );
        ensure!(
            host.ok(&["image", "check", "--repair"])?
                .ends_with("1 problems, 1 repaired")
        );
        for entry in fs::read_dir(folder.join("layers"))? {
            fs::remove_dir_all(entry?.path().join("diff"))?;
        }
        // A daemon that starts finds the same by itself.
        host.kill()?;
        host.start()?;
        ensure!(host.ok(&["image", "check"])?.ends_with("0 problems, 0 repaired"));
        host.line("run --rm --network none busybox true")?;
        Ok(())
    });
}

#[test]
fn archives_that_are_no_images_are_refused() {
    with_host(|host, _| {
        let folder = host.folder().join("bad");
        fs::create_dir_all(&folder)?;
        let path = |name: &str| folder.join(name).display().to_string();
        host.ok(&["save", "--output", &path("good.tar"), "busybox"])?;
        let good = fs::read(path("good.tar"))?;
        fs::write(path("cut.tar"), &good[..good.len() / 2])?;
        let mut spoilt = good.clone();
        let middle = spoilt.len() / 2;
        spoilt[middle] ^= 1;
        fs::write(path("spoilt.tar"), spoilt)?;
        fs::write(path("empty.tar"), "")?;
        fs::write(path("noise.tar"), vec![0x55; 4096])?;
        host.line("rmi busybox")?;
        let before = host.footprint()?;
        for (name, text) in [
            ("cut.tar", "truncated"),
            ("spoilt.tar", "sha256:"),
            ("empty.tar", ""),
            ("noise.tar", "checksum"),
        ] {
            let output = host
                .pontoon(&["load", "--input", &path(name)])?
                .fails(1, &[text])?;
            ensure!(output.stderr.trim().lines().count() == 1, "{name}: {output}");
            host.wait_as_before(&before)?;
        }
        for (name, text) in [("cut.tar", "truncated"), ("noise.tar", "checksum")] {
            host.pontoon(&["import", &path(name), "made:1"])?
                .fails(1, &[text])?;
            host.wait_as_before(&before)?;
        }
        ensure!(listed(host, &[])? == ["web:1", "web:2"]);
        host.ok(&["load", "--input", &path("good.tar")])?;
        ensure!(host.ok(&["image", "check"])?.ends_with("0 problems, 0 repaired"));
        Ok(())
    });
}
