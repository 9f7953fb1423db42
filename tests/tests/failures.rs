//! What happens to a cluster and its containers when daemons and machines end, and when the network between them does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, TaskRow, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, with_fleet};

/// A web service on every test's cluster.
fn web(host: &Host, replicas: usize) -> Result<Vec<TaskRow>> {
    let replicas = replicas.to_string();
    host.ok(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        &replicas,
        "--publish",
        "8080:8080",
        "--restart-delay",
        "100ms",
        "--env",
        "PONTOON_NODE={{.Node.Hostname}}",
        "--env",
        "PONTOON_TASK={{.Task.Name}}",
        "web:1",
    ])?;
    ensure_running(host, "web", replicas.parse()?)
}

fn label(host: &Host, value: &str) -> Result<String> {
    host.ok(&[
        "node",
        "update",
        "--label-add",
        &format!("written={value}"),
        "host1",
    ])
}

fn written(host: &Host) -> Result<String> {
    host.ok(&[
        "node",
        "inspect",
        "--format",
        "{{index .Spec.Labels \"written\"}}",
        "host1",
    ])
}

/// Pids of the containers' programs on a host, by container id.
fn pids(host: &Host) -> Result<BTreeSet<String>> {
    let ids = host.ok(&["ps", "--quiet", "--no-trunc"])?;
    ids.lines()
        .map(|id| host.ok(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", id]))
        .collect()
}

fn all_but<'a>(fleet: &'a Fleet, gone: &Host) -> Vec<&'a Host> {
    let gone = gone.number();
    fleet
        .hosts()
        .iter()
        .filter(|host| host.number() != gone)
        .collect()
}

#[test]
fn the_leaders_daemon_is_killed() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        web(fleet.host(1), 3)?;
        label(fleet.host(1), "before")?;
        let leader = fleet.leader(fleet.host(1))?;
        leader.kill()?;
        let others = all_but(fleet, leader);
        wait_until("a write is accepted", LONG, || label(others[0], "after"))?;
        // Both survivors see it, and nothing acknowledged before is lost.
        for other in &others {
            ensure!(written(other)? == "after");
            ensure!(view::rows(other, &["service", "ls"])?.len() == 1);
        }
        leader.start()?;
        wait_until("the old leader has caught up", LONG, || {
            ensure!(written(leader)? == "after");
            ensure!(view::node(others[0], &leader.name())?.is_manager());
            Ok(())
        })?;
        wait_until("three tasks run", LONG, || ensure_running(others[1], "web", 3))?;
        Ok(())
    });
}

#[test]
fn a_workers_machine_is_lost() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let tasks = web(first, 6)?;
        ensure!(
            tasks.iter().filter(|task| task.node == "host3").count() == 2,
            "{:#?}",
            view::tasks(first, "web")?
        );
        fleet.host(3).power_off()?;
        wait_until("the node is down", LONG, || {
            ensure!(view::node(first, "host3")?.status == "Down");
            Ok(())
        })?;
        wait_until("its tasks run elsewhere", LONG, || {
            let tasks = ensure_running(first, "web", 6)?;
            ensure!(tasks.iter().all(|task| task.node != "host3"), "{tasks:?}");
            Ok(())
        })?;
        // Nobody is sent to a task that is gone.
        for _ in 0..30 {
            first.get("http://127.0.0.1:8080/")?;
        }
        fleet.host(3).start()?;
        wait_until("the node is back and has no old containers", LONG, || {
            ensure!(view::node(first, "host3")?.status == "Ready");
            let containers = view::containers(fleet.host(3))?;
            ensure!(containers.is_empty(), "{containers:?}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_killed_daemon_leaves_its_containers_serving() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        host.ok(&["network", "create", "--driver", "overlay", "app"])?;
        host.ok(&[
            "service",
            "create",
            "--name",
            "named",
            "--network",
            "app",
            "--replicas",
            "2",
            "web:1",
        ])?;
        host.ok(&[
            "service",
            "create",
            "--name",
            "client",
            "--network",
            "app",
            "web:1",
            "call",
            "http://named:8080/",
            "0.1",
        ])?;
        web(host, 2)?;
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "plain",
            "--publish",
            "9090:8080",
            "web:1",
        ])?;
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
fn all_machines_crash_and_come_back() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        web(first, 3)?;
        label(first, "kept")?;
        for host in fleet.hosts() {
            host.power_off()?;
        }
        pontoon_tests::fleet::each(fleet.hosts(), Host::start)?;
        wait_until("a leader is there", LONG, || fleet.leader(first).map(drop))?;
        ensure!(written(first)? == "kept");
        wait_until("the service runs again", LONG, || {
            ensure_running(first, "web", 3)?;
            for host in fleet.hosts() {
                host.get("http://127.0.0.1:8080/")?;
            }
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_manager_cut_off_accepts_nothing_and_catches_up() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        label(first, "before")?;
        // The leader is the interesting one: it has to notice by itself that nobody follows it any more.
        let cut = fleet.leader(first)?;
        let others = all_but(fleet, cut);
        cut.unplug()?;
        wait_until("the majority goes on", LONG, || label(others[0], "majority"))?;
        wait_until("the one cut off refuses", SHORT, || {
            let output = cut.pontoon(&["node", "update", "--label-add", "written=minority", "host1"])?;
            ensure!(output.code == 1, "{output}");
            let said = output.stderr.to_lowercase();
            ensure!(said.contains("leader") || said.contains("quorum"), "{output}");
            Ok(())
        })?;
        cut.plug()?;
        wait_until("it has caught up", LONG, || {
            ensure!(written(cut)? == "majority", "{}", written(cut)?);
            Ok(())
        })?;
        wait_until("it follows and accepts writes again", LONG, || {
            label(cut, "after")
        })?;
        for other in others {
            ensure!(written(other)? == "after");
        }
        Ok(())
    });
}

#[test]
fn without_a_quorum_writes_are_refused_and_containers_go_on() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        web(first, 3)?;
        fleet.host(2).kill()?;
        fleet.host(3).kill()?;
        // What is asked before the leader has noticed may have any outcome. From then on it is a refusal.
        wait_until("the leader has noticed", LONG, || {
            let output = first.pontoon(&["node", "update", "--label-add", "written=lost", "host1"])?;
            output.fails(1, &["swarm does not have a leader"])
        })?;
        let create = ["service", "create", "--detach", "--name", "other", "web:1"];
        let output = first
            .pontoon(&create)?
            .fails(1, &["swarm does not have a leader"])?;
        ensure!(output.stderr.trim().lines().count() == 1, "{output}");
        first.get("http://127.0.0.1:8080/")?;
        fleet.host(2).start()?;
        wait_until("two of three are a quorum", LONG, || label(first, "again"))?;
        ensure!(
            !first.ok(&["service", "ls"])?.contains("other"),
            "a refused write was made"
        );
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
                while !done.load(Ordering::Relaxed) {
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
                anyhow::Ok(count)
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
            let calls = caller
                .join()
                .map_err(|_| anyhow::anyhow!("the caller panicked"))??;
            restarted?;
            ensure!(calls > 10, "only {calls} calls were made");
            Ok(())
        })
    });
}
