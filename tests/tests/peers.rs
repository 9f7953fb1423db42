//! Images between nodes: an image that exists on one host runs on all, only what is lacking crosses, what breaks off goes on elsewhere,
//! and a node gets nothing that is not assigned to it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_identity::{Endpoint, Identity};
use pontoon_proto::v1::FetchBlobRequest;
use pontoon_proto::v1::peers_client::PeersClient;
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, images, wait_until, with_fleet};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes `app:1` on a host that has busybox: that image and one layer with a random file of so many MiB.
fn make_app(host: &Host, mebibytes: u32) -> Result<()> {
    let script = format!("head -c {mebibytes}m /dev/urandom >/data");
    host.ok(&["run", "--name", "maker", "busybox", "sh", "-c", &script])?;
    host.ok(&["commit", "maker", "app:1"])?;
    host.ok(&["rm", "maker"])?;
    Ok(())
}

fn load_busybox(fleet: &Fleet, host: &Host) -> Result<()> {
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    Ok(())
}

fn create_app(host: &Host, options: &[&str]) -> Result<()> {
    let mut args = vec!["service", "create", "--name", "app", "--detach"];
    args.extend(options);
    args.extend(["app:1", "sleep", "1000"]);
    host.ok(&args)?;
    Ok(())
}

fn lines_with(host: &Host, words: &[&str]) -> Result<Vec<String>> {
    let text = fs::read(host.log()).context("cannot read a log")?;
    let text = String::from_utf8_lossy(&text);
    let fits = |line: &&str| words.iter().all(|word| line.contains(word));
    Ok(text.lines().filter(fits).map(str::to_owned).collect())
}

/// A number that a log line has under this name.
fn number(line: &str, name: &str) -> Result<u64> {
    let value = line.split_once(&format!("{name}=")).map(|(_, rest)| rest);
    let value = value.and_then(|rest| rest.split(' ').next());
    value
        .and_then(|value| value.parse().ok())
        .with_context(|| format!("no {name} in {line}"))
}

/// The one line that tells of a fetch.
fn fetched(host: &Host) -> Result<String> {
    let lines = lines_with(host, &["fetched an image from a node"])?;
    ensure!(lines.len() == 1, "{lines:?}");
    Ok(lines[0].clone())
}

fn image_of(host: &Host) -> Result<String> {
    host.ok(&[
        "service",
        "inspect",
        "--format",
        "{{.Spec.TaskTemplate.ContainerSpec.Image}}",
        "app",
    ])
}

/// Lets only so much out of a host, so that a transfer lasts.
fn throttle(host: &Host, rate: &str) -> Result<()> {
    let netns = format!("--net={}", host.netns().display());
    let link = "eth0";
    let mut args = vec![
        "nsenter", &netns, "--", "tc", "qdisc", "replace", "dev", link, "root",
    ];
    args.extend(["tbf", "rate", rate, "burst", "256kb", "latency", "200ms"]);
    pontoon_tests::process::tool(args[0], &args[1..]).map(drop)
}

/// Bytes of blobs that are on their way to a host.
fn partial(host: &Host) -> u64 {
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

/// Asks a host for a blob as another host's daemon would.
fn ask_for(asking: &Host, asked: &Host, node_id: &str, image: &str) -> Result<Vec<u8>, String> {
    let folder = asking.data_dir().join("cluster/identity");
    let netns = fs::File::open(asking.netns()).map_err(|error| error.to_string())?;
    let addr = format!("{}:2377", asked.address());
    let (node_id, image) = (node_id.to_owned(), image.to_owned());
    let call = move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), Some(LinkNameSpaceType::Network))
            .map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let identity = Identity::open(&folder).map_err(|error| error.to_string())?;
            let endpoint = Endpoint::node(addr, node_id);
            let channel = pontoon_identity::connect(&identity, &endpoint)
                .await
                .map_err(|error| pontoon_identity::describe(&error))?;
            let request = FetchBlobRequest {
                blob: image.clone(),
                image,
                offset: 0,
            };
            let told = |status: tonic::Status| status.message().to_owned();
            let mut chunks = PeersClient::new(channel)
                .fetch_blob(request)
                .await
                .map_err(told)?
                .into_inner();
            let mut content = Vec::new();
            while let Some(chunk) = chunks.message().await.map_err(told)? {
                content.extend_from_slice(&chunk.data);
            }
            Ok(content)
        })
    };
    std::thread::spawn(call)
        .join()
        .unwrap_or_else(|_| Err("the call panicked".to_owned()))
}

