//! Sources that die, hang or lie in the middle of a transfer, and a daemon that does: the task runs all the same, and what has arrived is
//! not asked for again.

use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, wait_until, with_fleet};

use super::{create_app, fetched, image_of, lines_with, load_busybox, make_app, number, partial};

/// A service whose image two workers have, hosts 2 and 3, and which runs nowhere yet. The manager has it only as long as it pins the
/// service to it: it must not be the one that dies.
fn two_sources(fleet: &Fleet, mebibytes: u32) -> Result<()> {
    let (first, second, third) = (fleet.host(1), fleet.host(2), fleet.host(3));
    load_busybox(fleet, second)?;
    make_app(second, mebibytes)?;
    let archive = fleet.folder().join("app.tar").display().to_string();
    second.ok(&["save", "--output", &archive, "app:1"])?;
    for host in [first, third] {
        host.ok(&["load", "--quiet", "--input", &archive])?;
    }
    fleet.form_cluster(1)?;
    create_app(first, &["--constraint", "node.labels.ready==yes"])?;
    first.ok(&["rmi", "app:1"])?;
    Ok(())
}

fn start_on(manager: &Host, host: &Host) -> Result<()> {
    let name = host.name();
    manager.ok(&["node", "update", "--label-add", "ready=yes", &name])?;
    Ok(())
}

#[test]
fn another_node_takes_over_from_one_that_dies_in_the_middle() {
    with_fleet(4, |fleet| {
        let (first, second, third, last) = (fleet.host(1), fleet.host(2), fleet.host(3), fleet.host(4));
        two_sources(fleet, 24)?;
        for host in [second, third] {
            host.throttle("40mbit")?;
        }
        start_on(first, last)?;
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
        first.throttle("40mbit")?;
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
            // Less than two MiB are busybox's layer.
            bytes < (27 << 20) - left,
            "{bytes} bytes after {left}"
        );
        ensure!(partial(second) == 0, "{} bytes stay", partial(second));
        Ok(())
    });
}

/// The largest blob of a host's store.
fn largest_blob(host: &Host) -> Result<std::path::PathBuf> {
    let folder = host.data_dir().join("image/blobs/sha256");
    let mut blobs = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        blobs.push((entry.metadata()?.len(), entry.path()));
    }
    blobs.sort();
    Ok(blobs.pop().context("no blobs")?.1)
}

#[test]
fn a_damaged_blob_is_noticed_and_had_elsewhere() {
    with_fleet(4, |fleet| {
        let (first, last) = (fleet.host(1), fleet.host(4));
        two_sources(fleet, 4)?;
        let image = image_of(first)?;
        // The one that is asked first: of equals, the one whose id is first.
        let mut sources: Vec<_> = view::nodes(first)?;
        sources.retain(|node| node.hostname == "host2" || node.hostname == "host3");
        sources.sort_by(|a, b| a.id.cmp(&b.id));
        let bad = fleet.named(&sources[0].hostname)?;
        let blob = largest_blob(bad)?;
        let mut content = fs::read(&blob)?;
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&blob, &content)?;
        start_on(first, last)?;
        wait_until("the task runs all the same", LONG, || {
            ensure_running(first, "app", 1)
        })?;
        let warned = lines_with(last, &["a node could not give an image", &sources[0].id])?;
        ensure!(!warned.is_empty(), "nobody noticed the damage");
        let line = fetched(last)?;
        ensure!(line.contains(&sources[1].id), "{line}");
        // What runs is what was pinned.
        let digests = last.ok(&["images", "--digests", "app"])?;
        let pinned = image.split_once('@').context("not pinned")?.1;
        ensure!(digests.contains(pinned), "{digests}");
        ensure!(partial(last) == 0, "{} bytes stay", partial(last));
        Ok(())
    });
}

#[test]
fn a_fetch_goes_on_when_the_leader_dies() {
    with_fleet(4, |fleet| {
        let (first, second, last) = (fleet.host(1), fleet.host(2), fleet.host(4));
        load_busybox(fleet, first)?;
        make_app(first, 24)?;
        let archive = fleet.folder().join("app.tar").display().to_string();
        first.ok(&["save", "--output", &archive, "app:1"])?;
        for host in [second, fleet.host(3)] {
            host.ok(&["load", "--quiet", "--input", &archive])?;
        }
        fleet.form_cluster(3)?;
        create_app(first, &["--constraint", "node.labels.ready==yes"])?;
        for host in &fleet.hosts()[..3] {
            host.throttle("40mbit")?;
        }
        start_on(first, last)?;
        wait_until("half of it is there", LONG, || {
            ensure!(partial(last) > 8 << 20, "{} bytes", partial(last));
            Ok(())
        })?;
        // Maybe the source too: then another one gives the rest.
        first.kill()?;
        wait_until("the task runs", LONG, || ensure_running(second, "app", 1))?;
        let tasks = view::tasks(second, "app")?;
        ensure!(tasks.len() == 1, "it did not go on: {tasks:?}");
        if !lines_with(first, &["gave a blob to a node"])?.is_empty() {
            let bytes = number(&fetched(last)?, "bytes")?;
            ensure!(bytes < 20 << 20, "{bytes} bytes came from the second source");
        }
        Ok(())
    });
}
