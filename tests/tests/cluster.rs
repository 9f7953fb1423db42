//! The demo's path step by step, and how a cluster gets and loses members.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{LONG, SHORT, wait_until, with_fleet};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo/stack.yaml");

#[test]
fn the_demos_path() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        let nodes = view::nodes(first)?;
        ensure!(
            nodes.iter().filter(|node| node.manager == "Leader").count() == 1,
            "{nodes:?}"
        );

        first.ok(&["stack", "deploy", "--compose-file", STACK, "demo"])?;
        let tasks = ensure_running(first, "demo_web", 6)?;
        let used: BTreeSet<_> = tasks.iter().map(|task| task.node.clone()).collect();
        ensure!(used.len() == 3, "the tasks are not spread: {tasks:?}");
        ensure_running(first, "demo_client", 1)?;
        let services = view::rows(first, &["stack", "services", "demo"])?;
        ensure!(services.len() == 2, "{services:?}");

        // Every host answers on the published port, and for each of them the answers come from tasks on several hosts.
        for host in fleet.hosts() {
            let url = format!("http://{}:8080/", host.address());
            let mut answered = BTreeSet::new();
            wait_until(&format!("{} spreads its callers", host.name()), SHORT, || {
                answered.extend(
                    first
                        .get(&url)?
                        .lines()
                        .filter(|line| line.starts_with("node: "))
                        .map(str::to_owned),
                );
                ensure!(answered.len() == 3, "{url} was answered from {answered:?}");
                Ok(())
            })?;
        }
        // The client has found the service by its name.
        wait_until("the client has called the service by name", SHORT, || {
            let log = first.ok(&["service", "logs", "--tail", "20", "demo_client"])?;
            ensure!(log.contains("node: host"), "{log}");
            Ok(())
        })?;

        let leader = fleet.leader(first)?;
        let other = fleet
            .hosts()
            .iter()
            .find(|host| host.number() != leader.number())
            .context("another host")?;
        leader.power_off()?;
        wait_until("another manager leads", LONG, || {
            let now = fleet.leader(other)?;
            ensure!(now.number() != leader.number(), "{} still leads", now.name());
            Ok(())
        })?;
        wait_until("all tasks run elsewhere", LONG, || {
            let tasks = ensure_running(other, "demo_web", 6)?;
            ensure!(tasks.iter().all(|task| task.node != leader.name()), "{tasks:?}");
            Ok(())
        })?;
        for host in fleet
            .hosts()
            .iter()
            .filter(|host| host.number() != leader.number())
        {
            wait_until("published ports answer", SHORT, || {
                host.get(&format!("http://{}:8080/", host.address()))
            })?;
        }
        leader.start()?;
        wait_until("the lost host is back", LONG, || {
            let node = view::node(other, &leader.name())?;
            ensure!(node.status == "Ready" && node.is_manager(), "{node:?}");
            Ok(())
        })?;
        leader.ok(&["stack", "rm", "demo"])?;
        Ok(())
    });
}

#[test]
fn roles_and_membership() {
    with_fleet(3, |fleet| {
        fleet.form_cluster(1)?;
        let first = fleet.host(1);
        fleet
            .host(2)
            .pontoon(&["node", "ls"])?
            .fails(1, &["not a", "manager"])?;
        first.ok(&["node", "promote", "host2", "host3"])?;
        wait_until("three managers answer", LONG, || {
            let nodes = view::nodes(fleet.host(2))?;
            ensure!(
                nodes.iter().filter(|node| node.is_manager()).count() == 3,
                "{nodes:?}"
            );
            Ok(())
        })?;
        fleet.host(2).ok(&["node", "demote", "host3"])?;
        wait_until("host3 is a worker", LONG, || {
            ensure!(view::node(first, "host3")?.manager.is_empty());
            fleet
                .host(3)
                .pontoon(&["node", "ls"])?
                .fails(1, &["not a", "manager"])?;
            Ok(())
        })?;
        first
            .pontoon(&["node", "rm", "host3"])?
            .fails(1, &["host3", "not down", "--force"])?;
        fleet.host(3).ok(&["swarm", "leave"])?;
        wait_until("host3 is down", LONG, || {
            ensure!(view::node(first, "host3")?.status == "Down");
            Ok(())
        })?;
        first.ok(&["node", "rm", "host3"])?;
        ensure!(view::nodes(first)?.len() == 2);
        // And it may come back as a new node.
        fleet.join(fleet.host(3), "worker")?;
        wait_until("host3 is back", LONG, || {
            ensure!(view::node(first, "host3")?.status == "Ready");
            Ok(())
        })?;
        Ok(())
    });
}

