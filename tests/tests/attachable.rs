//! Attachable overlay networks: containers that are no tasks, on managers and workers, beside services; their addresses and names through
//! every end of a container, a daemon, a leader and a node.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, with_fleet};

fn network(fleet: &Fleet) -> Result<()> {
    let words = "network create --driver overlay --scope swarm --attachable --subnet 10.44.0.0/24 app";
    fleet.host(1).line(words)?;
    Ok(())
}

/// Starts a container that serves; `words` are its flags.
fn serve(host: &Host, name: &str, words: &str) -> Result<()> {
    host.line(&format!("run --detach --name {name} --network app {words} web:1"))?;
    Ok(())
}

/// What a container is told when it asks for a page.
fn get(host: &Host, from: &str, target: &str) -> Result<String> {
    host.ok(&["exec", from, "/web", "get", &format!("http://{target}:8080/")])
}

fn resolve(host: &Host, from: &str, name: &str) -> Result<BTreeSet<String>> {
    let found = host.ok(&["exec", from, "/web", "resolve", name])?;
    Ok(found.lines().map(str::to_owned).collect())
}

fn address(host: &Host, name: &str) -> Result<String> {
    host.ok(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.Networks.app.IPAddress}}",
        name,
    ])
}

/// Waits until a name leads to just these addresses.
fn wait_resolved(host: &Host, from: &str, name: &str, wanted: &[&str]) -> Result<()> {
    wait_until(&format!("{name} leads to {wanted:?}"), SHORT, || {
        let found = resolve(host, from, name).unwrap_or_default();
        ensure!(found.iter().eq(wanted), "{found:?}");
        Ok(())
    })
}

#[test]
fn containers_on_all_nodes_and_services_reach_each_other_by_name() {
    with_fleet(3, |fleet| {
        fleet.ready(1)?;
        network(fleet)?;
        let (manager, worker, other) = (fleet.host(1), fleet.host(2), fleet.host(3));
        manager.line(
            "service create --name svc --network app --replicas 2 --constraint node.hostname==host3 web:1",
        )?;
        serve(manager, "one", "--network-alias both")?;
        serve(worker, "two", "--network-alias both --hostname second")?;
        for (host, from, to) in [
            (manager, "one", "two"),
            (worker, "two", "one"),
            (worker, "two", "second"),
        ] {
            wait_until(&format!("{from} reaches {to}"), SHORT, || {
                get(host, from, to).map(drop)
            })?;
        }
        let short = &worker.ok(&["ps", "--quiet", "--filter", "name=two"])?[..12];
        let (one, two) = (address(manager, "one")?, address(worker, "two")?);
        wait_resolved(manager, "one", short, &[&two])?;
        let mut both = [one.as_str(), two.as_str()];
        both.sort_unstable();
        for (host, from) in [(manager, "one"), (worker, "two")] {
            wait_resolved(host, from, "both", &both)?;
            wait_until("the service answers at its virtual address", SHORT, || {
                get(host, from, "svc").map(drop)
            })?;
            ensure!(resolve(host, from, "svc")?.len() == 1);
            ensure!(resolve(host, from, "tasks.svc")?.len() == 2);
        }
        // Services' tasks find containers, too.
        let task = other.ok(&["ps", "--quiet", "--filter", "name=svc.1"])?;
        wait_until("a task reaches a container", SHORT, || {
            get(other, &task, "two").map(drop)
        })?;
        // Out to the world they have their node's way.
        let closed = format!("http://{}:1/", manager.address());
        worker
            .pontoon(&["exec", "two", "/web", "get", &closed])?
            .fails(1, &["refused"])?;

        // What a node shows of the network: its own containers, and who else is in it.
        let format =
            "{{range .Containers}}{{.Name}} {{.IPv4Address}};{{end}} {{range .Peers}}{{.IP}};{{end}}";
        let shown = worker.ok(&["network", "inspect", "--format", format, "app"])?;
        ensure!(
            shown.contains(&format!("two {two}/24;")) && !shown.contains("one "),
            "{shown}"
        );
        for host in fleet.hosts() {
            ensure!(shown.contains(&format!("{};", host.address())), "{shown}");
        }

        // A new name is known everywhere, an end too.
        worker.ok(&["rename", "two", "zwei"])?;
        wait_resolved(manager, "one", "zwei", &[&two])?;
        worker.ok(&["stop", "--time", "0", "zwei"])?;
        wait_resolved(manager, "one", "both", &[&one])?;
        manager
            .pontoon(&["network", "rm", "app"])?
            .fails(1, &["in use"])?;
        Ok(())
    });
}

