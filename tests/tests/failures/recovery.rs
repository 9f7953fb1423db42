//! The ways back, in order of pain: a survivor that begins anew, a backup on another host.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, with_fleet};

use super::{label, pids, web, written};

/// A passphrase and a wrong one, as files.
fn passphrases(fleet: &Fleet) -> Result<(String, String)> {
    let write = |name: &str, text: &str| {
        let path = fleet.folder().join(name);
        std::fs::write(&path, text)?;
        anyhow::Ok(path.display().to_string())
    };
    Ok((
        write("right", "battery staple\n")?,
        write("wrong", "correct horse\n")?,
    ))
}

#[test]
fn a_stopped_leader_hands_over_and_names_stay() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        label(first, "before")?;
        let leader = fleet.leader(first)?;
        leader.stop()?;
        let log = std::fs::read_to_string(leader.log())?;
        ensure!(log.contains("handing leadership over"), "{}", leader.log_tail(20));
        let other = super::all_but(fleet, leader)[0];
        wait_until("a write is accepted", LONG, || label(other, "after"))?;
        leader.start()?;
        wait_until("it has caught up", LONG, || {
            ensure!(written(leader)? == "after");
            Ok(())
        })
    });
}

#[test]
fn a_survivor_begins_anew() {
    with_fleet(4, |fleet| {
        fleet.ready(3)?;
        let (first, worker) = (fleet.host(1), fleet.host(4));
        first.ok(&["network", "create", "--driver", "overlay", "wires"])?;
        web(first, 4)?;
        label(first, "kept")?;
        for lost in [2, 3] {
            fleet.host(lost).power_off()?;
        }
        wait_until("the quorum is lost", LONG, || label_refused(first).map(drop))?;
        worker
            .pontoon(&["swarm", "init", "--force-new-cluster"])?
            .fails(1, &["not a swarm manager"])?;
        first
            .pontoon(&["swarm", "init"])?
            .fails(1, &["already part of a swarm"])?;
        let before = (pids(first)?, pids(worker)?);
        let said = first.ok(&["swarm", "init", "--force-new-cluster"])?;
        ensure!(said.contains("is now a manager"), "{said}");
        ensure!(written(first)? == "kept");
        wait_until("two nodes are left and ready", LONG, || {
            let nodes = view::nodes(first)?;
            let ready = nodes.iter().all(|node| node.status == "Ready");
            let names: BTreeSet<&str> = nodes.iter().map(|node| node.hostname.as_str()).collect();
            ensure!(ready && names == BTreeSet::from(["host1", "host4"]), "{nodes:?}");
            Ok(())
        })?;
        ensure!(first.ok(&["network", "ls"])?.contains("wires"));
        wait_until("the lost tasks run elsewhere", LONG, || {
            ensure_running(first, "web", 4)
        })?;
        let after = (pids(first)?, pids(worker)?);
        ensure!(
            after.0.is_superset(&before.0) && after.1.is_superset(&before.1),
            "containers were replaced: {before:?} became {after:?}"
        );
        first.get("http://127.0.0.1:8080/")?;

        // A lost manager comes back: it has no part, and no say.
        let lost = fleet.host(2);
        lost.start()?;
        lost.pontoon(&["service", "ls"])?.fails(1, &[])?;
        wait_until("it says what became of it", LONG, || {
            let said = lost.ok(&["info"])?;
            ensure!(said.contains("this manager was removed from the swarm"), "{said}");
            Ok(())
        })?;
        ensure!(view::nodes(first)?.len() == 2, "it came back by itself");
        lost.ok(&["swarm", "leave", "--force"])?;
        fleet.join(lost, "manager")?;
        wait_until("it is a manager again", LONG, || {
            ensure!(view::node(first, "host2")?.is_manager());
            ensure!(written(lost)? == "kept");
            Ok(())
        })?;
        Ok(())
    });
}

