//! One engine at work, beside a private Docker engine, in turn: stop of a container whose program obeys, starts of many in a row and ten at a
//! time with their removal, `ps` of two hundred, the memory of a container's keeper (our shim; containerd-shim), and how long a killed daemon
//! takes to find its containers again.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, cgroups, images};
use serde_json::json;

use crate::docker::{self, Engine};
use crate::procs::{self, Memory, mib};
use crate::report::{Report, Samples, progress, round};
use crate::timing::timed;

const IMAGE: &str = "busybox:latest";
/// A program that ends at SIGTERM: the grace period is in no figure.
const OBEYS: &str = "trap exit TERM; while :; do sleep 1000 & wait; done";
const AT_ONCE: usize = 10;
const LISTED: usize = 200;

/// Makes a command line of a contestant's client.
type MakeCommand<'a> = Box<dyn Fn(&[&str]) -> Command + Sync + 'a>;

/// Somebody who runs containers.
struct Contestant<'a> {
    name: &'static str,
    command: MakeCommand<'a>,
}

impl Contestant<'_> {
    fn ok(&self, arguments: &[&str]) -> Result<f64> {
        Ok(timed((self.command)(arguments))?.as_secs_f64() * 1000.0)
    }

    fn run(&self, network: &str, name: &str, program: &[&str]) -> Result<f64> {
        let mut arguments = vec!["run", "--detach", "--network", network, "--name", name, IMAGE];
        arguments.extend(program);
        self.ok(&arguments)
    }
}

/// Runs the figure.
///
/// # Errors
/// When a command fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &["--no-docker"])?;
    let rounds = crate::number(arguments, 0, 10)?;
    let many = crate::number(arguments, 1, 100)?;
    let mut report = Report::start()?;
    report.condition("containers", json!(many));
    let fleet = Fleet::new(1)?;
    let host = fleet.host(1);
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    let version = docker::installed().filter(|_| !crate::option(arguments, "--no-docker"));
    report.condition("docker", json!(version));
    let engines = match version {
        Some(_) => docker::start(&fleet, 1, &archive)?,
        None => Vec::new(),
    };
    let mut contestants = vec![Contestant {
        name: "pontoon",
        command: Box::new(|arguments| host.command(arguments)),
    }];
    contestants.extend(engines.iter().map(|engine: &Engine| Contestant {
        name: "docker",
        command: Box::new(|arguments| engine.command(arguments)),
    }));
    let mut said = Vec::new();
    stops(&mut report, &contestants, rounds, &mut said)?;
    for network in ["none", "bridge"] {
        for at_once in [1, AT_ONCE] {
            bulk(
                &mut report,
                &contestants,
                network,
                (many, at_once),
                rounds.div_ceil(5),
                &mut said,
            )?;
        }
    }
    listings(
        &mut report,
        &contestants,
        host,
        engines.first(),
        rounds,
        &mut said,
    )?;
    report.summary(said.join("; "));
    Ok(report)
}

/// Adds both samples and their ratio.
fn compare(report: &mut Report, what: &str, unit: &str, all: &[(&str, Samples)], said: &mut Vec<String>) {
    let mut words = Vec::new();
    for (name, samples) in all {
        report.samples(&format!("{name} {what}"), unit, samples);
        words.push(format!("{name} {} {unit}", round(samples.median())));
    }
    if let [(_, ours), (_, theirs)] = all
        && theirs.median() > 0.0
    {
        let ratio = ours.median() / theirs.median();
        report.result(&format!("{what}, pontoon / docker"), json!(round(ratio)));
        words.push(format!("{}x", round(ratio)));
    }
    progress(&format!("{what}: {}", words.join(", ")));
    said.push(format!("{what} {}", words.join(", ")));
}

