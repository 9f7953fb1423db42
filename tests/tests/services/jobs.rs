//! Jobs: run to their end and waited for, so many at a time, run again by force, on every node; what `service ls` and `inspect` say.

use anyhow::{Context, ensure};
use pontoon_tests::view::{self, field};
use pontoon_tests::{LONG, SHORT, wait_until, with_fleet};

use super::nodes_of;

fn listed(host: &pontoon_tests::Host, name: &str) -> anyhow::Result<String> {
    let rows = view::rows(host, &["service", "ls", "--filter", &format!("name={name}")])?;
    let row = rows.first().context("the service is not listed")?;
    Ok(format!("{} {}", field(row, "Mode"), field(row, "Replicas")))
}

#[test]
fn a_job_runs_to_its_end_and_again() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let create = "service create --name job --mode replicated-job --replicas 3 --max-concurrent 1";
        let mut create: Vec<&str> = create.split(' ').collect();
        create.extend(["busybox", "sh", "-c", "echo done by $HOSTNAME"]);
        // It is waited for until it has run.
        let output = first.ok(&create)?;
        ensure!(output.contains("job complete"), "{output}");
        ensure!(
            listed(first, "job")? == "replicated job 0/1 (3/3 completed)",
            "{}",
            listed(first, "job")?
        );
        let tasks = view::tasks(first, "job")?;
        let complete = |task: &view::TaskRow| task.state == "Complete" && task.desired == "Complete";
        ensure!(tasks.len() == 3 && tasks.iter().all(complete), "{tasks:?}");
        // The logs of what has ended stay.
        let logs = first.ok(&["service", "logs", "job"])?;
        ensure!(logs.matches("done by").count() == 3, "{logs}");

        let output = first.ok(&["service", "update", "--force", "job"])?;
        ensure!(output.contains("job complete"), "{output}");
        let again = view::tasks(first, "job")?;
        ensure!(again.len() == 6 && again.iter().all(complete), "{again:?}");
        let run = "{{.JobStatus.JobIteration.Index}} {{.Spec.Mode.ReplicatedJob.MaxConcurrent}} \
                   {{.Spec.Mode.ReplicatedJob.TotalCompletions}}";
        let run = first.ok(&["service", "inspect", "--format", run, "job"])?;
        ensure!(run == "1 1 3", "{run}");
        ensure!(
            first
                .ok(&["service", "ls", "--quiet", "--filter", "mode=replicated-job"])?
                .lines()
                .count()
                == 1
        );

        first.line("service scale job=1")?;
        ensure!(
            listed(first, "job")? == "replicated job 0/1 (1/1 completed)",
            "{}",
            listed(first, "job")?
        );
        let refused = [
            ("service rollback job", "jobs cannot be rolled back"),
            ("service update --update-delay 1s job", "not supported for jobs"),
            (
                "service create --mode global-job --replicas 2 busybox",
                "replicated or replicated-job mode",
            ),
            ("service create --max-concurrent 2 busybox", "replicated-job mode"),
        ];
        for (line, reason) in refused {
            let words: Vec<&str> = line.split(' ').collect();
            first.pontoon(&words)?.fails(1, &[reason])?;
        }
        first.line("service rm job")?;
        wait_until("nothing of it is left", LONG, || {
            ensure!(view::rows(first, &["ps", "--all"])?.is_empty());
            Ok(())
        })
    });
}

#[test]
fn a_job_that_fails_says_so() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        let create =
            "service create --name job --mode replicated-job --restart-condition none --restart-delay 0s";
        let mut create: Vec<&str> = create.split(' ').collect();
        create.extend(["busybox", "sh", "-c", "echo it is broken; exit 7"]);
        let output = host.pontoon(&create)?;
        output.fails(1, &["job", "non-zero exit (7)", "it is broken"])?;
        ensure!(
            listed(host, "job")? == "replicated job 0/1 (0/1 completed)",
            "{}",
            listed(host, "job")?
        );
        Ok(())
    });
}

#[test]
fn a_global_job_runs_on_every_node() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        first.line("service create --name job --mode global-job busybox true")?;
        let tasks = view::tasks(first, "job")?;
        ensure!(
            nodes_of(&tasks).len() == 2 && tasks.iter().all(|task| task.state == "Complete"),
            "{tasks:?}"
        );
        ensure!(
            listed(first, "job")? == "global job 0/0 (2/2 completed)",
            "{}",
            listed(first, "job")?
        );
        // A node that could not run it yet does when it can; those that have run it are left alone.
        first.line("node update --availability drain host2")?;
        first.line("service update --force --detach job")?;
        wait_until("it has run on the other node", SHORT, || {
            let shown = listed(first, "job")?;
            ensure!(shown == "global job 0/0 (1/1 completed)", "{shown}");
            Ok(())
        })?;
        first.line("node update --availability active host2")?;
        wait_until("it has run on both", SHORT, || {
            let shown = listed(first, "job")?;
            ensure!(shown == "global job 0/0 (2/2 completed)", "{shown}");
            Ok(())
        })
    });
}
