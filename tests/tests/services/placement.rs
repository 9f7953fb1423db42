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
