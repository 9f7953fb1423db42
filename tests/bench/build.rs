//! Builds: a Dockerfile of some steps cold and out of the cache, beside Docker's own builder, in turn. Cold means that nothing but the
//! base image is there; the context is the same for both.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use pontoon_tests::{Fleet, images};
use serde_json::json;

use crate::docker;
use crate::report::{Report, Samples, budget, progress, round};
use crate::timing::timed;

/// Files of the context.
const FILES: usize = 200;
const DOCKERFILE: &str = "FROM busybox AS one\nRUN echo 1 >/one\nFROM busybox\nWORKDIR /app\nCOPY files files\nRUN cat files/* >all\n\
     RUN wc -c all >count\nENV A=1\nCOPY --from=one /one /one\nCMD [\"cat\", \"count\"]\n";

/// Runs the figure.
///
/// # Errors
/// When a command fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 1, &["--no-docker"])?;
    let rounds = crate::number(arguments, 0, 5)?;
    let mut report = Report::start()?;
    let fleet = Fleet::new(1)?;
    let host = fleet.host(1);
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    let dir = context(fleet.folder())?;
    let version = docker::installed().filter(|_| !crate::option(arguments, "--no-docker"));
    report.condition("docker", json!(version));
    let peers = match version {
        Some(_) => docker::start(&fleet, 1, &archive)?,
        None => Vec::new(),
    };
    let build = ["build", "--quiet", "--tag", "b", &dir];
    let mut figures = [
        ("cold", Samples::default(), Samples::default()),
        ("cached", Samples::default(), Samples::default()),
    ];
    for _ in 0..rounds {
        host.ok(&["builder", "prune", "--all", "--force"])?;
        for (_, ours, _) in &mut figures {
            ours.push(milliseconds(host.command(&build))?);
        }
        host.ok(&["rmi", "b"])?;
        for peer in &peers {
            for (_, _, theirs) in &mut figures {
                let mut command = peer.command(&build);
                // The builder that comes with the engine: BuildKit's client is a plug-in of its own.
                command.env("DOCKER_BUILDKIT", "0");
                theirs.push(milliseconds(command)?);
            }
            peer.docker(&["rmi", "--force", "b"])?;
            peer.docker(&["image", "prune", "--force"])?;
        }
    }
    let mut said = Vec::new();
    for (what, ours, theirs) in &figures {
        report.samples(&format!("pontoon build {what}"), "ms", ours);
        let mut words = format!("{what} {} ms", round(ours.median()));
        if !peers.is_empty() && ours.median() > 0.0 {
            report.samples(&format!("docker build {what}"), "ms", theirs);
            let ratio = round(theirs.median() / ours.median());
            report.result(&format!("{what}, docker / pontoon"), json!(ratio));
            if *what == "cached" {
                report.budget(budget("cached, docker / pontoon", 3.0, ratio, false));
            }
            words.push_str(&format!(", docker {} ms, {ratio}x", round(theirs.median())));
        }
        progress(&words);
        said.push(words);
    }
    report.summary(said.join("; "));
    Ok(report)
}

fn context(folder: &Path) -> Result<String> {
    let dir = folder.join("context");
    fs::create_dir_all(dir.join("files"))?;
    fs::write(dir.join("Dockerfile"), DOCKERFILE)?;
    for file in 0..FILES {
        fs::write(dir.join(format!("files/{file}")), format!("{file}\n").repeat(512))?;
    }
    Ok(dir.display().to_string())
}

fn milliseconds(command: Command) -> Result<f64> {
    Ok(timed(command)?.as_secs_f64() * 1000.0)
}
