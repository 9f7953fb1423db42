//! A task that is about to end is out of VIP and DNS first, has time to finish what it has begun, and is stopped then.

use anyhow::{Context, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{LONG, wait_until, with_fleet};

const SICK: &str = r#"
services:
  web:
    image: web:1
    healthcheck:
      test: [CMD, /web, get, "http://127.0.0.1:8080/health"]
      interval: 200ms
      retries: 1
      start_period: 20s
      start_interval: 100ms
    deploy: {replicas: 2, drain_period: 20s, restart_policy: {delay: 100ms}}
  client:
    image: web:1
    command: [sleep]
    stop_grace_period: 100ms
    deploy: {placement: {constraints: [node.hostname==host1]}}
"#;

#[test]
fn an_unhealthy_task_is_out_of_service_before_it_is_stopped() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let path = fleet.folder().join("sick.yaml");
        std::fs::write(&path, SICK)?;
        first.ok(&[
            "stack",
            "deploy",
            "--quiet",
            "-c",
            &path.display().to_string(),
            "app",
        ])?;
        ensure_running(first, "app_web", 2)?;
        let containers = view::containers(first)?;
        let client = containers
            .iter()
            .find(|container| view::field(container, "Names").starts_with("app_client"))
            .map(|container| view::field(container, "ID"))
            .context("the client's container is not listed")?;
        let inside = |words: &[&str]| first.ok(&[&["exec", &client, "/web"], words].concat());
        let backends = || inside(&["resolve", "tasks.app_web"]);
        let addresses = wait_until("both are found by name", LONG, || {
            let found = backends()?;
            ensure!(found.lines().count() == 2, "{found}");
            Ok(found)
        })?;
        let victim = addresses.lines().next().context("no address")?.to_owned();
        let direct = |path: &str| inside(&["get", &format!("http://{victim}:8080{path}")]);
        direct("/sick")?;
        wait_until("its name is forgotten", LONG, || {
            let found = backends()?;
            ensure!(!found.lines().any(|line| line == victim), "{found}");
            Ok(())
        })?;
        // It still answers whoever has its address, but nobody new is led to it.
        direct("/peer").context("it was stopped at once")?;
        for _ in 0..20 {
            let answer = inside(&["get", "http://web:8080/"])?;
            let line = answer.lines().find(|line| line.starts_with("addresses:"));
            let line = line.context("no addresses")?;
            ensure!(!line.split(' ').any(|word| word == victim), "{answer}");
        }
        wait_until("it has ended as unhealthy, and another one runs", LONG, || {
            let tasks = view::tasks(first, "app_web")?;
            let ended = tasks.iter().find(|task| task.state == "Failed");
            let ended = ended.with_context(|| format!("{tasks:?}"))?;
            ensure!(ended.error.contains("unhealthy"), "{ended:?}");
            ensure_running(first, "app_web", 2)?;
            Ok(())
        })
    });
}
