//! `run --rm` of a command that does nothing, image present: the whole command as a user types it, from fork to reaped. Beside it
//! the same on a private Docker engine, and runc and crun as the floor; then `exec` likewise. All in turn within one run.

use anyhow::Result;
use pontoon_tests::{Fleet, images};
use serde_json::json;

use crate::docker::{self, Engine};
use crate::floor::{self, Floor};
use crate::report::{Report, Samples, budget, progress, round};
use crate::timing::{Contestant, compete};

const IMAGE: &str = "busybox:latest";

/// Runs the figure.
///
/// # Errors
/// When a contestant fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 1, &["--no-docker"])?;
    let rounds = crate::number(arguments, 0, 20)?;
    let mut report = Report::start()?;
    let fleet = Fleet::new(1)?;
    let host = fleet.host(1);
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    let idle = host.ok(&["run", "--detach", "--network", "none", IMAGE, "sleep", "100000"])?;

    let engines = peer(&mut report, &fleet, &archive, arguments)?;
    let engine = engines.first();
    let theirs = match engine {
        Some(engine) => engine.docker(&["run", "--detach", "--network", "none", IMAGE, "sleep", "100000"])?,
        None => String::new(),
    };
    let floors = floors(&mut report, &fleet, &idle)?;

    let mut contestants = Vec::new();
    for network in ["none", "bridge"] {
        contestants.push(Contestant::new(&format!("pontoon run {network}"), move |_| {
            host.command(&["run", "--rm", "--network", network, IMAGE, "true"])
        }));
        if let Some(engine) = engine {
            contestants.push(Contestant::new(&format!("docker run {network}"), move |_| {
                engine.command(&["run", "--rm", "--network", network, IMAGE, "true"])
            }));
        }
    }
    contestants.push(Contestant::new("pontoon exec", |_| {
        host.command(&["exec", &idle, "true"])
    }));
    contestants.push(Contestant::new("pontoon version", |_| host.command(&["version"])));
    if let Some(engine) = engine {
        contestants.push(Contestant::new("docker exec", |_| {
            engine.command(&["exec", &theirs, "true"])
        }));
        contestants.push(Contestant::new("docker version", |_| {
            engine.command(&["version"])
        }));
    }
    for floor in &floors {
        contestants.push(Contestant::new(&format!("{} run", floor.name()), |number| {
            floor.run(number)
        }));
        contestants.push(Contestant::new(&format!("{} exec", floor.name()), |_| {
            floor.exec()
        }));
    }
    let names: Vec<String> = contestants
        .iter()
        .map(|contestant| contestant.name.clone())
        .collect();
    let all = compete(&contestants, rounds)?;
    judge(&mut report, &names, &all);
    Ok(report)
}

fn peer(
    report: &mut Report,
    fleet: &Fleet,
    archive: &std::path::Path,
    arguments: &[String],
) -> Result<Vec<Engine>> {
    let version = docker::installed().filter(|_| !crate::option(arguments, "--no-docker"));
    report.condition("docker", json!(version));
    if version.is_none() {
        progress("no dockerd here (Debian package docker.io): runc and crun only");
        return Ok(Vec::new());
    }
    progress("starting a private Docker engine");
    docker::start(fleet, 1, archive)
}

fn floors(report: &mut Report, fleet: &Fleet, idle: &str) -> Result<Vec<Floor>> {
    let mut made: Vec<Floor> = Vec::new();
    for runtime in floor::installed() {
        if made.iter().all(|floor| !runtime.ends_with(floor.name())) {
            made.push(Floor::new(fleet, &runtime, idle)?);
        }
    }
    let versions: Vec<String> = made
        .iter()
        .map(|floor| crate::report::first_line(&floor.name(), &["--version"]))
        .collect();
    report.condition("runtimes", json!(versions));
    let wrapped: Vec<String> = made
        .iter()
        .filter(|floor| floor.is_wrapped())
        .map(Floor::name)
        .collect();
    report.condition("through_nsenter", json!(wrapped));
    Ok(made)
}

fn judge(report: &mut Report, names: &[String], all: &[Samples]) {
    for (name, samples) in names.iter().zip(all) {
        report.samples(name, "ms", samples);
    }
    let of = |name: &str| {
        let position = names.iter().position(|other| other == name)?;
        all.get(position).map(Samples::median)
    };
    let mut said = Vec::new();
    for (ours, others) in [
        ("pontoon run none", ["docker run none", "crun run", "runc run"]),
        (
            "pontoon run bridge",
            ["docker run bridge", "crun run", "runc run"],
        ),
        ("pontoon exec", ["docker exec", "crun exec", "runc exec"]),
    ] {
        let Some(value) = of(ours) else { continue };
        said.push(format!("{ours} {} ms", round(value)));
        for other in others {
            let Some(theirs) = of(other).filter(|theirs| *theirs > 0.0) else {
                continue;
            };
            let ratio = value / theirs;
            report.result(&format!("{ours} / {other}"), json!(round(ratio)));
            said.push(format!("{}x {other} ({} ms)", round(ratio), round(theirs)));
        }
    }
    for network in ["none", "bridge"] {
        let (ours, theirs) = (format!("pontoon run {network}"), format!("docker run {network}"));
        if let (Some(ours), Some(theirs)) = (of(&ours), of(&theirs)) {
            let what = format!("run, network {network}, as a share of docker run");
            report.budget(budget(&what, 0.125, ours / theirs, true));
        }
    }
    report.summary(said.join(", "));
}
