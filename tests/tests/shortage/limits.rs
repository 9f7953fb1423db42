//! Too few descriptors and processes: raised one by one until `run` succeeds, so that each step of it fails once.

use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_tests::footprint::Footprint;
use pontoon_tests::{Host, LONG, Output, SHORT, cgroups, wait_until, with_fleet};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::warm;

fn pid(host: &Host) -> Result<Pid> {
    let raw = host.daemon_pid().context("no daemon")?;
    Pid::from_raw(raw.cast_signed()).context("no process id")
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
    host.wait_as_before(before)
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
