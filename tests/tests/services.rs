//! The life of services: scale, update, rollback, global mode, drain, constraints, reservations, restarts, and what `service ps` says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, TaskRow, ensure_running};
use pontoon_tests::{Host, LONG, SHORT, wait_until, with_fleet};

fn nodes_of(tasks: &[TaskRow]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for task in tasks {
        *count.entry(task.node.clone()).or_default() += 1;
    }
    count
}

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
fn create_scale_update_rollback_remove() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        first.ok(&[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "3",
            "--publish",
            "8080:8080",
            "--update-parallelism",
            "2",
            "--update-monitor",
            "100ms",
            "--rollback-monitor",
            "100ms",
            "--label",
            "team=a",
            "web:1",
        ])?;
        let tasks = ensure_running(first, "web", 3)?;
        ensure!(nodes_of(&tasks).len() == 3, "not spread: {tasks:?}");
        let row = &view::rows(first, &["service", "ls"])?[0];
        ensure!(
            view::field(row, "Replicas") == "3/3" && view::field(row, "Ports") == "*:8080->8080/tcp",
            "{row}"
        );

        // From another manager, up and down; slots that stay keep their tasks.
        fleet.host(2).ok(&["service", "scale", "web=6"])?;
        let six = ensure_running(first, "web", 6)?;
        ensure!(
            nodes_of(&six).values().all(|count| *count == 2),
            "not spread: {six:?}"
        );
        fleet.host(3).ok(&["service", "scale", "web=4"])?;
        let four = wait_until("four tasks run", SHORT, || ensure_running(first, "web", 4))?;
        let ids = |tasks: &[TaskRow]| tasks.iter().map(|task| task.id.clone()).collect::<BTreeSet<_>>();
        ensure!(ids(&four).is_subset(&ids(&six)), "tasks were replaced by scaling");

        first.ok(&["service", "update", "--image", "web:2", "web"])?;
        let new = ensure_running(first, "web", 4)?;
        ensure!(new.iter().all(|task| task.image.contains("web:2")), "{new:?}");
        ensure!(first.get("http://127.0.0.1:8080/")?.contains("version: 2"));
        ensure!(ids(&new).is_disjoint(&ids(&four)));
        // Stop-first: the slots stayed, and the old tasks are in the history.
        let all = view::tasks(first, "web")?;
        ensure!(
            all.iter().filter(|task| task.desired == "Shutdown").count() >= 4,
            "{all:?}"
        );

        first.ok(&["service", "rollback", "web"])?;
        let old = ensure_running(first, "web", 4)?;
        ensure!(old.iter().all(|task| task.image.contains("web:1")), "{old:?}");
        // An update of what tasks are not made of leaves them alone.
        first.ok(&["service", "update", "--label-add", "team=b", "web"])?;
        ensure!(ids(&ensure_running(first, "web", 4)?) == ids(&old));
        let label = first.ok(&["service", "inspect", "--format", "{{.Spec.Labels.team}}", "web"])?;
        ensure!(label == "b", "{label}");

        first.ok(&["service", "rm", "web"])?;
        wait_until("no container is left", LONG, || {
            for host in fleet.hosts() {
                let left = view::rows(host, &["ps", "--all"])?;
                ensure!(left.is_empty(), "{left:?}");
            }
            Ok(())
        })?;
        first.pontoon(&["service", "ps", "web"])?.fails(1, &["web"])?;
        Ok(())
    });
}

