//! Control groups and folders of the daemon that can't be written, or are gone.

use std::fs;

use anyhow::{Context, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::{LONG, cgroups, fleet, wait_until, with_fleet};

use super::{state, warm};

#[test]
fn control_groups_that_cannot_be_made() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        let before = host.footprint()?;
        host.stop()?;
        let setup = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mountpoint -q $d && mount -o remount,bind,ro $d; done; \
                     mount -o remount,bind,rw ${1%/pontoon-test-*}";
        host.start_with(setup)?;
        host.pontoon(&["run", "--rm", "busybox", "true"])?
            .fails(125, &["cgroup", "read-only"])?;
        host.ok(&["create", "--name", "box", "busybox", "sleep", "1000"])?;
        host.pontoon(&["start", "box"])?
            .fails(1, &["cgroup", "read-only"])?;
        ensure!(state(host, "box")? == "created");
        host.stop()?;
        host.start()?;
        host.ok(&["start", "box"])?;
        host.ok(&["rm", "--force", "box"])?;
        host.wait_as_before(&before)
    });
}

#[test]
fn control_groups_that_somebody_removed() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        for group in cgroups::groups(host.group())? {
            // The daemon's own is in use and stays.
            let _ = fs::remove_dir(group);
        }
        host.ok(&["run", "--rm", "--memory", "64m", "busybox", "true"])?;
        Ok(())
    });
}

#[test]
fn a_data_folder_that_cannot_be_written() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        host.ok(&["run", "--detach", "--name", "old", "busybox", "sleep", "1000"])?;
        let before = host.footprint()?;
        let data = host.data_dir().display().to_string();
        tool("mount", &["--bind", &data, &data])?;
        tool("mount", &["-o", "remount,bind,ro", &data])?;
        host.pontoon(&["create", "--name", "box", "busybox", "true"])?
            .fails(1, &["read-only file system"])?;
        host.pontoon(&["run", "--rm", "busybox", "true"])?
            .fails(125, &["read-only file system"])?;
        host.ok(&["exec", "old", "true"])?;
        ensure!(host.ok(&["ps", "--all", "--quiet"])?.lines().count() == 1);
        host.stop()?;
        let refused = host.start();
        let log = host.log_tail(5);
        ensure!(refused.is_err(), "it starts on a folder that it can't write");
        ensure!(
            log.to_lowercase().contains("read-only file system") && log.contains(&data),
            "{log}"
        );
        tool("umount", &[&data])?;
        host.start()?;
        host.ok(&["exec", "old", "true"])?;
        host.ok(&["run", "--rm", "busybox", "true"])?;
        host.wait_as_before(&before)
    });
}

#[test]
fn a_run_folder_that_is_gone() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        let before = host.footprint()?;
        host.line("run --detach --name box --publish 8080:8080 busybox sleep 1000")?;
        host.line("run --detach --name again --restart always busybox sleep 1000")?;
        host.kill()?;
        for point in fleet::mounts_below(&host.run_dir()).into_iter().rev() {
            tool("umount", &["-l", &point.display().to_string()])?;
        }
        fs::remove_dir_all(host.run_dir()).context("cannot remove the run folder")?;
        host.start()?;
        wait_until("the container is known to have ended", LONG, || {
            ensure!(state(host, "box")? == "exited");
            ensure!(state(host, "again")? == "running");
            Ok(())
        })?;
        let reason = host.ok(&[
            "inspect",
            "--format",
            "{{.State.ExitCode}} {{.State.Error}}",
            "box",
        ])?;
        ensure!(reason.starts_with("255 ") && reason.len() > 10, "{reason}");
        host.ok(&["exec", "again", "true"])?;
        host.ok(&["start", "box"])?;
        host.ok(&["rm", "--force", "box", "again"])?;
        host.wait_as_before(&before)
    });
}
