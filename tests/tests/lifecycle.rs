//! The life of containers by the command line: what users see of `update`, `top`, `stats`, `prune` and the rest, with Docker's
//! words and exit statuses (taken from docker/cli 28 against a real engine).

use anyhow::{Result, ensure};
use pontoon_tests::pty::Session;
use pontoon_tests::{Host, SHORT, wait_until, with_host};

fn shows(host: &Host, args: &[&str], expected: &str) -> Result<()> {
    let shown = host.ok(args)?;
    ensure!(shown == expected, "{args:?} shows {shown:?}, not {expected:?}");
    Ok(())
}

#[test]
fn limits_change_while_it_runs() {
    with_host(|host, _| {
        host.line("run -d --name box -m 64m busybox sleep 1000")?;
        host.ok(&["create", "--name", "other", "busybox", "true"])?;
        shows(
            host,
            &[
                "update",
                "-m",
                "32m",
                "--cpus",
                "0.5",
                "--restart",
                "on-failure:3",
                "box",
            ],
            "box",
        )?;
        let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} \
                      {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}";
        shows(
            host,
            &["inspect", "-f", format, "box"],
            "33554432 134217728 500000000 on-failure 3",
        )?;
        for (args, code, text) in [
            (
                &["box"][..],
                1,
                "you must provide one or more flags when using this command",
            ),
            (&["-m", "1m", "box"], 1, "Minimum memory limit allowed is 6MB"),
            (
                &["-m", "64m", "other"],
                1,
                "update the memoryswap at the same time",
            ),
            (
                &["--cpu-period", "50000", "box"],
                1,
                "CPU Period cannot be updated as NanoCPUs has already been set",
            ),
            (&["--kernel-memory", "4m", "box"], 1, "--kernel-memory"),
            (
                &["--restart", "on-failure:x", "box"],
                1,
                "maximum retry count must be an integer",
            ),
            (&["--nonsense", "box"], 125, "unknown flag: --nonsense"),
        ] {
            host.pontoon(&[&["update"], args].concat())?
                .fails(code, &[text])?;
        }
        let partly = host.pontoon(&["update", "--pids-limit", "7", "box", "nobody", "other"])?;
        ensure!(partly.code == 1 && partly.stdout == "box\nother\n", "{partly}");
        ensure!(partly.stderr.contains("No such container: nobody"), "{partly}");
        Ok(())
    });
}

#[test]
fn processes_and_usage_are_shown() {
    with_host(|host, _| {
        host.line("run -d --name box -m 64m busybox sleep 1000")?;
        host.ok(&["create", "--name", "rests", "busybox", "true"])?;
        let top = host.ok(&["top", "box"])?;
        ensure!(
            top.starts_with("UID                 PID                 PPID"),
            "{top}"
        );
        ensure!(top.lines().count() == 2 && top.ends_with("sleep 1000"), "{top}");
        let top = host.ok(&["container", "top", "box", "-o", "pid,comm"])?;
        ensure!(top.starts_with("PID                 COMMAND\n"), "{top}");
        host.pontoon(&["top", "box", "-o", "comm"])?
            .fails(1, &["Couldn't find PID field in ps output"])?;
        host.pontoon(&["top", "rests"])?.fails(1, &["is not running"])?;
        let stats = host.ok(&["stats", "--no-stream"])?;
        let lines: Vec<&str> = stats.lines().collect();
        ensure!(
            lines.len() == 2
                && lines[0].split_whitespace().collect::<Vec<_>>().join(" ")
                    == "CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS",
            "{stats}"
        );
        ensure!(
            lines[1].contains(" box ") && lines[1].contains("/ 64MiB"),
            "{stats}"
        );
        shows(
            host,
            &[
                "stats",
                "--no-stream",
                "--format",
                "{{.Container}} {{.Name}} {{.PIDs}} {{.MemPerc}}",
                "rests",
            ],
            "rests rests 0 0.00%",
        )?;
        let all = host.ok(&["stats", "--no-stream", "-a", "--format", "{{.Name}}"])?;
        ensure!(all == "rests\nbox", "{all}");
        let json: serde_json::Value =
            serde_json::from_str(&host.ok(&["stats", "--no-stream", "--format", "json", "box"])?)?;
        for key in [
            "BlockIO",
            "CPUPerc",
            "Container",
            "ID",
            "MemPerc",
            "MemUsage",
            "Name",
            "NetIO",
            "PIDs",
        ] {
            ensure!(json.get(key).is_some(), "{json}");
        }
        host.pontoon(&["stats", "--no-stream", "nobody"])?
            .fails(1, &["No such container: nobody"])?;
        host.pontoon(&["stats", "--format", "{{.Nope}}"])?
            .fails(1, &["Nope"])?;
        // The live table: drawn over itself, and following what comes.
        let live = Session::start(&host.command(&["stats"]), 24, 120)?;
        live.expect("box")?;
        host.ok(&["run", "-d", "--name", "newcomer", "busybox", "sleep", "1000"])?;
        live.expect("newcomer")?;
        live.expect("\x1b[H")?;
        Ok(())
    });
}

