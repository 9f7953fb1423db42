//! Overlay networks: packets between hosts, names and virtual addresses, isolation, the routing mesh. Seen in packets where it can be.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pontoon_tests::capture::Capture;
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, wire, with_fleet};

fn overlay(host: &Host, name: &str) -> Result<String> {
    host.ok(&["network", "create", "--driver", "overlay", name])
}

/// A service with one task on a given host.
fn pinned(host: &Host, name: &str, network: &str, on: &str, command: &[&str]) -> Result<()> {
    let constraint = format!("node.hostname=={on}");
    let mut args = vec![
        "service",
        "create",
        "--name",
        name,
        "--network",
        network,
        "--constraint",
        &constraint,
        "web:1",
    ];
    args.extend(command);
    host.ok(&args)?;
    Ok(())
}

/// Runs the web program in the container of a service's only task.
fn in_task(fleet: &Fleet, service: &str, command: &[&str]) -> Result<pontoon_tests::Output> {
    let task = view::running(fleet.host(1), service)?
        .into_iter()
        .next()
        .context("no running task")?;
    let host = fleet.named(&task.node)?;
    let container = host.ok(&["ps", "--quiet", "--filter", &format!("name={}", task.name)])?;
    let mut args = vec!["exec", container.as_str(), "/web"];
    args.extend(command);
    host.pontoon(&args)
}

fn addresses(fleet: &Fleet, from: &str, name: &str) -> Result<BTreeSet<String>> {
    Ok(in_task(fleet, from, &["resolve", name])?
        .ok()?
        .lines()
        .map(str::to_owned)
        .collect())
}

#[test]
fn packets_between_hosts_are_vxlan_with_the_payload_inside() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        overlay(first, "app")?;
        pinned(first, "echo", "app", "host2", &["echo", "7"])?;
        pinned(first, "probe", "app", "host1", &["sleep"])?;
        let capture = Capture::start(fleet.wire(), &wire::port(1), "udp port 4789")?;
        let ends = Capture::start(fleet.wire(), &wire::port(2), "not udp port 4789")?;
        let answer = wait_until("the echo answers", SHORT, || {
            in_task(fleet, "probe", &["udp", "echo:7", "payload-in-the-tunnel"])?.ok()
        })?;
        ensure!(answer == "payload-in-the-tunnel", "{answer}");
        let seen = capture.finish_with("payload-in-the-tunnel")?;
        ensure!(seen.contains("VXLAN"), "no VXLAN on the switch:\n{seen}");
        let outside = ends.finish()?;
        ensure!(
            !outside.contains("payload-in-the-tunnel"),
            "the payload crossed outside the tunnel:\n{outside}"
        );
        Ok(())
    });
}

#[test]
fn a_network_that_a_node_cant_make_is_its_tasks_reason() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        let create = |options: &str| format!("network create --driver overlay {options}");
        let refused = |options: &str, why: &str| {
            let line = create(options);
            let words: Vec<&str> = line.split_whitespace().collect();
            host.pontoon(&words)?.fails(1, &[why])
        };
        refused(
            "--opt com.docker.network.driver.mtu=wide x",
            "use a number of bytes",
        )?;
        refused("--subnet 10.8.0.0/33 x", "10.8.0.0/33")?;
        host.line(&create("--subnet 10.8.0.0/24 small"))?;
        refused("--subnet 10.8.0.128/25 x", "overlap")?;
        refused("small", "already exists")?;
        host.line(&create("--opt com.docker.network.driver.mtu=9000 wide"))?;
        for service in ["first", "second"] {
            host.line(&format!(
                "service create --detach --name {service} --network wide --restart-condition none web:1"
            ))?;
            wait_until("its task says why", SHORT, || {
                let tasks = host.ok(&["service", "ps", "--no-trunc", service])?;
                let why = "overlay network wide can't be made on this node";
                ensure!(tasks.contains("Rejected") && tasks.contains(why), "{tasks}");
                ensure!(tasks.contains("ask for 1450 or less"), "{tasks}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn networks_are_isolated_from_each_other() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        for network in ["red", "blue"] {
            overlay(first, network)?;
            pinned(first, &format!("{network}-web"), network, "host2", &["serve"])?;
            pinned(first, &format!("{network}-probe"), network, "host1", &["sleep"])?;
        }
        let red = "http://red-web:8080/";
        wait_until("red reaches red", SHORT, || {
            in_task(fleet, "red-probe", &["get", red])?.ok()
        })?;
        wait_until("blue reaches blue", SHORT, || {
            in_task(fleet, "blue-probe", &["get", "http://blue-web:8080/"])?.ok()
        })?;
        // Neither by name …
        in_task(fleet, "blue-probe", &["get", red])?.fails(1, &["red-web"])?;
        // … nor by the service's or the task's address.
        let vip = addresses(fleet, "red-probe", "red-web")?;
        let task = addresses(fleet, "red-probe", "tasks.red-web")?;
        for address in vip.iter().chain(&task) {
            let url = format!("http://{address}:8080/");
            in_task(fleet, "red-probe", &["get", &url])?.ok()?;
            in_task(fleet, "blue-probe", &["get", &url])?.fails(1, &[])?;
        }
        // Nor is a task reached from a host that did not publish it.
        for address in &task {
            ensure!(
                first.get(&format!("http://{address}:8080/")).is_err(),
                "{address} is open to the host"
            );
        }
        Ok(())
    });
}

