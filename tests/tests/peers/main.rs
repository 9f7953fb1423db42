//! Images between nodes: an image that exists on one host runs on all, only what is lacking crosses, what breaks off goes on elsewhere,
//! and a node gets nothing that is not assigned to it.
//!
//! - here: helpers, and images of one host that run on all; `stack`: the same by a Compose file
//! - `changes`: nodes that join, images that go; `rights`: who may have what; `faults`: sources that die, lie or hang; `pipeline`: blobs that go on while they arrive; `registry`: images of a registry, credentials

mod changes;
mod faults;
mod pipeline;
mod registry;
mod rights;
mod stack;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, images, wait_until, with_fleet};

/// Makes `app:1` on a host that has busybox: that image and one layer with a random file of so many MiB.
pub(crate) fn make_app(host: &Host, mebibytes: u32) -> Result<()> {
    let script = format!("head -c {mebibytes}m /dev/urandom >/data");
    host.ok(&["run", "--name", "maker", "busybox", "sh", "-c", &script])?;
    host.ok(&["commit", "maker", "app:1"])?;
    host.ok(&["rm", "maker"])?;
    Ok(())
}

pub(crate) fn load_busybox(fleet: &Fleet, host: &Host) -> Result<()> {
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    Ok(())
}

pub(crate) fn create_app(host: &Host, options: &[&str]) -> Result<()> {
    let mut args = vec!["service", "create", "--name", "app", "--detach"];
    args.extend(options);
    args.extend(["app:1", "sleep", "1000"]);
    host.ok(&args)?;
    Ok(())
}

pub(crate) fn lines_with(host: &Host, words: &[&str]) -> Result<Vec<String>> {
    let text = fs::read(host.log()).context("cannot read a log")?;
    let text = String::from_utf8_lossy(&text);
    let fits = |line: &&str| words.iter().all(|word| line.contains(word));
    Ok(text.lines().filter(fits).map(str::to_owned).collect())
}

/// A number that a log line has under this name.
pub(crate) fn number(line: &str, name: &str) -> Result<u64> {
    let value = line.split_once(&format!("{name}=")).map(|(_, rest)| rest);
    let value = value.and_then(|rest| rest.split(' ').next());
    value
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("no {name} in {line}"))
}

/// The one line that tells of a fetch.
pub(crate) fn fetched(host: &Host) -> Result<String> {
    let lines = lines_with(host, &["fetched an image from a node"])?;
    ensure!(lines.len() == 1, "{lines:?}");
    Ok(lines[0].clone())
}

pub(crate) fn image_of(host: &Host) -> Result<String> {
    host.ok(&[
        "service",
        "inspect",
        "--format",
        "{{.Spec.TaskTemplate.ContainerSpec.Image}}",
        "app",
    ])
}

