//! What lies idle: the daemon of a manager with one service (memory, CPU), netd, and the shim of a container that sleeps, one and
//! the mean of many.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use pontoon_tests::{Fleet, Host, LONG, images, view, wait_until};
use serde_json::json;

use crate::procs::{self, Memory, mib};
use crate::report::{Report, budget, progress, round};

/// The cluster's hosts, all managers.
const HOSTS: usize = 3;
/// Until what happens once after a start is over.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs the figure.
///
/// # Errors
/// When the cluster can't be made.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &[])?;
    let containers = crate::number(arguments, 0, 20)?;
    let seconds = crate::number(arguments, 1, 20)?;
    let mut report = Report::start()?;
    report.condition("managers", json!(HOSTS));
    let fleet = Fleet::new(HOSTS)?;
    fleet.form_cluster(HOSTS)?;
    let archive = images::write_busybox(fleet.folder())?.display().to_string();
    for host in fleet.hosts() {
        host.ok(&["load", "--quiet", "--input", &archive])?;
    }
    let first = fleet.host(1);
    // On an overlay, so that netd has something to answer for.
    first.ok(&["network", "create", "--driver", "overlay", "idle-net"])?;
    first.ok(&[
        "service",
        "create",
        "--detach",
        "--name",
        "idle",
        "--network",
        "idle-net",
        "busybox",
        "sleep",
        "100000",
    ])?;
    wait_until("the service runs", LONG, || {
        view::ensure_running(first, "idle", 1)
    })?;
    progress("the service runs, settling");
    sleep(SETTLE);
    let daemon = daemons(&mut report, &fleet, seconds)?;
    let shim = shims(&mut report, first, containers)?;

    report.budget(budget(
        "daemon idle, RSS, MiB",
        40.0,
        mib(daemon.memory.rss),
        true,
    ));
    report.budget(budget("daemon idle, CPU, % of one core", 0.5, daemon.cpu, true));
    report.budget(budget(
        "shim idle, private dirty, MiB",
        1.5,
        mib(shim.private_dirty),
        true,
    ));
    report.summary(format!(
        "shim private {} MiB, PSS {}, RSS {} (mean of {containers}); leader's daemon RSS {} MiB, PSS {}, private {}, CPU {} %",
        mib(shim.private_dirty),
        mib(shim.pss),
        mib(shim.rss),
        mib(daemon.memory.rss),
        mib(daemon.memory.pss),
        mib(daemon.memory.private_dirty),
        round(daemon.cpu),
    ));
    Ok(report)
}

/// One daemon's idle state.
struct Idle {
    memory: Memory,
    /// Percent of one core.
    cpu: f64,
}

/// Measures every host's daemon and netd over the same window; returns the leader's daemon.
fn daemons(report: &mut Report, fleet: &Fleet, seconds: usize) -> Result<Idle> {
    let leader = fleet.leader(fleet.host(1))?.number();
    let mut watched = Vec::new();
    for host in fleet.hosts() {
        for kind in ["daemon", "netd"] {
            for pid in procs::of_kind(host, kind)? {
                watched.push((host.number(), kind, pid, procs::cpu_time(pid)));
            }
        }
    }
    progress(&format!("CPU of the idle cluster over {seconds} s"));
    sleep(Duration::from_secs(seconds as u64));
    let mut found = None;
    for (number, kind, pid, before) in watched {
        let cpu = 100.0 * (procs::cpu_time(pid) - before) / seconds as f64;
        let memory = Memory::of(pid)?;
        let role = if number == leader { "leader" } else { "follower" };
        let mut value = memory.json();
        value["cpu_percent"] = json!(round(cpu));
        progress(&format!("{kind} of host{number} ({role}): {value}"));
        report.result(&format!("{kind} host{number} {role}"), value);
        if number == leader && kind == "daemon" {
            found = Some(Idle { memory, cpu });
        }
    }
    report.condition("cpu_window_seconds", json!(seconds));
    found.ok_or_else(|| anyhow::anyhow!("the leader has no daemon"))
}

/// Measures the shim of one container, then the mean of `count`; returns the mean.
fn shims(report: &mut Report, host: &Host, count: usize) -> Result<Memory> {
    let others = procs::of_kind(host, "shim")?;
    let sleeper = || {
        host.ok(&[
            "run",
            "--detach",
            "--network",
            "none",
            "busybox",
            "sleep",
            "100000",
        ])
    };
    sleeper()?;
    sleep(Duration::from_secs(1));
    let new = |pids: Vec<i32>| -> Vec<i32> { pids.into_iter().filter(|pid| !others.contains(pid)).collect() };
    let one = new(procs::of_kind(host, "shim")?);
    ensure!(one.len() == 1, "one container has {} shims", one.len());
    report.result("shim of one", Memory::of(one[0])?.json());
    for _ in 1..count {
        sleeper()?;
    }
    sleep(Duration::from_secs(2));
    let all = new(procs::of_kind(host, "shim")?);
    ensure!(all.len() == count, "{count} containers have {} shims", all.len());
    let before: f64 = all.iter().map(|pid| procs::cpu_time(*pid)).sum();
    let memories = all
        .iter()
        .map(|pid| Memory::of(*pid))
        .collect::<Result<Vec<_>>>()?;
    sleep(Duration::from_secs(5));
    let after: f64 = all.iter().map(|pid| procs::cpu_time(*pid)).sum();
    let mean = Memory::mean(&memories);
    let mut value = mean.json();
    value["n"] = json!(count);
    value["cpu_percent_of_all"] = json!(round(100.0 * (after - before) / 5.0));
    progress(&format!("shim, mean of {count}: {value}"));
    report.result("shim, mean", value);
    Ok(mean)
}
