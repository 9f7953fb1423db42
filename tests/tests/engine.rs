//! One host, no cluster: containers, images and bridge networks by the command line, with Docker's exit statuses.

use anyhow::{Result, ensure};
use pontoon_tests::pty::Session;
use pontoon_tests::{Fleet, SHORT, view, wait_until, with_fleet};

/// One host with the test images.
fn host(test: impl FnOnce(&pontoon_tests::Host, &Fleet) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        test(fleet.host(1), fleet)
    });
}

#[test]
fn run_gives_output_and_exit_status() {
    host(|host, _| {
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
    host(|host, _| {
        let command = host.command(&["run", "--rm", "--interactive", "busybox", "cat"]);
        let output = pontoon_tests::process::run_with_input(command, b"one\ntwo\n")?;
        ensure!(output.code == 0 && output.stdout == "one\ntwo\n", "{output}");
        Ok(())
    });
}

#[test]
fn a_container_from_create_to_rm() {
    host(|host, _| {
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
    host(|host, _| {
        host.ok(&[
            "run", "--detach", "--name", "box", "--env", "A=1", "busybox", "sleep", "1000",
        ])?;
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
fn a_terminal_has_size_keys_and_exit_status() {
    host(|host, _| {
        let command = host.command(&["run", "--rm", "-it", "--name", "term", "busybox", "sh"]);
        let mut session = Session::start(&command, 31, 97)?;
        session.type_text("echo a''b\n")?;
        session.expect("ab")?;
        session.type_text("stty size\n")?;
        session.expect("31 97")?;
        session.resize(40, 120)?;
        wait_until("the new size has arrived", SHORT, || {
            ensure!(host.ok(&["exec", "term", "sh", "-c", "stty size </proc/1/fd/0"])? == "40 120");
            Ok(())
        })?;
        // Ctrl-C interrupts what runs, not the session.
        session.type_text("sleep 1000\n")?;
        wait_until("the program runs", SHORT, || {
            host.ok(&["exec", "term", "pidof", "sleep"])
        })?;
        session.type_text("\x03")?;
        session.type_text("echo st''ill\n")?;
        session.expect("still")?;
        session.type_text("exit 5\n")?;
        ensure!(session.end()? == 5, "{}", session.shown());
        Ok(())
    });
}

#[test]
fn a_terminal_can_be_left_and_taken_again() {
    host(|host, _| {
        let command = host.command(&["run", "-it", "--name", "term", "busybox", "sh"]);
        let mut session = Session::start(&command, 24, 80)?;
        session.type_text("echo fi''rst\n")?;
        session.expect("first")?;
        // Ctrl-P Ctrl-Q detaches.
        session.type_text("\x10\x11")?;
        ensure!(session.end()? == 0, "{}", session.shown());
        ensure!(host.ok(&["inspect", "-f", "{{.State.Running}}", "term"])? == "true");
        let mut session = Session::start(&host.command(&["attach", "term"]), 24, 80)?;
        session.type_text("echo sec''ond\n")?;
        session.expect("second")?;
        session.type_text("exit 0\n")?;
        ensure!(session.end()? == 0, "{}", session.shown());
        host.ok(&["rm", "term"])?;
        Ok(())
    });
}

#[test]
fn limits_and_defaults_reach_the_kernel() {
    host(|host, _| {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--memory",
            "64m",
            "--pids-limit",
            "20",
            "--cpus",
            "0.5",
            "--hostname",
            "pond",
            "busybox",
            "sleep",
            "1000",
        ])?;
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
fn published_ports_and_nat_on_the_bridge() {
    host(|host, fleet| {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "web",
            "--publish",
            "8080:8080",
            "web:1",
        ])?;
        let answer = wait_until("the published port answers", SHORT, || {
            host.get("http://127.0.0.1:8080/")
        })?;
        ensure!(answer.contains("version: 1"), "{answer}");
        ensure!(
            host.get(&format!("http://{}:8080/", host.address()))?
                .contains("version: 1")
        );
        // From outside, through the cable.
        let web = pontoon_tests::programs::web()?.display().to_string();
        let outside = fleet
            .wire()
            .in_switch(&web, &["get", &format!("http://{}:8080/peer", host.address())])?;
        ensure!(
            outside.trim() == "192.168.77.254",
            "the caller's address is lost: {outside}"
        );
        ensure!(host.ok(&["port", "web"])?.contains("8080/tcp -> 0.0.0.0:8080"));
        host.pontoon(&[
            "run",
            "--detach",
            "--name",
            "second",
            "--publish",
            "8080:80",
            "web:1",
        ])?
        .fails(125, &["8080", "port is already allocated"])?;
        // Docker leaves the container that could not start; its port is free again when it goes.
        host.pontoon(&["rm", "--force", "second"])?;
        // Out by NAT: the switch sees the host's address.
        host.ok(&[
            "run",
            "--rm",
            "busybox",
            "ping",
            "-c",
            "1",
            "-W",
            "3",
            "192.168.77.254",
        ])?;
        host.ok(&["rm", "--force", "web"])?;
        ensure!(
            host.get("http://127.0.0.1:8080/").is_err(),
            "the port still answers"
        );
        Ok(())
    });
}

#[test]
fn user_networks_have_names() {
    host(|host, _| {
        host.ok(&["network", "create", "app"])?;
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "web",
            "--network",
            "app",
            "--network-alias",
            "site",
            "web:1",
        ])?;
        for name in ["web", "site"] {
            let answer = host.ok(&[
                "run",
                "--rm",
                "--network",
                "app",
                "web:1",
                "get",
                &format!("http://{name}:8080/"),
            ])?;
            ensure!(answer.contains("version: 1"), "{answer}");
        }
        // The default bridge has no names, and another network does not reach this one.
        host.pontoon(&[
            "run",
            "--rm",
            "--network",
            "none",
            "web:1",
            "get",
            "http://web:8080/",
        ])?
        .fails(1, &[])?;
        host.pontoon(&["network", "rm", "app"])?
            .fails(1, &["app", "active endpoints"])?;
        host.ok(&["rm", "--force", "web"])?;
        host.ok(&["network", "rm", "app"])?;
        host.pontoon(&["network", "inspect", "app"])?.fails(1, &["app"])?;
        Ok(())
    });
}

#[test]
fn networks_none_and_host() {
    host(|host, _| {
        let links = host.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "ls",
            "/sys/class/net",
        ])?;
        ensure!(links == "lo", "{links}");
        let links = host.ok(&["run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"])?;
        ensure!(links.contains("eth0"), "{links}");
        Ok(())
    });
}

#[test]
fn images_are_listed_tagged_saved_and_removed() {
    host(|host, fleet| {
        let names = |host: &pontoon_tests::Host| -> Result<Vec<String>> {
            let rows = view::rows(host, &["images"])?;
            Ok(rows
                .iter()
                .map(|row| format!("{}:{}", view::field(row, "Repository"), view::field(row, "Tag")))
                .collect())
        };
        let mut listed = names(host)?;
        listed.sort();
        ensure!(listed == ["busybox:latest", "web:1", "web:2"], "{listed:?}");
        host.ok(&["tag", "busybox", "registry.example/team/box:v1"])?;
        let archive = fleet.folder().join("saved.tar");
        let archive = archive.display().to_string();
        host.ok(&["save", "--output", &archive, "registry.example/team/box:v1"])?;
        host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
        host.ok(&["rmi", "registry.example/team/box:v1"])?;
        host.pontoon(&["rmi", "busybox"])?
            .fails(1, &["busybox", "in use"])
            .or_else(|_| host.pontoon(&["rmi", "busybox"])?.fails(1, &["is using"]))?;
        host.ok(&["rm", "--force", "box"])?;
        host.ok(&["rmi", "busybox"])?;
        ensure!(
            !names(host)?.iter().any(|name| name.starts_with("busybox")),
            "{:?}",
            names(host)?
        );
        let said = host.ok(&["load", "--input", &archive])?;
        ensure!(said.contains("registry.example/team/box:v1"), "{said}");
        host.ok(&["run", "--rm", "registry.example/team/box:v1", "true"])?;
        host.pontoon(&["rmi", "no-such-image"])?
            .fails(1, &["no-such-image"])?;
        Ok(())
    });
}

#[test]
fn import_makes_an_image_of_a_plain_tar() {
    host(|host, fleet| {
        let folder = fleet.folder().join("import");
        std::fs::create_dir_all(&folder)?;
        std::fs::copy("/bin/busybox", folder.join("busybox"))?;
        let archive = fleet.folder().join("plain.tar").display().to_string();
        pontoon_tests::process::tool(
            "tar",
            &["-C", &folder.display().to_string(), "-cf", &archive, "busybox"],
        )?;
        host.ok(&[
            "import",
            "--change",
            "CMD [\"/busybox\",\"echo\",\"imported\"]",
            &archive,
            "plain:1",
        ])?;
        ensure!(host.ok(&["run", "--rm", "plain:1"])? == "imported");
        Ok(())
    });
}

#[test]
fn logs_keep_streams_apart_and_follow() {
    host(|host, _| {
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
    host(|host, _| {
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
    host(|host, _| {
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
        let size = host.ok(&[
            "container",
            "inspect",
            "--size",
            "--format",
            "{{.SizeRw}}",
            "writer",
        ])?;
        ensure!(size == "6", "{size}");
        host.pontoon(&["start", "--checkpoint", "c", "plain"])?
            .fails(1, &["--checkpoint is not supported"])?;
        Ok(())
    });
}
