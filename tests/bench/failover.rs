//! A power cut at the leader: everything on its host gets SIGKILL. How long until another manager accepts a write, and until the
//! service's tasks that ran there run elsewhere. The host comes back before the next round.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, LONG, images, process, view, wait_until};
use serde_json::json;

use crate::report::{Report, Samples, budget, progress, round};

const HOSTS: usize = 3;
const SERVICE: &str = "failover";
const REPLICAS: usize = 6;
/// A client gives one try up after this.
const TRY: Duration = Duration::from_secs(3);
/// Between a refused try and the next.
const PAUSE: Duration = Duration::from_millis(10);
/// The service's tasks are looked at this often.
const PERIOD: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the figure.
///
/// # Errors
/// When a cluster can't be made or does not recover.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 1, &[])?;
    let rounds = crate::number(arguments, 0, 10)?;
    let mut report = Report::start()?;
    report.condition("managers", json!(HOSTS));
    report.condition("replicas", json!(REPLICAS));
    let fleet = Fleet::new(HOSTS)?;
    fleet.form_cluster(HOSTS)?;
    let archive = images::write_busybox(fleet.folder())?.display().to_string();
    for host in fleet.hosts() {
        host.ok(&["load", "--quiet", "--input", &archive])?;
    }
    let replicas = REPLICAS.to_string();
    fleet.host(1).ok(&[
        "service",
        "create",
        "--detach",
        "--name",
        SERVICE,
        "--replicas",
        &replicas,
        "--restart-delay",
        "0s",
        "busybox",
        "sleep",
        "100000",
    ])?;
    let (mut writes, mut tasks) = (Samples::default(), Samples::default());
    let mut moved = Samples::default();
    for round in 1..=rounds {
        settled(&fleet)?;
        let (write, elsewhere, count) = one(&fleet)?;
        progress(&format!(
            "round {round} of {rounds}: write after {write:.3} s, {count} tasks elsewhere after {elsewhere:.3} s"
        ));
        writes.push(write * 1000.0);
        if count > 0 {
            tasks.push(elsewhere);
            moved.push(count as f64);
        }
    }
    report.samples("leader killed -> next accepted write", "ms", &writes);
    report.samples("leader's host killed -> its tasks running elsewhere", "s", &tasks);
    report.result("tasks moved in a round", moved.json("tasks"));
    report.budget(budget(
        "next accepted write, p99, ms",
        1000.0,
        writes.quantile(0.99),
        true,
    ));
    report.budget(budget("tasks running elsewhere, max, s", 4.0, tasks.max(), true));
    report.summary(format!(
        "next write p50 {} ms, p99 {} ms, max {} ms; tasks elsewhere p50 {} s, max {} s; n={rounds}",
        round(writes.median()),
        round(writes.quantile(0.99)),
        round(writes.max()),
        round(tasks.median()),
        round(tasks.max()),
    ));
    Ok(report)
}

/// Waits until all hosts are ready managers and the service runs.
fn settled(fleet: &Fleet) -> Result<()> {
    let first = fleet.host(1);
    wait_until("all managers are there and the service runs", LONG, || {
        let nodes = view::nodes(first)?;
        let fine = nodes.len() == HOSTS
            && nodes
                .iter()
                .all(|node| node.is_manager() && node.status == "Ready");
        ensure!(fine, "nodes: {nodes:?}");
        view::ensure_running(first, SERVICE, REPLICAS).map(drop)
    })?;
    // Some heartbeats and Raft ticks in the new order: each round starts from a quiet cluster.
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// Kills the leader's host once: seconds to the next write, seconds to the tasks, and how many tasks there were.
fn one(fleet: &Fleet) -> Result<(f64, f64, usize)> {
    let leader = fleet.leader(fleet.host(1))?;
    let name = leader.name();
    let survivors: Vec<&Host> = fleet
        .hosts()
        .iter()
        .filter(|host| host.number() != leader.number())
        .collect();
    let first = *survivors.first().context("no host is left")?;
    let victims = on(&view::running(first, SERVICE)?, &name);
    let written = AtomicBool::new(false);
    let start = Instant::now();
    let (write, elsewhere) = std::thread::scope(|scope| {
        let kill = scope.spawn(|| leader.power_off());
        let writers: Vec<_> = survivors
            .iter()
            .map(|host| scope.spawn(|| next_write(host, start, &written)))
            .collect();
        let elsewhere = elsewhere(first, &name, start);
        let mut times = Vec::new();
        for writer in writers {
            times.extend(writer.join().ok().flatten());
        }
        let killed = kill.join().map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        killed?;
        times.sort_by(f64::total_cmp);
        let write = *times.first().context("no write was accepted")?;
        anyhow::Ok((write, elsewhere?))
    })?;
    leader.start()?;
    Ok((write, elsewhere, victims))
}

fn on(tasks: &[view::TaskRow], host: &str) -> usize {
    tasks.iter().filter(|task| task.node == host).count()
}

/// Tries to write by this host until a write is accepted here or at the other survivor; seconds from `start`.
fn next_write(host: &Host, start: Instant, written: &AtomicBool) -> Option<f64> {
    let mut number = 0;
    while !written.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
        number += 1;
        let label = format!("bench={}-{number}", start.elapsed().as_nanos());
        let mut command = host.command(&["node", "update", "--label-add", &label, &host.name()]);
        if accepted(&mut command) {
            let time = start.elapsed().as_secs_f64();
            written.store(true, Ordering::Relaxed);
            return Some(time);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

fn accepted(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn();
    child.is_ok_and(|mut child| process::end(&mut child, TRY).is_ok_and(|code| code == 0))
}

/// Seconds from `start` until all replicas run on other hosts than `dead`.
fn elsewhere(asked: &Host, dead: &str, start: Instant) -> Result<f64> {
    loop {
        // No answer while there is no leader is what is measured here.
        let running = view::running(asked, SERVICE).unwrap_or_default();
        if running.len() - on(&running, dead) >= REPLICAS {
            return Ok(start.elapsed().as_secs_f64());
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "after {PATIENCE:?} the tasks are {running:#?}"
        );
        std::thread::sleep(PERIOD);
    }
}
