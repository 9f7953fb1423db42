//! Images by the command line: listed, tagged, saved, removed, imported.

use anyhow::{Result, ensure};
use pontoon_tests::{view, with_host};

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
