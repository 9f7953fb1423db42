//! What an endpoint costs: `run --rm` of a command that does nothing on a bridge and on an attachable overlay, beside network none,
//! in turn. The difference to none is the endpoint's set-up and removal (links, address, neighbours, firewall, DNS) together.

use anyhow::Result;
use pontoon_tests::{Fleet, Host, images};
use serde_json::json;

use crate::report::{Report, Samples, budget, progress, round};
use crate::timing::{Contestant, compete};

const OVERLAY: &str = "attach-net";

/// Runs the figure.
///
/// # Errors
/// When the cluster can't be made or a container fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 1, &[])?;
    let rounds = crate::number(arguments, 0, 20)?;
    let mut report = Report::start()?;
    let fleet = Fleet::new(1)?;
    fleet.form_cluster(1)?;
    let host = fleet.host(1);
    let archive = images::write_busybox(fleet.folder())?.display().to_string();
    host.ok(&["load", "--quiet", "--input", &archive])?;
    let mut networks = vec!["none", "bridge"];
    match join_overlay(host) {
        Ok(()) => networks.push(OVERLAY),
        Err(error) => {
            progress(&format!("without an overlay: {error:#}"));
            report.condition("no_overlay", json!(format!("{error:#}")));
        }
    }
    let contestants: Vec<Contestant<'_>> = networks
        .iter()
        .map(|network| {
            Contestant::new(&format!("run, {network}"), move |_| {
                host.command(&["run", "--rm", "--network", network, "busybox", "true"])
            })
        })
        .collect();
    let all = compete(&contestants, rounds)?;
    for (contestant, samples) in contestants.iter().zip(&all) {
        report.samples(&contestant.name, "ms", samples);
    }
    let none = all.first().map(Samples::median).unwrap_or_default();
    let mut said = Vec::new();
    for (network, samples) in networks.iter().zip(&all).skip(1) {
        let cost = samples.median() - none;
        report.result(&format!("endpoint on {network}, ms"), json!(round(cost)));
        said.push(format!("{} ms on {network}", round(cost)));
        if *network == OVERLAY {
            // The budget is for setting up alone; this is an upper bound.
            report.budget(budget(
                "overlay endpoint, set up and removed, ms",
                3.0,
                cost,
                true,
            ));
        }
    }
    report.summary(format!(
        "an endpoint costs {} (set-up and removal; run with network none {} ms)",
        said.join(", "),
        round(none)
    ));
    Ok(report)
}

/// Makes the overlay and keeps its own part on this host by a container: an endpoint is measured, not the network's first use.
fn join_overlay(host: &Host) -> Result<()> {
    host.ok(&[
        "network",
        "create",
        "--driver",
        "overlay",
        "--attachable",
        OVERLAY,
    ])?;
    host.ok(&[
        "run",
        "--detach",
        "--network",
        OVERLAY,
        "busybox",
        "sleep",
        "100000",
    ])?;
    Ok(())
}
