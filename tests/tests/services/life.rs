//! What becomes of a service and its tasks: scaled, updated, rolled back, restarted by its policy, its logs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, TaskRow, ensure_running};
use pontoon_tests::{Host, LONG, SHORT, wait_until, with_fleet};

use super::nodes_of;

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

        change_during_an_update(first)?;

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

/// Users' changes of a service go through while the cluster itself writes to it (how far its update is).
fn change_during_an_update(first: &Host) -> Result<()> {
    for number in 0..10 {
        let variable = format!("NUMBER={number}");
        first.ok(&["service", "update", "--detach", "--env-add", &variable, "web"])?;
    }
    let ports = |wanted: &str| {
        let format = "{{range .Spec.EndpointSpec.Ports}}{{.PublishedPort}} {{end}}";
        let ports = first.ok(&["service", "inspect", "--format", format, "web"])?;
        ensure!(ports.trim() == wanted, "{ports}");
        Ok(())
    };
    first.ok(&["service", "update", "--publish-add", "8081:8080", "web"])?;
    ports("8080 8081")?;
    first.get("http://127.0.0.1:8080/")?;
    first.get("http://127.0.0.1:8081/")?;
    first.ok(&["service", "update", "--publish-rm", "8080", "web"])?;
    ports("")?;
    Ok(())
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
            // A task that has started and failed at once must not have let the next slot begin.
            "--update-delay",
            "5s",
            "--update-monitor",
            "500ms",
            "--restart-max-attempts",
            "1",
            "web:1",
        ])?;
        let output = first.pontoon(&["service", "update", "--args", "nonsense", "web"])?;
        output.fails(1, &["web", "paused", "last output of task", "web sleep"])?;
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
        let inspected = first.ok(&[
            "inspect",
            "--format",
            "{{.Status.Err}} {{.Status.Output}}",
            &failed.id,
        ])?;
        ensure!(
            inspected.starts_with("task: non-zero exit (") && inspected.contains("web sleep"),
            "{inspected}"
        );
        let said = first.ok(&["explain", "task", &failed.id])?;
        ensure!(
            said.contains("it had said last:") && said.contains("update paused"),
            "{said}"
        );
        let told = first.line("events --since 1h --until 0s --filter type=task --filter event=failed")?;
        ensure!(
            told.contains(&failed.id) && told.contains("non-zero exit") && told.contains("web sleep"),
            "{told}"
        );

        first.line("service update --args serve --update-failure-action rollback web")?;
        ensure_running(first, "web", 2)?;
        let output = first.pontoon(&["service", "update", "--args", "nonsense", "web"])?;
        output
            .fails(1, &["web", "rolled back", "last output of task", "web sleep"])
            .or_else(|_| {
                let state =
                    first.ok(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", "web"])?;
                anyhow::bail!("update status {state}")
            })?;
        wait_until("the service is as before", LONG, || {
            ensure_running(first, "web", 2)
        })?;
        Ok(())
    });
}

const ONCE: &str = r#"
services:
  migrate:
    image: busybox
    command: [sh, -c, "echo version 1"]
    deploy: {restart_policy: {condition: none}, update_config: {monitor: 100ms}}
"#;

/// What only runs once, and well, is part of a stack like others: when it is deployed, and deployed again.
#[test]
fn a_stack_with_what_runs_once_is_deployed() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let path = fleet.folder().join("once.yaml");
        let deploy = |text: &str| {
            std::fs::write(&path, text)?;
            let path = path.display().to_string();
            first.pontoon(&["stack", "deploy", "--quiet", "-c", &path, "app"])
        };
        deploy(ONCE)?.ok()?;
        deploy(&ONCE.replace("version 1", "version 2"))?.ok()?;
        let state = "{{.UpdateStatus.State}}";
        let state = first.ok(&["service", "inspect", "--format", state, "app_migrate"])?;
        ensure!(state == "completed", "{state}");
        let logs = first.ok(&["service", "logs", "--raw", "app_migrate"])?;
        ensure!(logs.contains("version 1") && logs.contains("version 2"), "{logs}");
        let failing = ONCE.replace("echo version 1", "echo no database; exit 3");
        let output = deploy(&failing)?;
        output.fails(
            1,
            &[
                "app_migrate",
                "task: non-zero exit (3)",
                "last output of task",
                "no database",
            ],
        )?;
        Ok(())
    });
}

#[test]
fn a_task_that_ends_is_restarted_as_its_policy_says() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        host.line("service create --name web --publish 8080:8080 --restart-delay 100ms web:1")?;
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
        host.line("service create --detach --name ghost --restart-condition none no-such-image:7")?;
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
