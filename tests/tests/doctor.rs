//! Overlay networks heal by themselves: what somebody takes away from the kernel by hand comes back within seconds, connections work
//! again, and an event tells of it. `network doctor` shows what is not as it should be, and who reaches whom.

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

/// What `network doctor` says; its exit status must be this.
fn doctor(host: &Host, args: &[&str], code: i32) -> Result<String> {
    let output = host.pontoon(&[&["network", "doctor"], args].concat())?;
    ensure!(
        output.code == code,
        "exit status {} instead of {code}: {output}",
        output.code
    );
    Ok(output.stdout)
}

/// Waits until `network doctor` ends with this status and says all of this.
fn doctor_says(host: &Host, code: i32, texts: &[&str]) -> Result<()> {
    let what = format!("the doctor says {texts:?}");
    wait_until(&what, LONG, || {
        let said = doctor(host, &["app"], code)?;
        let missing: Vec<_> = texts.iter().filter(|text| !said.contains(**text)).collect();
        ensure!(missing.is_empty(), "{missing:?} is not in\n{said}");
        Ok(())
    })
}

#[test]
fn the_doctor_shows_who_reaches_whom() {
    with_fleet(2, |fleet| {
        let scene = Scene::set(fleet)?;
        let (first, second) = (scene.first, fleet.host(2));
        doctor_says(
            first,
            0,
            &[
                "NETWORK app",
                "host1",
                "host2",
                "MTU 1450",
                "All is well: 2 nodes, 1 overlay network",
            ],
        )?;
        let value: serde_json::Value = serde_json::from_str(&doctor(first, &["--format", "json"], 0)?)?;
        ensure!(value["Well"] == true, "{value}");
        let nodes = value["Nodes"].as_array().context("nodes")?;
        ensure!(
            nodes.len() == 2 && nodes.iter().all(|node| node["Answered"] == true),
            "{value}"
        );
        ensure!(
            nodes.iter().all(|node| node["Probes"][0]["MTU"] == 1450),
            "{value}"
        );
        // A switch on the way takes smaller packets only: as its MTU says and four bytes for a VLAN tag, less 50 for the tunnel.
        let port = wire::port(2);
        fleet
            .wire()
            .in_switch("ip", &["link", "set", &port, "mtu", "1400"])?;
        doctor_says(first, 1, &["MTU 1354 of 1450", "Not all is well"])?;
        fleet
            .wire()
            .in_switch("ip", &["link", "set", &port, "mtu", "1500"])?;
        // A firewall between the hosts.
        let home = second.netns();
        run_in(&home, "nft add table ip wall")?;
        run_in(
            &home,
            "nft add chain ip wall input { type filter hook input priority 0 ; }",
        )?;
        run_in(&home, "nft add rule ip wall input udp dport 4789 drop")?;
        doctor_says(first, 1, &["unreachable"])?;
        run_in(&home, "nft delete table ip wall")?;
        doctor_says(first, 0, &["All is well"])?;
        // A node without a daemon answers nobody.
        second.kill()?;
        doctor_says(first, 1, &["host2 did not answer: ", "unreachable"])?;
        second.start()?;
        doctor_says(first, 0, &["All is well"])
    });
}

#[test]
fn the_doctor_names_what_can_not_be_mended() {
    with_fleet(2, |fleet| {
        let scene = Scene::set(fleet)?;
        let first = scene.first;
        let hidden = scene.hidden();
        // Something else has the place of the device: it can be seen, but is not ours to remove.
        let batch = fleet.folder().join("batch");
        std::fs::write(
            &batch,
            "link del vxlan0\nlink add intruder index 1001 type bridge\n",
        )?;
        // Between the two the device may come back by itself.
        wait_until("the device's place is taken", SHORT, || {
            run_in(&hidden, &format!("ip -batch {}", batch.display()))
        })?;
        doctor_says(
            first,
            1,
            &["host1", "app", "tunnel", "not repaired", "unreachable"],
        )?;
        doctor(first, &["--repair", "app"], 1)?;
        let told = first.line("events --since 1h --until 0s --filter event=repair --filter type=network")?;
        ensure!(
            told.contains("error="),
            "what could not be mended is told: {told}"
        );
        run_in(&hidden, "ip link del intruder")?;
        doctor_says(first, 0, &["All is well"])?;
        scene.reaches()?;
        // Other networks have nothing to do with it; a worker can't tell.
        first.line("network create --driver overlay lonely")?;
        ensure!(doctor(first, &["lonely"], 0)?.contains("1 overlay network"));
        let worker = fleet.host(2).pontoon(&["network", "doctor"])?;
        worker.fails(1, &["not a swarm manager"]).map(drop)
    });
}
