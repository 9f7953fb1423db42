//! What a user of services waits for, beside a Docker Swarm of the same size in turn: replicas created, scaled and removed, a rolling
//! update, a node drained, a container and a whole worker killed. Three managers and two workers, which all run tasks. The measures
//! themselves; what is asked for and how it is told is in [`run`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, images};
use serde_json::json;

use crate::clusters::{self, Cluster, IMAGE, NEW_IMAGE, Pontoon, Swarm};
use crate::docker;
use crate::procs::{Memory, mib};
use crate::report::{Report, Samples, budget, progress, round};

const HOSTS: usize = 5;
const MANAGERS: usize = 3;
const OVERLAY: &str = "services-net";
/// Replica counts when none are named.
const COUNTS: [usize; 4] = [10, 50, 100, 200];
/// Tasks of a rolling update, a drain and a worker's end.
const REPLICAS: usize = 20;
/// Restarts at once: what is measured is not the delay.
const AT_ONCE: [&str; 2] = ["--restart-delay", "0s"];
/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(30);
/// The same with many tasks.
const LONG_PERIOD: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two measures.
const PAUSE: Duration = Duration::from_secs(1);

const PARTS: [&str; 6] = ["create", "scale", "update", "drain", "crash", "kill"];
const NETWORKS: [&str; 2] = ["plain", "overlay"];

/// What was asked for.
struct Wanted {
    rounds: usize,
    counts: Vec<usize>,
    parts: Vec<&'static str>,
    networks: Vec<&'static str>,
    peer: bool,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Result<Self> {
        crate::check(arguments, usize::MAX, &["--peer"])?;
        let plain: Vec<&str> = arguments
            .iter()
            .map(String::as_str)
            .filter(|argument| !argument.starts_with("--"))
            .collect();
        let mut numbers = Vec::new();
        for word in &plain {
            match word.parse::<usize>() {
                Ok(number) if number > 0 => numbers.push(number),
                _ => ensure!(
                    PARTS.contains(word) || NETWORKS.contains(word),
                    "{word:?} is no number and none of {PARTS:?} or {NETWORKS:?}"
                ),
            }
        }
        let named = |all: &[&'static str]| -> Vec<&'static str> {
            let named: Vec<_> = all.iter().copied().filter(|name| plain.contains(name)).collect();
            if named.is_empty() { all.to_vec() } else { named }
        };
        let (rounds, counts) = match numbers.split_first() {
            None => (3, COUNTS.to_vec()),
            Some((rounds, [])) => (*rounds, COUNTS.to_vec()),
            Some((rounds, counts)) => (*rounds, counts.to_vec()),
        };
        Ok(Self {
            rounds,
            counts,
            parts: named(&PARTS),
            networks: named(&NETWORKS),
            peer: crate::option(arguments, "--peer"),
        })
    }
}

/// Samples of all contestants by what was measured, in the order of the first time.
#[derive(Default)]
struct Times {
    measures: Vec<(String, Vec<Samples>)>,
}

impl Times {
    fn push(&mut self, measure: &str, contestant: usize, seconds: f64) {
        let found = self.measures.iter().position(|(name, _)| name == measure);
        let index = found.unwrap_or_else(|| {
            self.measures.push((measure.to_owned(), Vec::new()));
            self.measures.len() - 1
        });
        let samples = &mut self.measures[index].1;
        if samples.len() <= contestant {
            samples.resize_with(contestant + 1, Samples::default);
        }
        samples[contestant].push(seconds);
    }
}

/// Runs the figure.
///
/// # Errors
/// When a cluster can't be made or does not do what it was told.
pub fn run(arguments: &[String]) -> Result<Report> {
    let wanted = Wanted::parse(arguments)?;
    let mut report = Report::start()?;
    let fleet = Fleet::new(HOSTS)?;
    fleet.form_cluster(MANAGERS)?;
    let archive = images::write_busybox(fleet.folder())?;
    for host in fleet.hosts() {
        host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    }
    let mut engines = Vec::new();
    if wanted.peer {
        progress("starting a Docker Swarm of the same size");
        engines = clusters::swarm(&fleet, HOSTS, MANAGERS, &archive)?;
        report.condition("docker", json!(docker::installed()));
    }
    let ours = Pontoon { fleet: &fleet };
    let theirs = Swarm { engines: &engines };
    let mut clusters: Vec<&dyn Cluster> = vec![&ours];
    if wanted.peer {
        clusters.push(&theirs);
    }
    for cluster in &clusters {
        for host in 1..=HOSTS {
            cluster.run(host, &["tag", IMAGE, NEW_IMAGE])?;
        }
        cluster.run(1, &["network", "create", "--driver", "overlay", OVERLAY])?;
        warm_up(*cluster)?;
    }
    report.condition("managers", json!(MANAGERS));
    report.condition("workers", json!(HOSTS - MANAGERS));
    report.condition("load_at_first_round", json!(crate::report::load()));
    progress("all is up: the first round begins");
    let mut times = Times::default();
    let mut bench = Bench {
        report: &mut report,
        times: &mut times,
    };
    for round in 0..wanted.rounds {
        for part in &wanted.parts {
            for turn in 0..clusters.len() {
                let index = (round + turn) % clusters.len();
                bench.part(part, &wanted, clusters[index], index)?;
            }
        }
    }
    judge(&mut report, &clusters, &times);
    Ok(report)
}

/// The first task of a node on an overlay costs more than the others: what a node keeps from then on is made by it.
fn warm_up(cluster: &dyn Cluster) -> Result<()> {
    cluster.create("warm", HOSTS, &["--network", OVERLAY])?;
    until("the first tasks run", LONG_PERIOD, || {
        Ok(cluster.running("warm")? >= HOSTS)
    })?;
    remove(cluster, "warm")
}

struct Bench<'a> {
    report: &'a mut Report,
    times: &'a mut Times,
}

