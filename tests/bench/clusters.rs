//! Two orchestrators behind one set of questions: Pontoon on the tests' fleet and a Docker Swarm of the same size on the same switch.
//! What changes something goes through each one's own command line, in the same words; what is asked often costs little: Docker's API,
//! and our command line, which is paid by us. Used by `scale` and `services`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pontoon_tests::{Fleet, Host, cgroups, view};
use serde_json::Value;

use crate::docker::{self, Engine};
use crate::procs::{self, Memory};

/// The image of all services.
pub const IMAGE: &str = "busybox:latest";
/// The same bytes by another name: what a rolling update goes to.
pub const NEW_IMAGE: &str = "busybox:2";
/// Obeys SIGTERM: pid 1 without a handler ignores it, and the grace period would be in the figure.
pub const PROGRAM: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// A task that shall run.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Hostname of its node, or the node's id when no node has that id any more; empty before placement.
    pub node: String,
    /// The image as written in its service.
    pub image: String,
    /// Whether it runs.
    pub running: bool,
}

/// Memory of all processes of one kind.
pub type Kind = (&'static str, Vec<Memory>);

/// Something that runs services: what is compared. Hosts count from 1; the first is asked.
pub trait Cluster {
    /// `pontoon` or `swarm`.
    fn name(&self) -> &'static str;
    /// Runs one of its commands on a host.
    fn run(&self, host: usize, arguments: &[&str]) -> Result<String>;
    /// Running tasks of a service.
    fn running(&self, service: &str) -> Result<usize>;
    /// The tasks of a service that shall run.
    fn tasks(&self, service: &str) -> Result<Vec<Task>>;
    /// Containers on a host, ended ones too.
    fn containers(&self, host: usize) -> Result<usize>;
    /// Containers on a host that run.
    fn running_containers(&self, host: usize) -> Result<usize>;
    /// How many hosts there are.
    fn hosts(&self) -> usize;
    /// What the cluster calls a host.
    fn hostname(&self, host: usize) -> String;
    /// Whether a node takes tasks: it is neither down nor unknown.
    fn is_ready(&self, host: usize) -> Result<bool>;
    /// SIGKILL to everything that runs on a host.
    fn power_off(&self, host: usize) -> Result<()>;
    /// Starts a host again.
    fn power_on(&self, host: usize) -> Result<()>;
    /// The memory of all that keeps the cluster, daemons of the first host apart: it leads.
    fn memory(&self) -> Result<Vec<Kind>>;

    /// `service create` with what both understand.
    ///
    /// # Errors
    /// When it fails.
    fn create(&self, service: &str, replicas: usize, flags: &[&str]) -> Result<()> {
        let replicas = replicas.to_string();
        let mut arguments = vec!["service", "create", "--detach", "--no-resolve-image"];
        arguments.extend(["--name", service, "--replicas", &replicas]);
        // Names of the slots by round robin: Swarm's virtual addresses need IPVS, which not every kernel has.
        arguments.extend(["--endpoint-mode", "dnsrr"]);
        arguments.extend(flags);
        arguments.extend([IMAGE, "sh", "-c", PROGRAM]);
        self.run(1, &arguments).map(drop)
    }

    /// Containers on all hosts.
    ///
    /// # Errors
    /// When a host can't be asked.
    fn all_containers(&self) -> Result<usize> {
        (1..=self.hosts()).map(|host| self.containers(host)).sum()
    }
}

/// Pontoon on the fleet.
pub struct Pontoon<'a> {
    /// Its hosts.
    pub fleet: &'a Fleet,
}

impl Pontoon<'_> {
    fn first(&self) -> &Host {
        self.fleet.host(1)
    }
}

impl Cluster for Pontoon<'_> {
    fn name(&self) -> &'static str {
        "pontoon"
    }

    fn run(&self, host: usize, arguments: &[&str]) -> Result<String> {
        self.fleet.host(host).ok(arguments)
    }

    fn running(&self, service: &str) -> Result<usize> {
        let rows = view::rows(self.first(), &["service", "ls"])?;
        let row = rows.iter().find(|row| view::field(row, "Name") == service);
        let replicas = row.map(|row| view::field(row, "Replicas")).unwrap_or_default();
        let running = replicas.split('/').next().unwrap_or_default();
        running
            .parse()
            .with_context(|| format!("replicas are {replicas:?}"))
    }

    fn tasks(&self, service: &str) -> Result<Vec<Task>> {
        let listing = ["service", "ps", "--filter", "desired-state=running", service];
        let rows = view::task_rows(self.first(), &listing)?;
        let tasks = rows.into_iter().map(|row| Task {
            running: row.is_running(),
            id: row.id,
            node: row.node,
            image: row.image,
        });
        Ok(tasks.collect())
    }

    fn containers(&self, host: usize) -> Result<usize> {
        let listed = self.fleet.host(host).ok(&["ps", "--all", "--quiet"])?;
        Ok(listed.lines().count())
    }

    fn running_containers(&self, host: usize) -> Result<usize> {
        let listed = self.fleet.host(host).ok(&["ps", "--quiet"])?;
        Ok(listed.lines().count())
    }

    fn hosts(&self) -> usize {
        self.fleet.hosts().len()
    }

    fn hostname(&self, host: usize) -> String {
        self.fleet.host(host).name()
    }

    fn is_ready(&self, host: usize) -> Result<bool> {
        Ok(view::node(self.first(), &self.hostname(host))?.status == "Ready")
    }

    fn power_off(&self, host: usize) -> Result<()> {
        self.fleet.host(host).power_off()
    }

    fn power_on(&self, host: usize) -> Result<()> {
        self.fleet.host(host).start()
    }

    fn memory(&self) -> Result<Vec<Kind>> {
        let (mut leader, mut others, mut netd, mut shims) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for host in self.fleet.hosts() {
            let daemons = if host.number() == 1 {
                &mut leader
            } else {
                &mut others
            };
            daemons.extend(memories(procs::of_kind(host, "daemon")?)?);
            netd.extend(memories(procs::of_kind(host, "netd")?)?);
            shims.extend(memories(procs::of_kind(host, "shim")?)?);
        }
        Ok(vec![
            ("daemon, leader", leader),
            ("daemon, others", others),
            ("netd", netd),
            ("shim", shims),
        ])
    }
}

