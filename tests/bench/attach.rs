//! What an endpoint costs: `run --rm` of a command that does nothing on a bridge and on an attachable overlay, beside network none,
//! in turn. The difference to none is the endpoint's set-up and removal (links, address, neighbours, firewall, DNS) together.

use anyhow::Result;
use pontoon_tests::{Fleet, images};
use serde_json::json;

use crate::report::{Report, budget, round};
use crate::timing::{Contestant, compete};

const NETWORKS: [&str; 3] = ["none", "bridge", "attach-net"];

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
    host.ok(&[
        "network",
        "create",
        "--driver",
        "overlay",
        "--attachable",
        NETWORKS[2],
    ])?;
    // Keeps the overlay's own part on this host: an endpoint is measured, not the network's first use.
    host.ok(&[
        "run",
        "--detach",
        "--network",
        NETWORKS[2],
        "busybox",
        "sleep",
        "100000",
    ])?;
    let contestants: Vec<Contestant<'_>> = NETWORKS
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
    let [none, bridge, overlay] = [0, 1, 2].map(|which: usize| all[which].median());
    report.result(
        "bridge endpoint, set up and removed, ms",
        json!(round(bridge - none)),
    );
    report.result(
        "overlay endpoint, set up and removed, ms",
        json!(round(overlay - none)),
    );
    // The budget is for setting up alone; this is an upper bound.
    report.budget(budget(
        "overlay endpoint, set up and removed, ms",
        3.0,
        overlay - none,
        true,
    ));
    report.summary(format!(
        "an endpoint costs {} ms on a bridge, {} ms on an overlay (set-up and removal; run with network none {} ms)",
        round(bridge - none),
        round(overlay - none),
        round(none)
    ));
    Ok(report)
}
