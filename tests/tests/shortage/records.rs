//! Records on disk that somebody has spoiled.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pontoon_tests::with_fleet;

use super::warm;

/// Spoils a file in one way.
fn spoil(path: &Path, way: &str) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = match way {
        "empty" => Vec::new(),
        "cut" => bytes[..bytes.len() / 2].to_vec(),
        _ => vec![0xff; bytes.len()],
    };
    fs::write(path, bytes).context("cannot spoil")
}

#[test]
fn records_that_cannot_be_read() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        let before = host.footprint()?;
        host.line("run --detach --name good --publish 8080:8080 busybox sleep 1000")?;
        for way in ["empty", "cut", "noise"] {
            host.ok(&["create", "--name", "made", "busybox", "true"])?;
            host.line("run --detach --name runs --publish 8081:8080 busybox sleep 1000")?;
            let ids: Vec<String> = ["made", "runs"]
                .iter()
                .map(|name| host.ok(&["inspect", "--format", "{{.Id}}", name]))
                .collect::<Result<_>>()?;
            host.kill()?;
            for id in &ids {
                spoil(
                    &host
                        .data_dir()
                        .join(format!("engine/containers/{id}/container.pb")),
                    way,
                )?;
            }
            host.start().with_context(|| way.to_owned())?;
            ensure!(
                host.ok(&["ps", "--all", "--format", "{{.Names}}"])? == "good",
                "{way}"
            );
            host.ok(&["exec", "good", "true"])?;
            // Their names and ports are free, and what they were does not run on unseen.
            for name in ["made", "runs"] {
                host.ok(&[
                    "run",
                    "--rm",
                    "--name",
                    name,
                    "--publish",
                    "8081:8080",
                    "busybox",
                    "true",
                ])
                .with_context(|| way.to_owned())?;
            }
            for id in &ids {
                // Kept for somebody who wants to look.
                for part in ["engine/containers", "image/rootfs"] {
                    let path = host.data_dir().join(part).join(id);
                    if path.exists() {
                        fs::remove_dir_all(&path).context("cannot remove")?;
                    }
                }
            }
        }
        host.ok(&["rm", "--force", "good"])?;
        host.wait_as_before(&before)
    });
}

#[test]
fn network_records_that_cannot_be_read() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        host.warm_up()?;
        let before = host.footprint()?;
        for way in ["empty", "cut", "noise"] {
            host.ok(&["network", "create", "good"])?;
            host.ok(&["network", "create", "bad"])?;
            host.line("run --detach --name box --network good busybox sleep 1000")?;
            host.line("run --detach --name lost --network bad busybox sleep 1000")?;
            let bad = host.ok(&["network", "inspect", "--format", "{{.Id}}", "bad"])?;
            let sandbox = host.ok(&["inspect", "--format", "{{.Id}}", "lost"])?;
            host.kill()?;
            let files: Vec<PathBuf> = vec![
                host.data_dir().join(format!("network/{bad}.json")),
                host.run_dir().join(format!("sandboxes/{sandbox}.json")),
            ];
            for file in &files {
                spoil(file, way)?;
            }
            host.start().with_context(|| way.to_owned())?;
            host.ok(&["exec", "box", "true"])?;
            let names = host.ok(&["network", "ls", "--format", "{{.Name}}"])?;
            ensure!(names.lines().any(|name| name == "good"), "{names}");
            ensure!(!names.lines().any(|name| name == "bad"), "{names}");
            host.ok(&["rm", "--force", "box", "lost"])?;
            host.ok(&["network", "rm", "good"])?;
            for file in &files {
                // The data folder's is kept for somebody who wants to look.
                let _ = fs::remove_file(file);
            }
            let id = &bad[..12];
            let _ = host.exec(&["ip", "link", "del", &format!("br-{id}")])?;
            host.kill()?;
            host.start()?;
            host.wait_as_before(&before).with_context(|| way.to_owned())?;
        }
        Ok(())
    });
}