/// Bytes of blobs that are on their way to a host.
pub(crate) fn partial(host: &Host) -> u64 {
    let entries = fs::read_dir(host.data_dir().join("image/partial"))
        .into_iter()
        .flatten();
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

#[test]
fn an_image_of_one_host_runs_on_all_and_only_what_lacks_crosses() {
    with_fleet(3, |fleet| {
        let first = fleet.host(1);
        load_busybox(fleet, first)?;
        load_busybox(fleet, fleet.host(2))?;
        make_app(first, 3)?;
        fleet.form_cluster(1)?;
        create_app(first, &["--replicas", "3", "--replicas-max-per-node", "1"])?;
        let tasks = wait_until("three tasks run", LONG, || ensure_running(first, "app", 3))?;
        let nodes: BTreeSet<_> = tasks.iter().map(|task| task.node.clone()).collect();
        ensure!(nodes.len() == 3, "{tasks:?}");

        // Pinned, and shown as Docker shows it.
        let image = image_of(first)?;
        let (name, digest) = image.split_once('@').context("not pinned")?;
        ensure!(name == "app:1" && digest.starts_with("sha256:"), "{image}");
        let listed = &view::rows(first, &["service", "ls"])?[0];
        ensure!(view::field(listed, "Image") == "app:1", "{listed}");
        let shown = first.ok(&["service", "ps", "app"])?;
        ensure!(shown.contains(" app:1 ") && !shown.contains('@'), "{shown}");

        // Host 2 has the lower layer: manifest, configuration, upper layer. Host 3 also lacks the lower one.
        let (second, third) = (fetched(fleet.host(2))?, fetched(fleet.host(3))?);
        ensure!(number(&second, "blobs")? == 3, "{second}");
        ensure!(number(&third, "blobs")? == 4, "{third}");
        ensure!(
            number(&second, "bytes")? < number(&third, "bytes")?,
            "{second} {third}"
        );
        let given: usize = fleet
            .hosts()
            .iter()
            .map(|host| lines_with(host, &["gave a blob to a node"]).map(|lines| lines.len()))
            .sum::<Result<usize>>()?;
        ensure!(given == 7, "{given} blobs were given");
        for host in &fleet.hosts()[1..] {
            let listed = host.ok(&["images", "--digests", "app"])?;
            ensure!(listed.contains(digest), "{listed}");
        }

        // The tag moves on where it was made: tasks that are made anew still find what the service is pinned to.
        first.ok(&["tag", "busybox", "app:1"])?;
        first.ok(&["service", "update", "--force", "--detach", "app"])?;
        wait_until("all slots were replaced", LONG, || {
            let new = ensure_running(first, "app", 3)?;
            ensure!(
                new.iter().all(|task| tasks.iter().all(|old| old.id != task.id)),
                "{new:?}"
            );
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn what_can_not_be_resolved_is_told_and_kept_as_it_was_typed() {
    with_fleet(2, |fleet| {
        let first = fleet.host(1);
        load_busybox(fleet, first)?;
        fleet.form_cluster(1)?;
        // A registry on this port there is none.
        let missing = format!("{}:1/none:1", first.address());
        let output = first.pontoon(&["service", "create", "--detach", "--name", "none", &missing])?;
        ensure!(output.code == 0, "{output:?}");
        ensure!(
            output.stderr.contains(&format!(
                "image {missing} could not be accessed on a registry to record\nits digest."
            )),
            "{output:?}"
        );
        wait_until("the task says what is missing", LONG, || {
            let tasks = view::tasks(first, "none")?;
            ensure!(
                tasks
                    .iter()
                    .any(|task| task.error.contains(&format!("No such image: {missing}"))),
                "{tasks:?}"
            );
            Ok(())
        })?;

        let other = format!("{}:1/none:2", first.address());
        let output = first.pontoon(&["service", "update", "--detach", "--image", &other, "none"])?;
        ensure!(
            output.code == 0
                && output
                    .stderr
                    .contains(&format!("image {other} could not be accessed")),
            "{output}"
        );

        // As typed: the host without the image is not helped by the others, since nothing says that they mean the same.
        first.ok(&[
            "service",
            "create",
            "--detach",
            "--name",
            "app",
            "--no-resolve-image",
            "busybox",
            "sleep",
            "1000",
        ])?;
        ensure!(image_of(first)? == "busybox", "{}", image_of(first)?);
        // Named anew it is pinned, with the tag that was left out.
        first.ok(&["service", "update", "--detach", "--image", "busybox", "app"])?;
        let pinned = image_of(first)?;
        ensure!(pinned.starts_with("busybox:latest@sha256:"), "{pinned}");
        // Another change leaves it as it is.
        first.ok(&["service", "update", "--detach", "--label-add", "a=b", "app"])?;
        ensure!(image_of(first)? == pinned);
        Ok(())
    });
}

#[test]
fn an_image_that_a_worker_has_built_is_found_by_its_name() {
    with_fleet(3, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        load_busybox(fleet, second)?;
        make_app(second, 1)?;
        fleet.form_cluster(1)?;
        // The manager that is asked has no image of that name.
        create_app(first, &["--replicas", "3", "--replicas-max-per-node", "1"])?;
        let image = image_of(first)?;
        ensure!(image.starts_with("app:1@sha256:"), "{image}");
        wait_until("three tasks run", LONG, || ensure_running(first, "app", 3))?;
        // Another one of that name elsewhere: what is meant is not for the cluster to guess.
        let third = fleet.host(3);
        load_busybox(fleet, third)?;
        make_app(third, 1)?;
        let args = [
            "service", "create", "--detach", "--name", "other", "app:1", "true",
        ];
        let told = wait_until("the new image is known", LONG, || {
            let output = first.pontoon(&args)?;
            first.ok(&["service", "rm", "other"])?;
            ensure!(output.stderr.contains("could not be accessed"), "{output}");
            Ok(output)
        })?;
        ensure!(told.code == 0, "{told}");
        // What is pinned already stays so.
        first.ok(&["service", "update", "--detach", "--image", "app:1", "app"])?;
        ensure!(image_of(first)? == image, "{}", image_of(first)?);
        Ok(())
    });
}
