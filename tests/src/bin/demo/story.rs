//! The demo's steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until};

use crate::screen::Screen;

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo/stack.yaml");
const SHOWN_STACK: &str = "deploy/demo/stack.yaml";
const PORT: u16 = 8080;
/// Answers asked of each host to show how they are spread.
const ASKED: usize = 12;

/// Tells the whole story on three fresh hosts.
pub fn tell(hosts: &Fleet, screen: &Screen) -> Result<()> {
    screen.heading("Images, made here: there is no registry to pull from");
    hosts.load_images()?;
    let first = hosts.host(1);
    screen.run(first, &["images"])?;
    form_cluster(hosts, screen)?;
    deploy(hosts, screen)?;
    answers(hosts, screen)?;
    lose_the_leader(hosts, screen)
}

fn form_cluster(hosts: &Fleet, screen: &Screen) -> Result<()> {
    screen.heading("A cluster of three managers");
    let first = hosts.host(1);
    screen.run(first, &["swarm", "init", "--advertise-addr", &first.address()])?;
    let token = screen.run(first, &["swarm", "join-token", "--quiet", "manager"])?;
    let remote = format!("{}:2377", first.address());
    for host in &hosts.hosts()[1..] {
        screen.run(host, &["swarm", "join", "--token", &token, &remote])?;
    }
    wait_until("three managers are ready", LONG, || {
        let nodes = view::nodes(first)?;
        let ready = nodes
            .iter()
            .filter(|node| node.status == "Ready" && node.is_manager());
        ensure!(ready.count() == 3, "{nodes:?}");
        Ok(())
    })?;
    screen.run(first, &["node", "ls"])?;
    Ok(())
}

fn deploy(hosts: &Fleet, screen: &Screen) -> Result<()> {
    screen.heading("One stack: 6 web tasks, and a client that calls them by name, on an overlay network");
    let first = hosts.host(1);
    let began = Instant::now();
    screen.command(first, &["stack", "deploy", "--compose-file", SHOWN_STACK, "demo"]);
    let said = first.ok(&["stack", "deploy", "--compose-file", STACK, "demo"])?;
    for line in said.lines() {
        screen.note(line);
    }
    screen.note(&format!(
        "(converged after {:.1} s)",
        began.elapsed().as_secs_f32()
    ));
    screen.run(hosts.host(2), &["service", "ls"])?;
    screen.run(hosts.host(3), &["service", "ps", "demo_web"])?;
    Ok(())
}

fn answers(hosts: &Fleet, screen: &Screen) -> Result<()> {
    screen.heading("Every host answers on the published port, whichever task it is sent to");
    for host in hosts.hosts() {
        ask(hosts.host(1), host, screen)?;
    }
    screen.heading("The client finds the service by its name, through its virtual address");
    let first = hosts.host(1);
    wait_until("the client has called", SHORT, || {
        let log = first.ok(&["service", "logs", "demo_client"])?;
        ensure!(log.contains("node: "), "{log}");
        Ok(())
    })?;
    screen.run(first, &["service", "logs", "--tail", "3", "demo_client"])?;
    Ok(())
}

/// Shows one answer of a host, and by which tasks more of them were given.
fn ask(from: &Host, host: &Host, screen: &Screen) -> Result<()> {
    let url = format!("http://{}:{PORT}/", host.address());
    screen.other_command(from, &format!("curl {url}"));
    let mut nodes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for number in 0..ASKED {
        let answer = wait_until("the published port answers", SHORT, || from.get(&url))?;
        if number == 0 {
            answer.lines().for_each(|line| screen.note(line));
        }
        let value = |key: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().to_owned()
        };
        let task = value("task: ");
        let short: Vec<&str> = task.split('.').take(2).collect();
        nodes.entry(value("node: ")).or_default().insert(short.join("."));
    }
    let spread: Vec<String> = nodes
        .iter()
        .map(|(node, tasks)| {
            format!(
                "{} on {node}",
                tasks.iter().cloned().collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    screen.note(&format!("… {ASKED} answers came from {}", spread.join("; ")));
    Ok(())
}

fn lose_the_leader(hosts: &Fleet, screen: &Screen) -> Result<()> {
    let leader = hosts.leader(hosts.host(1))?;
    let name = leader.name();
    screen.heading(&format!(
        "The leader's machine, {name}, loses power: its daemon and containers end at once"
    ));
    leader.power_off()?;
    let began = Instant::now();
    let other = hosts
        .hosts()
        .iter()
        .find(|host| host.number() != leader.number())
        .context("another host")?;
    wait_until("a write is accepted", LONG, || {
        other.ok(&["node", "update", "--label-add", "written=after", &other.name()])
    })?;
    screen.note(&format!(
        "next write accepted after {:.1} s",
        began.elapsed().as_secs_f32()
    ));
    wait_until("all tasks run elsewhere", LONG, || {
        let tasks = ensure_running(other, "demo_web", 6)?;
        ensure!(tasks.iter().all(|task| task.node != name), "{tasks:?}");
        Ok(())
    })?;
    screen.note(&format!(
        "all 6 tasks run elsewhere after {:.1} s",
        began.elapsed().as_secs_f32()
    ));
    screen.run(other, &["node", "ls"])?;
    screen.run(
        other,
        &["service", "ps", "--filter", "desired-state=running", "demo_web"],
    )?;
    for host in hosts
        .hosts()
        .iter()
        .filter(|host| host.number() != leader.number())
    {
        ask(other, host, screen)?;
    }
    screen.heading(&format!("{name} comes back"));
    leader.start()?;
    wait_until("the node is back", LONG, || {
        let node = view::node(other, &name)?;
        ensure!(node.status == "Ready" && node.is_manager(), "{node:?}");
        Ok(())
    })?;
    screen.run(leader, &["node", "ls"])?;
    Ok(())
}

/// What to type when the cluster stays up.
pub fn how_to_go_on(hosts: &Fleet, screen: &Screen) {
    let program = pontoon_tests::programs::pontoon().unwrap_or_default();
    for host in hosts.hosts() {
        screen.note(&format!(
            "alias {}='{} --host {}'",
            host.name(),
            program.display(),
            host.socket()
        ));
    }
    screen.note("host1 service scale demo_web=9");
    screen.note("host2 run --rm -it busybox");
    screen.note(&format!(
        "nsenter --net={} curl http://127.0.0.1:{PORT}/",
        hosts.host(1).netns().display()
    ));
    screen.note("to end it: make demo-end");
}
