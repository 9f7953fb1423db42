//! One host, no cluster: containers that run, and what they get, by the command line, with Docker's exit statuses.

use anyhow::ensure;
use pontoon_tests::{SHORT, view, wait_until, with_host};

#[test]
fn run_gives_output_and_exit_status() {
    with_host(|host, _| {
        let output = host.pontoon(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ])?;
        ensure!(
            output.code == 3 && output.stdout == "out\n" && output.stderr == "err\n",
            "{output}"
        );
        host.pontoon(&["run", "--rm", "busybox", "no-such-program"])?
            .fails(127, &["no-such-program"])?;
        host.pontoon(&["run", "--rm", "busybox", "/etc/passwd"])?
            .fails(126, &["permission denied"])?;
        host.pontoon(&["run", "--rm", "no-such-image"])?
            .fails(125, &["no-such-image"])?;
        host.pontoon(&["run", "--rm", "--no-such-flag", "busybox"])?
            .fails(125, &["--no-such-flag"])?;
        ensure!(
            view::rows(host, &["ps", "--all"])?.is_empty(),
            "{}",
            host.ok(&["ps", "--all"])?
        );
        Ok(())
    });
}

#[test]
fn standard_input_reaches_the_program() {
    with_host(|host, _| {
        let command = host.command(&["run", "--rm", "--interactive", "busybox", "cat"]);
        let output = pontoon_tests::process::run_with_input(command, b"one\ntwo\n")?;
        ensure!(output.code == 0 && output.stdout == "one\ntwo\n", "{output}");
        Ok(())
    });
}

#[test]
fn a_container_from_create_to_rm() {
    with_host(|host, _| {
        let id = host.ok(&[
            "create",
            "--name",
            "box",
            "--env",
            "A=1",
            "--workdir",
            "/tmp",
            "--user",
            "www",
            "--label",
            "x=y",
            "busybox",
            "sh",
            "-c",
            "id -u; pwd; echo $A; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done",
        ])?;
        ensure!(id.len() == 64, "{id}");
        ensure!(host.ok(&["inspect", "-f", "{{.State.Status}}", "box"])? == "created");
        host.ok(&["start", "box"])?;
        wait_until("the program has said all", SHORT, || {
            ensure!(
                host.ok(&["logs", "box"])? == "33\n/tmp\n1",
                "{}",
                host.ok(&["logs", "box"])?
            );
            Ok(())
        })?;
        let row = &view::containers(host)?[0];
        ensure!(view::field(row, "Names") == "box", "{row}");
        ensure!(view::field(row, "Status").starts_with("Up "), "{row}");
        host.ok(&["stop", "box"])?;
        ensure!(host.ok(&["logs", "--tail", "1", "box"])? == "bye");
        ensure!(host.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box"])? == "exited 7");
        ensure!(host.ok(&["wait", "box"])? == "7");
        // It can be started again.
        host.ok(&["start", "box"])?;
        host.pontoon(&["rm", "box"])?.fails(1, &["running", "force"])?;
        host.ok(&["kill", "--signal", "KILL", "box"])?;
        wait_until("the container has ended", SHORT, || {
            ensure!(host.ok(&["inspect", "-f", "{{.State.ExitCode}}", "box"])? == "137");
            Ok(())
        })?;
        host.ok(&["rm", "box"])?;
        host.pontoon(&["inspect", "box"])?.fails(1, &["box"])?;
        Ok(())
    });
}

#[test]
fn exec_runs_beside_the_program() {
    with_host(|host, _| {
        host.line("run --detach --name box --env A=1 busybox sleep 1000")?;
        ensure!(host.ok(&["exec", "box", "sh", "-c", "echo $A$B"])? == "1");
        ensure!(
            host.ok(&[
                "exec",
                "--env",
                "B=2",
                "--workdir",
                "/tmp",
                "box",
                "sh",
                "-c",
                "echo $A$B $PWD"
            ])? == "12 /tmp"
        );
        ensure!(host.ok(&["exec", "--user", "33:50", "box", "sh", "-c", "id -u; id -g"])? == "33\n50");
        let output = host.pontoon(&["exec", "box", "sh", "-c", "echo err >&2; exit 9"])?;
        ensure!(output.code == 9 && output.stderr == "err\n", "{output}");
        host.pontoon(&["exec", "box", "no-such-program"])?
            .fails(127, &["no-such-program"])?;
        host.pontoon(&["exec", "box", "/etc/passwd"])?
            .fails(126, &["permission denied"])?;
        host.pontoon(&["exec", "nobody", "true"])?.fails(1, &["nobody"])?;
        // The filter of system calls holds for exec too (Seccomp: 2 is a filter, proc_pid_status(5)).
        ensure!(
            host.ok(&["exec", "box", "grep", "^Seccomp:", "/proc/self/status"])?
                .ends_with('2')
        );
        host.ok(&["exec", "--detach", "box", "touch", "/tmp/made"])?;
        wait_until("the detached program has run", SHORT, || {
            host.ok(&["exec", "box", "test", "-e", "/tmp/made"])
        })?;
        let command = host.command(&["exec", "--interactive", "box", "cat"]);
        let output = pontoon_tests::process::run_with_input(command, b"typed")?;
        ensure!(output.code == 0 && output.stdout == "typed", "{output}");
        host.ok(&["rm", "--force", "box"])?;
        Ok(())
    });
}

#[test]
fn limits_and_defaults_reach_the_kernel() {
    with_host(|host, _| {
        host.line("run --detach --name box --memory 64m --pids-limit 20 --cpus 0.5 --hostname pond busybox sleep 1000")?;
        ensure!(host.ok(&["exec", "box", "hostname"])? == "pond");
        // Docker's fourteen capabilities, in /proc/self/status as a mask.
        ensure!(
            host.ok(&["exec", "box", "grep", "^CapEff", "/proc/self/status"])?
                .ends_with("00000000a80425fb"),
            "{}",
            host.ok(&["exec", "box", "grep", "Cap", "/proc/self/status"])?
        );
        host.pontoon(&["exec", "box", "sh", "-c", "echo 1 >/proc/sys/kernel/panic"])?
            .fails(1, &["read-only"])?;
        ensure!(host.ok(&["exec", "box", "sh", "-c", "wc -c </proc/timer_list"])? == "0");
        let forks = host.pontoon(&["exec", "box", "sh", "-c", "for i in $(seq 40); do sleep 5 & done"])?;
        ensure!(forks.stderr.contains("fork"), "{forks}");
        // Out of memory is told apart from other ends by SIGKILL.
        host.pontoon(&[
            "run",
            "--name",
            "fat",
            "--memory",
            "16m",
            "busybox",
            "sh",
            "-c",
            "x=$(cat /dev/zero | tr '\\0' x)",
        ])?;
        ensure!(
            host.ok(&["inspect", "-f", "{{.State.OOMKilled}}", "fat"])? == "true",
            "{}",
            host.ok(&["inspect", "fat"])?
        );
        host.ok(&["rm", "--force", "box", "fat"])?;
        Ok(())
    });
}

#[test]
fn logs_keep_streams_apart_and_follow() {
    with_host(|host, _| {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "talk",
            "busybox",
            "sh",
            "-c",
            "echo one; echo two >&2; sleep 1; echo three",
        ])?;
        // Following ends with the container.
        let output = host.pontoon(&["logs", "--follow", "talk"])?;
        ensure!(
            output.code == 0 && output.stdout == "one\nthree\n" && output.stderr == "two\n",
            "{output}"
        );
        let stamped = host.ok(&["logs", "--timestamps", "--tail", "1", "talk"])?;
        ensure!(
            stamped.ends_with("Z three") && stamped.starts_with("20"),
            "{stamped}"
        );
        Ok(())
    });
}