#[test]
fn an_update_that_fails_pauses_or_rolls_back() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first.ok(&[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "2",
            "--restart-delay",
            "100ms",
            "--update-monitor",
            "500ms",
            "--restart-max-attempts",
            "1",
            "web:1",
        ])?;
        let output = first.pontoon(&["service", "update", "--args", "nonsense", "web"])?;
        output.fails(1, &["web", "paused"])?;
        let state = first.ok(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"])?;
        ensure!(state == "paused", "{state}");
        // Parallelism 1: the other slot still runs what it ran.
        ensure!(view::running(first, "web")?.len() == 1);
        let failed = view::tasks(first, "web")?;
        let failed = failed
            .iter()
            .find(|task| task.state == "Failed")
            .context("no failed task")?;
        ensure!(
            failed.error.contains("exit") && failed.error.contains("web sleep"),
            "the reason lacks the output: {failed:?}"
        );

        first.ok(&[
            "service",
            "update",
            "--args",
            "serve",
            "--update-failure-action",
            "rollback",
            "web",
        ])?;
        ensure_running(first, "web", 2)?;
        let output = first.pontoon(&["service", "update", "--args", "nonsense", "web"])?;
        output.fails(1, &["web", "rolled back"]).or_else(|_| {
            let state = first.ok(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"])?;
            anyhow::bail!("update status {state}")
        })?;
        wait_until("the service is as before", LONG, || {
            ensure_running(first, "web", 2)
        })?;
        Ok(())
    });
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
        first.ok(&[
            "service",
            "update",
            "--constraint-add",
            "node.labels.disk==ssd",
            "each",
        ])?;
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
        first.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "fat",
            "--reserve-memory",
            "1000g",
            "web:1",
        ])?;
        wait_until("the reservation is the reason", SHORT, || {
            let reason = pending(first, "fat")?;
            ensure!(
                reason.contains("insufficient resources") && reason.contains("3 nodes"),
                "{reason}"
            );
            Ok(())
        })?;
        first.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "few",
            "--replicas",
            "4",
            "--replicas-max-per-node",
            "1",
            "web:1",
        ])?;
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

#[test]
fn a_task_that_ends_is_restarted_as_its_policy_says() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        host.ok(&[
            "service",
            "create",
            "--name",
            "web",
            "--publish",
            "8080:8080",
            "--restart-delay",
            "100ms",
            "web:1",
        ])?;
        let first = ensure_running(host, "web", 1)?[0].id.clone();
        let _ = host.get("http://127.0.0.1:8080/exit/9");
        wait_until("a new task runs in the slot", LONG, || {
            let task = &ensure_running(host, "web", 1)?[0];
            ensure!(task.id != first && task.name == "web.1", "{task:?}");
            Ok(())
        })?;
        let tasks = view::tasks(host, "web")?;
        let failed = tasks
            .iter()
            .find(|task| task.id == first)
            .context("the old task is not listed")?;
        ensure!(
            failed.state == "Failed" && failed.error.contains('9'),
            "{failed:?}"
        );
        // Not restarted at all.
        host.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "once",
            "--restart-condition",
            "none",
            "busybox",
            "sh",
            "-c",
            "exit 0",
        ])?;
        wait_until("it is complete and stays so", SHORT, || {
            let tasks = view::tasks(host, "once")?;
            ensure!(tasks.len() == 1 && tasks[0].state == "Complete", "{tasks:?}");
            Ok(())
        })?;
        // Restarted only so often.
        host.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "thrice",
            "--restart-max-attempts",
            "2",
            "--restart-delay",
            "50ms",
            "--restart-window",
            "1m",
            "busybox",
            "sh",
            "-c",
            "exit 3",
        ])?;
        wait_until("three tasks have failed", SHORT, || {
            let tasks = view::tasks(host, "thrice")?;
            ensure!(
                tasks.len() == 3 && tasks.iter().all(|task| task.state == "Failed"),
                "{tasks:?}"
            );
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn logs_of_a_service_come_from_all_its_hosts() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first.ok(&["service", "create", "--name", "web", "--replicas", "4", "web:1"])?;
        wait_until("every task has said something", SHORT, || {
            let log = first.ok(&["service", "logs", "web"])?;
            let speakers: BTreeSet<_> = log.lines().filter_map(|line| line.split(' ').next()).collect();
            ensure!(
                speakers.len() == 4 && log.matches("listening on port 8080").count() == 4,
                "{log}"
            );
            ensure!(log.contains("@host1") && log.contains("@host2"), "{log}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn an_image_that_is_nowhere_is_reported() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        host.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "ghost",
            "--restart-condition",
            "none",
            "no-such-image:7",
        ])?;
        wait_until("the task is rejected with the reason", SHORT, || {
            let tasks = view::tasks(host, "ghost")?;
            let rejected = tasks
                .iter()
                .find(|task| task.state == "Rejected")
                .with_context(|| format!("{tasks:?}"))?;
            ensure!(rejected.error.contains("no-such-image:7"), "{rejected:?}");
            Ok(())
        })?;
        Ok(())
    });
}
