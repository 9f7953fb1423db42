//! Machines that crash, one and all.

use anyhow::ensure;
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Host, LONG, wait_until, with_fleet};

use super::{label, web, written};

#[test]
fn a_workers_machine_is_lost() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        let first = fleet.host(1);
        let tasks = web(first, 6)?;
        ensure!(
            tasks.iter().filter(|task| task.node == "host3").count() == 2,
            "{:#?}",
            view::tasks(first, "web")?
        );
        fleet.host(3).power_off()?;
        wait_until("the node is down", LONG, || {
            ensure!(view::node(first, "host3")?.status == "Down");
            Ok(())
        })?;
        wait_until("its tasks run elsewhere", LONG, || {
            let tasks = ensure_running(first, "web", 6)?;
            ensure!(tasks.iter().all(|task| task.node != "host3"), "{tasks:?}");
            Ok(())
        })?;
        // Nobody is sent to a task that is gone.
        for _ in 0..30 {
            first.get("http://127.0.0.1:8080/")?;
        }
        fleet.host(3).start()?;
        wait_until("the node is back and has no old containers", LONG, || {
            ensure!(view::node(first, "host3")?.status == "Ready");
            let containers = view::containers(fleet.host(3))?;
            ensure!(containers.is_empty(), "{containers:?}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn all_machines_crash_and_come_back() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        web(first, 3)?;
        label(first, "kept")?;
        for host in fleet.hosts() {
            host.power_off()?;
        }
        pontoon_tests::fleet::each(fleet.hosts(), Host::start)?;
        wait_until("a leader is there", LONG, || fleet.leader(first).map(drop))?;
        ensure!(written(first)? == "kept");
        wait_until("the service runs again", LONG, || {
            ensure_running(first, "web", 3)?;
            for host in fleet.hosts() {
                host.get("http://127.0.0.1:8080/")?;
            }
            Ok(())
        })?;
        Ok(())
    });
}
