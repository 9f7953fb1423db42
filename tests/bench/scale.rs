//! One service of many replicas on three managers which run its tasks too, image present: from the call of `service create` to all
//! tasks RUNNING, and from `service rm` to no container left; without a network and on an overlay. With `--peer` the same on a
//! Docker Swarm of three managers, in turn.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pontoon_tests::{Fleet, images};
use serde_json::json;

use crate::clusters::{self, Cluster, Pontoon, Swarm};
use crate::docker::{self, Engine};
use crate::report::{Report, Samples, budget, progress, round};

const HOSTS: usize = 3;
const SERVICE: &str = "scale";
const OVERLAY: &str = "scale-net";
/// How often it is looked whether all run.
const PERIOD: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(300);
/// Docker Swarm 20.10 on a quiet machine of 2 cores, 100 replicas: seconds without a network and on an overlay. A note only.
const SWARM_NOTE: [f64; 2] = [17.3, 23.5];

/// Runs the figure.
///
/// # Errors
/// When a cluster can't be made or a service does not come up.
pub fn run(arguments: &[String]) -> Result<Report> {
    if crate::option(arguments, "--nodes") {
        return crate::million::run(arguments);
    }
    crate::check(arguments, 2, &["--peer"])?;
    let replicas = crate::number(arguments, 0, 100)?;
    let rounds = crate::number(arguments, 1, 3)?;
    let mut report = Report::start()?;
    let fleet = Fleet::new(HOSTS)?;
    fleet.form_cluster(HOSTS)?;
    let archive = images::write_busybox(fleet.folder())?;
    for host in fleet.hosts() {
        host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    }
    fleet
        .host(1)
        .ok(&["network", "create", "--driver", "overlay", OVERLAY])?;
    let ours = Pontoon { fleet: &fleet };
    let engines = swarm(&mut report, &fleet, &archive, arguments)?;
    let theirs = Swarm { engines: &engines };
    let mut clusters: Vec<&dyn Cluster> = vec![&ours];
    if !engines.is_empty() {
        clusters.push(&theirs);
    }

    report.condition("hosts", json!(HOSTS));
    report.condition("replicas", json!(replicas));
    let mut times: Vec<[[Samples; 2]; 2]> = vec![Default::default(); clusters.len()];
    for round in 1..=rounds {
        for overlay in [false, true] {
            for (cluster, times) in clusters.iter().zip(&mut times) {
                let (up, down) = measure(*cluster, replicas, overlay)?;
                progress(&format!(
                    "round {round}: {}{}: {up:.2} s to running, {down:.2} s to nothing",
                    cluster.name(),
                    if overlay { ", overlay" } else { "" }
                ));
                times[usize::from(overlay)][0].push(up);
                times[usize::from(overlay)][1].push(down);
            }
        }
    }
    judge(&mut report, &clusters, &times, replicas);
    Ok(report)
}

fn swarm(
    report: &mut Report,
    fleet: &Fleet,
    archive: &std::path::Path,
    arguments: &[String],
) -> Result<Vec<Engine>> {
    if !crate::option(arguments, "--peer") {
        return Ok(Vec::new());
    }
    report.condition("docker", json!(docker::installed()));
    progress("starting a Docker Swarm of three managers");
    let engines = clusters::swarm(fleet, HOSTS, HOSTS, archive)?;
    if let Some(engine) = engines.first() {
        engine.docker(&["network", "create", "--driver", "overlay", OVERLAY])?;
    }
    Ok(engines)
}

/// Seconds to all running, and to nothing left.
fn measure(cluster: &dyn Cluster, replicas: usize, overlay: bool) -> Result<(f64, f64)> {
    let flags: &[&str] = if overlay { &["--network", OVERLAY] } else { &[] };
    let start = Instant::now();
    cluster.create(SERVICE, replicas, flags)?;
    until(start, "all tasks run", || {
        Ok(cluster.running(SERVICE)? >= replicas)
    })?;
    let up = start.elapsed();
    ensure!(
        cluster.all_containers()? >= replicas,
        "fewer containers than running tasks"
    );
    let start = Instant::now();
    cluster.run(1, &["service", "rm", SERVICE])?;
    until(start, "no container is left", || {
        Ok(cluster.all_containers()? == 0)
    })?;
    Ok((up.as_secs_f64(), start.elapsed().as_secs_f64()))
}

fn until(start: Instant, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
    loop {
        if condition()? {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for this: {what}");
        std::thread::sleep(PERIOD);
    }
}

fn judge(report: &mut Report, clusters: &[&dyn Cluster], times: &[[[Samples; 2]; 2]], replicas: usize) {
    let mut said = Vec::new();
    for (index, network) in ["no network", "overlay"].into_iter().enumerate() {
        for (cluster, times) in clusters.iter().zip(times) {
            let name = cluster.name();
            report.samples(&format!("{name} create, {network}"), "s", &times[index][0]);
            report.samples(&format!("{name} rm, {network}"), "s", &times[index][1]);
        }
        let ours = [times[0][index][0].median(), times[0][index][1].median()];
        said.push(format!(
            "{network}: {} s up, {} s down",
            round(ours[0]),
            round(ours[1])
        ));
        if let Some(theirs) = times.get(1) {
            let theirs = [theirs[index][0].median(), theirs[index][1].median()];
            let ratios = [ours[0] / theirs[0], ours[1] / theirs[1]];
            report.result(
                &format!("pontoon / swarm create, {network}"),
                json!(round(ratios[0])),
            );
            report.result(&format!("pontoon / swarm rm, {network}"), json!(round(ratios[1])));
            said.push(format!("{}x and {}x Swarm's", round(ratios[0]), round(ratios[1])));
            report.budget(budget(
                &format!("create, {network}, as a share of Swarm's"),
                0.125,
                ratios[0],
                true,
            ));
        } else if replicas == 100 {
            let note = round(ours[0] / SWARM_NOTE[index]);
            report.result(
                &format!("note: pontoon create / Swarm's on a quiet machine, {network}"),
                json!(note),
            );
            said.push(format!("{note}x Swarm's quiet {} s, a note", SWARM_NOTE[index]));
        }
    }
    report.summary(format!(
        "{replicas} replicas on {HOSTS} hosts; {}",
        said.join(", ")
    ));
}
