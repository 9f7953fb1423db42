//! The life of containers by the command line: what users see of `update`, `top`, `stats`, `ps`, `inspect` and the rest, with Docker's
//! words and exit statuses (taken from docker/cli 28 against a real engine).

use anyhow::{Result, ensure};
use pontoon_tests::pty::Session;
use pontoon_tests::{Fleet, Host, SHORT, wait_until, with_fleet};

/// One host with the test images.
fn host(test: impl FnOnce(&Host) -> Result<()>) {
    with_fleet(1, |fleet: &Fleet| {
        fleet.load_images()?;
        test(fleet.host(1))
    });
}

fn shows(host: &Host, args: &[&str], expected: &str) -> Result<()> {
    let shown = host.ok(args)?;
    ensure!(shown == expected, "{args:?} shows {shown:?}, not {expected:?}");
    Ok(())
}

#[test]
fn limits_change_while_it_runs() {
    host(|host| {
        host.ok(&[
            "run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "1000",
        ])?;
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
    host(|host| {
        host.ok(&[
            "run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "1000",
        ])?;
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
    host(|host| {
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
fn listings_have_dockers_fields_and_words() {
    host(|host| {
        host.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "-l",
            "tier=front",
            "-p",
            "127.0.0.1:8081:80",
            "--expose",
            "90",
            "--expose",
            "91",
            "busybox",
            "sleep",
            "1000",
        ])?;
        host.ok(&[
            "create",
            "--name",
            "later",
            "--network",
            "none",
            "busybox",
            "true",
        ])?;
        let fields = "{{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Ports}}|{{.Labels}}|{{.Label \"tier\"}}|{{.Networks}}|\
                      {{.LocalVolumes}}|{{.Mounts}}";
        let rows = host.ok(&["ps", "-a", "--format", fields])?;
        let expected = "later|busybox|\"true\"|created||||none|0|\n\
                        web|busybox|\"sleep 1000\"|running|90-91/tcp, 127.0.0.1:8081->80/tcp|tier=front|front|bridge|0|";
        // Images of the tests may expose ports and have labels of their own: these have none.
        ensure!(rows == expected, "{rows}");
        shows(host, &["ps", "-aq", "--format", "{{.Names}}", "-l"], "later")?;
        shows(
            host,
            &["ps", "-a", "-n", "1", "--format", "{{.Status}}"],
            "Created",
        )?;
        for (filter, expected) in [
            ("name=^/web$", "web"),
            ("label=tier=front", "web"),
            ("publish=8081", "web"),
            ("expose=90", "web"),
            ("status=created", "later"),
            ("network=none", "later"),
            ("isolation=default", "later\nweb"),
            ("is-task=false", "later\nweb"),
            ("health=none", "later\nweb"),
            ("since=web", "later"),
            ("before=later", "web"),
            ("volume=none", ""),
            ("ancestor=busybox", "later\nweb"),
        ] {
            shows(
                host,
                &["ps", "-a", "--format", "{{.Names}}", "-f", filter],
                expected,
            )?;
        }
        host.pontoon(&["ps", "-f", "foo"])?
            .fails(125, &["invalid argument \"foo\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"])?;
        host.pontoon(&["ps", "-f", "foo=bar"])?
            .fails(1, &["invalid filter 'foo'"])?;
        host.pontoon(&["ps", "-f", "status=up"])?
            .fails(1, &["invalid filter 'status=up'"])?;
        host.pontoon(&["ps", "--format", "{{.Nope}}", "-a"])?
            .fails(1, &["Nope"])?;
        shows(host, &["port", "web"], "80/tcp -> 127.0.0.1:8081")?;
        shows(host, &["port", "web", "80"], "127.0.0.1:8081")?;
        host.pontoon(&["port", "web", "99"])?
            .fails(1, &["Error: No public port '99' published for web"])?;
        host.pontoon(&["port", "web", "abc"])?
            .fails(1, &["invalid port (abc)"])?;
        Ok(())
    });
}

#[test]
fn inspect_takes_templates_and_several_names() {
    host(|host| {
        host.ok(&[
            "run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "1000",
        ])?;
        let partly = host.pontoon(&["inspect", "-f", "{{.Name}}", "box", "nobody"])?;
        ensure!(
            partly.code == 1
                && partly.stdout == "/box\n"
                && partly.stderr == "Error: No such object: nobody\n",
            "{partly}"
        );
        let none = host.pontoon(&["inspect", "nobody"])?;
        ensure!(none.code == 1 && none.stdout == "[]\n", "{none}");
        for (template, code, text) in [
            ("{{", 64, "template parsing error: template: :1: unclosed action"),
            (
                "{{nofunc}}",
                64,
                "template parsing error: template: :1: function \"nofunc\" not defined",
            ),
            (
                "{{.State.Nope}}",
                1,
                "template parsing error: template: :1:8: executing \"\" at <.State.Nope>: map has no entry for key \"Nope\"",
            ),
        ] {
            host.pontoon(&["inspect", "-f", template, "box"])?
                .fails(code, &[text])?;
        }
        host.pontoon(&["inspect", "--type", "foo", "box"])?
            .fails(1, &["unknown type: \"foo\": must be one of"])?;
        host.pontoon(&["inspect", "--type", "image", "box"])?
            .fails(1, &["No such image"])?;
        shows(
            host,
            &[
                "inspect",
                "-f",
                "{{json .Config.Cmd}} {{len .Id}} {{.HostConfig.MemorySwap}} {{slice .Name 1}}",
                "box",
            ],
            "[\"sleep\",\"1000\"] 64 134217728 box",
        )?;
        let whole: serde_json::Value = serde_json::from_str(&host.ok(&["inspect", "-s", "box"])?)?;
        let whole = &whole[0];
        ensure!(
            whole["SizeRootFs"].as_i64() > Some(100_000),
            "{}",
            whole["SizeRootFs"]
        );
        ensure!(whole["GraphDriver"]["Data"]["UpperDir"].is_string(), "{whole}");
        ensure!(
            whole["NetworkSettings"]["Networks"]["bridge"]["DNSNames"].is_null()
                || whole["NetworkSettings"]["Networks"]["bridge"]["DNSNames"].is_array()
        );
        Ok(())
    });
}

#[test]
fn mistakes_have_dockers_exit_statuses() {
    host(|host| {
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
fn leaving_by_keys_has_dockers_statuses() {
    host(|host| {
        let run = host.command(&["run", "-it", "--name", "box", "busybox", "sh"]);
        let leave = |command: &std::process::Command, status: i32| -> Result<()> {
            let mut session = Session::start(command, 24, 80)?;
            session.type_text("echo he''re\n")?;
            session.expect("here")?;
            session.type_text("\x10\x11")?;
            if status != 0 {
                session.expect("read escape sequence")?;
            }
            let ended = session.end()?;
            ensure!(
                ended == status,
                "{command:?} ended with {ended}: {:?}",
                session.shown()
            );
            Ok(())
        };
        leave(&run, 0)?;
        leave(&host.command(&["attach", "box"]), 1)?;
        leave(&host.command(&["exec", "-it", "box", "sh"]), 1)?;
        host.ok(&["stop", "-t", "0", "box"])?;
        leave(&host.command(&["start", "-ai", "box"]), 0)?;
        // Keys of the user's own; Docker's are the program's then.
        let mut session = Session::start(
            &host.command(&["attach", "--detach-keys", "ctrl-x,q", "box"]),
            24,
            80,
        )?;
        session.type_text("echo th''ere\n")?;
        session.expect("there")?;
        session.type_text("\x10\x11echo ag''ain\n")?;
        session.expect("again")?;
        session.type_text("\x18q")?;
        session.expect("read escape sequence")?;
        ensure!(session.end()? == 1, "{}", session.shown());
        Ok(())
    });
}

#[test]
fn policies_hold_by_the_command_line() {
    host(|host| {
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
        host.ok(&[
            "run", "-d", "--init", "--name", "init", "busybox", "sleep", "1000",
        ])?;
        ensure!(
            host.ok(&["exec", "init", "cat", "/proc/1/cmdline"])?
                == "/sbin/docker-init\x00--\x00sleep\x001000\x00",
            "{:?}",
            host.ok(&["exec", "init", "cat", "/proc/1/cmdline"])?
        );
        Ok(())
    });
}
