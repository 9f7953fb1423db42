//! Nothing stays behind: containers, tasks, networks and clusters that end leave no interface, rule, mount, control group, process
//! or namespace on their hosts, also when a daemon was killed in between.

use anyhow::{Result, ensure};
use pontoon_tests::footprint::Footprint;
use pontoon_tests::view::ensure_running;
use pontoon_tests::{Fleet, Host, LONG, SHORT, fleet, wait_until, wire, with_fleet};

fn footprints(fleet: &Fleet) -> Result<Vec<Footprint>> {
    fleet.hosts().iter().map(Host::footprint).collect()
}

fn nothing_since(fleet: &Fleet, before: &[Footprint]) -> Result<()> {
    wait_until("the hosts are as before", LONG, || {
        for (host, before) in fleet.hosts().iter().zip(before) {
            host.footprint()?.ensure_nothing_since(before)?;
        }
        Ok(())
    })
}

/// One container of each kind.
fn containers(host: &Host) -> Result<()> {
    host.ok(&["network", "create", "app"])?;
    host.line("run --detach --name ca --publish 8080:8080 web:1")?;
    host.line("run --detach --name cb --network app --publish 9090:8080/udp web:1")?;
    host.line("run --detach --name cc --network none --init busybox sleep 1000")?;
    host.line("run --detach --name cd --network host busybox sleep 1000")?;
    host.ok(&["exec", "--detach", "cc", "sleep", "1000"])?;
    Ok(())
}

fn remove_containers(host: &Host) -> Result<()> {
    host.ok(&["rm", "--force", "ca", "cb", "cc", "cd"])?;
    host.ok(&["network", "rm", "app"])?;
    Ok(())
}

#[test]
fn containers_leave_nothing() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.warm_up()?;
        let before = footprints(fleet)?;
        containers(host)?;
        ensure!(!host.footprint()?.since(&before[0]).is_empty());
        remove_containers(host)?;
        nothing_since(fleet, &before)
    });
}

#[test]
fn containers_leave_nothing_when_the_daemon_was_killed() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.warm_up()?;
        let before = footprints(fleet)?;
        containers(host)?;
        host.kill()?;
        host.start()?;
        remove_containers(host)?;
        nothing_since(fleet, &before)?;
        // Killed at any moment of starts and ends: what is half-made is found and removed at the next start.
        for round in 0..4_u64 {
            std::thread::scope(|scope| -> Result<()> {
                let running = scope
                    .spawn(|| host.pontoon(&["run", "--rm", "--publish", "8080:8080", "busybox", "true"]));
                let working = wait_until("the run is under way", SHORT, || {
                    let progress = host.footprint()?.since(&before[0]).len();
                    ensure!(progress as u64 > round || running.is_finished());
                    Ok(())
                });
                host.kill()?;
                working
            })?;
            host.start()?;
            let left = host.ok(&["ps", "--all", "--quiet"])?;
            for id in left.lines() {
                // Removed by --rm in the meantime is as good.
                host.pontoon(&["rm", "--force", id])?;
            }
            nothing_since(fleet, &before)?;
        }
        Ok(())
    });
}

#[test]
fn a_whole_host_crash_leaves_nothing_after_the_next_start() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.warm_up()?;
        let before = footprints(fleet)?;
        containers(host)?;
        // Shims and netd too: mounts, interfaces and rules stay without an owner.
        host.power_off()?;
        host.start()?;
        remove_containers(host)?;
        nothing_since(fleet, &before)
    });
}

#[test]
fn tasks_and_networks_leave_nothing_on_any_host() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        let first = fleet.host(1);
        fleet.warm_up()?;
        let before = footprints(fleet)?;
        for round in 0..2 {
            first.ok(&["network", "create", "--driver", "overlay", "app"])?;
            first.line("service create --name web --replicas 6 --network app --publish 8080:8080 web:1")?;
            ensure_running(first, "web", 6)?;
            if round == 1 {
                // Killed with tasks, and they are removed while a daemon is away.
                fleet.host(3).kill()?;
            }
            first.ok(&["service", "rm", "web"])?;
            if round == 1 {
                // A node that is away may still have tasks in the network.
                let refused = first.pontoon(&["network", "rm", "app"])?;
                refused.fails(1, &["app", "in use"])?;
                fleet.host(3).start()?;
            }
            fleet.remove_network("app")?;
            nothing_since(fleet, &before)?;
        }
        Ok(())
    });
}

#[test]
fn leaving_the_swarm_leaves_nothing() {
    with_fleet(2, |fleet| {
        fleet.load_images()?;
        let first = fleet.host(1);
        let leave = || -> Result<()> {
            fleet.host(2).ok(&["swarm", "leave"])?;
            first.ok(&["swarm", "leave", "--force"])?;
            Ok(())
        };
        // The bridge for the way out and netd stay once they were needed.
        fleet.form_cluster(1)?;
        fleet.warm_up()?;
        leave()?;
        let before = wait_until("the hosts have left the mesh", LONG, || {
            let now = footprints(fleet)?;
            for footprint in &now {
                ensure!(footprint.of_kind("netns").is_empty(), "{footprint}");
                ensure!(
                    !footprint.of_kind("interface").contains(&"interface pontoon_mesh"),
                    "{footprint}"
                );
            }
            Ok(now)
        })?;
        fleet.form_cluster(1)?;
        first.ok(&["network", "create", "--driver", "overlay", "app"])?;
        first.line("service create --name web --replicas 4 --network app --publish 8080:8080 web:1")?;
        leave()?;
        nothing_since(fleet, &before)
    });
}

#[test]
fn a_fleet_itself_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let made = Fleet::new(2).expect("a fleet");
    let (name, folder) = (made.name().to_owned(), made.folder().to_owned());
    made.load_images().expect("images");
    made.host(1)
        .ok(&["run", "--detach", "--publish", "8080:8080", "web:1"])
        .expect("a container");
    drop(made);
    assert!(!folder.exists());
    assert!(fleet::mounts_below(&folder).is_empty());
    let group = format!("/pontoon-test-{name}");
    assert!(
        pontoon_tests::cgroups::processes(&group)
            .expect("processes")
            .is_empty()
    );
    let namespaces = wire::namespaces();
    assert!(
        !namespaces.iter().any(|namespace| namespace.contains(&name)),
        "{namespaces:?}"
    );
}
