//! Signals to attached clients: they reach the container's program, unless `--sig-proxy=false` keeps them off.

use std::fs::{self, File};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Host, SHORT, process, wait_until, with_host};
use rustix::process::{Pid, Signal, kill_process};

/// Tells of signals and ends at some of them.
const PROGRAM: &str = "for s in HUP USR1 USR2 CONT ALRM WINCH; do trap \"echo got $s\" $s; done; trap 'echo got INT; exit 8' INT; \
                       trap 'echo got QUIT; exit 9' QUIT; trap 'echo got TERM; exit 7' TERM; echo ready; while :; do sleep 0.05; done";

/// The same for somebody who does not want to end.
const STUBBORN: &str =
    "for s in INT TERM; do trap \"echo no $s\" $s; done; echo ready; while :; do sleep 0.05; done";

/// A client that is attached to a container.
struct Client {
    child: Child,
    output: std::path::PathBuf,
}

impl Client {
    fn start(host: &Host, args: &[&str]) -> Result<Self> {
        let output = host.folder().join("client.out");
        let file = File::create(&output).context("cannot make the client's output")?;
        let child = host
            .command(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the output")?)
            .stderr(file)
            .spawn()
            .context("cannot start a client")?;
        Ok(Self { child, output })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn expect(&self, text: &str) -> Result<()> {
        wait_until(&format!("the client prints {text:?}"), SHORT, || {
            ensure!(self.said().contains(text), "it printed {:?}", self.said());
            Ok(())
        })
    }

    fn send(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal).context("cannot signal the client")
    }

    /// Its exit status; 128 + signal when one ended it.
    fn end(mut self) -> Result<i32> {
        process::end(&mut self.child, SHORT).with_context(|| self.said())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn state(host: &Host) -> Result<String> {
    let format = "{{.State.Status}} {{.State.ExitCode}}";
    host.ok(&["inspect", "--format", format, "box"])
}

#[test]
fn run_passes_signals_on() {
    with_host(|host, _| {
        let client = Client::start(host, &["run", "--name", "box", "busybox", "sh", "-c", PROGRAM])?;
        client.expect("ready")?;
        for (signal, name) in [
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::HUP, "HUP"),
            (Signal::CONT, "CONT"),
            (Signal::ALARM, "ALRM"),
            (Signal::WINCH, "WINCH"),
        ] {
            client.send(signal)?;
            client.expect(&format!("got {name}\n"))?;
        }
        ensure!(state(host)? == "running 0", "{}", state(host)?);
        client.send(Signal::TERM)?;
        ensure!(client.end()? == 7);
        ensure!(state(host)? == "exited 7", "{}", state(host)?);
        Ok(())
    });
}

#[test]
fn start_and_attach_pass_signals_on() {
    with_host(|host, _| {
        host.ok(&["create", "--name", "box", "busybox", "sh", "-c", PROGRAM])?;
        let client = Client::start(host, &["start", "--attach", "box"])?;
        client.expect("ready")?;
        client.send(Signal::USR1)?;
        client.expect("got USR1\n")?;
        client.send(Signal::INT)?;
        ensure!(client.end()? == 8);

        host.ok(&["start", "box"])?;
        let client = Client::start(host, &["attach", "box"])?;
        // What attach prints says that it is there: only something new is printed.
        wait_until("the client is attached", SHORT, || {
            host.ok(&["kill", "--signal", "USR2", "box"])?;
            ensure!(client.said().contains("got USR2\n"));
            Ok(())
        })?;
        client.send(Signal::USR1)?;
        client.expect("got USR1\n")?;
        client.send(Signal::QUIT)?;
        ensure!(client.end()? == 9);
        ensure!(state(host)? == "exited 9", "{}", state(host)?);
        Ok(())
    });
}

#[test]
fn without_a_proxy_signals_are_the_clients_own() {
    with_host(|host, _| {
        let run = [
            "run",
            "--sig-proxy=false",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            PROGRAM,
        ];
        let client = Client::start(host, &run)?;
        client.expect("ready")?;
        client.send(Signal::TERM)?;
        ensure!(client.end()? == 128 + 15);
        ensure!(state(host)? == "running 0", "{}", state(host)?);

        let client = Client::start(host, &["attach", "--sig-proxy=false", "box"])?;
        wait_until("the client is attached", SHORT, || {
            host.ok(&["kill", "--signal", "USR2", "box"])?;
            ensure!(client.said().contains("got USR2\n"));
            Ok(())
        })?;
        // Not SIGINT: who starts the tests in the background of a shell has it ignored, and the client keeps to that.
        client.send(Signal::ALARM)?;
        ensure!(client.end()? == 128 + 14);
        ensure!(state(host)? == "running 0", "{}", state(host)?);
        let log = host.ok(&["logs", "box"])?;
        ensure!(!log.contains("TERM") && !log.contains("ALRM"), "{log}");
        Ok(())
    });
}

/// A program that ignores signals does not keep its user for ever: the third ends the client, as Docker's.
#[test]
fn the_third_signal_ends_the_client() {
    with_host(|host, _| {
        let client = Client::start(host, &["run", "--name", "box", "busybox", "sh", "-c", STUBBORN])?;
        client.expect("ready")?;
        client.send(Signal::TERM)?;
        client.expect("no TERM\n")?;
        client.send(Signal::INT)?;
        client.expect("no INT\n")?;
        client.send(Signal::TERM)?;
        client.expect("got 3 SIGTERM/SIGINTs, forcefully exiting")?;
        ensure!(client.end()? == 1);
        ensure!(state(host)? == "running 0", "{}", state(host)?);
        Ok(())
    });
}