#[test]
fn addresses_are_given_asked_for_and_given_back() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        network(fleet)?;
        let (manager, worker) = (fleet.host(1), fleet.host(2));
        manager.line("network create --driver overlay closed")?;
        serve(
            manager,
            "fixed",
            "--ip 10.44.0.99 --mac-address 02:42:0a:2c:00:63",
        )?;
        ensure!(address(manager, "fixed")? == "10.44.0.99");
        let run = |words: &str| worker.pontoon(&words.split(' ').collect::<Vec<_>>());
        for (words, reason) in [
            (
                "run --rm --network app --ip 10.44.0.99 web:1",
                "Address already in use",
            ),
            (
                "run --rm --network app --ip 10.44.0.1 web:1",
                "Address already in use",
            ),
            (
                "run --rm --network app --ip 10.45.0.9 web:1",
                "no configured subnet contains IP address 10.45.0.9",
            ),
            (
                "run --rm --network app --mac-address 02:42:aa:bb:cc:dd web:1",
                "02:42 and its IPv4 address",
            ),
            (
                "run --rm --network app --link-local-ip 169.254.7.7 web:1",
                "link-local",
            ),
            (
                "run --rm --network none-such web:1",
                "network none-such not found",
            ),
            (
                "run --rm --network closed web:1",
                "Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable",
            ),
            ("network create -d overlay mine", "not a swarm manager"),
        ] {
            let refused = run(words)?;
            ensure!(
                refused.code != 0 && refused.stderr.contains(reason),
                "{words}: {refused}"
            );
        }
        // A container that runs joins and leaves; a stopped one joins when it starts.
        worker.line("run --detach --name late web:1")?;
        worker.line("network connect --ip 10.44.0.50 --alias later app late")?;
        ensure!(address(worker, "late")? == "10.44.0.50");
        wait_resolved(manager, "fixed", "later", &["10.44.0.50"])?;
        wait_until("it is reached", SHORT, || {
            get(manager, "fixed", "later").map(drop)
        })?;
        worker.line("network disconnect app late")?;
        serve(manager, "heir", "--ip 10.44.0.50")?;
        run("network connect --ip 10.44.0.50 app late")?.fails(1, &["Address already in use"])?;
        worker.line("create --name later --network app --ip 10.44.0.51 web:1")?;
        worker.ok(&["start", "later"])?;
        wait_resolved(manager, "fixed", "later", &["10.44.0.51"])?;
        // An address that was asked for is the container's again after a restart; in between it is anybody's.
        worker.line("restart --time 0 later")?;
        ensure!(address(worker, "later")? == "10.44.0.51");
        worker.line("stop --time 0 later")?;
        serve(manager, "second-heir", "--ip 10.44.0.51")?;
        worker
            .pontoon(&["start", "later"])?
            .fails(1, &["Address already in use"])?;
        manager.ok(&["rm", "--force", "fixed", "heir", "second-heir"])?;
        manager.pontoon(&["network", "rm", "app"])?.ok()?;
        Ok(())
    });
}

