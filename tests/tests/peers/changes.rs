//! What changes while an image is in use between nodes: a node that joins later, an image that its source removes, also while it is read.

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Host, LONG, wait_until, with_fleet};

use super::{create_app, fetched, load_busybox, make_app, number, partial};

fn node_id(manager: &Host, host: &Host) -> Result<String> {
    let nodes = view::nodes(manager)?;
    let node = nodes.into_iter().find(|node| node.hostname == host.name());
    Ok(node.context("no such node")?.id)
}

#[test]
fn a_node_that_joins_later_has_the_image_from_those_that_run_it() {
    with_fleet(3, |fleet| {
        let (first, second, third) = (fleet.host(1), fleet.host(2), fleet.host(3));
        load_busybox(fleet, first)?;
        make_app(first, 2)?;
        fleet.form_cluster(1)?;
        third.ok(&["swarm", "leave"])?;
        let left = node_id(first, third)?;
        first.ok(&["node", "rm", "--force", &left])?;
        create_app(first, &["--mode", "global", "--constraint", "node.role==worker"])?;
        wait_until("it runs on the worker", LONG, || ensure_running(first, "app", 1))?;
        // The one that it was built on no longer has it.
        first.ok(&["rmi", "app:1"])?;
        first.ok(&["image", "prune", "--all", "--force"])?;
        fleet.join(third, "worker")?;
        wait_until("it runs on the new one too", LONG, || {
            ensure_running(first, "app", 2)
        })?;
        let source = node_id(first, second)?;
        let line = fetched(third)?;
        ensure!(line.contains(&source), "{line}");
        Ok(())
    });
}

#[test]
fn a_peer_reads_to_the_end_what_its_source_removes() {
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
        first.ok(&["rmi", "app:1"])?;
        first.ok(&["image", "prune", "--all", "--force"])?;
        let listed = first.ok(&["images", "--all", "--quiet"])?;
        ensure!(listed.is_empty(), "{listed}");
        wait_until("the task runs", LONG, || ensure_running(first, "app", 1))?;
        let tasks = view::tasks(first, "app")?;
        ensure!(tasks.len() == 1, "it did not go on: {tasks:?}");
        let bytes = number(&fetched(second)?, "bytes")?;
        ensure!(bytes > 24 << 20, "{bytes} bytes");
        // The source has nothing left of it, and it goes back from where it runs.
        let blobs = first.data_dir().join("image/blobs/sha256");
        let left = std::fs::read_dir(blobs).context("no blobs")?.count();
        ensure!(left == 0, "{left} blobs stay");
        first.ok(&["service", "scale", "--detach", "app=0"])?;
        let anywhere = [
            "service",
            "update",
            "--detach",
            "--constraint-rm",
            "node.hostname==host2",
        ];
        let args = [
            &anywhere[..],
            &[
                "--constraint-add",
                "node.hostname==host1",
                "--replicas",
                "1",
                "app",
            ],
        ];
        first.ok(&args.concat())?;
        wait_until("it runs where it was made", LONG, || {
            let tasks = ensure_running(first, "app", 1)?;
            ensure!(tasks[0].node == "host1", "{tasks:?}");
            Ok(())
        })?;
        // A container uses it: it stays, also at the source that others read.
        let refused = second.pontoon(&["image", "prune", "--all", "--force"])?;
        ensure!(refused.code == 0, "{refused}");
        first.ok(&["image", "prune", "--all", "--force"])?;
        let kept = first.ok(&["ps", "--quiet"])?;
        ensure!(!kept.is_empty());
        ensure_running(first, "app", 1).map(drop)
    });
}
