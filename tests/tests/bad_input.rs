//! Bad input: each mistake has a non-zero exit status, one clear line, and leaves nothing half-made.

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, with_fleet};

/// A command, its exit status, and what its message has to say.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

fn check(host: &Host, cases: &[Case<'_>]) -> Result<()> {
    let mut wrong = Vec::new();
    for (args, code, texts) in cases {
        let output = host.pontoon(args)?;
        // Below a mistake of usage, and below a failure of `run`, Docker points to the help; `start` names what failed again.
        let lines = output
            .stderr
            .trim()
            .lines()
            .filter(|line| !line.is_empty() && !line.ends_with("--help' for more information"))
            .filter(|line| !line.starts_with("See 'pontoon") && !line.starts_with("Error: failed to start"))
            .count();
        let usage = output.stderr.to_lowercase().contains("usage");
        if lines != 1 && !usage {
            wrong.push(format!("{lines} lines instead of one: {output}"));
        }
        if let Err(error) = output.fails(*code, texts) {
            wrong.push(error.to_string());
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// Everything that a failed command could have made.
fn objects(host: &Host) -> Result<String> {
    let mut all = String::new();
    for listing in [
        &["ps", "--all", "--quiet"][..],
        &["images", "--quiet"],
        &["network", "ls", "--quiet"],
        &["service", "ls", "--quiet"],
        &[
            "node",
            "ls",
            "--format",
            "{{.ID}} {{.Availability}} {{.ManagerStatus}}",
        ],
    ] {
        let output = host.pontoon(listing)?;
        all.push_str(&output.stdout);
        all.push_str("--\n");
    }
    Ok(all)
}

#[rustfmt::skip]
const CONTAINERS: &[Case<'_>] = &[
    // A missing object.
    (&["start", "nobody"], 1, &["nobody"]),
    (&["stop", "nobody"], 1, &["nobody"]),
    (&["restart", "nobody"], 1, &["nobody"]),
    (&["kill", "nobody"], 1, &["nobody"]),
    (&["rm", "nobody"], 1, &["nobody"]),
    (&["logs", "nobody"], 1, &["nobody"]),
    (&["pause", "nobody"], 1, &["nobody"]),
    (&["wait", "nobody"], 1, &["nobody"]),
    (&["port", "nobody"], 1, &["nobody"]),
    (&["inspect", "nobody"], 1, &["nobody"]),
    (&["exec", "nobody", "true"], 1, &["nobody"]),
    (&["rmi", "nothing"], 1, &["nothing"]),
    (&["save", "--output", "/dev/null", "nothing"], 1, &["nothing"]),
    (&["tag", "nothing", "new"], 1, &["nothing"]),
    (&["history", "nothing"], 1, &["nothing"]),
    (&["network", "rm", "nowhere"], 1, &["nowhere"]),
    (&["network", "inspect", "nowhere"], 1, &["nowhere"]),
    // A name that is taken; a port that is taken.
    (&["create", "--name", "taken", "busybox"], 1, &["taken", "already in use"]),
    (&["run", "--rm", "--publish", "8080:80", "busybox", "true"], 125, &["8080", "already allocated"]),
    (&["network", "create", "bridge"], 1, &["bridge"]),
    // Values that are no good.
    (&["run", "--memory", "much", "busybox"], 125, &["much"]),
    (&["run", "--publish", "99999:80", "busybox"], 125, &["99999"]),
    (&["run", "--publish", "eighty", "busybox"], 125, &["eighty"]),
    (&["run", "--env-file", "/no/such/file", "busybox"], 125, &["/no/such/file"]),
    (&["run", "--rm", "--user", "nobody-here", "busybox", "true"], 125, &["nobody-here"]),
    (&["run", "--rm", "--network", "nowhere", "busybox", "true"], 125, &["nowhere"]),
    (&["run", "--rm", "--cap-add", "FLYING", "busybox", "true"], 125, &["flying"]),
    (&["run", "--restart", "sometimes", "busybox", "true"], 125, &["sometimes"]),
    (&["run", "BAD/Image", "true"], 125, &["invalid reference format", "lowercase"]),
    (&["run", "--pull", "never", "unknown-image:3"], 125, &["No such image: unknown-image:3"]),
    (&["network", "create", "--subnet", "10.0.0.0/99", "net"], 1, &["10.0.0.0/99"]),
    (&["load", "--input", "/no/such/archive"], 1, &["/no/such/archive"]),
    (&["kill", "--signal", "SIGNOTHING", "taken"], 1, &["SIGNOTHING"]),
    (&["ps", "--format", "{{.Nothing}}"], 1, &["Nothing"]),
    // Commands that do not exist, arguments that are missing.
    (&["nonsense"], 1, &["nonsense"]),
    (&["run"], 1, &["usage"]),
    (&["ps", "--nonsense"], 125, &["--nonsense"]),
];

#[test]
fn containers_and_images() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.line("run --detach --name taken --publish 8080:8080 web:1")?;
        let before = objects(host)?;
        let footprint = host.footprint()?;
        check(host, CONTAINERS)?;
        // An archive that is none.
        let path = fleet.folder().join("garbage.tar");
        std::fs::write(&path, [7; 4096])?;
        check(
            host,
            &[(&["load", "--input", &path.display().to_string()], 1, &[])],
        )?;
        ensure!(
            objects(host)? == before,
            "something was made:\n{before}\n{}",
            objects(host)?
        );
        host.footprint()?.ensure_nothing_since(&footprint)?;
        host.get("http://127.0.0.1:8080/")
            .context("the container that was there before")?;
        Ok(())
    });
}

#[test]
fn without_a_cluster() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        let hint: &[&str] = &["swarm", "init"];
        check(
            host,
            &[
                (&["node", "ls"], 1, hint),
                (&["service", "ls"], 1, hint),
                (&["service", "create", "web:1"], 1, hint),
                (&["service", "ps", "web"], 1, hint),
                (&["stack", "ls"], 1, hint),
                (&["swarm", "join-token", "worker"], 1, hint),
                (&["network", "create", "--driver", "overlay", "app"], 1, hint),
                (&["network", "doctor"], 1, hint),
                (&["swarm", "leave"], 1, &["not part of a swarm"]),
                (
                    &["swarm", "join", "--token", "SWMTKN-1-x-y", "192.168.77.99:2377"],
                    1,
                    &["token"],
                ),
                (
                    &["swarm", "init", "--advertise-addr", "nonsense"],
                    1,
                    &["nonsense"],
                ),
                (
                    &["swarm", "init", "--default-addr-pool", "10.0.0.0/99"],
                    1,
                    &["10.0.0.0/99"],
                ),
            ],
        )?;
        // Half-made would be: an init that failed and left a cluster.
        host.ok(&["swarm", "init", "--advertise-addr", &host.address()])?;
        check(
            host,
            &[
                (&["swarm", "init"], 1, &["already part of a swarm"]),
                (
                    &["swarm", "join", "--token", "SWMTKN-1-x-y", "192.168.77.1:2377"],
                    1,
                    &["already part of a swarm"],
                ),
            ],
        )
    });
}

