//! `make demo`: three hosts on this machine, one cluster, one stack on an overlay network, and the loss of the leader's host.
//!
//! Every command shown is really run, and what is shown below it is what it printed. The hosts go away at the end, on Ctrl-C, and
//! after a failure; with `KEEP=1` they stay until `demo end`.
//!
//! # Layout
//! - [`screen`]: headings, commands, colours; [`story`]: the steps

use std::process::ExitCode;

use anyhow::{Context, Result};
use pontoon_tests::{Fleet, fleet};
use tokio::signal::unix::{SignalKind, signal};

mod screen;
mod story;

/// Names of kept demos, one a line, for `demo end`.
const KEPT: &str = "/tmp/pontoon-demo.kept";

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        None => run(),
        Some("end") => end(),
        Some(other) => Err(anyhow::anyhow!("unknown argument {other:?}; usage: demo [end]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("needs root: it makes network namespaces and control groups");
    }
    let screen = screen::Screen::new();
    screen.heading("Three hosts: a network namespace, a daemon and folders each, on one switch");
    let hosts = Fleet::new(3)?;
    end_on_signals(hosts.name().to_owned());
    for host in hosts.hosts() {
        screen.note(&format!("{} {} {}", host.name(), host.address(), host.socket()));
    }
    let told = story::tell(&hosts, &screen);
    if told.is_err() {
        eprintln!("{}", hosts.logs(20));
    }
    let keep = std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty() && keep != "0");
    if keep && told.is_ok() {
        screen.heading("KEEP=1: the cluster stays up");
        story::how_to_go_on(&hosts, &screen);
        let kept = std::fs::read_to_string(KEPT).unwrap_or_default();
        std::fs::write(KEPT, format!("{kept}{}\n", hosts.name()))
            .with_context(|| format!("cannot write {KEPT}"))?;
        hosts.keep();
        return told;
    }
    screen.heading("Everything goes away: processes, namespaces, interfaces, mounts, control groups, files");
    let name = hosts.name().to_owned();
    drop(hosts);
    let left = left_behind(&name);
    screen.note(if left.is_empty() { "nothing is left" } else { &left });
    told
}

/// Ends the demos that `KEEP=1` left up.
fn end() -> Result<()> {
    let kept = std::fs::read_to_string(KEPT).context("no demo was kept up")?;
    let failures: Vec<String> = kept.lines().flat_map(fleet::remove).collect();
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    std::fs::remove_file(KEPT).with_context(|| format!("cannot remove {KEPT}"))?;
    println!("the demo's hosts are gone");
    Ok(())
}

/// What is still on the machine of a fleet that was removed, in one line.
fn left_behind(name: &str) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter(|line| line.contains(name)).count();
    let namespaces = pontoon_tests::wire::namespaces()
        .iter()
        .filter(|namespace| namespace.contains(name))
        .count();
    let groups =
        pontoon_tests::cgroups::processes(&format!("/pontoon-test-{name}")).map_or(0, |pids| pids.len());
    if mounts + namespaces + groups == 0 {
        return String::new();
    }
    format!("left: {mounts} mounts, {namespaces} namespaces, {groups} processes")
}

/// Ctrl-C and SIGTERM must not leave hosts behind either.
fn end_on_signals(name: String) {
    std::thread::spawn(move || {
        if let Err(error) = wait_for_signal() {
            eprintln!("demo: cannot wait for Ctrl-C: {error}");
            return;
        }
        eprintln!("\ninterrupted: removing the hosts");
        for failure in fleet::remove(&name) {
            eprintln!("{failure}");
        }
        std::process::exit(130);
    });
}

fn wait_for_signal() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
