//! What managers do without one of theirs, and without most.

use anyhow::ensure;
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{LONG, SHORT, wait_until, with_fleet};

use super::{all_but, label, web, written};

#[test]
fn the_leaders_daemon_is_killed() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        web(fleet.host(1), 3)?;
        label(fleet.host(1), "before")?;
        let leader = fleet.leader(fleet.host(1))?;
        leader.kill()?;
        let others = all_but(fleet, leader);
        wait_until("a write is accepted", LONG, || label(others[0], "after"))?;
        // Both survivors see it, and nothing acknowledged before is lost.
        for other in &others {
            ensure!(written(other)? == "after");
            ensure!(view::rows(other, &["service", "ls"])?.len() == 1);
        }
        leader.start()?;
        wait_until("the old leader has caught up", LONG, || {
            ensure!(written(leader)? == "after");
            ensure!(view::node(others[0], &leader.name())?.is_manager());
            Ok(())
        })?;
        wait_until("three tasks run", LONG, || ensure_running(others[1], "web", 3))?;
        Ok(())
    });
}

#[test]
fn a_manager_cut_off_accepts_nothing_and_catches_up() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        label(first, "before")?;
        // The leader is the interesting one: it has to notice by itself that nobody follows it any more.
        let cut = fleet.leader(first)?;
        let others = all_but(fleet, cut);
        cut.unplug()?;
        wait_until("the majority goes on", LONG, || label(others[0], "majority"))?;
        wait_until("the one cut off refuses", SHORT, || {
            let output = cut.pontoon(&["node", "update", "--label-add", "written=minority", "host1"])?;
            ensure!(output.code == 1, "{output}");
            let said = output.stderr.to_lowercase();
            ensure!(said.contains("leader") || said.contains("quorum"), "{output}");
            Ok(())
        })?;
        cut.plug()?;
        wait_until("it has caught up", LONG, || {
            ensure!(written(cut)? == "majority", "{}", written(cut)?);
            Ok(())
        })?;
        wait_until("it follows and accepts writes again", LONG, || {
            label(cut, "after")
        })?;
        for other in others {
            ensure!(written(other)? == "after");
        }
        Ok(())
    });
}

#[test]
fn without_a_quorum_writes_are_refused_and_containers_go_on() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        web(first, 3)?;
        fleet.host(2).kill()?;
        fleet.host(3).kill()?;
        // What is asked before the leader has noticed may have any outcome. From then on it is a refusal.
        wait_until("the leader has noticed", LONG, || {
            let output = first.pontoon(&["node", "update", "--label-add", "written=lost", "host1"])?;
            output.fails(1, &["swarm does not have a leader"])
        })?;
        let create = ["service", "create", "--detach", "--name", "other", "web:1"];
        let output = first
            .pontoon(&create)?
            .fails(1, &["swarm does not have a leader"])?;
        ensure!(output.stderr.trim().lines().count() == 1, "{output}");
        first.get("http://127.0.0.1:8080/")?;
        fleet.host(2).start()?;
        wait_until("two of three are a quorum", LONG, || label(first, "again"))?;
        ensure!(
            !first.ok(&["service", "ls"])?.contains("other"),
            "a refused write was made"
        );
        Ok(())
    });
}
