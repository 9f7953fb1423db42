//! Walks through the life of a container.

use anyhow::Result;
use pontoon_tests::killer::Victim;
use pontoon_tests::{Host, SHORT, wait_until};

use crate::scene::state;
use crate::{CREATED, operation};

const STARTED: &[&str] = &[CREATED, "start box"];
/// It can be started and runs.
const RUNS: &[&str] = &["start box", "exec box true"];

#[test]
fn create() {
    operation(CREATED).leaves(&["created", "gone"]).again(RUNS).walk();
}

#[test]
fn start() {
    operation("start box")
        .before(&[CREATED])
        .leaves(&["created", "exited", "running"])
        .again(RUNS)
        .walk();
}

#[test]
fn stop() {
    operation("stop --time 0 box")
        .before(STARTED)
        .leaves(&["exited", "running"])
        .again(RUNS)
        .walk();
}

#[test]
fn remove() {
    operation("rm box")
        .before(&[CREATED])
        .leaves(&["created", "gone"])
        .again(RUNS)
        .walk();
}

#[test]
fn forced_remove() {
    operation("rm --force --volumes box")
        .before(STARTED)
        .leaves(&["exited", "running", "gone"])
        .again(RUNS)
        .walk();
}

#[test]
fn exec() {
    operation("exec box true")
        .before(STARTED)
        .leaves(&["running"])
        .again(&["exec box true"])
        .walk();
}

#[test]
fn run_and_remove() {
    operation("run --rm --name box busybox true")
        .leaves(&["created", "gone"])
        .again(&["start --attach box"])
        .walk();
}

const SERVED: &str = "run --detach --name box --publish 8080:8080 web:1";

/// What runs answers at its port, what does not has kept neither port nor rule: it can have them again.
fn serves(host: &Host) -> Result<()> {
    match state(host)?.as_str() {
        "running" => {}
        "gone" => drop(host.line(SERVED)?),
        _ => drop(host.line("start box")?),
    }
    wait_until("the published port answers", SHORT, || {
        host.get("http://127.0.0.1:8080/").map(drop)
    })
}

#[test]
fn run_with_published_ports() {
    operation(SERVED)
        .leaves(&["created", "exited", "running", "gone"])
        .check(serves)
        .walk();
}

#[test]
fn rename() {
    operation("rename old box")
        .before(&["create --name old --network none busybox sleep 1000"])
        .leaves(&["created", "gone"])
        .again(RUNS)
        .lasting()
        .clean(&["rm --force box", "rm --force old"])
        .walk();
}

#[test]
fn update() {
    operation("update --memory 64m --memory-swap 64m --restart on-failure box")
        .before(STARTED)
        .leaves(&["running"])
        .again(&["update --memory 32m --memory-swap 32m box", "exec box true"])
        .walk();
}

#[test]
fn pause() {
    operation("pause box")
        .before(STARTED)
        .leaves(&["running", "paused"])
        .again(&["restart --time 0 box", "exec box true"])
        .lasting()
        .walk();
}

#[test]
fn unpause() {
    operation("unpause box")
        .before(&[CREATED, "start box", "pause box"])
        .leaves(&["running", "paused"])
        .again(&["restart --time 0 box", "exec box true"])
        .lasting()
        .walk();
}

#[test]
fn restart_of_a_container() {
    operation("restart --time 0 box")
        .before(STARTED)
        .leaves(&["running", "exited"])
        .again(RUNS)
        .walk();
}

#[test]
fn shim_at_start() {
    operation("start box")
        .victim(Victim::Shim)
        .before(&[CREATED])
        .leaves(&["created", "exited"])
        .again(RUNS)
        .walk();
}

#[test]
fn container_in_the_making() {
    operation("start box")
        .victim(Victim::Child)
        .before(&[CREATED])
        .leaves(&["created", "exited"])
        .again(RUNS)
        .walk();
}
