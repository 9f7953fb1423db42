//! The fleet: n hosts on one switch, on this machine. Made by tests, the demo and benches; at its end nothing of it is left, also
//! after a panic. What a killed program left behind is removed by the next fleet.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, test_kill_process};

use crate::cgroups;
use crate::host::Host;
use crate::images;
use crate::view::{self, NodeRow};
use crate::wait::{LONG, wait_until};
use crate::wire::Wire;

/// Folders of fleets; short, as unix sockets' paths may have 107 bytes only.
const BASE: &str = "/tmp";
const PREFIX: &str = "pontoon-";

/// Hosts on a switch.
#[derive(Debug)]
pub struct Fleet {
    suffix: String,
    folder: PathBuf,
    hosts: Vec<Host>,
    wire: Wire,
    keep: bool,
}

/// Runs a test on `count` fresh hosts. When a step fails or panics, the daemons' logs and a cluster's tasks are printed.
///
/// # Panics
/// When the test fails: this is the test's frame.
pub fn with_fleet(count: usize, test: impl FnOnce(&Fleet) -> Result<()>) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "end-to-end tests need root");
        eprintln!("skipped: needs root for namespaces and control groups");
        return;
    }
    let fleet = Fleet::new(count).expect("a fleet can be made");
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&fleet)));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{}\n\n{}", fleet.logs(80), fleet.history());
        if std::env::var_os("PONTOON_TEST_KEEP").is_some() {
            eprintln!("kept: {}", fleet.folder.display());
            fleet.keep();
        } else {
            drop(fleet);
        }
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

/// Runs a test on one host with the test images and no cluster; as [`with_fleet`].
pub fn with_host(test: impl FnOnce(&Host, &Fleet) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        test(fleet.host(1), fleet)
    });
}

impl Fleet {
    /// Makes `count` hosts and starts their daemons.
    ///
    /// # Errors
    /// When a part can't be made; what was made is removed again.
    pub fn new(count: usize) -> Result<Self> {
        sweep();
        let suffix = random_suffix()?;
        let folder = Path::new(BASE).join(format!("{PREFIX}{suffix}"));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let wire = Wire::named(&suffix);
        let mut fleet = Self {
            suffix,
            folder,
            hosts: Vec::new(),
            wire,
            keep: false,
        };
        fs::write(fleet.folder.join("owner"), std::process::id().to_string())
            .context("cannot write the owner's file")?;
        fleet.wire.up()?;
        for number in 1..=count {
            let host = Host::new(number, &fleet.folder, &group(&fleet.suffix), &fleet.wire)?;
            fleet.hosts.push(host);
        }
        each(&fleet.hosts, Host::start)?;
        Ok(fleet)
    }