/// The raft member goes before the node hears of its demotion, which by then is taken back.
#[test]
fn a_manager_that_is_demoted_and_promoted_at_once_is_one_again() {
    with_fleet(3, |fleet| {
        fleet.form_cluster(3)?;
        for round in 0..3 {
            let leader = fleet.leader(fleet.host(1 + round))?;
            let follower = fleet.host(1 + leader.number() % 3);
            let asked = fleet.host(1 + follower.number() % 3);
            for host in [follower, leader] {
                asked.ok(&["node", "demote", &host.name()])?;
                // A leader that goes may take the answer with it.
                wait_until("the promotion is taken", LONG, || {
                    asked.ok(&["node", "promote", &host.name()])
                })?;
                wait_until("all are managers", LONG, || {
                    for asked in fleet.hosts() {
                        let nodes = view::nodes(asked)?;
                        let managers = nodes.iter().filter(|node| node.is_manager());
                        ensure!(managers.count() == 3, "{}: {nodes:?}", asked.name());
                    }
                    let said = host.ok(&["info"])?;
                    ensure!(said.contains("Swarm: active"), "{said}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_manager_leaves_only_when_told_twice() {
    with_fleet(2, |fleet| {
        fleet.form_cluster(1)?;
        fleet
            .host(1)
            .pontoon(&["swarm", "leave"])?
            .fails(1, &["--force"])?;
        fleet.host(2).ok(&["swarm", "leave"])?;
        fleet.host(1).ok(&["swarm", "leave", "--force"])?;
        fleet
            .host(1)
            .pontoon(&["node", "ls"])?
            .fails(1, &["swarm init"])?;
        // Nothing of the old cluster is in the way of a new one.
        fleet.form_cluster(2)?;
        Ok(())
    });
}

#[test]
fn join_tokens_that_are_no_good() {
    with_fleet(2, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        let token = first.ok(&["swarm", "join-token", "--quiet", "worker"])?;
        let remote = &format!("{}:2377", first.address());
        let join = |token: &str| second.pontoon(&["swarm", "join", "--token", token, remote]);
        join("nonsense")?.fails(1, &["token"])?;
        // Another root: the digest in the token is not that of this cluster.
        let parts: Vec<&str> = token.split('-').collect();
        let foreign = format!(
            "{}-{}-{}-{}",
            parts[0],
            parts[1],
            "1".repeat(parts[2].len()),
            parts[3]
        );
        join(&foreign)?
            .fails(1, &["another cluster"])
            .or_else(|error| join(&foreign)?.fails(1, &["token"]).context(error))?;
        // This root, but a secret that was never given out.
        let wrong = format!(
            "{}-{}-{}-{}",
            parts[0],
            parts[1],
            parts[2],
            "1".repeat(parts[3].len())
        );
        join(&wrong)?.fails(1, &["token"])?;
        // One that was good until it was rotated.
        let fresh = first.ok(&["swarm", "join-token", "--quiet", "--rotate", "worker"])?;
        ensure!(fresh != token);
        join(&token)?.fails(1, &["token"])?;
        // Nothing half-made: the node is in no cluster, and the good token still works.
        ensure!(view::nodes(first)?.len() == 1);
        second
            .pontoon(&["swarm", "leave"])?
            .fails(1, &["not part of a swarm"])?;
        join(&fresh)?.ok()?;
        Ok(())
    });
}

#[test]
fn certificates_of_another_cluster_are_refused() {
    with_fleet(3, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        fleet.join(second, "worker")?;
        // Another cluster takes over the address that the worker knows.
        first.stop()?;
        let foreign = fleet.host(3);
        foreign
            .exec(&[
                "ip",
                "addr",
                "add",
                &format!("{}/24", first.address()),
                "dev",
                "eth0",
            ])?
            .ok()?;
        first.unplug()?;
        foreign.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        second.exec(&["ip", "neigh", "flush", "all"])?.ok()?;
        wait_until("the worker says whose certificate it refuses", LONG, || {
            let log = std::fs::read_to_string(second.log())?.to_lowercase();
            ensure!(
                log.contains("another ca")
                    || log.contains("foreign")
                    || log.contains("another cluster")
                    || log.contains("wrong ca")
                    || log.contains("unknown issuer")
                    || log.contains("different ca"),
                "{}",
                second.log_tail(10)
            );
            Ok(())
        })?;
        ensure!(
            view::nodes(foreign)?.len() == 1,
            "the foreign cluster took the worker in"
        );
        Ok(())
    });
}

#[test]
fn every_manager_tells_what_happens_in_the_cluster() {
    with_fleet(2, |fleet| {
        fleet.form_cluster(2)?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        let id = first
            .line("service create --quiet --detach --no-resolve-image --replicas 0 --name told web:1")?;
        let id = id.lines().last().context("an id")?.trim().to_owned();
        second.line("service update --detach --quiet --label-add a=b told")?;
        first.line("service update --detach --quiet --replicas 0 --image web:2 --no-resolve-image told")?;
        first.line("network create --driver overlay wires")?;
        second.line("node update --availability pause host1")?;
        second.line("service rm told")?;
        let format = "{{.Type}} {{.Action}} {{.Scope}} {{index .Actor.Attributes \"name\"}}";
        for host in fleet.hosts() {
            let told = |filter: &str| -> anyhow::Result<String> {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)?
                    .as_secs()
                    + 1;
                let until = now.to_string();
                host.ok(&[
                    "events",
                    "--since",
                    "1",
                    "--until",
                    &until,
                    "--filter",
                    "scope=swarm",
                    "--filter",
                    filter,
                    "--format",
                    format,
                ])
            };
            wait_until("all is told", SHORT, || {
                let services = told(&format!("service={id}"))?;
                let lines: Vec<&str> = services.lines().collect();
                ensure!(
                    lines
                        == [
                            "service create swarm told",
                            "service update swarm told",
                            "service update swarm told",
                            "service remove swarm told"
                        ],
                    "{}: {services}",
                    host.name()
                );
                let networks = told("network=wires")?;
                ensure!(networks == "network create swarm wires", "{networks}");
                let nodes = told("node=host1")?;
                ensure!(nodes.contains("node update swarm host1"), "{nodes}");
                Ok(())
            })?;
        }
        Ok(())
    });
}