#[test]
fn an_external_runtime_runs_the_same_container() {
    with_host(|host, _| {
        if !std::path::Path::new("/usr/sbin/runc").exists() && !std::path::Path::new("/usr/bin/runc").exists()
        {
            eprintln!("skipped: no runc on this machine");
            return Ok(());
        }
        let output = host.pontoon(&[
            "run",
            "--rm",
            "--runtime",
            "runc",
            "busybox",
            "sh",
            "-c",
            "echo by runc; exit 4",
        ])?;
        ensure!(output.code == 4 && output.stdout == "by runc\n", "{output}");
        host.pontoon(&["run", "--rm", "--runtime", "nothing", "busybox", "true"])?
            .fails(125, &["nothing"])?;
        Ok(())
    });
}

#[test]
fn inspect_tells_what_was_asked_for() {
    with_host(|host, _| {
        let format = "{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}} {{.Config.StdinOnce}} {{.Config.Domainname}}";
        for (name, flags, expected) in [
            ("plain", &["create"][..], "false true true false "),
            (
                "input",
                &["create", "--interactive", "--domainname", "example.org"],
                "true true true true example.org",
            ),
            (
                "some",
                &["create", "--attach", "stderr"],
                "false false true false ",
            ),
            (
                "detached",
                &["run", "--detach", "--interactive"],
                "false false false false ",
            ),
        ] {
            let line = [flags, &["--name", name, "busybox", "true"]].concat();
            host.ok(&line)?;
            let output = host.pontoon(&["inspect", "--format", format, name])?;
            ensure!(
                output.stdout.trim_end_matches('\n') == expected,
                "{name}: {output}"
            );
        }
        host.ok(&["run", "--name", "writer", "busybox", "sh", "-c", "echo hello >/x"])?;
        let size = host.line("container inspect --size --format {{.SizeRw}} writer")?;
        ensure!(size == "6", "{size}");
        host.pontoon(&["start", "--checkpoint", "c", "plain"])?
            .fails(1, &["--checkpoint is not supported"])?;
        Ok(())
    });
}
