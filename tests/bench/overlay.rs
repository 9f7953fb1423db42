//! The data path: iperf3 between containers of two hosts over an overlay network, beside the hosts' own link and beside two
//! containers on one host's bridge. The three take turns within each round. iperf3 is the machine's own, run in the containers'
//! network namespaces: the path is the containers', and no image needs iperf3.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, LONG, images, view, wait_until};
use serde_json::{Value, json};

use crate::iperf::{self, Load, Pair};
use crate::report::{Report, Samples, budget, progress, round};

const LOADS: [Load; 3] = [Load::Tcp(1), Load::Tcp(4), Load::Udp(1400)];
/// Least share of the hosts' own link, in the order of `LOADS`.
const BUDGETS: [f64; 3] = [0.9, 0.8, 0.7];
const PATHS: [&str; 3] = ["link", "overlay", "bridge"];
const SERVICE: &str = "path";
const OVERLAY: &str = "path-net";

/// Runs the figure.
///
/// # Errors
/// When the cluster can't be made or iperf3 fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &[])?;
    let seconds = crate::number(arguments, 0, 5)?;
    let rounds = crate::number(arguments, 1, 3)?;
    let mut report = Report::start()?;
    report.condition(
        "iperf3",
        json!(crate::report::first_line("iperf3", &["--version"])),
    );
    report.condition("seconds", json!(seconds));
    let fleet = Fleet::new(2)?;
    fleet.form_cluster(1)?;
    let pairs = pairs(&fleet)?;

    let mut gbits: [[Samples; 3]; 3] = Default::default();
    let mut lost: [Samples; 3] = Default::default();
    for round in 1..=rounds {
        for (which, load) in LOADS.into_iter().enumerate() {
            for (path, pair) in pairs.iter().enumerate() {
                let received = iperf::run(pair, load, seconds)
                    .with_context(|| format!("{} over {}", load.name(), PATHS[path]))?;
                progress(&format!(
                    "round {round}: {} over {}: {:.2} Gbit/s, {:.0} % lost",
                    load.name(),
                    PATHS[path],
                    received.gbits,
                    received.lost
                ));
                gbits[which][path].push(received.gbits);
                if matches!(load, Load::Udp(_)) {
                    lost[path].push(received.lost);
                }
            }
        }
    }
    judge(&mut report, &gbits, &lost);
    Ok(report)
}

fn judge(report: &mut Report, gbits: &[[Samples; 3]; 3], lost: &[Samples; 3]) {
    let mut said = Vec::new();
    for (which, load) in LOADS.into_iter().enumerate() {
        for (path, samples) in PATHS.iter().zip(&gbits[which]) {
            report.samples(&format!("{}, {path}", load.name()), "Gbit/s", samples);
        }
        let [link, overlay, bridge] = [0, 1, 2].map(|path: usize| gbits[which][path].median());
        report.result(
            &format!("{}, overlay / link", load.name()),
            json!(round(overlay / link)),
        );
        report.result(
            &format!("{}, bridge / link", load.name()),
            json!(round(bridge / link)),
        );
        report.budget(budget(
            &format!("{}, overlay as a share of the link", load.name()),
            BUDGETS[which],
            overlay / link,
            false,
        ));
        said.push(format!(
            "{} overlay {} of {} Gbit/s = {}, bridge {}",
            load.name(),
            round(overlay),
            round(link),
            round(overlay / link),
            round(bridge / link)
        ));
    }
    for (path, samples) in PATHS.iter().zip(lost) {
        report.samples(&format!("UDP lost, {path}"), "%", samples);
    }
    report.summary(said.join("; "));
}

/// The three pairs in the order of `PATHS`.
fn pairs(fleet: &Fleet) -> Result<[Pair; 3]> {
    let archive = images::write_busybox(fleet.folder())?.display().to_string();
    for host in fleet.hosts() {
        host.ok(&["load", "--quiet", "--input", &archive])?;
    }
    let (one, two) = (fleet.host(1), fleet.host(2));
    one.ok(&["network", "create", "--driver", "overlay", OVERLAY])?;
    one.ok(&[
        "service",
        "create",
        "--detach",
        "--name",
        SERVICE,
        "--mode",
        "global",
        "--network",
        OVERLAY,
        "busybox",
        "sleep",
        "100000",
    ])?;
    wait_until("the service runs on both hosts", LONG, || {
        view::ensure_running(one, SERVICE, 2)
    })?;
    let mut ends = Vec::new();
    for host in [one, two] {
        let containers = host.ok(&["ps", "--quiet", "--no-trunc"])?;
        let container = containers.lines().next().context("a host without a task")?;
        ends.push(end(host, container, OVERLAY)?);
    }
    let mut bridged = Vec::new();
    for _ in 0..2 {
        let container = one.ok(&["run", "--detach", "busybox", "sleep", "100000"])?;
        bridged.push(end(one, &container, "bridge")?);
    }
    let pair = |ends: &[(PathBuf, String)]| match ends {
        [from, to] => Ok(Pair {
            from: from.0.clone(),
            to: to.0.clone(),
            address: to.1.clone(),
        }),
        _ => anyhow::bail!("not two ends"),
    };
    let link = Pair {
        from: one.netns(),
        to: two.netns(),
        address: two.address(),
    };
    Ok([link, pair(&ends)?, pair(&bridged)?])
}

/// A container's network namespace and its address on a network.
fn end(host: &Host, container: &str, network: &str) -> Result<(PathBuf, String)> {
    let text = host.ok(&["inspect", container])?;
    let all: Value = serde_json::from_str(&text).context("inspect printed no JSON")?;
    let pid = all[0]["State"]["Pid"].as_i64().unwrap_or_default();
    let address = all[0]["NetworkSettings"]["Networks"][network]["IPAddress"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        pid > 0 && !address.is_empty(),
        "no process or no address on {network}: {text}"
    );
    Ok((PathBuf::from(format!("/proc/{pid}/ns/net")), address.to_owned()))
}
