//! Logs of services over time: following goes on when tasks are replaced, and nodes that are away are named.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use pontoon_tests::view::ensure_running;
use pontoon_tests::{LONG, wait_until, with_fleet};

#[test]
fn following_goes_on_over_replacements_and_names_who_is_away() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let script = "while true; do echo tick; sleep 0.2; done";
        first.ok(&[
            "service",
            "create",
            "--quiet",
            "--name",
            "clock",
            "--replicas",
            "2",
            "--stop-grace-period",
            "100ms",
            "--update-monitor",
            "100ms",
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
        ensure_running(first, "clock", 2)?;
        let mut following = first
            .command(&["service", "logs", "--follow", "clock"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot follow")?;
        let output = following.stdout.take().context("no standard output")?;
        let speakers = Mutex::new(BTreeSet::new());
        let heard = || speakers.lock().unwrap_or_else(PoisonError::into_inner).len();
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let speaker = line.split(' ').next().unwrap_or_default().to_owned();
                    speakers
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(speaker);
                }
            });
            let outcome = wait_until("both tasks are heard", LONG, || {
                ensure!(heard() >= 2);
                Ok(())
            })
            .and_then(|()| first.line("service update --quiet --env-add A=1 clock"))
            .and_then(|_| {
                wait_until("their successors are heard too", LONG, || {
                    ensure!(heard() >= 4);
                    Ok(())
                })
            })
            .and_then(|()| first.line("node update --availability drain host2"))
            .and_then(|_| {
                wait_until("so is one that comes to another node", LONG, || {
                    ensure!(heard() >= 5);
                    Ok(())
                })
            })
            .and_then(|()| first.line("node update --availability active host2"))
            .and_then(|_| first.line("service update --quiet --env-add A=2 clock"));
            // Its end closes the pipe, which ends the reader.
            following
                .kill()
                .and_then(|()| following.wait())
                .context("cannot end it")?;
            outcome
        });
        outcome?;

        fleet.host(2).kill()?;
        wait_until("what there is is shown, and who is missing is told", LONG, || {
            let output = first.pontoon(&["service", "logs", "clock"])?;
            ensure!(output.code == 0 && output.stdout.contains("@host1"), "{output}");
            let warning = "node host2 is not available";
            ensure!(output.stderr.contains(warning), "{output}");
            Ok(())
        })?;
        Ok(())
    });
}
