//! Updates under load, services that wait for others, and what is said of why things are as they are.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, LONG, wait_until, with_fleet};

fn file(fleet: &Fleet, name: &str, text: &str) -> Result<PathBuf> {
    let path = fleet.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

const UNDER_LOAD: &str = r#"
services:
  web:
    image: web:1
    ports: ["8080:8080"]
    healthcheck:
      test: [CMD, /web, get, "http://127.0.0.1:8080/health"]
      interval: 1s
      start_period: 20s
      start_interval: 100ms
    deploy:
      replicas: 20
      drain_period: 5s
      update_config: {parallelism: 4, monitor: 1s}
  client:
    image: busybox
    stop_grace_period: 100ms
    command:
      - sh
      - -c
      - |
        until wget -q -O /dev/null http://web:8080/; do sleep 0.1; done
        echo begun
        while true; do wget -q -O /dev/null http://web:8080/ 2>&1 || echo lost at $$(date +%T); done
"#;

/// Clients by the routing mesh of each host and by the virtual address of the service, none of which tries again. A drain lasts as long
/// as the slowest node takes to hear of it: all hosts share a few cores here, with other tests, so that the usual second can be too short.
#[test]
fn a_rolling_update_loses_no_request() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let path = file(fleet, "load.yaml", UNDER_LOAD)?.display().to_string();
        first.ok(&["stack", "deploy", "--quiet", "-c", &path, "app"])?;
        ensure_running(first, "app_web", 20)?;
        wait_until("the client inside has begun", LONG, || {
            let log = first.ok(&["service", "logs", "--raw", "app_client"])?;
            ensure!(log.contains("begun"), "{log}");
            Ok(())
        })?;
        let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (updated, lost) = std::thread::scope(|scope| {
            let ask = |host| {
                let mut lost = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = fleet.host(host).get("http://127.0.0.1:8080/") {
                        lost.push(format!("host {host}: {error:#}"));
                    }
                }
                lost
            };
            let clients: Vec<_> = (1..=3).map(|host| scope.spawn(move || ask(host))).collect();
            let updated = file(fleet, "load.yaml", &UNDER_LOAD.replace("web:1", "web:2"))
                .and_then(|_| first.ok(&["stack", "deploy", "--quiet", "-c", &path, "app"]));
            over.store(true, Ordering::Relaxed);
            let lost: Vec<String> = clients
                .into_iter()
                .flat_map(|client| {
                    client
                        .join()
                        .unwrap_or_else(|_| vec!["a client panicked".to_owned()])
                })
                .collect();
            (updated, lost)
        });
        updated?;
        let asked = asked.into_inner();
        ensure!(
            lost.is_empty(),
            "{} of {asked} requests were lost: {lost:?}",
            lost.len()
        );
        let log = first.ok(&["service", "logs", "--raw", "app_client"])?;
        ensure!(!log.contains("lost"), "{log}");
        let tasks = ensure_running(first, "app_web", 20)?;
        ensure!(tasks.iter().all(|task| task.image.contains("web:2")), "{tasks:?}");
        Ok(())
    });
}

const DEPENDENT: &str = r#"
services:
  late:
    image: busybox
    stop_grace_period: 100ms
    depends_on:
      db: {condition: service_healthy}
      init: {condition: service_completed_successfully}
    command: [sh, -c, "wget -q -O /dev/null http://db:8080/ && exec sleep 1000"]
    deploy: {restart_policy: {condition: none}}
  early:
    image: web:1
    command: [sleep]
    depends_on: {db: {condition: service_started}}
  init:
    image: busybox
    command: [sh, -c, "exit 0"]
    deploy: {restart_policy: {condition: none}}
  db:
    image: web:1
    healthcheck:
      test: [CMD, /web, get, "http://127.0.0.1:8080/health"]
      interval: 1s
      start_period: 20s
      start_interval: 200ms
"#;

#[test]
fn services_start_after_what_they_depend_on() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let path = file(fleet, "depends.yaml", DEPENDENT)?.display().to_string();
        // Too early, and not started again, it would have ended with an error.
        first.ok(&["stack", "deploy", "--quiet", "-c", &path, "app"])?;
        ensure_running(first, "app_late", 1)?;
        ensure!(view::tasks(first, "app_late")?.len() == 1);
        ensure_running(first, "app_early", 1)?;
        // At an update too: its new task waits for the new one of what it depends on, which comes before it whatever the file's order.
        let next = DEPENDENT
            .replace("image: web:1\n    healthcheck", "image: web:2\n    healthcheck")
            .replace("exec sleep 1000", "exec sleep 1001");
        let path = file(fleet, "depends.yaml", &next)?.display().to_string();
        first.ok(&["stack", "deploy", "--quiet", "-c", &path, "app"])?;
        ensure_running(first, "app_late", 1)?;
        let tasks = view::tasks(first, "app_late")?;
        ensure!(
            tasks.len() == 2 && tasks.iter().all(|task| task.state != "Failed"),
            "{tasks:?}"
        );

        let missing = "services:\n  web:\n    image: busybox\n    command: [sleep, \"1000\"]\n    stop_grace_period: 100ms\n    \
                       depends_on: {db: {condition: service_healthy}}\n  db:\n    image: busybox\n    command: [sleep, \"1000\"]\n    \
                       stop_grace_period: 100ms\n    deploy: {placement: {constraints: [node.labels.zone==nowhere]}}\n";
        let path = file(fleet, "missing.yaml", missing)?.display().to_string();
        first.ok(&["stack", "deploy", "--detach", "-c", &path, "held"])?;
        let reason = "waits for service held_db: 0 of 1 tasks are healthy";
        wait_until("it is said what is waited for", LONG, || {
            let tasks = view::tasks(first, "held_web")?;
            ensure!(tasks.len() == 1 && tasks[0].error.contains(reason), "{tasks:?}");
            Ok(())
        })?;
        let said = first.ok(&["explain", "task", "held_web.1"])?;
        ensure!(said.contains(reason), "{said}");
        let said = first.ok(&["explain", "service", "held_db"])?;
        let why = "node host2: scheduling constraints not satisfied: node.labels.zone==nowhere";
        ensure!(said.contains(why), "{said}");
        first.ok(&["explain", "node", "host2"])?;
        first
            .pontoon(&["explain", "task", "nothing"])?
            .fails(1, &["nothing"])?;
        Ok(())
    });
}