impl Bench<'_> {
    fn note(&mut self, measure: &str, contestant: usize, cluster: &dyn Cluster, time: f64) {
        progress(&format!("{}: {measure}: {time:.3} s", cluster.name()));
        self.times.push(measure, contestant, time);
    }

    fn part(&mut self, part: &str, wanted: &Wanted, cluster: &dyn Cluster, index: usize) -> Result<()> {
        for network in &wanted.networks {
            let flags: &[&str] = match *network {
                "overlay" => &["--network", OVERLAY],
                _ => &[],
            };
            let network = if flags.is_empty() { "no network" } else { "overlay" };
            match part {
                "create" => {
                    for count in &wanted.counts {
                        self.create(cluster, index, *count, network, flags)?;
                    }
                }
                "scale" => self.scale(cluster, index, network, flags)?,
                "update" => self.update(cluster, index, network, flags)?,
                _ => {}
            }
        }
        match part {
            "drain" => self.drain(cluster, index),
            "crash" => self.crash(cluster, index),
            "kill" => self.kill(cluster, index),
            _ => Ok(()),
        }
    }

    /// Replicas to all running, and to nothing left.
    fn create(
        &mut self,
        cluster: &dyn Cluster,
        index: usize,
        count: usize,
        network: &str,
        flags: &[&str],
    ) -> Result<()> {
        let start = Instant::now();
        cluster.create("many", count, flags)?;
        let period = if count > REPLICAS { LONG_PERIOD } else { PERIOD };
        until("all tasks run", period, || Ok(cluster.running("many")? >= count))?;
        self.note(
            &format!("create {count}, {network}"),
            index,
            cluster,
            start.elapsed().as_secs_f64(),
        );
        ensure!(
            cluster.all_containers()? >= count,
            "fewer containers than running tasks"
        );
        self.memory(cluster, &format!("with {count} tasks, {network}"))?;
        let start = Instant::now();
        remove(cluster, "many")?;
        self.note(
            &format!("remove {count}, {network}"),
            index,
            cluster,
            start.elapsed().as_secs_f64(),
        );
        std::thread::sleep(PAUSE);
        Ok(())
    }

    /// 10 to 30 and back: all running, no container too many.
    fn scale(&mut self, cluster: &dyn Cluster, index: usize, network: &str, flags: &[&str]) -> Result<()> {
        begin(cluster, "scaled", 10, flags)?;
        let start = Instant::now();
        cluster.run(1, &["service", "scale", "--detach", "scaled=30"])?;
        until("all tasks run", PERIOD, || Ok(cluster.running("scaled")? >= 30))?;
        let up = start.elapsed().as_secs_f64();
        self.note(&format!("scale 10 to 30, {network}"), index, cluster, up);
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        cluster.run(1, &["service", "scale", "--detach", "scaled=10"])?;
        until("10 containers are left", PERIOD, || {
            Ok(cluster.all_containers()? <= 10)
        })?;
        let down = start.elapsed().as_secs_f64();
        self.note(
            &format!("scale 30 to 10, containers gone, {network}"),
            index,
            cluster,
            down,
        );
        remove(cluster, "scaled")
    }

    /// All tasks to another image, five at a time without delay, in both orders; until all run that image.
    fn update(&mut self, cluster: &dyn Cluster, index: usize, network: &str, flags: &[&str]) -> Result<()> {
        for order in ["stop-first", "start-first"] {
            let mut flags = flags.to_vec();
            flags.extend(["--update-parallelism", "5", "--update-delay", "0s"]);
            flags.extend(["--update-order", order]);
            begin(cluster, "updated", REPLICAS, &flags)?;
            let start = Instant::now();
            cluster.run(
                1,
                &[
                    "service",
                    "update",
                    "--detach",
                    "--no-resolve-image",
                    "--image",
                    NEW_IMAGE,
                    "updated",
                ],
            )?;
            until("all tasks run the new image", LONG_PERIOD, || {
                let tasks = cluster.tasks("updated")?;
                let new = tasks
                    .iter()
                    .filter(|task| task.running && task.image == NEW_IMAGE);
                Ok(new.count() >= REPLICAS)
            })?;
            let time = start.elapsed().as_secs_f64();
            self.note(
                &format!("update of {REPLICAS}, five at a time, {order}, {network}"),
                index,
                cluster,
                time,
            );
            remove(cluster, "updated")?;
        }
        Ok(())
    }

    /// A worker with its share of the tasks is drained.
    fn drain(&mut self, cluster: &dyn Cluster, index: usize) -> Result<()> {
        begin(cluster, "drained", REPLICAS, &["--network", OVERLAY])?;
        let name = cluster.hostname(HOSTS);
        let before = cluster.running_containers(HOSTS)?;
        ensure!(before > 0, "no task is on {name}");
        let start = Instant::now();
        cluster.run(1, &["node", "update", "--availability", "drain", &name])?;
        until("all tasks run elsewhere", PERIOD, || {
            elsewhere(cluster, "drained", &name)
        })?;
        let moved = start.elapsed().as_secs_f64();
        until("nothing runs on the node", PERIOD, || {
            Ok(cluster.running_containers(HOSTS)? == 0)
        })?;
        let empty = start.elapsed().as_secs_f64();
        progress(&format!("{before} of {REPLICAS} tasks were on the node"));
        self.note(
            "drain of a node, its tasks running elsewhere, overlay",
            index,
            cluster,
            moved,
        );
        self.note(
            "drain of a node, nothing running on it, overlay",
            index,
            cluster,
            empty,
        );
        cluster.run(1, &["node", "update", "--availability", "active", &name])?;
        remove(cluster, "drained")
    }

    /// A container's process is killed: until its replacement runs, without a restart delay.
    fn crash(&mut self, cluster: &dyn Cluster, index: usize) -> Result<()> {
        begin(cluster, "crashed", 10, &AT_ONCE)?;
        for _ in 0..3 {
            let before = cluster.tasks("crashed")?;
            let label = "label=com.docker.swarm.service.name=crashed";
            let listed = cluster.run(HOSTS, &["ps", "--quiet", "--filter", label])?;
            let victim = listed.lines().next().context("no task is on the last host")?;
            let start = Instant::now();
            cluster.run(HOSTS, &["kill", "--signal", "KILL", victim])?;
            until("the replacement runs", PERIOD, || {
                let tasks = cluster.tasks("crashed")?;
                let new = |id: &str| before.iter().all(|task| task.id != id);
                Ok(tasks.iter().any(|task| task.running && new(&task.id)))
            })?;
            let time = start.elapsed().as_secs_f64();
            self.note("container killed, its replacement running", index, cluster, time);
            std::thread::sleep(PAUSE);
        }
        remove(cluster, "crashed")
    }

    /// Everything on a worker gets SIGKILL: until the node is told down, and until the tasks run elsewhere: of a service that restarts at
    /// once, and of one with the default delay of 5 s, which both have.
    fn kill(&mut self, cluster: &dyn Cluster, index: usize) -> Result<()> {
        const SERVICES: [(&str, &str, &[&str]); 2] = [
            ("lost", "no restart delay", &AT_ONCE),
            ("late", "the default restart delay", &[]),
        ];
        for (service, _, flags) in SERVICES {
            begin(cluster, service, REPLICAS, flags)?;
        }
        let name = cluster.hostname(HOSTS);
        ensure!(cluster.containers(HOSTS)? > 0, "no task is on {name}");
        let start = Instant::now();
        cluster.power_off(HOSTS)?;
        until("the node is down", PERIOD, || Ok(!cluster.is_ready(HOSTS)?))?;
        let down = start.elapsed().as_secs_f64();
        self.note("worker killed, its node seen down", index, cluster, down);
        for (service, what, _) in SERVICES {
            until("all tasks run elsewhere", PERIOD, || {
                elsewhere(cluster, service, &name)
            })?;
            let time = start.elapsed().as_secs_f64();
            self.note(
                &format!("worker killed, its tasks running elsewhere, {what}"),
                index,
                cluster,
                time,
            );
        }
        cluster.power_on(HOSTS)?;
        until("the node is back", LONG_PERIOD, || cluster.is_ready(HOSTS))?;
        for (service, _, _) in SERVICES {
            cluster.run(1, &["service", "rm", service])?;
        }
        empty(cluster)
    }

    fn memory(&mut self, cluster: &dyn Cluster, when: &str) -> Result<()> {
        for (kind, all) in cluster.memory()? {
            let mut value = Memory::mean(&all).json();
            value["n"] = json!(all.len());
            value["pss of all"] = json!(mib(all.iter().map(|memory| memory.pss).sum()));
            self.report
                .result(&format!("{} memory, mean {kind}, {when}", cluster.name()), value);
        }
        Ok(())
    }
}