#[test]
fn a_node_gets_only_what_is_assigned_to_it() {
    with_fleet(3, |fleet| {
        let first = fleet.host(1);
        load_busybox(fleet, first)?;
        make_app(first, 1)?;
        fleet.form_cluster(1)?;
        create_app(first, &["--constraint", "node.hostname==host2"])?;
        wait_until("its task runs", LONG, || ensure_running(first, "app", 1))?;
        let image = image_of(first)?;
        let digest = image.split_once('@').context("not pinned")?.1;
        let nodes = view::nodes(first)?;
        let id = |host: &Host| {
            let node = nodes.iter().find(|node| node.hostname == host.name());
            node.map(|node| node.id.clone()).context("no such node")
        };
        let (second, third) = (fleet.host(2), fleet.host(3));
        for holder in [first, second] {
            let refused = ask_for(third, holder, &id(holder)?, digest);
            ensure!(
                refused
                    .as_ref()
                    .is_err_and(|reason| reason.contains("no task of node")),
                "{refused:?}"
            );
        }
        // The same call from the node that runs it; also of a worker.
        let manifest = ask_for(second, first, &id(first)?, digest).map_err(anyhow::Error::msg)?;
        ensure!(
            String::from_utf8_lossy(&manifest).contains("layers"),
            "{manifest:?}"
        );
        // Another image that the holder has is not part of it.
        let other = first.ok(&["image", "inspect", "--format", "{{.Id}}", "busybox"])?;
        let refused = ask_for(second, first, &id(first)?, &other);
        ensure!(refused.is_err(), "{refused:?}");
        // Who dials checks that it is the very node it was told of.
        let wrong = ask_for(second, first, &id(third)?, digest);
        ensure!(
            wrong.as_ref().is_err_and(|reason| reason.contains("certificate")),
            "{wrong:?}"
        );

        // The task leaves, and with it the right.
        first.ok(&["service", "rm", "app"])?;
        wait_until("the right ends", SHORT, || {
            let refused = ask_for(second, first, &id(first)?, digest);
            ensure!(refused.is_err(), "still given");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn another_node_takes_over_from_one_that_dies_in_the_middle() {
    with_fleet(4, |fleet| {
        let first = fleet.host(1);
        // Two workers have the image. The manager has it only as long as it pins the service to it: it must not be the one that dies.
        let (second, third, last) = (fleet.host(2), fleet.host(3), fleet.host(4));
        load_busybox(fleet, second)?;
        make_app(second, 24)?;
        let archive = fleet.folder().join("app.tar").display().to_string();
        second.ok(&["save", "--output", &archive, "app:1"])?;
        for host in [first, third] {
            host.ok(&["load", "--quiet", "--input", &archive])?;
        }
        fleet.form_cluster(1)?;
        create_app(first, &["--constraint", "node.labels.ready==yes"])?;
        first.ok(&["rmi", "app:1"])?;
        for host in [second, third] {
            throttle(host, "40mbit")?;
        }
        first.ok(&["node", "update", "--label-add", "ready=yes", "host4"])?;
        wait_until("half of it is there", LONG, || {
            ensure!(partial(last) > 8 << 20, "{} bytes", partial(last));
            Ok(())
        })?;
        // Whoever has given the manifest gives the layers too.
        let gives =
            |host: &&&Host| lines_with(host, &["gave a blob to a node"]).is_ok_and(|lines| !lines.is_empty());
        let giver = [second, third];
        let giver = giver.iter().find(gives).context("nobody gives it")?;
        giver.signal(rustix::process::Signal::STOP)?;
        let running = wait_until("the task runs all the same", LONG, || {
            ensure_running(first, "app", 1)
        });
        giver.signal(rustix::process::Signal::CONT)?;
        running?;
        // What the first had given was not asked for again.
        let bytes = number(&fetched(last)?, "bytes")?;
        ensure!(bytes < 20 << 20, "{bytes} bytes came from the second one");
        Ok(())
    });
}

#[test]
fn a_daemon_that_is_killed_while_it_fetches_goes_on_where_it_was() {
    with_fleet(2, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        load_busybox(fleet, first)?;
        make_app(first, 24)?;
        fleet.form_cluster(1)?;
        throttle(first, "40mbit")?;
        create_app(first, &["--constraint", "node.hostname==host2"])?;
        wait_until("half of it is there", LONG, || {
            ensure!(partial(second) > 8 << 20, "{} bytes", partial(second));
            Ok(())
        })?;
        second.kill()?;
        let left = partial(second);
        ensure!(left > 8 << 20, "{left} bytes are left");
        // Alone: nothing of it is seen.
        second.unplug()?;
        second.start()?;
        let listed = second.ok(&["images", "--all", "--quiet"])?;
        ensure!(listed.is_empty(), "{listed}");
        second.plug()?;
        wait_until("its task runs", LONG, || ensure_running(first, "app", 1))?;
        let bytes = number(&fetched(second)?, "bytes")?;
        ensure!(
            bytes < (25 << 20) - left + (1 << 20),
            "{bytes} bytes after {left}"
        );
        ensure!(partial(second) == 0, "{} bytes stay", partial(second));
        Ok(())
    });
}