/// A Docker Swarm.
pub struct Swarm<'a> {
    /// Its engines.
    pub engines: &'a [Engine],
}

impl<'a> Swarm<'a> {
    fn engine(&self, host: usize) -> Result<&'a Engine> {
        let engine = self.engines.get(host.saturating_sub(1));
        engine.with_context(|| format!("the Swarm has no host {host}"))
    }

    fn ask(&self, path: &str) -> Result<Vec<Value>> {
        let answer = self.engine(1)?.get(path)?;
        serde_json::from_str(&answer).with_context(|| format!("GET {path}: no list of objects"))
    }
}

impl Cluster for Swarm<'_> {
    fn name(&self) -> &'static str {
        "swarm"
    }

    fn run(&self, host: usize, arguments: &[&str]) -> Result<String> {
        self.engine(host)?.docker(arguments)
    }

    fn running(&self, service: &str) -> Result<usize> {
        let services = self.ask("/v1.41/services?status=true")?;
        let service = services.iter().find(|one| one["Spec"]["Name"] == service);
        let running = service.and_then(|one| one["ServiceStatus"]["RunningTasks"].as_u64());
        Ok(running
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or_default())
    }

    fn tasks(&self, service: &str) -> Result<Vec<Task>> {
        // {"service":["NAME"],"desired-state":["running"]}
        let filters = format!(
            "%7B%22service%22%3A%5B%22{service}%22%5D%2C%22desired-state%22%3A%5B%22running%22%5D%7D"
        );
        let nodes = self.ask("/v1.41/nodes")?;
        let tasks = self.ask(&format!("/v1.41/tasks?filters={filters}"))?;
        let name = |id: &Value| {
            let node = nodes.iter().find(|node| node["ID"] == *id);
            node.map_or_else(|| text(id), |node| text(&node["Description"]["Hostname"]))
        };
        let tasks = tasks.iter().map(|task| Task {
            id: text(&task["ID"]),
            node: name(&task["NodeID"]),
            image: text(&task["Spec"]["ContainerSpec"]["Image"]),
            running: task["Status"]["State"] == "running",
        });
        Ok(tasks.collect())
    }

    fn containers(&self, host: usize) -> Result<usize> {
        self.engine(host)?.containers(true)
    }

    fn running_containers(&self, host: usize) -> Result<usize> {
        self.engine(host)?.containers(false)
    }

    fn hosts(&self) -> usize {
        self.engines.len()
    }

    fn hostname(&self, host: usize) -> String {
        docker::hostname(host)
    }

    fn is_ready(&self, host: usize) -> Result<bool> {
        let name = self.hostname(host);
        let nodes = self.ask("/v1.41/nodes")?;
        let node = nodes
            .iter()
            .find(|node| node["Description"]["Hostname"] == name.as_str());
        Ok(node.is_some_and(|node| node["Status"]["State"] == "ready"))
    }

    fn power_off(&self, host: usize) -> Result<()> {
        self.engine(host)?.power_off()
    }

    fn power_on(&self, host: usize) -> Result<()> {
        self.engine(host)?.power_on()
    }

    fn memory(&self) -> Result<Vec<Kind>> {
        let (mut leader, mut others, mut containerd, mut shims) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, engine) in self.engines.iter().enumerate() {
            for pid in cgroups::processes(engine.group())? {
                let pid = pid.as_raw_nonzero().get();
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let kind = match name.trim() {
                    "dockerd" if index == 0 => &mut leader,
                    "dockerd" => &mut others,
                    "containerd" => &mut containerd,
                    name if name.starts_with("containerd-shim") => &mut shims,
                    _ => continue,
                };
                kind.push(Memory::of(pid)?);
            }
        }
        Ok(vec![
            ("dockerd, leader", leader),
            ("dockerd, others", others),
            ("containerd", containerd),
            ("containerd-shim", shims),
        ])
    }
}

/// Starts a Docker Swarm of so many hosts beside the fleet, the first `managers` of them managers, with the image under both names.
///
/// # Errors
/// When there is no Docker here, or an engine does not start or join.
pub fn swarm(fleet: &Fleet, hosts: usize, managers: usize, archive: &Path) -> Result<Vec<Engine>> {
    if docker::installed().is_none() {
        bail!("no dockerd here (Debian package docker.io)");
    }
    let engines = docker::start(fleet, hosts, archive)?;
    docker::swarm(&engines, managers)?;
    Ok(engines)
}

fn memories(pids: Vec<i32>) -> Result<Vec<Memory>> {
    pids.into_iter().map(Memory::of).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
