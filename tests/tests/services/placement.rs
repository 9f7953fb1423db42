//! Where tasks go: global services, drained and paused nodes, constraints, reservations, and the reason when they go nowhere.

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Host, LONG, SHORT, wait_until, with_fleet};

use super::nodes_of;

/// The reason of a pending task.
fn pending(host: &Host, service: &str) -> Result<String> {
    let tasks = view::tasks(host, service)?;
    let task = tasks
        .iter()
        .find(|task| task.state == "Pending")
        .with_context(|| format!("none is pending: {tasks:?}"))?;
    ensure!(!task.error.is_empty(), "no reason: {task:?}");
    Ok(task.error.clone())
}

#[test]
fn global_services_follow_the_nodes() {
    with_fleet(3, |fleet| {
        fleet.load_images()?;
        let first = fleet.host(1);
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        fleet.join(fleet.host(2), "worker")?;
        wait_until("two nodes", LONG, || {
            ensure!(
                view::nodes(first)?
                    .iter()
                    .filter(|node| node.status == "Ready")
                    .count()
                    == 2
            );
            Ok(())
        })?;
        first.ok(&["service", "create", "--name", "each", "--mode", "global", "web:1"])?;
        let tasks = ensure_running(first, "each", 2)?;
        ensure!(nodes_of(&tasks).len() == 2, "{tasks:?}");
        first
            .pontoon(&["service", "scale", "each=3"])?
            .fails(1, &["each", "replicated"])?;
        fleet.join(fleet.host(3), "worker")?;
        wait_until("the new node has its task", LONG, || {
            ensure_running(first, "each", 3)
        })?;
        first.ok(&["node", "update", "--availability", "drain", "host2"])?;
        wait_until("the drained node has none", LONG, || {
            let tasks = ensure_running(first, "each", 2)?;
            ensure!(tasks.iter().all(|task| task.node != "host2"), "{tasks:?}");
            Ok(())
        })?;
        first.ok(&["node", "update", "--availability", "active", "host2"])?;
        wait_until("it has one again", LONG, || ensure_running(first, "each", 3))?;
        // A constraint on a label takes the task from nodes that lose it.
        first.ok(&["node", "update", "--label-add", "disk=ssd", "host3"])?;
        first.line("service update --constraint-add node.labels.disk==ssd each")?;
        wait_until("only host3 matches", LONG, || {
            let tasks = ensure_running(first, "each", 1)?;
            ensure!(tasks[0].node == "host3", "{tasks:?}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn drain_moves_replicas_and_pause_does_not() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first.ok(&["service", "create", "--name", "web", "--replicas", "6", "web:1"])?;
        first.ok(&["node", "update", "--availability", "pause", "host3"])?;
        first.ok(&["service", "scale", "web=8"])?;
        let tasks = ensure_running(first, "web", 8)?;
        ensure!(nodes_of(&tasks)["host3"] == 2, "{tasks:?}");
        first.ok(&["node", "update", "--availability", "drain", "host3"])?;
        wait_until("host3 is empty", LONG, || {
            let tasks = ensure_running(first, "web", 8)?;
            ensure!(!nodes_of(&tasks).contains_key("host3"), "{tasks:?}");
            ensure!(view::containers(fleet.host(3))?.is_empty());
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_pending_task_says_which_filter_refused_how_many_nodes() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        // No node matches: the client gives up with the reason instead of hanging.
        let output = first.pontoon(&[
            "service",
            "create",
            "--name",
            "moon",
            "--constraint",
            "node.labels.planet==moon",
            "web:1",
        ])?;
        output.fails(1, &["moon", "constraint", "3 nodes"])?;
        let reason = pending(first, "moon")?;
        ensure!(
            reason.contains("constraint") && reason.contains("3 nodes"),
            "{reason}"
        );
        // As soon as one does, the task runs.
        first.ok(&["node", "update", "--label-add", "planet=moon", "host2"])?;
        wait_until("the task runs on host2", LONG, || {
            let tasks = ensure_running(first, "moon", 1)?;
            ensure!(tasks[0].node == "host2", "{tasks:?}");
            Ok(())
        })?;
        first.line("service create --detach --name fat --reserve-memory 1000g web:1")?;
        wait_until("the reservation is the reason", SHORT, || {
            let reason = pending(first, "fat")?;
            ensure!(
                reason.contains("insufficient resources") && reason.contains("3 nodes"),
                "{reason}"
            );
            Ok(())
        })?;
        first.line("service create --detach --name few --replicas 4 --replicas-max-per-node 1 web:1")?;
        wait_until("the limit per node is the reason", SHORT, || {
            let reason = pending(first, "few")?;
            ensure!(reason.contains("max replicas per node"), "{reason}");
            ensure!(view::running(first, "few")?.len() == 3);
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn reservations_are_kept_per_node() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let cpus: usize = std::thread::available_parallelism()?.into();
        first.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "busy",
            "--replicas",
            &(2 * cpus + 1).to_string(),
            "--reserve-cpu",
            "1",
            "web:1",
        ])?;
        wait_until("each node is full and one task waits", LONG, || {
            let tasks = view::running(first, "busy")?;
            ensure!(
                nodes_of(&tasks).values().all(|count| *count == cpus) && tasks.len() == 2 * cpus,
                "{tasks:?}"
            );
            ensure!(pending(first, "busy")?.contains("insufficient resources"));
            Ok(())
        })?;
        Ok(())
    });
}

/// What the running tasks of a service hold of a kind, each as its container says.
fn held(hosts: &[Host], kind: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for host in hosts {
        for container in view::containers(host)? {
            let id = container["ID"].as_str().unwrap_or_default();
            let format = "{{range .Config.Env}}{{println .}}{{end}}";
            let env = host.ok(&["inspect", "--format", format, id])?;
            let prefix = format!("DOCKER_RESOURCE_{kind}=");
            found.extend(
                env.lines()
                    .filter_map(|line| line.strip_prefix(&prefix))
                    .map(str::to_owned),
            );
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn units_of_generic_resources_are_given_to_one_task_each() {
    with_fleet(2, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        for (host, settings) in [
            (first, "node-generic-resource = [\"GPU=uuid1\", \"GPU=uuid2\"]\n"),
            (second, "node-generic-resource = [\"GPU=1\"]\n"),
        ] {
            host.stop()?;
            host.configure(settings)?;
            host.start()?;
        }
        fleet.ready(1)?;
        let offered = first.ok(&["info", "--format", "{{json .GenericResources}}"])?;
        ensure!(offered.contains(r#""Value":"uuid2""#), "{offered}");
        let offered = first.ok(&[
            "node",
            "inspect",
            "host2",
            "--format",
            "{{json .Description.Resources}}",
        ])?;
        ensure!(
            offered.contains(r#""DiscreteResourceSpec":{"Kind":"GPU","Value":1}"#),
            "{offered}"
        );
        first.line("service create --detach --name train --replicas 4 --generic-resource GPU=1 web:1")?;
        wait_until("each unit has its task, and one waits", LONG, || {
            ensure!(view::running(first, "train")?.len() == 3);
            ensure!(pending(first, "train")?.contains("insufficient resources on 2 nodes"));
            let held = held(fleet.hosts(), "GPU")?;
            ensure!(held == ["1", "uuid1", "uuid2"], "{held:?}");
            Ok(())
        })?;
        first.line("service scale --detach train=0")?;
        wait_until("nothing is held", LONG, || {
            ensure!(held(fleet.hosts(), "GPU")?.is_empty());
            Ok(())
        })?;
        first.line("service create --name one --generic-resource GPU=uuid2 web:1")?;
        ensure!(held(fleet.hosts(), "GPU")? == ["uuid2"]);
        first
            .pontoon(&[
                "service",
                "update",
                "--detach",
                "--generic-resource-rm",
                "FPGA",
                "one",
            ])?
            .fails(1, &["could not find generic-resource `FPGA` to remove it"])?;
        // A node that no longer has the unit: the task has nowhere to go.
        first.configure("node-generic-resource = [\"GPU=uuid1\"]\nlabel = [\"zone=a\"]\n")?;
        first.signal(rustix::process::Signal::HUP)?;
        wait_until("the unit is gone, and its task", LONG, || {
            ensure!(pending(first, "one")?.contains("insufficient resources on 2 nodes"));
            ensure!(held(fleet.hosts(), "GPU")?.is_empty());
            Ok(())
        })?;
        first.line("service create --name labelled --constraint engine.labels.zone==a web:1")?;
        ensure_running(first, "labelled", 1)?;
        Ok(())
    });
}

#[test]
fn a_node_is_shut_down_without_a_task_being_lost() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let (first, leaving) = (fleet.host(1), fleet.host(3));
        first.line("service create --name web --replicas 6 web:1")?;
        first.ok(&["node", "update", "--availability", "drain", "host3"])?;
        wait_until("its tasks run elsewhere", LONG, || {
            let tasks = ensure_running(first, "web", 6)?;
            ensure!(!nodes_of(&tasks).contains_key("host3"), "{tasks:?}");
            ensure!(view::containers(leaving)?.is_empty());
            Ok(())
        })?;
        let ps = first.ok(&[
            "node",
            "ps",
            "host3",
            "--filter",
            "desired-state=running",
            "--quiet",
        ])?;
        ensure!(ps.is_empty(), "{ps}");
        let before: Vec<String> = view::running(first, "web")?
            .into_iter()
            .map(|task| task.id)
            .collect();
        leaving.stop()?;
        let status = |wanted: &'static str| {
            move || {
                let nodes = view::nodes(first)?;
                let node = nodes.iter().find(|node| node.hostname == "host3");
                ensure!(node.is_some_and(|node| node.status == wanted), "{nodes:?}");
                Ok(())
            }
        };
        wait_until("it is down", LONG, status("Down"))?;
        leaving.start()?;
        wait_until("it is back", LONG, status("Ready"))?;
        first.ok(&["node", "update", "--availability", "active", "host3"])?;
        first.line("service scale web=9")?;
        let tasks = ensure_running(first, "web", 9)?;
        ensure!(nodes_of(&tasks).get("host3") == Some(&3), "{tasks:?}");
        ensure!(
            before.iter().all(|id| tasks.iter().any(|task| task.id == *id)),
            "tasks were moved that had no need to: {tasks:?}"
        );
        Ok(())
    });
}