#[test]
fn stopped_containers_are_pruned() {
    with_host(|host, _| {
        host.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])?;
        let id = host.ok(&["create", "--name", "rests", "busybox", "true"])?;
        let command = host.command(&["container", "prune"]);
        let refused = pontoon_tests::process::run_with_input(command, b"n\n")?;
        ensure!(
            refused.code == 0
                && refused.stdout
                    == "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ",
            "{refused}"
        );
        shows(
            host,
            &["container", "prune", "-f"],
            &format!("Deleted Containers:\n{id}\n\nTotal reclaimed space: 0B"),
        )?;
        shows(host, &["container", "prune", "-f"], "Total reclaimed space: 0B")?;
        host.pontoon(&["container", "prune", "-f", "--filter", "until=x"])?
            .fails(1, &["failed to parse value as time or duration: \"x\""])?;
        shows(host, &["ps", "-a", "--format", "{{.Names}}"], "box")?;
        Ok(())
    });
}

#[test]
fn mistakes_have_dockers_exit_statuses() {
    with_host(|host, _| {
        host.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])?;
        host.ok(&["create", "--name", "rests", "busybox", "true"])?;
        for (args, code, text) in [
            (
                &["start", "nobody"][..],
                1,
                "Error: failed to start containers: nobody",
            ),
            (
                &["rename", "box", "rests"],
                1,
                "Error: failed to rename container named box",
            ),
            (
                &["rename", "box", ""],
                1,
                "Neither old nor new names may be empty",
            ),
            (
                &["rm", "box"],
                1,
                "Stop the container before attempting removal or force remove",
            ),
            (
                &["rm", "-l", "box"],
                1,
                "cannot remove the default link name of the container",
            ),
            (
                &["exec", "-e", "=", "box", "true"],
                125,
                "invalid environment variable: =",
            ),
            (&["exec", "box", "no-such-program"], 127, "no-such-program"),
            (&["exec", "box", "/etc/passwd"], 126, "permission denied"),
            (&["exec", "rests", "true"], 1, "is not running"),
            (&["exec", "--detach-keys", "foo", "box", "true"], 1, "foo"),
            (
                &["run", "-d", "-a", "stdout", "busybox", "true"],
                1,
                "cannot specify both --attach and --detach",
            ),
            (
                &["run", "--rm", "--restart", "always", "busybox", "true"],
                125,
                "--restart and --rm",
            ),
            (&["kill", "rests"], 1, "is not running"),
            (&["kill", "-s", "FOO", "box"], 1, "Invalid signal: FOO"),
            (
                &["attach", "rests"],
                1,
                "You cannot attach to a stopped container, start it first",
            ),
            (&["unpause", "box"], 1, "is not paused"),
        ] {
            host.pontoon(args)?.fails(code, &[text])?;
        }
        let output = host.pontoon(&["rm", "-f", "nobody"])?;
        ensure!(
            output.code == 0 && output.stderr.contains("No such container"),
            "{output}"
        );
        host.ok(&["pause", "box"])?;
        ensure!(host.ok(&["ps", "--format", "{{.Status}}"])?.ends_with("(Paused)"));
        host.pontoon(&["attach", "box"])?
            .fails(1, &["You cannot attach to a paused container, unpause it first"])?;
        host.pontoon(&["exec", "box", "true"])?
            .fails(1, &["Container box is paused, unpause the container before exec"])?;
        host.ok(&["unpause", "box"])?;
        shows(host, &["wait", "rests"], "0")?;
        Ok(())
    });
}

#[test]
fn policies_hold_by_the_command_line() {
    with_host(|host, _| {
        // An attached client leaves with the first end, as Docker's.
        let output = host.pontoon(&[
            "run",
            "--name",
            "again",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            "echo hi; exit 4",
        ])?;
        ensure!(output.code == 4 && output.stdout == "hi\n", "{output}");
        wait_until("it has given up", SHORT, || {
            shows(
                host,
                &["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "again"],
                "exited 2",
            )
        })?;
        host.ok(&["run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1000"])?;
        host.pontoon(&["update", "--restart", "always", "gone"])?.fails(
            1,
            &["Restart policy cannot be updated because AutoRemove is enabled for the container"],
        )?;
        shows(host, &["restart", "-t", "0", "gone"], "gone")?;
        ensure!(host.ok(&["ps", "--format", "{{.Names}}"])? == "gone");
        host.line("run -d --init --name init busybox sleep 1000")?;
        ensure!(
            host.ok(&["exec", "init", "cat", "/proc/1/cmdline"])?
                == "/sbin/docker-init\x00--\x00sleep\x001000\x00",
            "{:?}",
            host.ok(&["exec", "init", "cat", "/proc/1/cmdline"])?
        );
        Ok(())
    });
}
