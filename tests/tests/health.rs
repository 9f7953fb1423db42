//! Health checks by the command line: the six settings, and where health is told: `ps`, `inspect`, events.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, SHORT, wait_until, with_host};

fn health(host: &Host, name: &str) -> Result<String> {
    host.ok(&["inspect", "--format", "{{.State.Health.Status}}", name])
}

fn becomes(host: &Host, name: &str, status: &str) -> Result<()> {
    wait_until(&format!("{name} is {status}"), SHORT, || {
        let now = health(host, name)?;
        ensure!(now == status, "it is {now}");
        Ok(())
    })
}

#[test]
fn health_is_checked_and_told() {
    with_host(|host, _| {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--health-cmd",
            "test -e /tmp/well && echo fine",
            "--health-interval",
            "100ms",
            "--health-timeout",
            "20s",
            "--health-retries",
            "2",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "150ms",
            "busybox",
            "sleep",
            "1000",
        ])?;
        let settings = "{{json .Config.Healthcheck}}";
        let shown = host.ok(&["inspect", "--format", settings, "box"])?;
        ensure!(
            shown
                == r#"{"Interval":100000000,"Retries":2,"StartInterval":150000000,"StartPeriod":3600000000000,"Test":["CMD-SHELL","test -e /tmp/well && echo fine"],"Timeout":20000000000}"#,
            "{shown}"
        );
        // Failures do not count while it starts up.
        wait_until("it was checked three times", SHORT, || {
            let count = host.ok(&["inspect", "--format", "{{len .State.Health.Log}}", "box"])?;
            ensure!(count.parse::<u32>()? >= 3, "{count} checks");
            Ok(())
        })?;
        ensure!(health(host, "box")? == "starting");
        let status = || host.line("ps --format {{.Status}} --filter name=box");
        ensure!(status()?.ends_with("(health: starting)"), "{}", status()?);
        // The first success ends that time.
        host.line("exec box touch /tmp/well")?;
        becomes(host, "box", "healthy")?;
        ensure!(status()?.ends_with("(healthy)"), "{}", status()?);
        host.line("exec box rm /tmp/well")?;
        becomes(host, "box", "unhealthy")?;
        ensure!(status()?.ends_with("(unhealthy)"), "{}", status()?);
        for (filter, expected) in [("unhealthy", "box"), ("healthy", ""), ("starting", "")] {
            let listed = host.line(&format!("ps --format {{{{.Names}}}} --filter health={filter}"))?;
            ensure!(listed == expected, "{filter}: {listed}");
        }
        let last = "{{.State.Health.FailingStreak}} {{(index .State.Health.Log 0).ExitCode}}";
        let shown = host.ok(&["inspect", "--format", last, "box"])?;
        ensure!(!shown.starts_with('0'), "{shown}");
        let events =
            host.line("events --since 1h --until 0s --filter event=health_status --format {{.Action}}")?;
        ensure!(
            events == "health_status: healthy\nhealth_status: unhealthy",
            "{events}"
        );
        Ok(())
    });
}

#[test]
fn a_check_that_hangs_fails_by_its_timeout() {
    with_host(|host, _| {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--health-cmd",
            "sleep 1000",
            "--health-interval",
            "50ms",
            "--health-timeout",
            "100ms",
            "--health-retries",
            "1",
            "busybox",
            "sleep",
            "1000",
        ])?;
        becomes(host, "box", "unhealthy")?;
        let output = "{{(index .State.Health.Log 0).Output}}";
        let output = host.ok(&["inspect", "--format", output, "box"])?;
        ensure!(output.contains("exceeded timeout (100ms)"), "{output}");
        Ok(())
    });
}

#[test]
fn checks_can_be_switched_off_and_mistakes_are_told() {
    with_host(|host, _| {
        host.line("run --detach --name box --no-healthcheck busybox sleep 1000")?;
        // The usual question of scripts, on a container without health.
        for (template, expected) in [
            (
                "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}",
                "none",
            ),
            (
                "{{json .State.Health}} {{json .Config.Healthcheck.Test}}",
                r#"null ["NONE"]"#,
            ),
            ("{{.State.Health}} {{.Config.StopTimeout}}", "<nil> <nil>"),
        ] {
            let shown = host.ok(&["inspect", "--format", template, "box"])?;
            ensure!(shown == expected, "{template}: {shown}");
        }
        host.pontoon(&["inspect", "--format", "{{.State.Health.Status}}", "box"])?
            .fails(1, &["map has no entry for key \"Health\""])?;
        for (flags, text) in [
            (
                &["--no-healthcheck", "--health-cmd", "true"][..],
                "--no-healthcheck conflicts with --health-* options",
            ),
            (
                &["--health-interval", "-1s"],
                "--health-interval cannot be negative",
            ),
            (
                &["--health-timeout", "-1s"],
                "--health-timeout cannot be negative",
            ),
            (&["--health-retries", "-1"], "--health-retries cannot be negative"),
            (&["--health-interval", "x"], "--health-interval"),
        ] {
            let args = [&["run", "--rm"], flags, &["busybox", "true"]].concat();
            host.pontoon(&args)?.fails(125, &[text])?;
        }
        Ok(())
    });
}
