//! Stacks of an image that was built on one host: deployed, built anew, deployed again; and what `--resolve-image` says of it.

use std::fs;

use anyhow::{Result, ensure};
use pontoon_tests::view::ensure_running;
use pontoon_tests::{Host, LONG, wait_until, with_fleet};

use super::{load_busybox, make_app};

const STACK: &str = "\
services:
  web:
    image: app:1
    command: [\"sleep\", \"1000\"]
    stop_grace_period: 100ms
    deploy:
      replicas: 3
      placement: {max_replicas_per_node: 1}
";

fn image_of(host: &Host) -> Result<String> {
    let format = "{{.Spec.TaskTemplate.ContainerSpec.Image}}";
    host.ok(&["service", "inspect", "--format", format, "demo_web"])
}

#[test]
fn a_stack_of_an_image_that_was_built_on_one_host() {
    with_fleet(3, |fleet| {
        let first = fleet.host(1);
        load_busybox(fleet, first)?;
        make_app(first, 1)?;
        fleet.form_cluster(1)?;
        let path = fleet.folder().join("stack.yaml");
        fs::write(&path, STACK)?;
        let path = path.display().to_string();
        let deploy = |options: &[&str]| {
            let mut args = vec!["stack", "deploy", "--detach", "-c", &path];
            args.extend(options);
            args.push("demo");
            first.pontoon(&args)
        };
        let created = deploy(&[])?;
        ensure!(created.code == 0 && created.stderr.is_empty(), "{created}");
        wait_until("it runs on all hosts", LONG, || {
            ensure_running(first, "demo_web", 3)
        })?;
        let before = image_of(first)?;
        ensure!(before.starts_with("app:1@sha256:"), "{before}");
        let again = deploy(&[])?.ok()?;
        ensure!(again.contains("Service demo_web is up to date"), "{again}");

        // Built anew under the same name. Only who asks for it gets it.
        make_app(first, 1)?;
        for option in ["changed", "never"] {
            let same = deploy(&["--resolve-image", option])?.ok()?;
            ensure!(same.contains("is up to date"), "{option}: {same}");
            ensure!(image_of(first)? == before);
        }
        let updated = deploy(&["--resolve-image", "always"])?.ok()?;
        ensure!(updated.contains("Updating service demo_web"), "{updated}");
        let after = image_of(first)?;
        ensure!(after.starts_with("app:1@sha256:") && after != before, "{after}");
        wait_until("all run the new one", LONG, || {
            let tasks = ensure_running(first, "demo_web", 3)?;
            for host in fleet.hosts() {
                let running = host.ok(&["ps", "--no-trunc", "--format", "{{.Image}}"])?;
                ensure!(running == after, "{}: {running}", host.name());
            }
            Ok(tasks)
        })?;
        deploy(&["--resolve-image", "sometimes"])?
            .fails(1, &["Invalid option sometimes for flag --resolve-image"])?;
        first.ok(&["stack", "rm", "demo"])?;
        ensure!(deploy(&["--resolve-image", "never"])?.code == 0);
        ensure!(image_of(first)? == "app:1", "{}", image_of(first)?);
        Ok(())
    });
}