fn on_worker(fleet: &Fleet) -> Result<()> {
    let worker = fleet.host(2);
    let hint: &[&str] = &["manager"];
    check(
        worker,
        &[
            (&["node", "ls"], 1, hint),
            (&["service", "ls"], 1, hint),
            (&["service", "create", "--name", "x", "web:1"], 1, hint),
            (&["service", "rm", "web"], 1, hint),
            (&["swarm", "join-token", "worker"], 1, hint),
            (&["network", "create", "--driver", "overlay", "x"], 1, hint),
            (&["network", "doctor"], 1, hint),
            (&["stack", "ls"], 1, hint),
        ],
    )
}

#[rustfmt::skip]
const SERVICES: &[Case<'_>] = &[
    // Missing objects.
    (&["service", "inspect", "ghost"], 1, &["ghost"]),
    (&["service", "ps", "ghost"], 1, &["ghost"]),
    (&["service", "rm", "ghost"], 1, &["ghost"]),
    (&["service", "logs", "ghost"], 1, &["ghost"]),
    (&["service", "scale", "ghost=2"], 1, &["ghost"]),
    (&["service", "update", "--image", "web:2", "ghost"], 1, &["ghost"]),
    (&["service", "rollback", "ghost"], 1, &["ghost"]),
    (&["node", "inspect", "ghost"], 1, &["ghost"]),
    (&["node", "rm", "ghost"], 1, &["ghost"]),
    (&["node", "promote", "ghost"], 1, &["ghost"]),
    (&["node", "update", "--availability", "drain", "ghost"], 1, &["ghost"]),
    (&["node", "ps", "ghost"], 1, &["ghost"]),
    (&["stack", "ps", "ghost"], 1, &["ghost"]),
    (&["network", "doctor", "app", "ghost"], 1, &["ghost"]),
    (&["network", "doctor", "bridge"], 1, &["bridge"]),
    (&["service", "create", "--name", "x", "--network", "ghost", "web:1"], 1, &["ghost"]),
    // Names and ports that are taken.
    (&["service", "create", "--name", "web", "web:1"], 1, &["web"]),
    (&["network", "create", "--driver", "overlay", "app"], 1, &["app"]),
    (&["service", "create", "--name", "x", "--publish", "8080:80", "web:1"], 1, &["8080", "web"]),
    (&["service", "update", "--publish-add", "8080:81", "each"], 1, &["8080", "web"]),
    // Values that are no good.
    (&["service", "create", "--name", "x", "--replicas", "many", "web:1"], 125, &["many"]),
    (&["service", "create", "--name", "x", "--replicas", "-1", "web:1"], 125, &["-1"]),
    (&["service", "create", "--name", "x", "--mode", "odd", "web:1"], 125, &["odd"]),
    (&["service", "create", "--name", "x", "--mode", "global", "--replicas", "2", "web:1"], 1, &["replicated or replicated-job mode"]),
    (&["service", "create", "--name", "bad name", "web:1"], 1, &["name", "DNS"]),
    (&["service", "create", "--name", "x", "--constraint", "node.labels.a=b", "web:1"], 1, &["node.labels.a=b"]),
    (&["service", "create", "--name", "x", "--limit-memory", "1", "web:1"], 1, &["memory"]),
    (&["service", "create", "--name", "x", "--reserve-cpu", "lots", "web:1"], 125, &["lots"]),
    (&["service", "create", "--name", "x", "BAD/Image"], 1, &["BAD/Image", "invalid reference format"]),
    (&["service", "scale", "web"], 1, &["web"]),
    (&["service", "scale", "web=-3"], 1, &["-3", "web"]),
    (&["service", "scale", "each=2"], 1, &["each"]),
    (&["node", "update", "--availability", "asleep", "host1"], 125, &["asleep"]),
    (&["network", "create", "--driver", "overlay", "--subnet", "10.77.0.0/25", "y"], 1, &["10.77.0.0"]),
    (&["network", "create", "--driver", "magic", "y"], 1, &["magic"]),
    (&["network", "doctor", "--format", "yaml"], 125, &["yaml"]),
    // What is in use or can't be.
    (&["network", "rm", "app"], 1, &["app", "in use"]),
    (&["network", "rm", "ingress"], 1, &["ingress"]),
    (&["node", "rm", "host2"], 1, &["host2"]),
    (&["node", "demote", "host1"], 1, &["manager"]),
    (&["service", "rollback", "web"], 1, &["web"]),
    (&["service", "update", "--rollback", "--image", "web:2", "web"], 1, &["other flags", "--rollback"]),
    (&["service", "update", "--publish-rm", "http", "web"], 1, &["--publish-rm", "http"]),
    (&["service", "create", "--name", "x", "--health-cmd", "true", "--health-interval", "1us", "web:1"], 1, &["interval", "1ms"]),
    (&["service", "create", "--name", "x", "--secret", "key", "web:1"], 1, &["--secret is not supported"]),
    (&["service", "update", "--config-add", "key", "web"], 1, &["--config-add is not supported"]),
    (&["service", "inspect", "--format", "{{.Nothing}}", "web"], 1, &["Nothing"]),
];

