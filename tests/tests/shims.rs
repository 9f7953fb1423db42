//! Shims that are killed or hang: the container is reported dead with a reason, what it held is given back, its restart policy is
//! applied; with a daemon and while there is none.

use anyhow::{Result, ensure};
use pontoon_tests::footprint::Footprint;
use pontoon_tests::process::tool;
use pontoon_tests::{Host, LONG, wait_until, with_fleet};

/// Of a container by name.
fn inspect(host: &Host, name: &str, field: &str) -> Result<String> {
    host.ok(&["inspect", "--format", &format!("{{{{{field}}}}}"), name])
}

/// The shim's process: its folder's name is in its arguments.
fn shim(host: &Host, name: &str) -> Result<String> {
    let id = inspect(host, name, ".Id")?;
    let pid = tool("pgrep", &["--full", &format!("^pontoon-shim .*{id}")])?;
    ensure!(pid.lines().count() == 1, "shims of {name}: {pid:?}");
    Ok(pid.trim().to_owned())
}

fn run(host: &Host, name: &str, options: &[&str]) -> Result<()> {
    let mut args = vec!["run", "--detach", "--name", name];
    args.extend(options);
    args.extend(["busybox", "sleep", "1000"]);
    host.ok(&args).map(drop)
}

fn scene(test: impl FnOnce(&Host, &Footprint) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.ok(&["run", "--rm", "--publish", "7070:7070", "busybox", "true"])?;
        test(host, &host.footprint()?)
    });
}

/// One container of each policy; what has to become of them when their shims die.
fn policies(host: &Host, before: &Footprint, kill: impl FnOnce(&[String]) -> Result<()>) -> Result<()> {
    run(host, "plain", &["--publish", "8080:8080"])?;
    run(host, "always", &["--restart", "always", "--publish", "8081:8080"])?;
    run(host, "failure", &["--restart", "on-failure:3"])?;
    run(host, "gone", &["--rm"])?;
    run(host, "paused", &[])?;
    host.ok(&["pause", "paused"])?;
    let names = ["plain", "always", "failure", "gone", "paused"];
    let shims: Vec<String> = names.iter().map(|name| shim(host, name)).collect::<Result<_>>()?;
    let old = inspect(host, "always", ".State.Pid")?;
    let plain = inspect(host, "plain", ".State.Pid")?;
    kill(&shims)?;
    wait_until("all are looked after", LONG, || {
        for name in ["plain", "paused"] {
            ensure!(inspect(host, name, ".State.Status")? == "exited");
        }
        for name in ["always", "failure"] {
            ensure!(inspect(host, name, ".State.Status")? == "running");
        }
        ensure!(inspect(host, "always", ".State.Pid")? != old);
        ensure!(
            host.ok(&["ps", "--all", "--quiet", "--filter", "name=gone"])?
                .is_empty()
        );
        Ok(())
    })?;
    let end = inspect(host, "plain", ".State.ExitCode")?;
    let reason = inspect(host, "plain", ".State.Error")?;
    ensure!(end == "255" || end == "137", "{end}");
    ensure!(reason.contains("shim"), "{reason:?}");
    // Nobody may have collected its status yet.
    let stat = std::fs::read_to_string(format!("/proc/{plain}/stat")).unwrap_or_default();
    ensure!(
        stat.is_empty() || stat.contains(") Z "),
        "its program lives on: {stat}"
    );
    ensure!(host.ok(&["wait", "plain"])? == end);
    for name in ["always", "failure"] {
        host.ok(&["exec", name, "true"])?;
    }
    // Its port is free.
    host.ok(&["run", "--rm", "--publish", "8080:8080", "busybox", "true"])?;
    host.ok(&["start", "plain"])?;
    host.ok(&["rm", "--force", "plain", "always", "failure", "paused"])?;
    host.wait_as_before(before)
}

#[test]
fn killed_shims() {
    scene(|host, before| {
        policies(host, before, |shims| {
            for shim in shims {
                tool("kill", &["-KILL", shim])?;
            }
            Ok(())
        })
    });
}

#[test]
fn shims_killed_while_there_is_no_daemon() {
    scene(|host, before| {
        policies(host, before, |shims| {
            host.kill()?;
            for shim in shims {
                tool("kill", &["-KILL", shim])?;
            }
            host.start()
        })
    });
}

#[test]
fn clients_of_a_killed_shim_are_told() {
    scene(|host, before| {
        run(host, "box", &[])?;
        std::thread::scope(|scope| -> Result<()> {
            let exec = scope.spawn(|| host.pontoon(&["exec", "box", "sh", "-c", "echo here; sleep 1000"]));
            let wait = scope.spawn(|| host.pontoon(&["wait", "box"]));
            let follow = scope.spawn(|| host.pontoon(&["logs", "--follow", "box"]));
            wait_until("the exec runs", LONG, || {
                let processes = host.ok(&["exec", "box", "ps"])?;
                ensure!(processes.matches("sleep 1000").count() >= 2, "{processes}");
                Ok(())
            })?;
            tool("kill", &["-KILL", &shim(host, "box")?])?;
            for (what, thread) in [("exec", exec), ("wait", wait), ("logs", follow)] {
                match thread.join() {
                    // That they come to an end, at all, is the point.
                    Ok(output) => {
                        let output = output?;
                        ensure!(what != "exec" || output.code != 0, "{output}");
                    }
                    Err(_) => anyhow::bail!("{what} panicked"),
                }
            }
            Ok(())
        })?;
        host.ok(&["rm", "box"])?;
        host.wait_as_before(before)
    });
}

/// One that does not answer any more holds up neither the others nor its own removal.
#[test]
fn a_shim_that_hangs() {
    scene(|host, before| {
        run(host, "hung", &["--publish", "8080:8080"])?;
        run(host, "fine", &[])?;
        tool("kill", &["-STOP", &shim(host, "hung")?])?;
        host.ok(&["exec", "fine", "true"])?;
        host.ok(&["ps"])?;
        host.ok(&["stop", "--time", "1", "hung"])?;
        ensure!(inspect(host, "hung", ".State.Status")? == "exited");
        host.ok(&["start", "hung"])?;
        tool("kill", &["-STOP", &shim(host, "hung")?])?;
        host.kill()?;
        host.start()?;
        host.ok(&["exec", "fine", "true"])?;
        host.ok(&["rm", "--force", "hung", "fine"])?;
        host.wait_as_before(before)
    });
}
