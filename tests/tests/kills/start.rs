//! The daemon dies, and then dies again at each step of its next start.

use anyhow::{Context, Result, ensure};
use pontoon_tests::footprint::Footprint;
use pontoon_tests::killer::{Killer, Outcome, Victim};
use pontoon_tests::{Host, LONG, process, wait_until};

use crate::scene::{Bystander, scene, stride};

/// At the first death one container runs, one is made and has never run, and one ends while there is no daemon.
#[test]
fn restart_of_the_daemon() {
    scene(|host, bystander| {
        let before = host.footprint()?;
        let mut step = 1;
        loop {
            host.line("create --name made busybox true")?;
            host.line("run --detach --name box busybox sleep 1000")?;
            host.line("run --detach --rm --name ends busybox sleep 1000")?;
            let ends = host.line("inspect --format {{.State.Pid}} ends")?;
            host.kill()?;
            process::tool("kill", &["-KILL", &ends])?;
            host.start_stopped()?;
            let killer = Killer::aim(host, Victim::Daemon, step)?;
            wait_until("the daemon is up or dead", LONG, || {
                ensure!(host.has_ended() || no_more(host, "ends").is_ok());
                Ok(())
            })?;
            let killed = killer.outcome()?;
            if let Outcome::Killed(what) = &killed {
                eprintln!("killed at step {what} of the start");
                host.wait_killed()?;
                host.start().with_context(|| format!("after a kill at {what}"))?;
            }
            check(host, bystander, &before).with_context(|| format!("{killed:?}"))?;
            match killed {
                Outcome::Survived(steps) => {
                    ensure!(steps > 0, "no steps were seen");
                    return Ok(());
                }
                Outcome::Killed(_) => step += stride(),
            }
        }
    });
}

/// No container has this name any more.
fn no_more(host: &Host, name: &str) -> Result<()> {
    let listed = host.line(&format!("ps --all --quiet --filter name={name}"))?;
    ensure!(listed.is_empty(), "there is {listed}");
    Ok(())
}

fn check(host: &Host, bystander: &Bystander, before: &Footprint) -> Result<()> {
    bystander.check(host)?;
    host.line("exec box true")?;
    host.line("start made")?;
    wait_until("what has ended is removed", LONG, || no_more(host, "ends"))?;
    host.line("rm --force box made")?;
    host.wait_as_before(before)
}