/// Makes a service and waits until it runs and the cluster is quiet again.
fn begin(cluster: &dyn Cluster, service: &str, replicas: usize, flags: &[&str]) -> Result<()> {
    cluster.create(service, replicas, flags)?;
    until("all tasks run", LONG_PERIOD, || {
        Ok(cluster.running(service)? >= replicas)
    })?;
    std::thread::sleep(PAUSE);
    Ok(())
}

fn remove(cluster: &dyn Cluster, service: &str) -> Result<()> {
    cluster.run(1, &["service", "rm", service])?;
    empty(cluster)
}

fn empty(cluster: &dyn Cluster) -> Result<()> {
    until("no container is left", LONG_PERIOD, || {
        Ok(cluster.all_containers()? == 0)
    })
}

/// Whether all tasks run on other hosts.
fn elsewhere(cluster: &dyn Cluster, service: &str, host: &str) -> Result<bool> {
    let tasks = cluster.tasks(service)?;
    let there = tasks.iter().filter(|task| task.running && task.node != host);
    Ok(there.count() >= REPLICAS)
}

fn until(what: &str, period: Duration, condition: impl Fn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        ensure!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for this: {what}");
        std::thread::sleep(period);
    }
    Ok(())
}

fn judge(report: &mut Report, clusters: &[&dyn Cluster], times: &Times) {
    let mut said = Vec::new();
    for (measure, samples) in &times.measures {
        for (cluster, samples) in clusters.iter().zip(samples) {
            report.samples(&format!("{} {measure}", cluster.name()), "s", samples);
        }
        let ours = samples.first().map(Samples::median).unwrap_or_default();
        let Some(theirs) = samples.get(1) else {
            said.push(format!("{measure}: {} s", round(ours)));
            continue;
        };
        let ratio = ours / theirs.median();
        report.result(&format!("pontoon / swarm {measure}"), json!(round(ratio)));
        said.push(format!("{measure}: {} s, {}x Swarm's", round(ours), round(ratio)));
        // The design's budget is for 100 replicas.
        if measure.starts_with("create 100,") {
            let what = format!("{measure}, as a share of Swarm's");
            report.budget(budget(&what, 0.125, ratio, true));
        }
    }
    let lost = |(name, _): &&(String, Vec<Samples>)| name.ends_with("elsewhere, no restart delay");
    if let Some(ours) = times.measures.iter().find(lost).and_then(|(_, all)| all.first()) {
        report.budget(budget(
            "worker killed, tasks elsewhere, median, s",
            4.0,
            ours.median(),
            true,
        ));
    }
    report.summary(said.join("; "));
}
