//! Overlay networks heal by themselves: what somebody takes away from the kernel by hand comes back within seconds, connections work
//! again, and an event tells of it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view;
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, wire, with_fleet};

/// A service with one task on a given host, in the network `app`.
fn pinned(host: &Host, name: &str, on: &str, command: &str) -> Result<()> {
    host.line(&format!(
        "service create --name {name} --network app --constraint node.hostname=={on} web:1 {command}"
    ))
    .map(drop)
}

/// The container of a service's only task, which runs on the host.
fn container(host: &Host, manager: &Host, service: &str) -> Result<String> {
    let tasks = view::running(manager, service)?;
    let task = tasks.first().context("no running task")?;
    host.ok(&[
        "ps",
        "--quiet",
        "--no-trunc",
        "--filter",
        &format!("name={}", task.name),
    ])
}

/// A program of the machine in a namespace.
fn run_in(namespace: &std::path::Path, line: &str) -> Result<String> {
    let mut command = wire::enter(namespace);
    command.args(line.split_whitespace());
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Two hosts, an overlay over both, a server on the second host and who asks it on the first.
struct Scene<'a> {
    first: &'a Host,
    /// The network's id.
    network: String,
    /// The container of who asks.
    probe: String,
    /// The server's own address in the network.
    server: String,
}

impl<'a> Scene<'a> {
    fn set(fleet: &'a Fleet) -> Result<Self> {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let network = first.line("network create --driver overlay app")?;
        pinned(first, "server", "host2", "serve")?;
        pinned(first, "probe", "host1", "sleep")?;
        let probe = wait_until("the probe runs", SHORT, || container(first, first, "probe"))?;
        let mut scene = Self {
            first,
            network,
            probe,
            server: String::new(),
        };
        wait_until("the server answers", SHORT, || scene.reaches())?;
        scene.server = first.ok(&["exec", &scene.probe, "/web", "resolve", "tasks.server"])?;
        Ok(scene)
    }

    /// Whether the server answers by its service's name: names, virtual address, tunnel.
    fn reaches(&self) -> Result<()> {
        let get = ["exec", &self.probe, "/web", "get", "http://server:8080/"];
        self.first.ok(&get).map(drop)
    }

    fn hidden(&self) -> PathBuf {
        let short = self.network.get(..12).unwrap_or(&self.network);
        self.first.run_dir().join(format!("netns/ov-{short}"))
    }

    fn sandbox(&self) -> PathBuf {
        self.first.run_dir().join("netns").join(&self.probe)
    }

    /// The server's MAC in the network, which follows from its address.
    fn mac(&self) -> Result<String> {
        let octets = self
            .server
            .split('.')
            .map(|part| Ok(format!("{:02x}", part.parse::<u8>()?)));
        Ok(format!("02:42:{}", octets.collect::<Result<Vec<_>>>()?.join(":")))
    }

    /// How often a repair of `what` was told.
    fn told(&self, what: &str) -> Result<usize> {
        let events = self
            .first
            .line("events --since 1h --until 0s --filter type=network --filter event=repair")?;
        Ok(events
            .lines()
            .filter(|line| line.contains(&format!("what={what}")))
            .count())
    }

    /// Does damage, and waits until it has been mended and told.
    fn heals(&self, namespace: &std::path::Path, damage: &str, what: &str, is_back: &str) -> Result<()> {
        let before = self.told(what)?;
        run_in(namespace, damage)?;
        wait_until(&format!("{what} is mended after {damage}"), SHORT, || {
            run_in(namespace, is_back)?;
            self.reaches()?;
            ensure!(self.told(what)? > before, "no event tells of {what}");
            Ok(())
        })
    }
}

#[test]
fn what_is_taken_away_by_hand_comes_back() {
    with_fleet(2, |fleet| {
        let scene = Scene::set(fleet)?;
        let (hidden, sandbox, mac) = (scene.hidden(), scene.sandbox(), scene.mac()?);
        let server = &scene.server;
        scene.heals(&hidden, "ip link del vxlan0", "tunnel", "ip link show vxlan0 up")?;
        let show = format!("bridge fdb get {mac} dev vxlan0 self");
        scene.heals(
            &hidden,
            &format!("bridge fdb del {mac} dev vxlan0 self"),
            "forwarding",
            &show,
        )?;
        let show = format!("bridge fdb get {mac} br br0");
        scene.heals(
            &hidden,
            &format!("bridge fdb del {mac} dev vxlan0 master"),
            "port-entry",
            &show,
        )?;
        let show = format!("ip neigh get {server} dev br0");
        scene.heals(
            &hidden,
            &format!("ip neigh del {server} dev br0"),
            "neighbour",
            &show,
        )?;
        scene.heals(
            &sandbox,
            "nft flush table ip pontoon",
            "chain",
            "nft list chain ip pontoon output",
        )?;
        scene.heals(
            &sandbox,
            "nft delete table ip pontoon",
            "table",
            "nft list chain ip pontoon output",
        )?;
        scene.heals(
            &sandbox,
            "nft flush set ip pontoon vips",
            "set",
            "nft list set ip pontoon vips",
        )?;
        scene.heals(&hidden, "ip link del br0", "bridge", "ip link show br0 up")?;
        // All of it is as it was for those on the other host too.
        let task = wait_until("the server runs", SHORT, || {
            container(fleet.host(2), scene.first, "server")
        })?;
        let get = ["exec", &task, "/web", "resolve", "probe"];
        fleet.host(2).ok(&get)?;
        Ok(())
    });
}

#[test]
fn the_hosts_table_and_the_routing_mesh_come_back() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first
            .line("service create --name web --publish 8080:8080 --constraint node.hostname==host2 web:1")?;
        let reaches = || first.get("http://127.0.0.1:8080/").map(drop);
        wait_until("the port answers on the other host", LONG, reaches)?;
        let home = first.netns();
        for damage in [
            "nft delete table ip pontoon",
            "nft flush table ip pontoon",
            "ip link del pontoon_mesh",
            "ip addr flush dev pontoon_mesh",
        ] {
            run_in(&home, damage)?;
            wait_until(&format!("the port answers after {damage}"), SHORT, reaches)?;
        }
        wait_until("it is told", SHORT, || {
            let events = first.line("events --since 1h --until 0s --filter event=repair")?;
            for what in ["what=table", "what=mesh"] {
                ensure!(events.contains(what), "{what} was not told: {events}");
            }
            Ok(())
        })
    });
}
