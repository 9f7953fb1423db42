//! No space: the data folder is a small file system that is full.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::{Host, SHORT, wait_until, with_fleet};

use super::{state, warm};

/// A daemon whose data folder is a small file system.
fn on_small_disk(test: impl FnOnce(&Host, &Path) -> Result<()>) {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        host.stop()?;
        fs::remove_dir_all(host.data_dir()).context("cannot empty the data folder")?;
        fs::create_dir(host.data_dir()).context("cannot make the data folder")?;
        let data = host.data_dir().display().to_string();
        tool("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", &data])?;
        host.start()?;
        warm(fleet)?;
        test(host, &host.data_dir().join("filler"))
    });
}

fn fill(filler: &Path) -> Result<()> {
    let mut file = fs::File::create(filler).context("cannot make the filler")?;
    for size in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![b'x'; size]).is_ok() {}
    }
    Ok(())
}

fn free(filler: &Path) -> Result<()> {
    fs::remove_file(filler).context("cannot remove the filler")
}

#[test]
fn full_disk_when_a_container_is_made() {
    on_small_disk(|host, filler| {
        let before = host.footprint()?;
        fill(filler)?;
        host.pontoon(&["create", "--name", "box", "busybox", "true"])?
            .fails(1, &["no space left"])?;
        host.pontoon(&["run", "--name", "box", "busybox", "true"])?
            .fails(125, &["no space left"])?;
        host.pontoon(&["network", "create", "app"])?
            .fails(1, &["no space left"])?;
        ensure!(host.ok(&["ps", "--all", "--quiet"])?.is_empty());
        ensure!(
            !host
                .ok(&["network", "ls", "--quiet", "--filter", "name=app"])?
                .contains("app")
        );
        host.wait_as_before(&before)?;
        free(filler)?;
        host.ok(&["run", "--rm", "--name", "box", "busybox", "true"])?;
        host.ok(&["network", "create", "app"])?;
        host.ok(&["network", "rm", "app"])?;
        host.wait_as_before(&before)
    });
}

#[test]
fn full_disk_when_a_container_is_started() {
    on_small_disk(|host, filler| {
        host.line("create --name box --publish 8080:8080 busybox sleep 1000")?;
        let before = host.footprint()?;
        fill(filler)?;
        host.pontoon(&["start", "box"])?.fails(1, &["no space left"])?;
        ensure!(state(host, "box")? == "created");
        host.wait_as_before(&before)?;
        free(filler)?;
        host.ok(&["start", "box"])?;
        host.ok(&["exec", "box", "true"])?;
        Ok(())
    });
}

#[test]
fn full_disk_while_containers_run() {
    on_small_disk(|host, filler| {
        let script = "trap 'echo hello' USR1; trap exit TERM; while :; do sleep 0.05; done";
        for name in ["talks", "stops", "ends", "goes"] {
            host.ok(&["run", "--detach", "--name", name, "busybox", "sh", "-c", script])?;
        }
        fill(filler)?;
        host.ok(&["kill", "--signal", "USR1", "talks"])?;
        host.ok(&["exec", "talks", "true"])?;
        // What frees space must not need any.
        host.ok(&["stop", "--time", "5", "stops"])?;
        ensure!(state(host, "stops")? == "exited");
        host.ok(&["kill", "ends"])?;
        ensure!(state(host, "ends")? == "exited");
        host.ok(&["rm", "--force", "goes"])?;
        host.ok(&["rm", "ends"])?;
        ensure!(state(host, "talks")? == "running");
        // A daemon that starts on a full disk finds the same.
        host.kill()?;
        fill(filler)?;
        host.start()?;
        ensure!(state(host, "talks")? == "running");
        ensure!(state(host, "stops")? == "exited");
        ensure!(host.ok(&["ps", "--all", "--quiet"])?.lines().count() == 2);
        free(filler)?;
        host.ok(&["kill", "--signal", "USR1", "talks"])?;
        wait_until("the log goes on", SHORT, || {
            ensure!(host.ok(&["logs", "talks"])?.ends_with("hello"));
            Ok(())
        })?;
        host.ok(&["start", "stops"])?;
        Ok(())
    });
}
