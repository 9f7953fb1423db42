//! What the daemon needs and does not get: space, descriptors, processes, control groups, its folders, readable records. Each time the
//! user is told, nothing is left half-made, everything else goes on, and it works again when there is enough.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pontoon_tests::footprint::Footprint;
use pontoon_tests::process::tool;
use pontoon_tests::{Fleet, Host, LONG, Output, SHORT, cgroups, fleet, images, wait_until, with_fleet};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

fn as_before(host: &Host, before: &Footprint) -> Result<()> {
    wait_until("the host is as before", LONG, || {
        host.footprint()?.ensure_nothing_since(before)
    })
}

fn load_busybox(fleet: &Fleet, host: &Host) -> Result<()> {
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    Ok(())
}

/// A host with busybox and its bridge made.
fn warm(fleet: &Fleet) -> Result<&Host> {
    let host = fleet.host(1);
    load_busybox(fleet, host)?;
    host.ok(&["run", "--rm", "--publish", "7070:7070", "busybox", "true"])?;
    Ok(host)
}

fn state(host: &Host, name: &str) -> Result<String> {
    host.ok(&["inspect", "--format", "{{.State.Status}}", name])
}

fn pid(host: &Host) -> Result<Pid> {
    let raw = host.daemon_pid().context("no daemon")?;
    Pid::from_raw(raw.cast_signed()).context("no process id")
}

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
        as_before(host, &before)?;
        free(filler)?;
        host.ok(&["run", "--rm", "--name", "box", "busybox", "true"])?;
        host.ok(&["network", "create", "app"])?;
        host.ok(&["network", "rm", "app"])?;
        as_before(host, &before)
    });
}

#[test]
fn full_disk_when_a_container_is_started() {
    on_small_disk(|host, filler| {
        host.ok(&[
            "create",
            "--name",
            "box",
            "--publish",
            "8080:8080",
            "busybox",
            "sleep",
            "1000",
        ])?;
        let before = host.footprint()?;
        fill(filler)?;
        host.pontoon(&["start", "box"])?.fails(1, &["no space left"])?;
        ensure!(state(host, "box")? == "created");
        as_before(host, &before)?;
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

/// `run` under a limit that is raised by one until it is enough: each step of it fails once for lack of something.
fn walk_limit(
    host: &Host,
    before: &Footprint,
    at_least: u64,
    limit: impl Fn(Option<u64>) -> Result<()>,
) -> Result<()> {
    let mut failures = 0_u64;
    let mut successes = 0;
    // Three times enough, as the daemon does not need the same each time.
    for extra in 0_u64.. {
        ensure!(extra < 200, "it never works");
        limit(Some(extra))?;
        let output: Output = host.pontoon(&[
            "run",
            "--rm",
            "--name",
            "box",
            "--publish",
            "8080:8080",
            "busybox",
            "true",
        ])?;
        limit(None)?;
        if output.code == 0 {
            successes += 1;
        } else {
            failures += 1;
            ensure!(output.code == 125 || output.code == 126, "{output}");
            ensure!(output.stderr.trim().len() > 20, "says nothing: {output}");
            ensure!(!output.stderr.contains("panicked"), "{output}");
            eprintln!("with {extra}: {}", output.stderr.trim());
        }
        // What could not even be deleted goes at the next start of the daemon.
        let staging = |thing: &String| !thing.contains("/image/staging/");
        let check = || {
            wait_until("the daemon serves", SHORT, || host.ok(&["ps"]))?;
            wait_until("the container is gone", LONG, || {
                let left = host.ok(&["ps", "--all", "--quiet"])?;
                // One whose creation went through and whose client has failed to go on.
                for id in left.lines() {
                    host.pontoon(&["rm", "--force", id])?;
                }
                ensure!(left.is_empty(), "{left}");
                Ok(())
            })?;
            wait_until("the host is as before", LONG, || {
                let mut left = host.footprint()?.since(before);
                left.retain(staging);
                ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
                Ok(())
            })
        };
        check().with_context(|| format!("with {extra} more: {output}"))?;
        if successes == 3 {
            break;
        }
    }
    ensure!(
        failures >= at_least,
        "only {failures} failures: nothing was scarce"
    );
    host.ok(&["run", "--rm", "--publish", "8080:8080", "busybox", "true"])?;
    host.kill()?;
    host.start()?;
    as_before(host, before)
}

#[test]
fn too_few_descriptors() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        let before = host.footprint()?;
        let process = pid(host)?;
        let folder = format!("/proc/{}/fd", process.as_raw_nonzero());
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.as_raw_nonzero()))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let maximum = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        walk_limit(host, &before, 5, |extra| {
            let used = fs::read_dir(&folder).context("cannot list descriptors")?.count() as u64;
            let current = extra.map_or(maximum, |extra| Some(used + extra));
            let new = Rlimit { current, maximum };
            prlimit(Some(process), Resource::Nofile, new).context("cannot limit")?;
            Ok(())
        })
    });
}

#[test]
fn too_few_processes() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        let before = host.footprint()?;
        let home = cgroups::home(&format!("{}/host", host.group()))?;
        if !home.join("pids.max").exists() {
            eprintln!("skipped: no pids controller");
            return Ok(());
        }
        walk_limit(host, &before, 2, |extra| {
            let text = match extra {
                Some(extra) => {
                    let used = fs::read_to_string(home.join("pids.current")).context("cannot read")?;
                    let used: u64 = used.trim().parse().context("no number")?;
                    (used + extra).to_string()
                }
                None => "max".to_owned(),
            };
            fs::write(home.join("pids.max"), text).context("cannot limit")
        })
    });
}

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
        as_before(host, &before)
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
        as_before(host, &before)
    });
}

#[test]
fn a_run_folder_that_is_gone() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        let before = host.footprint()?;
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--publish",
            "8080:8080",
            "busybox",
            "sleep",
            "1000",
        ])?;
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "again",
            "--restart",
            "always",
            "busybox",
            "sleep",
            "1000",
        ])?;
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
        as_before(host, &before)
    });
}

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
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "good",
            "--publish",
            "8080:8080",
            "busybox",
            "sleep",
            "1000",
        ])?;
        for way in ["empty", "cut", "noise"] {
            host.ok(&["create", "--name", "made", "busybox", "true"])?;
            host.ok(&[
                "run",
                "--detach",
                "--name",
                "runs",
                "--publish",
                "8081:8080",
                "busybox",
                "sleep",
                "1000",
            ])?;
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
        as_before(host, &before)
    });
}

#[test]
fn network_records_that_cannot_be_read() {
    with_fleet(1, |fleet| {
        let host = warm(fleet)?;
        // netd stays once it was needed.
        host.ok(&["network", "create", "warm"])?;
        host.ok(&["run", "--rm", "--network", "warm", "busybox", "true"])?;
        host.ok(&["network", "rm", "warm"])?;
        let before = host.footprint()?;
        for way in ["empty", "cut", "noise"] {
            host.ok(&["network", "create", "good"])?;
            host.ok(&["network", "create", "bad"])?;
            host.ok(&[
                "run",
                "--detach",
                "--name",
                "box",
                "--network",
                "good",
                "busybox",
                "sleep",
                "1000",
            ])?;
            host.ok(&[
                "run",
                "--detach",
                "--name",
                "lost",
                "--network",
                "bad",
                "busybox",
                "sleep",
                "1000",
            ])?;
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
            as_before(host, &before).with_context(|| way.to_owned())?;
        }
        Ok(())
    });
}