    /// Host `number`, from 1.
    ///
    /// # Panics
    /// When the fleet has fewer hosts.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .with_context(|| format!("no host is named {name:?}"))
    }

    /// The switch and cables.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// A folder for a test's own files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Loads the test images on every host.
    ///
    /// # Errors
    /// When they can't be made or loaded.
    pub fn load_images(&self) -> Result<()> {
        let archives = images::write_all(&self.folder.join("images"))?;
        each(&self.hosts, |host| {
            for archive in &archives {
                host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
            }
            Ok(())
        })
    }

    /// Makes a cluster: the first `managers` hosts as managers, the others as workers, and waits until all are ready.
    ///
    /// # Errors
    /// When a host can't join.
    pub fn form_cluster(&self, managers: usize) -> Result<()> {
        let first = self.host(1);
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        for host in &self.hosts[1..] {
            let role = if host.number() <= managers {
                "manager"
            } else {
                "worker"
            };
            self.join(host, role)?;
        }
        wait_until("every node is ready", LONG, || {
            let nodes = view::nodes(first)?;
            ensure!(nodes.len() == self.hosts.len(), "nodes: {nodes:?}");
            ensure!(
                nodes.iter().all(|node| node.status == "Ready"),
                "nodes: {nodes:?}"
            );
            let reachable = nodes.iter().filter(|node| node.is_manager()).count();
            ensure!(reachable == managers, "nodes: {nodes:?}");
            Ok(())
        })
    }

    /// Lets all hosts talk to a registry at this address in plain HTTP; their daemons are restarted for that.
    ///
    /// # Errors
    /// When a daemon does not end or start.
    pub fn trust_registry(&self, address: &str) -> Result<()> {
        each(&self.hosts, |host| {
            host.configure(&format!("insecure-registry = [\"{address}/32\"]"))?;
            host.stop()?;
            host.start()
        })
    }

    /// Joins a host by the first host's token.
    ///
    /// # Errors
    /// When it is refused.
    pub fn join(&self, host: &Host, role: &str) -> Result<()> {
        let first = self.host(1);
        let token = first.ok(&["swarm", "join-token", "--quiet", role])?;
        let remote = format!("{}:2377", first.address());
        host.ok(&[
            "swarm",
            "join",
            "--token",
            &token,
            "--advertise-addr",
            &host.address(),
            &remote,
        ])?;
        Ok(())
    }

    /// A cluster with the test images on each host: what most tests start from.
    ///
    /// # Errors
    /// As its parts.
    pub fn ready(&self, managers: usize) -> Result<()> {
        self.load_images()?;
        self.form_cluster(managers)
    }

    /// Runs and removes one global service, so that what a node keeps as long as it is in a cluster (its leg in the routing mesh,
    /// the bridge for the way out, netd) is there before a test counts what others leave.
    ///
    /// # Errors
    /// When the service does not run or does not go.
    pub fn warm_up(&self) -> Result<()> {
        let first = self.host(1);
        first.ok(&["network", "create", "--driver", "overlay", "warm"])?;
        first.ok(&[
            "service",
            "create",
            "--name",
            "warm",
            "--mode",
            "global",
            "--network",
            "warm",
            "--publish",
            "7070:8080",
            "web:1",
        ])?;
        first.ok(&["service", "rm", "warm"])?;
        self.remove_network("warm")?;
        wait_until("its containers and networks are gone", LONG, || {
            for host in &self.hosts {
                ensure!(host.ok(&["ps", "--all", "--quiet"])?.is_empty());
                let spaces = host.footprint()?.of_kind("netns").len();
                // The ingress network's own.
                ensure!(spaces <= 1, "{spaces} network namespaces are left");
            }
            Ok(())
        })
    }

    /// Removes a cluster network as soon as no task is in it any more.
    ///
    /// # Errors
    /// When tasks stay in it.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        wait_until(&format!("network {name} can be removed"), LONG, || {
            self.host(1).ok(&["network", "rm", name]).map(drop)
        })
    }

    /// The leader as `asked` sees it.
    ///
    /// # Errors
    /// When it knows none.
    pub fn leader(&self, asked: &Host) -> Result<&Host> {
        let nodes = view::nodes(asked)?;
        let leader = nodes.iter().find(|node| node.manager == "Leader");
        let NodeRow { hostname, .. } = leader.with_context(|| format!("no leader in {nodes:?}"))?;
        self.named(hostname)
    }

    /// The ends of all daemons' logs.
    pub fn logs(&self, lines: usize) -> String {
        let logs: Vec<_> = self.hosts.iter().map(|host| host.log_tail(lines)).collect();
        logs.join("\n\n")
    }

    /// The cluster's nodes, services and tasks, as the first manager that answers sees them; empty without a cluster.
    pub fn history(&self) -> String {
        let told = self.hosts.iter().filter(|host| host.daemon_pid().is_some());
        told.map(view::history)
            .find(|history| !history.is_empty())
            .unwrap_or_default()
    }

    /// Leaves the fleet running when this program ends; [`remove`] ends it by the returned name.
    pub fn keep(mut self) -> String {
        self.keep = true;
        let _ = fs::write(self.folder.join("owner"), "kept");
        self.suffix.clone()
    }

    /// The fleet's name, for [`remove`].
    pub fn name(&self) -> &str {
        &self.suffix
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for failure in remove(&self.suffix) {
            eprintln!("removing a fleet: {failure}");
        }
    }
}

/// Ends the fleet of this name and removes all it has on the machine. Returns what could not be done.
pub fn remove(suffix: &str) -> Vec<String> {
    let mut failures = Vec::new();
    let mut note = |what: Result<()>| failures.extend(what.err().map(|error| format!("{error:#}")));
    let folder = Path::new(BASE).join(format!("{PREFIX}{suffix}"));
    note(cgroups::kill_all(&group(suffix)));
    for point in mounts_below(&folder).into_iter().rev() {
        let undone = unmount(&point, UnmountFlags::DETACH);
        note(undone.with_context(|| format!("cannot unmount {}", point.display())));
    }
    note(Wire::named(suffix).down());
    note(wait_until("the control groups are empty", crate::SHORT, || {
        cgroups::remove(&group(suffix))
    }));
    if folder.exists() {
        note(fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display())));
    }
    failures
}

/// Mount points at and below a folder, in the order in which they were mounted.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(folder))
        .collect()
}

/// Runs a step on all hosts at once.
///
/// # Errors
/// The first host's that failed.
pub fn each(hosts: &[Host], step: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let step = &step;
        let running: Vec<_> = hosts.iter().map(|host| scope.spawn(move || step(host))).collect();
        let results: Vec<Result<()>> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

/// Removes fleets whose program was killed before it could.
fn sweep() {
    for entry in fs::read_dir(BASE).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(suffix) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let owner = fs::read_to_string(entry.path().join("owner")).unwrap_or_default();
        let owner = owner.parse().ok().and_then(Pid::from_raw);
        if owner.is_some_and(|owner| test_kill_process(owner).is_err()) {
            remove(suffix);
        }
    }
}

fn group(suffix: &str) -> String {
    format!("/pontoon-test-{suffix}")
}

fn random_suffix() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot read a random id")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).take(6).collect())
}