#[test]
fn names_follow_the_tasks() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        overlay(first, "app")?;
        first.line("service create --name web --network app --replicas 4 web:1")?;
        first.line("service create --name rr --network app --replicas 2 --endpoint-mode dnsrr web:1")?;
        pinned(first, "probe", "app", "host1", &["sleep"])?;
        wait_until("names resolve", SHORT, || {
            let vip = addresses(fleet, "probe", "web")?;
            let tasks = addresses(fleet, "probe", "tasks.web")?;
            ensure!(vip.len() == 1 && tasks.len() == 4, "{vip:?} {tasks:?}");
            ensure!(vip.is_disjoint(&tasks), "{vip:?} {tasks:?}");
            let rr = addresses(fleet, "probe", "rr")?;
            ensure!(
                rr.len() == 2 && rr == addresses(fleet, "probe", "tasks.rr")?,
                "{rr:?}"
            );
            Ok(())
        })?;
        first.ok(&["service", "scale", "web=2"])?;
        wait_until("the names of tasks that went are gone", SHORT, || {
            let tasks = addresses(fleet, "probe", "tasks.web")?;
            ensure!(tasks.len() == 2, "{tasks:?}");
            Ok(())
        })?;
        // Through the virtual address every task is reached, and only those.
        let mut answered = BTreeSet::new();
        wait_until("both tasks have answered", SHORT, || {
            let answer = in_task(fleet, "probe", &["get", "http://web:8080/"])?.ok()?;
            answered.extend(
                answer
                    .lines()
                    .filter(|line| line.starts_with("hostname"))
                    .map(str::to_owned),
            );
            ensure!(answered.len() == 2, "{answered:?}");
            Ok(())
        })?;
        first.ok(&["service", "rm", "web"])?;
        wait_until("the name is gone", SHORT, || {
            in_task(fleet, "probe", &["resolve", "web"])?.fails(1, &["web"])?;
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn the_mesh_answers_everywhere_and_knows_udp() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first.ok(&[
            "service",
            "create",
            "--name",
            "echo",
            "--publish",
            "7007:7/udp",
            "--publish",
            "7007:7/tcp",
            "--constraint",
            "node.hostname==host3",
            "web:1",
            "echo",
            "7",
        ])?;
        let web = pontoon_tests::programs::web()?.display().to_string();
        for host in fleet.hosts() {
            for protocol in ["udp", "tcp"] {
                let target = format!("{}:7007", host.address());
                let said = wait_until(&format!("{target}/{protocol} answers"), SHORT, || {
                    fleet
                        .wire()
                        .in_switch(&web, &[protocol, &target, "through the mesh"])
                })?;
                ensure!(said.trim() == "through the mesh", "{said}");
            }
        }
        // A port that no service publishes answers nowhere.
        ensure!(
            fleet
                .wire()
                .in_switch(&web, &["tcp", &format!("{}:7008", first.address()), "x"])
                .is_err()
        );
        first.ok(&["service", "rm", "echo"])?;
        wait_until("the port is closed", SHORT, || {
            let target = format!("{}:7007", first.address());
            ensure!(fleet.wire().in_switch(&web, &["tcp", &target, "x"]).is_err());
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn ports_in_host_mode_answer_only_where_the_task_is() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first.line("service create --name web --publish mode=host,published=8081,target=8080 --constraint node.hostname==host2 web:1")?;
        wait_until("the task's host answers", SHORT, || {
            first.get(&format!("http://{}:8081/", fleet.host(2).address()))
        })?;
        ensure!(first.get(&format!("http://{}:8081/", first.address())).is_err());
        // One host has the port once: a second task stays pending and says why.
        first.ok(&["service", "scale", "--detach", "web=2"])?;
        wait_until("the second task says why it waits", SHORT, || {
            let tasks = view::tasks(first, "web")?;
            let waits = tasks
                .iter()
                .find(|task| task.state == "Pending")
                .context("no task is pending")?;
            ensure!(waits.error.contains("port"), "{waits:?}");
            Ok(())
        })?;
        Ok(())
    });
}

const CHECKED: &str = r#"
services:
  web:
    image: web:1
    ports: ["8080:8080"]
    healthcheck:
      test: ["CMD", "/web", "get", "http://127.0.0.1:8080/health"]
      interval: 200ms
      retries: 2
    deploy:
      replicas: 2
      restart_policy: {delay: 1s}
"#;

#[test]
fn an_unhealthy_task_is_replaced_and_gets_no_callers() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let path = fleet.folder().join("checked.yaml");
        std::fs::write(&path, CHECKED)?;
        first.ok(&["stack", "deploy", "-c", &path.display().to_string(), "app"])?;
        let ids = || -> Result<BTreeSet<String>> {
            let tasks = ensure_running(first, "app_web", 2)?;
            Ok(tasks.into_iter().map(|task| task.id).collect())
        };
        let before = ids()?;
        first.get("http://127.0.0.1:8080/sick")?;
        wait_until("the sick task is replaced", LONG, || {
            let now = ids()?;
            ensure!(now.intersection(&before).count() == 1, "{now:?}");
            Ok(())
        })?;
        let tasks = view::tasks(first, "app_web")?;
        let sick = tasks
            .iter()
            .find(|task| task.state == "Failed")
            .context("no failed task")?;
        ensure!(sick.error.contains("unhealthy"), "{sick:?}");
        for _ in 0..20 {
            ensure!(first.get("http://127.0.0.1:8080/health")? == "ok");
        }
        Ok(())
    });
}
