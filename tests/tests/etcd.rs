//! A cluster whose state lies in an external etcd: managers come and go, etcd itself goes and comes back, nothing is lost; and what
//! such a cluster refuses.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, wire, with_fleet};

const SECRET: &str = "correct-horse-battery-staple";

/// An etcd in a host's network.
struct Etcd {
    address: String,
    netns: PathBuf,
    data: PathBuf,
    process: Option<Child>,
}

impl Etcd {
    fn start(host: &Host) -> Result<Self> {
        let mut etcd = Self {
            address: format!("{}:2379", host.address()),
            netns: host.netns(),
            data: host.folder().join("etcd"),
            process: None,
        };
        etcd.restart()?;
        Ok(etcd)
    }

    fn restart(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.data.with_extension("log"))?;
        let client = format!("http://{}", self.address);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .args(["--", "/usr/bin/etcd", "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn();
        self.process = Some(child.context("cannot start etcd (Debian's package etcd-server)")?);
        let address: SocketAddr = self.address.parse()?;
        wait_until("etcd listens", SHORT, || {
            wire::within(&self.netns, || {
                TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
                Ok(())
            })
        })
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.process.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Settings of a daemon that keeps the cluster's state there.
fn settings(etcd: &Etcd, options: &str) -> String {
    format!("store = \"etcd://{}\"\n[store-opt]\n{options}\n", etcd.address)
}

fn configure(hosts: &[&Host], settings: &str) -> Result<()> {
    for host in hosts {
        host.configure(settings)?;
        host.stop()?;
        host.start()?;
    }
    Ok(())
}

fn holds(folder: &Path, text: &str) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            holds(&path, text)?
        } else {
            let bytes = fs::read(&path)?;
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A service without tasks that knows a secret.
fn quiet(host: &Host, name: &str) -> Result<String> {
    let secret = format!("TOKEN={SECRET}");
    host.ok(&[
        "service",
        "create",
        "--detach",
        "--replicas",
        "0",
        "--name",
        name,
        "--env",
        &secret,
        "web:1",
    ])
}

fn services(host: &Host) -> Result<Vec<String>> {
    let list = host.ok(&["service", "ls", "--format", "{{.Name}}"])?;
    let mut names: Vec<String> = list.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn swarm_error(host: &Host) -> Result<String> {
    host.ok(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}"])
}

/// Two managers on an etcd of the third host, whose state is sealed.
fn sealed_cluster(fleet: &Fleet, etcd: &Etcd) -> Result<()> {
    let key = fleet.folder().join("seal.key");
    fs::write(&key, format!("{}\n", "k".repeat(44)))?;
    let options = format!("lease = \"2s\"\nseal-key-file = {:?}", key.display().to_string());
    configure(&[fleet.host(1), fleet.host(2)], &settings(etcd, &options))?;
    fleet.ready(2)
}

#[test]
fn the_active_manager_dies_and_the_other_takes_over() {
    with_fleet(3, |fleet| {
        let mut etcd = Etcd::start(fleet.host(3))?;
        sealed_cluster(fleet, &etcd)?;
        let (first, worker) = (fleet.host(1), fleet.host(3));
        first.line("service create --detach --name web --replicas 4 --restart-delay 100ms web:1")?;
        wait_until("it runs", LONG, || ensure_running(first, "web", 4))?;
        quiet(first, "one")?;
        let active = fleet.leader(first)?;
        let other = [first, fleet.host(2)]
            .into_iter()
            .find(|host| host.number() != active.number());
        let other = other.context("another manager")?;
        // A write through the passive one is there for the active one, and the other way round.
        quiet(other, "two")?;
        ensure!(services(active)? == ["one", "two", "web"]);

        active.power_off()?;
        wait_until("the other leads", LONG, || {
            let leader = fleet.leader(other)?;
            ensure!(leader.number() == other.number(), "{}", leader.name());
            Ok(())
        })?;
        ensure!(services(other)? == ["one", "two", "web"]);
        other.line("service update --detach --replicas 5 web")?;
        wait_until("the lost tasks run elsewhere", LONG, || {
            for task in ensure_running(other, "web", 5)? {
                ensure!(task.node != active.name(), "{task:?}");
            }
            Ok(())
        })?;

        // etcd itself: nothing is answered that it has not written, containers go on, and then all is as before.
        etcd.kill()?;
        let before = worker.ok(&["ps", "--quiet", "--no-trunc"])?;
        quiet(other, "lost").err().context("a write without etcd")?;
        // A manager that starts before its etcd runs its tasks, and says what it waits for.
        active.start()?;
        wait_until("it says so", LONG, || {
            let said = swarm_error(active)?;
            ensure!(
                said.starts_with("error ") && said.contains("can't use etcd at"),
                "{said}"
            );
            Ok(())
        })?;
        ensure!(worker.ok(&["ps", "--quiet", "--no-trunc"])? == before);
        etcd.restart()?;
        wait_until("both managers are back", LONG, || {
            let nodes = view::nodes(other)?;
            let managers = nodes.iter().filter(|node| node.is_manager()).count();
            ensure!(
                managers == 2 && nodes.iter().all(|node| node.status == "Ready"),
                "{nodes:?}"
            );
            quiet(active, "three").or_else(|error| {
                ensure!(format!("{error:#}").contains("already exists"), "{error:#}");
                Ok(String::new())
            })?;
            Ok(())
        })?;
        let mut left = services(other)?;
        left.retain(|name| name != "lost");
        ensure!(left == ["one", "three", "two", "web"], "{left:?}");
        wait_until("all tasks run", LONG, || ensure_running(active, "web", 5))?;
        for secret in [SECRET, "SWMTKN", "PRIVATE KEY"] {
            ensure!(!holds(&etcd.data, secret)?, "{secret} lies in etcd in clear");
        }
        Ok(())
    });
}

#[test]
fn what_such_a_cluster_can_not_do_is_refused() {
    with_fleet(2, |fleet| {
        let etcd = Etcd::start(fleet.host(2))?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        configure(&[first], &settings(&etcd, "lease = \"2s\""))?;
        first
            .pontoon(&[
                "swarm",
                "init",
                "--autolock",
                "--advertise-addr",
                &first.address(),
            ])?
            .fails(1, &["autolock is not possible", "seal-key-file"])?;
        for flag in ["--snapshot-interval=500", "--max-snapshots=2"] {
            first
                .pontoon(&["swarm", "init", flag, "--advertise-addr", &first.address()])?
                .fails(1, &["--snapshot-interval or --max-snapshots is not possible"])?;
        }
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        first
            .pontoon(&["swarm", "update", "--snapshot-interval=500"])?
            .fails(1, &["no snapshots of their own"])?;
        ensure!(first.log_tail(200).contains("lies in etcd in clear"));
        first
            .pontoon(&["swarm", "update", "--autolock"])?
            .fails(1, &["autolock is not possible"])?;
        first
            .pontoon(&["swarm", "init", "--force-new-cluster"])?
            .fails(1, &["any one manager is enough there"])?;
        let joined = fleet.join(second, "manager").err().context("it joined")?;
        ensure!(
            format!("{joined:#}").contains("with the same --store"),
            "{joined:#}"
        );

        // A manager stays with its store.
        configure(&[first], "")?;
        wait_until("it says where its log is", LONG, || {
            let said = swarm_error(first)?;
            let reason = "this manager's log is in etcd://.../pontoon";
            ensure!(said.contains(reason), "{said}");
            Ok(())
        })?;
        configure(&[first], &settings(&etcd, "lease = \"2s\""))?;
        wait_until("it is back", LONG, || {
            ensure!(view::node(first, "host1")?.status == "Ready");
            Ok(())
        })?;

        // The second one with the store, as a worker first.
        configure(&[second], &settings(&etcd, "lease = \"2s\""))?;
        fleet.join(second, "worker")?;
        first.ok(&["node", "promote", "host2"])?;
        wait_until("it is a manager", LONG, || {
            ensure!(view::node(first, "host2")?.is_manager());
            Ok(())
        })?;
        first
            .pontoon(&["swarm", "leave"])?
            .fails(1, &["Demote it first"])?;
        // The leader itself: the answer may be lost with its leadership, and asking again does no harm.
        wait_until("it is demoted", LONG, || second.ok(&["node", "demote", "host1"]))?;
        wait_until("the other one is alone", LONG, || {
            ensure!(!view::node(second, "host1")?.is_manager());
            Ok(())
        })?;
        wait_until("it may leave", LONG, || first.ok(&["swarm", "leave"]))?;
        second.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    });
}