#[test]
fn a_killed_daemon_finds_its_containers_places_again() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        network(fleet)?;
        let (manager, worker) = (fleet.host(1), fleet.host(2));
        serve(manager, "probe", "")?;
        serve(worker, "stays", "--ip 10.44.0.20")?;
        serve(worker, "ends", "--ip 10.44.0.21")?;
        serve(worker, "again", "--ip 10.44.0.22 --restart always")?;
        for name in ["stays", "ends", "again"] {
            wait_until(&format!("{name} is reached"), SHORT, || {
                get(manager, "probe", name).map(drop)
            })?;
        }
        let pid = worker.ok(&["inspect", "--format", "{{.State.Pid}}", "ends"])?;
        worker.kill()?;
        // The data path needs no daemon.
        get(manager, "probe", "stays")?;
        pontoon_tests::process::tool("kill", &["-KILL", &pid])?;
        worker.start()?;
        wait_until("the address of the one that ended is free", LONG, || {
            serve(manager, "heir", "--ip 10.44.0.21").inspect_err(|_| {
                manager.pontoon(&["rm", "--force", "heir"]).ok();
            })
        })?;
        get(manager, "probe", "stays")?;
        ensure!(get(worker, "stays", "again").is_ok());
        manager
            .pontoon(&["run", "--rm", "--network", "app", "--ip", "10.44.0.20", "web:1"])?
            .fails(125, &["Address already in use"])?;
        // Both restart: the manager's own, too.
        manager.kill()?;
        manager.start()?;
        wait_until("names and addresses are as before", LONG, || {
            ensure!(resolve(worker, "stays", "probe")?.len() == 1);
            get(worker, "stays", "probe").map(drop)
        })?;
        worker.ok(&["rm", "--force", "stays", "ends", "again"])?;
        manager.ok(&["rm", "--force", "probe", "heir"])?;
        fleet.remove_network("app")
    });
}

#[test]
fn a_machine_that_restarts_starts_its_containers_when_a_manager_answers() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        network(fleet)?;
        let (manager, worker) = (fleet.host(1), fleet.host(2));
        serve(manager, "probe", "")?;
        serve(worker, "again", "--ip 10.44.0.22 --restart always")?;
        worker.power_off()?;
        manager.unplug()?;
        worker.start()?;
        manager.plug()?;
        wait_until("it runs again and is reached", LONG, || {
            ensure!(address(worker, "again")? == "10.44.0.22");
            get(manager, "probe", "again").map(drop)
        })
    });
}

#[test]
fn another_leader_and_nodes_that_go() {
    with_fleet(4, |fleet| {
        fleet.ready(3)?;
        network(fleet)?;
        let worker = fleet.host(4);
        serve(worker, "stays", "--ip 10.44.0.20")?;
        let leader = fleet.leader(fleet.host(1))?;
        let rest: Vec<&Host> = fleet.hosts()[..3]
            .iter()
            .filter(|host| host.name() != leader.name())
            .collect();
        leader.power_off()?;
        // While there is no leader a start waits for the next.
        serve(worker, "new", "--network-alias fresh")?;
        serve(rest[0], "probe", "")?;
        for name in ["stays", "fresh"] {
            wait_until(&format!("{name} is reached"), SHORT, || {
                get(rest[0], "probe", name).map(drop)
            })?;
        }
        rest[1]
            .pontoon(&["run", "--rm", "--network", "app", "--ip", "10.44.0.20", "web:1"])?
            .fails(125, &["Address already in use"])?;

        // A node that leaves takes its containers out; they run on, and their addresses are free once it is removed.
        worker.ok(&["swarm", "leave"])?;
        ensure!(worker.ok(&["ps", "--quiet"])?.lines().count() == 2);
        let networks = "{{len .NetworkSettings.Networks}}";
        ensure!(worker.ok(&["inspect", "--format", networks, "stays"])? == "0");
        worker
            .pontoon(&["run", "--rm", "--network", "app", "web:1"])?
            .fails(125, &["network app not found"])?;
        wait_until("the node is removed", LONG, || {
            rest[0].ok(&["node", "rm", &worker.name()]).map(drop)
        })?;
        serve(rest[1], "heir", "--ip 10.44.0.20")?;
        wait_until("the heir is reached", SHORT, || {
            get(rest[0], "probe", "heir").map(drop)
        })?;
        Ok(())
    });
}