fn label_refused(host: &Host) -> Result<()> {
    let output = host.pontoon(&["node", "update", "--label-add", "written=kept", "host1"])?;
    output.fails(1, &["leader"]).map(drop)
}

#[test]
fn a_survivor_begins_anew_at_another_address() {
    with_fleet(2, |fleet| {
        fleet.form_cluster(1)?;
        let first = fleet.host(1);
        let address = "192.168.77.201";
        first
            .exec(&["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])?
            .ok()?;
        // Two addresses of its own: one that is nobody's must say where to listen.
        fleet.host(2).ok(&["swarm", "leave"])?;
        let second = fleet.host(2);
        second
            .exec(&["ip", "addr", "add", "192.168.77.202/24", "dev", "eth0"])?
            .ok()?;
        second
            .pontoon(&["swarm", "init", "--advertise-addr", "203.0.113.9"])?
            .fails(1, &["must specify a listening address"])?;
        first.ok(&[
            "swarm",
            "init",
            "--force-new-cluster",
            "--advertise-addr",
            address,
        ])?;
        let token = first.ok(&["swarm", "join-token", "worker"])?;
        ensure!(token.contains(&format!("{address}:2377")), "{token}");
        let token = first.ok(&["swarm", "join-token", "--quiet", "worker"])?;
        let remote = format!("{address}:2377");
        second.ok(&[
            "swarm",
            "join",
            "--token",
            &token,
            "--advertise-addr",
            &second.address(),
            &remote,
        ])?;
        // It stays there after a restart.
        first.stop()?;
        first.start()?;
        wait_until("the address is kept", LONG, || {
            let seen = first.ok(&["node", "inspect", "--format", "{{.ManagerStatus.Addr}}", "self"])?;
            ensure!(seen == remote, "{seen}");
            Ok(())
        })
    });
}

#[test]
fn a_backup_on_another_host() {
    with_fleet(3, |fleet| {
        fleet.load_images()?;
        let (first, second, worker) = (fleet.host(1), fleet.host(2), fleet.host(3));
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        fleet.join(worker, "worker")?;
        web(first, 2)?;
        first.ok(&["network", "create", "--driver", "overlay", "wires"])?;
        label(first, "kept")?;
        let token = first.ok(&["swarm", "join-token", "--quiet", "worker"])?;
        let (right, wrong) = passphrases(fleet)?;
        let file = fleet.folder().join("cluster.backup");
        let path = file.display().to_string();
        worker
            .pontoon(&["cluster", "backup", "--passphrase-file", &right, &path])?
            .fails(1, &["not a swarm manager"])?;
        ensure!(!file.exists(), "a refused backup left a file");
        let said = first.ok(&["cluster", "backup", "--passphrase-file", &right, &path])?;
        ensure!(said.contains(&path), "{said}");
        use std::os::unix::fs::PermissionsExt;
        ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o077 == 0);
        let bytes = std::fs::read(&file)?;
        ensure!(
            !bytes.windows(5).any(|window| window == b"wires"),
            "it can be read without the key"
        );

        refusals(fleet, second, &bytes, (&right, &wrong))?;

        // The first host is lost for good; the second takes over its address, by which the worker knows the manager.
        first.power_off()?;
        first.unplug()?;
        let address = first.address();
        second
            .exec(&["ip", "addr", "add", &format!("{address}/24"), "dev", "eth0"])?
            .ok()?;
        worker.exec(&["ip", "neigh", "flush", "all"])?.ok()?;
        let restore = [
            "cluster",
            "restore",
            "--passphrase-file",
            &right,
            "--advertise-addr",
            &address,
            &path,
        ];
        let said = second.ok(&restore)?;
        ensure!(said.contains("its only manager"), "{said}");
        wait_until("the worker has found it", LONG, || {
            let nodes = view::nodes(second)?;
            let fine = nodes.len() == 2 && nodes.iter().all(|node| node.status == "Ready");
            ensure!(fine, "{nodes:?}");
            Ok(())
        })?;
        wait_until("the service runs", LONG, || ensure_running(second, "web", 2))?;
        ensure!(second.ok(&["network", "ls"])?.contains("wires"));
        ensure!(second.ok(&["swarm", "join-token", "--quiet", "worker"])? == token);
        second.pontoon(&restore)?.fails(1, &["already part of a swarm"])?;
        // It lives on after a restart.
        second.stop()?;
        second.start()?;
        wait_until("it still runs", LONG, || ensure_running(second, "web", 2))?;
        Ok(())
    });
}

/// Files and keys that are no good, each with its reason and nothing left behind.
fn refusals(fleet: &Fleet, host: &Host, good: &[u8], (right, wrong): (&str, &str)) -> Result<()> {
    let mut newer = good.to_vec();
    newer[7] = 9;
    let mut damaged = good.to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let cases: [(&str, &[u8], &str, &str); 5] = [
        ("wrong passphrase", good, wrong, "wrong passphrase"),
        ("cut", &good[..good.len() / 2], right, "cut off"),
        ("newer", &newer, right, "newer"),
        ("damaged", &damaged, right, "damaged at byte"),
        ("foreign", b"#!/bin/sh\nexit 1\n", right, "no backup"),
    ];
    for (name, bytes, passphrase, reason) in cases {
        let path = fleet.folder().join("bad.backup");
        std::fs::write(&path, bytes)?;
        let path = path.display().to_string();
        let restore = [
            "cluster",
            "restore",
            "--passphrase-file",
            passphrase,
            "--advertise-addr",
            "eth0",
            &path,
        ];
        host.pontoon(&restore)?
            .fails(1, &[reason])
            .with_context(|| name.to_owned())?;
        host.pontoon(&["swarm", "leave"])?
            .fails(1, &["not part of a swarm"])?;
        let left: Vec<_> = std::fs::read_dir(host.data_dir().join("cluster"))?.collect();
        ensure!(left.is_empty(), "{name}: {left:?} was left behind");
    }
    Ok(())
}

#[test]
fn backups_on_a_schedule() {
    with_fleet(2, |fleet| {
        let (first, second) = (fleet.host(1), fleet.host(2));
        let key = first.folder().join("backup.key");
        std::fs::write(&key, [5; 32])?;
        let folder = first.folder().join("backups");
        first.configure(&format!(
            "backup-dir = {:?}\nbackup-interval = \"1s\"\nbackup-keep = 2\nbackup-key-file = {:?}\n",
            folder.display().to_string(),
            key.display().to_string()
        ))?;
        first.stop()?;
        first.start()?;
        first.ok(&["swarm", "init", "--advertise-addr", &first.address()])?;
        label_self(first)?;
        let names = || -> Result<BTreeSet<String>> {
            let entries = std::fs::read_dir(&folder)?.flatten();
            let names = entries.map(|entry| entry.file_name().display().to_string());
            Ok(names.filter(|name| name.starts_with("cluster-")).collect())
        };
        let before = wait_until("there are backups", SHORT, || {
            let names = names()?;
            ensure!(names.len() == 2, "{names:?}");
            Ok(names)
        })?;
        let now = wait_until("newer ones take their place", SHORT, || {
            let now = names()?;
            ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
            Ok(now)
        })?;
        let newest = folder.join(now.last().context("a name")?).display().to_string();
        let kept = fleet.folder().join("kept.backup");
        std::fs::copy(&newest, &kept)?;
        first.power_off()?;
        second.ok(&[
            "cluster",
            "restore",
            "--key-file",
            &key.display().to_string(),
            "--advertise-addr",
            &second.address(),
            &kept.display().to_string(),
        ])?;
        ensure!(view::nodes(second)?.len() == 1);
        Ok(())
    });
}

fn label_self(host: &Host) -> Result<String> {
    host.ok(&["node", "update", "--label-add", "written=kept", "self"])
        .or_else(|_| label(host, "kept"))
}
