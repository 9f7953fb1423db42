//! No space: the data folder is a small file system that is full.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::{Host, LONG, SHORT, wait_until, with_fleet};

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

/// Fills the disk but for so many KiB.
fn fill_but(host: &Host, filler: &Path, kib: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(host.data_dir()).context("cannot look at the disk")?;
    let left = (stat.f_bavail * stat.f_frsize).saturating_sub(kib << 10);
    let content = vec![b'x'; usize::try_from(left)?];
    fs::write(filler, content).context("cannot fill the disk")
}

/// Runs a command with more and more room, until it works: each of its steps fails once for lack of room. Gives how often it failed.
fn walk_room(host: &Host, filler: &Path, step: u64, command: &[&str]) -> Result<u32> {
    let before = host.footprint()?;
    let mut failures = 0;
    for kib in (0..).step_by(usize::try_from(step)?) {
        ensure!(kib < 16 << 10, "it never works");
        fill_but(host, filler, kib)?;
        let output = host.pontoon(command)?;
        free(filler)?;
        if output.code == 0 {
            break;
        }
        failures += 1;
        output
            .fails(1, &["no space left"])
            .with_context(|| format!("with {kib} KiB"))?;
        let listed = host.ok(&["images", "--all", "--format", "{{.Repository}}"])?;
        ensure!(listed == "busybox", "with {kib} KiB: {listed}");
        host.wait_as_before(&before)
            .with_context(|| format!("with {kib} KiB"))?;
    }
    let said = host.ok(&["image", "check"])?;
    ensure!(said.ends_with("0 problems, 0 repaired"), "{said}");
    Ok(failures)
}

#[test]
fn full_disk_when_an_image_is_loaded() {
    on_small_disk(|host, filler| {
        let archive = host.folder().join("made.tar").display().to_string();
        let script = "yes | head -c 2000000 >/tmp/big";
        host.ok(&[
            "run",
            "--name",
            "box",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
        host.line("commit box made:1")?;
        host.line("rm box")?;
        host.ok(&["save", "--output", &archive, "made:1"])?;
        host.line("rmi made:1")?;
        let failures = walk_room(host, filler, 192, &["load", "--input", &archive])?;
        ensure!(failures >= 10, "{failures}");
        host.line("run --rm --network none made:1 test -s /tmp/big")
            .map(drop)
    });
}

#[test]
fn full_disk_when_an_image_is_imported() {
    on_small_disk(|host, filler| {
        let folder = host.folder().join("plain");
        fs::create_dir_all(&folder)?;
        fs::copy("/bin/busybox", folder.join("busybox"))?;
        let archive = host.folder().join("plain.tar").display().to_string();
        tool(
            "tar",
            &["-C", &folder.display().to_string(), "-cf", &archive, "busybox"],
        )?;
        let failures = walk_room(host, filler, 192, &["import", &archive, "made:1"])?;
        ensure!(failures >= 10, "{failures}");
        host.line("run --rm --network none made:1 /busybox true")
            .map(drop)
    });
}

#[test]
fn full_disk_takes_build_cache_before_images() {
    on_small_disk(|host, filler| {
        host.stop()?;
        host.start_flagged(&["--image-gc-high-mark", "60%", "--image-gc-low-mark", "10"])?;
        let context = host.folder().join("context");
        fs::create_dir_all(&context)?;
        fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo one >/one\n")?;
        host.ok(&[
            "build",
            "--quiet",
            "--tag",
            "made:1",
            &context.display().to_string(),
        ])?;
        let entries = |count: &str| -> Result<()> {
            let said = host.ok(&["system", "df", "--format", "{{.Type}}:{{.TotalCount}}"])?;
            let line = said.lines().find_map(|line| line.strip_prefix("Build Cache:"));
            ensure!((line == Some("0")) == (count == "none"), "{said}");
            Ok(())
        };
        entries("some")?;
        fill_but(host, filler, 6 << 10)?;
        wait_until("the cache goes", LONG, || entries("none"))?;
        // They were used in the last minute.
        let images = host.ok(&["images", "--quiet"])?;
        ensure!(images.lines().count() == 2, "{images}");
        ensure!(host.ok(&["image", "check"])?.ends_with("0 problems, 0 repaired"));
        Ok(())
    });
}