fn stops(
    report: &mut Report,
    contestants: &[Contestant<'_>],
    rounds: usize,
    said: &mut Vec<String>,
) -> Result<()> {
    for network in ["none", "bridge"] {
        let mut all: Vec<(&str, Samples)> =
            contestants.iter().map(|c| (c.name, Samples::default())).collect();
        for round in 0..=rounds {
            for turn in 0..contestants.len() {
                let which = (round + turn) % contestants.len();
                let contestant = &contestants[which];
                contestant.run(network, "stops", &["sh", "-c", OBEYS])?;
                // The trap is set when the shell has started its sleep.
                contestant.ok(&[
                    "exec",
                    "stops",
                    "sh",
                    "-c",
                    "until ps | grep -q '[s]leep 1000'; do :; done",
                ])?;
                let time = contestant.ok(&["stop", "stops"])?;
                if round > 0 {
                    all[which].1.push(time);
                }
                contestant.ok(&["rm", "stops"])?;
            }
        }
        compare(report, &format!("stop, network {network}"), "ms", &all, said);
    }
    Ok(())
}

/// Does something for every number, `at_once` at a time.
fn each(count: usize, at_once: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    if let Err(error) = work(number)
                        && let Ok(mut failures) = failures.lock()
                    {
                        failures.push(error);
                    }
                }
            });
        }
    });
    match failures
        .into_inner()
        .ok()
        .and_then(|failures| failures.into_iter().next())
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn remove_all(contestant: &Contestant<'_>, count: usize) -> Result<f64> {
    let start = Instant::now();
    each(count, AT_ONCE, |number| {
        contestant
            .ok(&["rm", "--force", &format!("many{number}")])
            .map(drop)
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn bulk(
    report: &mut Report,
    contestants: &[Contestant<'_>],
    network: &str,
    (count, at_once): (usize, usize),
    rounds: usize,
    said: &mut Vec<String>,
) -> Result<()> {
    let mut starts: Vec<(&str, Samples)> = contestants.iter().map(|c| (c.name, Samples::default())).collect();
    let mut ends = starts.clone();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            let contestant = &contestants[which];
            let start = Instant::now();
            each(count, at_once, |number| {
                let name = format!("many{number}");
                contestant.run(network, &name, &["sleep", "100000"]).map(drop)
            })?;
            starts[which].1.push(count as f64 / start.elapsed().as_secs_f64());
            ends[which].1.push(count as f64 / remove_all(contestant, count)?);
        }
    }
    let what = format!("{count} x run -d, network {network}, {at_once} at a time");
    compare(report, &what, "per s", &starts, said);
    if at_once > 1 {
        compare(
            report,
            &format!("rm -f of them, network {network}"),
            "per s",
            &ends,
            said,
        );
    }
    Ok(())
}

/// With two hundred containers: `ps`, memory, and a new daemon.
fn listings(
    report: &mut Report,
    contestants: &[Contestant<'_>],
    host: &Host,
    engine: Option<&Engine>,
    rounds: usize,
    said: &mut Vec<String>,
) -> Result<()> {
    for contestant in contestants {
        progress(&format!("starting {LISTED} containers on {}", contestant.name));
        each(LISTED, AT_ONCE, |number| {
            contestant
                .run("none", &format!("many{number}"), &["sleep", "100000"])
                .map(drop)
        })?;
    }
    let mut all: Vec<(&str, Samples)> = contestants.iter().map(|c| (c.name, Samples::default())).collect();
    for round in 0..=rounds {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            let time = contestants[which].ok(&["ps"])?;
            if round > 0 {
                all[which].1.push(time);
            }
        }
    }
    compare(report, &format!("ps of {LISTED}"), "ms", &all, said);
    let mut memories = vec![(
        "pontoon shim",
        keepers(&procs::of_kind(host, "shim")?).context("no shim")?,
    )];
    if let Some(engine) = engine {
        let shims = processes_named(engine.group(), "containerd-shim")?;
        memories.push(("containerd-shim", keepers(&shims).context("no containerd-shim")?));
    }
    for (name, mean) in &memories {
        report.result(&format!("memory of a {name}, mean of {LISTED}"), mean.json());
        said.push(format!(
            "{name}: private {} MiB, PSS {} MiB",
            mib(mean.private_dirty + mean.private_clean),
            mib(mean.pss)
        ));
    }
    for pid in procs::of_kind(host, "daemon")? {
        let memory = Memory::of(pid)?;
        report.result(&format!("memory of the daemon with {LISTED}"), memory.json());
        said.push(format!("daemon with {LISTED}: RSS {} MiB", mib(memory.rss)));
    }
    let mut found = Samples::default();
    for _ in 0..3 {
        host.kill()?;
        let start = Instant::now();
        host.start()?;
        let running = host.ok(&["ps", "--quiet"])?.lines().count();
        ensure!(running == LISTED, "only {running} were found again");
        found.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    report.samples(
        &format!("killed daemon to {LISTED} containers found again"),
        "ms",
        &found,
    );
    said.push(format!("{LISTED} found again after {} ms", round(found.median())));
    for contestant in contestants {
        remove_all(contestant, LISTED)?;
    }
    Ok(())
}

fn keepers(pids: &[i32]) -> Option<Memory> {
    let all: Vec<Memory> = pids.iter().filter_map(|pid| Memory::of(*pid).ok()).collect();
    (!all.is_empty()).then(|| Memory::mean(&all))
}

/// Processes below a control group whose program's name begins so.
fn processes_named(group: &str, name: &str) -> Result<Vec<i32>> {
    let pids = cgroups::processes(group)?;
    let pids = pids.into_iter().map(|pid| pid.as_raw_nonzero().get());
    Ok(pids
        .filter(|pid| {
            // The kernel keeps 15 characters.
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim().starts_with(&name[..name.len().min(15)])
        })
        .collect())
}
