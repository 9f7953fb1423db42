//! Stacks from Compose files: deploy, change, prune by name, remove; mistakes named with their line.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, LONG, wait_until, with_fleet};

fn file(fleet: &Fleet, name: &str, text: &str) -> Result<PathBuf> {
    let path = fleet.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

const FIRST: &str = r#"
services:
  web:
    image: web:1
    environment:
      - COLOUR=green
      - PONTOON_TASK={{.Task.Name}}
    ports: ["8080:8080"]
    networks: [front, back]
    labels:
      on: container
    deploy:
      replicas: 3
      labels:
        on: service
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3}
      resources:
        limits: {cpus: "0.5", memory: 64M}
  agent:
    image: busybox
    command: ["sleep", "1000"]
    stop_grace_period: 100ms
    deploy:
      mode: global
      placement:
        constraints: ["node.role == worker"]
networks:
  front:
  back:
    driver: overlay
"#;

#[test]
fn deploy_change_and_remove() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        fleet.warm_up()?;
        let first = fleet.host(1);
        let before: Vec<_> = fleet
            .hosts()
            .iter()
            .map(pontoon_tests::Host::footprint)
            .collect::<Result<_>>()?;
        let path = file(fleet, "stack.yaml", FIRST)?.display().to_string();
        first.ok(&["stack", "deploy", "-c", &path, "app"])?;
        ensure_running(first, "app_web", 3)?;
        let agents = ensure_running(first, "app_agent", 2)?;
        ensure!(agents.iter().all(|task| task.node != "host1"), "{agents:?}");
        let answer = first.get("http://127.0.0.1:8080/env")?;
        ensure!(
            answer.contains("COLOUR=green") && answer.contains("PONTOON_TASK=app_web."),
            "{answer}"
        );

        let stacks = view::rows(first, &["stack", "ls"])?;
        ensure!(
            stacks.len() == 1 && view::field(&stacks[0], "Name") == "app",
            "{stacks:?}"
        );
        ensure!(view::field(&stacks[0], "Services") == "2", "{stacks:?}");
        ensure!(view::rows(first, &["stack", "services", "app"])?.len() == 2);
        ensure!(view::task_rows(first, &["stack", "ps", "--no-trunc", "app"])?.len() == 5);
        let networks = first.ok(&["network", "ls", "--format", "{{.Name}}"])?;
        ensure!(
            networks.contains("app_front") && networks.contains("app_back"),
            "{networks}"
        );

        // The same file again changes nothing.
        let ids = |service: &str| -> Result<Vec<String>> {
            let mut ids: Vec<_> = view::running(first, service)?
                .into_iter()
                .map(|task| task.id)
                .collect();
            ids.sort();
            Ok(ids)
        };
        let web = ids("app_web")?;
        first.ok(&["stack", "deploy", "-c", &path, "app"])?;
        ensure!(ids("app_web")? == web, "tasks were replaced without a change");

        // A changed file changes what differs, and --prune removes what is no longer in it.
        let start = FIRST.find("  agent:").unwrap_or_default();
        let end = FIRST.find("networks:\n  front").unwrap_or_default();
        let changed = format!("{}{}", &FIRST[..start], &FIRST[end..]).replace("green", "blue");
        let path = file(fleet, "changed.yaml", &changed)?.display().to_string();
        first.ok(&["stack", "deploy", "--prune", "-c", &path, "app"])?;
        ensure_running(first, "app_web", 3)?;
        ensure!(first.get("http://127.0.0.1:8080/env")?.contains("COLOUR=blue"));
        ensure!(view::rows(first, &["stack", "services", "app"])?.len() == 1);

        first.ok(&["stack", "rm", "--detach=false", "app"])?;
        ensure!(view::rows(first, &["stack", "ls"])?.is_empty());
        wait_until("nothing of the stack is left on any host", LONG, || {
            for (host, before) in fleet.hosts().iter().zip(&before) {
                host.footprint()?.ensure_nothing_since(before)?;
            }
            Ok(())
        })?;
        // Docker's status for it is 0.
        first
            .pontoon(&["stack", "rm", "app"])?
            .fails(0, &["nothing found in stack: app"])?;
        Ok(())
    });
}

#[test]
fn mistakes_name_the_key_and_its_line() {
    with_fleet(1, |fleet| {
        fleet.ready(1)?;
        let host = fleet.host(1);
        let cases: &[(&str, &[&str])] = &[
            (
                "services:\n  web:\n    image: web:1\n    replicas: 3\n",
                &["replicas", "4"],
            ),
            (
                "services:\n  web:\n    image: web:1\n    deploy:\n      replicas: many\n",
                &["replicas", "5"],
            ),
            (
                "services:\n  web:\n    deploy:\n      replicas: 1\n",
                &["web", "image"],
            ),
            (
                "services:\n  web:\n    image: web:1\n    networks: [nowhere]\n",
                &["nowhere"],
            ),
            (
                "services:\n  web:\n    image: web:1\n    ports: [\"eighty:80\"]\n",
                &["eighty"],
            ),
            ("services:\n  web: [\n", &["3:1", "yaml"]),
            ("services: {}\n", &["services"]),
        ];
        for (number, (text, named)) in cases.iter().enumerate() {
            let path = file(fleet, &format!("bad{number}.yaml"), text)?
                .display()
                .to_string();
            host.pontoon(&["stack", "deploy", "-c", &path, "bad"])?
                .fails(1, named)?;
        }
        host.pontoon(&["stack", "deploy", "-c", "/no/such/file.yaml", "bad"])?
            .fails(1, &["/no/such/file.yaml"])?;
        // Nothing half-made.
        ensure!(view::rows(host, &["service", "ls"])?.is_empty());
        ensure!(
            !host
                .ok(&["network", "ls", "--format", "{{.Name}}"])?
                .contains("bad_")
        );
        Ok(())
    });
}
