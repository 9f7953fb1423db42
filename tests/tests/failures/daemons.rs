//! Daemons that end under their containers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Host, LONG, SHORT, wait_until, with_fleet};

use super::{label, pids, web, written};

/// Calls that are made at least while daemons restart.
const CALLS: usize = 10;

#[test]
fn a_killed_daemon_leaves_its_containers_serving() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        host.ok(&["network", "create", "--driver", "overlay", "app"])?;
        host.line("service create --name named --network app --replicas 2 web:1")?;
        host.line("service create --name client --network app web:1 call http://named:8080/ 0.1")?;
        web(host, 2)?;
        host.line("run --detach --name plain --publish 9090:8080 web:1")?;
        wait_until("all ports answer", SHORT, || {
            host.get("http://127.0.0.1:9090/")?;
            host.get("http://127.0.0.1:8080/")
        })?;
        let before = pids(host)?;
        let client = host.ok(&["ps", "--quiet", "--filter", "name=client"])?;
        let log_before = host.ok(&["logs", &client])?.lines().count();
        host.kill()?;
        for _ in 0..10 {
            host.get("http://127.0.0.1:9090/")?;
            host.get("http://127.0.0.1:8080/")?;
        }
        host.start()?;
        ensure!(
            pids(host)? == before,
            "containers changed: {:?} instead of {before:?}",
            pids(host)?
        );
        wait_until("the tasks are still those", LONG, || {
            ensure_running(host, "web", 2)
        })?;
        ensure!(pids(host)? == before, "containers were replaced after the start");
        // What the client said while nobody listened is there, and names resolved all the time.
        wait_until("the client goes on", SHORT, || {
            let log = host.ok(&["logs", &client])?;
            ensure!(log.lines().count() > log_before + 10);
            let after: Vec<&str> = log.lines().skip(log_before).collect();
            ensure!(!after.iter().any(|line| line.starts_with("failed")), "{after:?}");
            Ok(())
        })?;
        ensure!(host.ok(&["exec", "plain", "/web", "get", "http://127.0.0.1:8080/health"])? == "ok");
        host.ok(&["rm", "--force", "plain"])?;
        host.ok(&["service", "rm", "web", "named", "client"])?;
        wait_until("no container is left", LONG, || {
            ensure!(view::containers(host)?.is_empty());
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_container_that_ends_while_the_daemon_is_away() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        let held = host.folder().join("go");
        let mount = format!("{}:/host", host.folder().display());
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--volume",
            &mount,
            "busybox",
            "sh",
            "-c",
            "while [ ! -e /host/go ]; do sleep 0.05; done; echo said while away; exit 6",
        ])?;
        let pid = host.ok(&["inspect", "--format", "{{.State.Pid}}", "box"])?;
        host.kill()?;
        std::fs::write(&held, "")?;
        wait_until("the program has ended", SHORT, || {
            ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
            Ok(())
        })?;
        host.start()?;
        ensure!(
            host.ok(&[
                "inspect",
                "--format",
                "{{.State.Status}} {{.State.ExitCode}}",
                "box"
            ])? == "exited 6"
        );
        ensure!(host.ok(&["logs", "box"])? == "said while away");
        host.ok(&["rm", "box"])?;
        Ok(())
    });
}

#[test]
fn all_daemons_restart_and_nothing_is_lost() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        web(first, 6)?;
        for round in ["stopped", "killed"] {
            label(first, round)?;
            let before: Vec<_> = fleet.hosts().iter().map(pids).collect::<Result<_>>()?;
            for host in fleet.hosts() {
                match round {
                    "stopped" => ensure!(host.stop()? == 0, "{}", host.log_tail(20)),
                    _ => host.kill()?,
                }
            }
            pontoon_tests::fleet::each(fleet.hosts(), Host::start)?;
            wait_until("a leader is there", LONG, || fleet.leader(first).map(drop))?;
            wait_until("every node is ready", LONG, || {
                let nodes = view::nodes(first)?;
                ensure!(
                    nodes
                        .iter()
                        .all(|node| node.status == "Ready" && node.is_manager()),
                    "{nodes:?}"
                );
                Ok(())
            })?;
            ensure!(written(first)? == round);
            wait_until("all tasks run", LONG, || ensure_running(first, "web", 6))?;
            let after: Vec<_> = fleet.hosts().iter().map(pids).collect::<Result<_>>()?;
            ensure!(
                before == after,
                "{round}: containers changed from {before:?} to {after:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_service_answers_through_a_rolling_restart_of_daemons() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        web(fleet.host(1), 3)?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let (mut count, mut lost) = (0, 0);
                // Restarts may be quicker than some calls.
                while !done.load(Ordering::Relaxed) || count < CALLS {
                    // A starting daemon replaces its nftables table: a connection that is opened in that very moment may
                    // be lost, the next one must not be.
                    if fleet.host(1).get("http://127.0.0.1:8080/").is_err() {
                        lost += 1;
                        fleet
                            .host(1)
                            .get("http://127.0.0.1:8080/")
                            .context("a second time while daemons restarted")?;
                    }
                    count += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                ensure!(lost <= fleet.hosts().len(), "{lost} of {count} calls were lost");
                anyhow::Ok(())
            });
            let restarted = (|| {
                for host in fleet.hosts() {
                    host.stop()?;
                    host.start()?;
                    wait_until("the node is a manager again", LONG, || {
                        let other = fleet.host(host.number() % 3 + 1);
                        let nodes = view::nodes(other)?;
                        ensure!(
                            nodes
                                .iter()
                                .all(|node| node.status == "Ready" && node.is_manager()),
                            "{nodes:?}"
                        );
                        Ok(())
                    })?;
                }
                anyhow::Ok(())
            })();
            done.store(true, Ordering::Relaxed);
            caller
                .join()
                .map_err(|_| anyhow::anyhow!("the caller panicked"))??;
            restarted
        })
    });
}
