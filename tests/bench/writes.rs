//! Committed writes of 256 bytes and linearizable reads by 1, 64 and 1,000 clients at one and at three members: our log beside
//! Debian's etcd, on the same disk, in turn. Ours is sealed at rest, etcd's is not; neither has TLS here.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::load::{self, Work};
use crate::member::{self, Running};
use crate::report::{Report, Samples, budget, progress, round};

const CLIENTS: [usize; 3] = [1, 64, 1000];

/// What is measured, with the name that the results have.
fn cells() -> Vec<(String, usize, Work)> {
    let mut cells: Vec<_> = CLIENTS
        .iter()
        .map(|&clients| (format!("writes/s, {clients} writers"), clients, Work::Put))
        .collect();
    cells.push(("linearizable reads/s, 64 readers".to_owned(), 64, Work::Get));
    cells
}

/// Samples of one system in one cell.
#[derive(Default)]
struct System {
    rate: Samples,
    p50: Samples,
    p99: Samples,
}

/// Runs the figure.
///
/// # Errors
/// When a system can't be started, or refuses a request.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &[])?;
    let rounds = crate::number(arguments, 0, 5)?;
    let seconds = crate::number(arguments, 1, 3)?;
    let mut report = Report::start()?;
    report.condition("seconds a measurement", json!(seconds));
    report.condition("rounds", json!(rounds));
    report.condition("etcd", json!(version()?));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut lines = Vec::new();
    for size in [1, 3] {
        let duration = Duration::from_secs(seconds as u64);
        lines.push(runtime.block_on(beside(&mut report, size, rounds, duration))?);
    }
    report.summary(lines.join("; "));
    Ok(report)
}

fn version() -> Result<String> {
    let output = std::process::Command::new("etcd").arg("--version").output();
    let output = output.context("cannot run etcd: is Debian's etcd-server installed?")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Both systems with `size` members, in turn.
async fn beside(report: &mut Report, size: usize, rounds: usize, duration: Duration) -> Result<String> {
    let folder = tempfile_in_tmp()?;
    let ours = member::ours(&folder.0, size)?;
    let etcd = member::etcd(&folder.0, size).await?;
    let mut line = Vec::new();
    for (name, clients, work) in cells() {
        let mut systems = [System::default(), System::default()];
        let mut ratios = Samples::default();
        for turn in 0..rounds {
            let mut rates = [0.0; 2];
            for i in [turn % 2, 1 - turn % 2] {
                let leader: &Running = if i == 0 { &ours[0] } else { &etcd[0] };
                let outcome = load::run(&leader.addr, clients, work, duration).await?;
                rates[i] = outcome.rate;
                systems[i].rate.push(outcome.rate);
                systems[i].p50.push(outcome.p50);
                systems[i].p99.push(outcome.p99);
            }
            ratios.push(rates[0] / rates[1]);
        }
        let what = format!("{name}, {size} member{}", if size == 1 { "" } else { "s" });
        progress(&format!(
            "{what}: ours {} (p50 {} ms, p99 {} ms), etcd {} (p50 {} ms, p99 {} ms), ratio {}",
            round(systems[0].rate.median()),
            round(systems[0].p50.median()),
            round(systems[0].p99.median()),
            round(systems[1].rate.median()),
            round(systems[1].p50.median()),
            round(systems[1].p99.median()),
            round(ratios.median()),
        ));
        let system = |system: &System| {
            json!({
                "a second": system.rate.json("1/s"),
                "p50": system.p50.json("ms"),
                "p99": system.p99.json("ms"),
            })
        };
        report.result(
            &what,
            json!({ "ours": system(&systems[0]), "etcd": system(&systems[1]), "ratio": ratios.json("x") }),
        );
        report.budget(budget(
            &format!("{what}, ratio to etcd"),
            1.0,
            ratios.median(),
            false,
        ));
        line.push(format!(
            "{clients}{} {}x",
            if work == Work::Put { "w" } else { "r" },
            round(ratios.median())
        ));
    }
    Ok(format!("{size} member(s): {}", line.join(", ")))
}

/// A folder on the disk that temporary files are on, removed with this value.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Also of the members' files; they have ended before.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_in_tmp() -> Result<Folder> {
    let path = std::env::temp_dir().join(format!("pontoon-writes-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(Folder(path))
}
