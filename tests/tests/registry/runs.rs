//! Pulls on the way of something else: `run`, `create`, tasks.

use std::fs;

use anyhow::ensure;
use pontoon_tests::registry::{Registry, Settings, User};
use pontoon_tests::{Fleet, SHORT, view, wait_until, with_fleet};

use crate::bed;

#[test]
fn run_pulls_what_is_missing() {
    bed(|_, registry, user| {
        let name = registry.name("box:1");
        user.ok(&["tag", "busybox", &name])?;
        user.ok(&["push", "-q", &name])?;
        user.ok(&["rmi", &name])?;
        user.pontoon(&["run", "--rm", "--pull", "never", &name, "true"])?
            .fails(125, &["No such image", &name])?;
        let run = user.pontoon(&["run", "--rm", &name, "echo", "hi"])?;
        ensure!(run.code == 0 && run.stdout == "hi\n", "{run}");
        ensure!(
            run.stderr.starts_with(&format!(
                "Unable to find image '{name}' locally\n1: Pulling from box\n"
            )),
            "{run}"
        );
        ensure!(
            run.stderr
                .contains(&format!("Status: Downloaded newer image for {name}")),
            "{run}"
        );
        let run = user.pontoon(&["run", "--rm", &name, "echo", "hi"])?;
        ensure!(run.stderr.is_empty(), "{run}");
        let run = user.pontoon(&["run", "--rm", "--pull", "always", &name, "echo", "hi"])?;
        ensure!(run.stderr.contains("Status: Image is up to date"), "{run}");
        user.ok(&["rmi", &name])?;
        let created = user.pontoon(&["create", "--quiet", &name, "true"])?;
        ensure!(
            created.stderr == format!("Unable to find image '{name}' locally\n")
                && created.stdout.len() == 65,
            "{created}"
        );
        user.pontoon(&["run", "--rm", &registry.name("none:1"), "true"])?
            .fails(125, &["Unable to find image", "not found"])?;
        Ok(())
    });
}

#[test]
fn create_pulls_as_it_is_told() {
    bed(|_, registry, user| {
        let name = registry.name("box:1");
        user.ok(&["tag", "busybox", &name])?;
        user.ok(&["push", "-q", &name])?;
        user.ok(&["rmi", &name])?;
        user.pontoon(&["create", "--pull", "never", &name, "true"])?
            .fails(1, &["No such image", &name])?;
        let missing = user.pontoon(&["create", "--pull", "missing", &name, "true"])?;
        ensure!(
            missing.code == 0 && missing.stderr.contains("Status: Downloaded newer image"),
            "{missing}"
        );
        let again = user.pontoon(&["create", "--pull", "missing", &name, "true"])?;
        ensure!(again.code == 0 && again.stderr.is_empty(), "{again}");
        // The name stands for another image there now.
        user.ok(&["tag", "web:1", &name])?;
        user.ok(&["push", "-q", &name])?;
        let web = user.ok(&["images", "-q", "--no-trunc", "web:1"])?;
        user.ok(&["tag", "busybox", &name])?;
        let always = user.pontoon(&["create", "--pull", "always", &name])?;
        ensure!(
            always.code == 0 && always.stderr.contains("Status: Downloaded newer image"),
            "{always}"
        );
        let image = user.ok(&["inspect", "--format", "{{.Image}}", always.stdout.trim()])?;
        ensure!(image == web, "{image} is not {web}");
        user.pontoon(&["create", "--pull", "often", &name])?
            .fails(125, &["invalid pull option: 'often'"])
            .map(drop)
    });
}

#[test]
fn tasks_pull_their_image() {
    with_fleet(1, |fleet: &Fleet| {
        fleet.load_images()?;
        fleet.form_cluster(1)?;
        let host = fleet.host(1);
        let registry = Registry::start(host, "registry", &Settings::default())?;
        let user = User::new(host)?;
        let [one, two] = ["web:1", "web:2"].map(|name| (name, registry.name(name)));
        for (here, there) in [&one, &two] {
            user.ok(&["tag", here, there])?;
            user.ok(&["push", "-q", there])?;
            user.ok(&["rmi", there, here])?;
        }
        let create = [
            "service",
            "create",
            "--detach",
            "--name",
            "web",
            "--replicas",
            "2",
            &one.1,
        ];
        user.ok(&create)?;
        wait_until("both tasks run", SHORT, || {
            view::ensure_running(host, "web", 2).map(drop)
        })?;
        let file = fleet.folder().join("stack.yaml");
        let text = format!("services:\n  web:\n    image: {}\n", two.1);
        fs::write(&file, text)?;
        user.ok(&[
            "stack",
            "deploy",
            "--detach",
            "-c",
            &file.display().to_string(),
            "app",
        ])?;
        wait_until("the stack's task runs", SHORT, || {
            view::ensure_running(host, "app_web", 1).map(drop)
        })
    });
}