#[test]
fn services_nodes_and_networks() {
    with_fleet(2, |fleet| {
        fleet.ready(1)?;
        on_worker(fleet)?;
        let host = fleet.host(1);
        host.line("network create --driver overlay --subnet 10.77.0.0/24 app")?;
        host.line("service create --name web --publish 8080:8080 web:1")?;
        host.line("service create --name each --mode global --network app web:1")?;
        let before = objects(host)?;
        check(host, SERVICES)?;
        ensure!(
            objects(host)? == before,
            "something was made:\n{before}\n{}",
            objects(host)?
        );
        Ok(())
    });
}

#[test]
fn no_daemon_and_bad_hosts() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        host.stop()?;
        check(
            host,
            &[(&["ps"], 1, &["cannot connect", &host.socket(), "pontoon daemon"])],
        )?;
        let program = pontoon_tests::programs::pontoon()?;
        let mut command = std::process::Command::new(&program);
        command.args(["--host", "tcp://192.168.77.1:2377", "ps"]);
        pontoon_tests::process::run(command)?.fails(1, &["unix://"])?;
        // The folders of a running daemon are its own.
        host.start()?;
        let mut command = std::process::Command::new(&program);
        command
            .arg("daemon")
            .arg("--data-dir")
            .arg(host.data_dir())
            .arg("--run-dir")
            .arg(host.run_dir());
        command.args(["--cgroup-parent", "/pontoon-test-never"]);
        pontoon_tests::process::run(command)?.fails(1, &["another daemon"])?;
        host.ok(&["ps"])?;
        Ok(())
    });
}
