//! Keys at rest: a manager with autolock is of no use to whoever has its disk, and asks for the unlock key after a restart.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::{self, Output};
use pontoon_tests::pty::Session;
use pontoon_tests::{Host, LONG, SHORT, view, wait_until, with_fleet};

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"pontoon swarm unlock\" to unlock it.";

fn swarm_state(host: &Host) -> Result<String> {
    host.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])
}

fn unlock(host: &Host, key: &str) -> Result<Output> {
    process::run_with_input(host.command(&["swarm", "unlock"]), format!("{key}\n").as_bytes())
}

/// The key in what a command has printed.
fn key_in(text: &str) -> Result<String> {
    let word = text.split_whitespace().find(|word| word.starts_with("SWMKEY-1-"));
    word.map(str::to_owned)
        .with_context(|| format!("no key in {text}"))
}

fn restart(host: &Host) -> Result<()> {
    host.stop()?;
    host.start()
}

/// The cluster part starts when the daemon answers already.
fn wait_active(host: &Host) -> Result<()> {
    wait_until("the node's part in the swarm has started", SHORT, || {
        let state = swarm_state(host)?;
        ensure!(state.trim() == "active", "{state}");
        Ok(())
    })
}

fn cluster_dir(host: &Host) -> PathBuf {
    host.data_dir().join("cluster")
}

/// Waits until this manager's keys on disk are sealed (or not).
fn wait_sealed(host: &Host, sealed: bool) -> Result<()> {
    wait_until("the keys on disk are as the swarm wants them", SHORT, || {
        for name in ["raft.keys", "identity/key.pem"] {
            let text = std::fs::read_to_string(cluster_dir(host).join(name))?;
            ensure!(
                text.contains("SEALED SECRET") == sealed,
                "{name} of {}",
                host.name()
            );
        }
        Ok(())
    })
}

/// True when a file below `folder` holds `text`.
fn somewhere(folder: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            somewhere(&path, text)?
        } else {
            let bytes = std::fs::read(&path)?;
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_locked_manager_asks_for_its_key() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        unlock(host, "SWMKEY-1-x")?.fails(1, &["Error: This node is not part of a swarm"])?;
        let made = host.ok(&["swarm", "init", "--autolock", "--advertise-addr", &host.address()])?;
        let key = key_in(&made)?;
        ensure!(made.contains("To unlock a swarm manager after it restarts, run the `pontoon swarm unlock`\ncommand and provide the following key:\n\n    SWMKEY-1-"), "{made}");
        ensure!(host.ok(&["swarm", "unlock-key", "--quiet"])?.trim() == key);
        ensure!(host.ok(&["swarm", "unlock-key"])?.contains(&key));
        unlock(host, &key)?.fails(1, &["Error: swarm is not locked"])?;
        host.ok(&[
            "node",
            "update",
            "--label-add",
            "note=written-before-the-lock",
            &host.name(),
        ])?;
        wait_sealed(host, true)?;
        ensure!(
            !somewhere(&cluster_dir(host), "written-before-the-lock")?,
            "the log is in clear"
        );
        ensure!(
            !somewhere(&cluster_dir(host), "PRIVATE KEY")?,
            "a key is in clear"
        );

        restart(host)?;
        ensure!(swarm_state(host)?.trim() == "locked");
        ensure!(host.ok(&["info"])?.contains("Swarm: locked\n"));
        for command in [
            &["node", "ls"][..],
            &["service", "ls"],
            &["swarm", "unlock-key"],
            &["swarm", "update", "--autolock=false"],
        ] {
            host.pontoon(command)?.fails(1, &[LOCKED])?;
        }
        host.pontoon(&["swarm", "init"])?.fails(1, &[LOCKED])?;
        host.pontoon(&["swarm", "leave"])?.fails(1, &[LOCKED])?;
        // What is not the swarm's goes on.
        host.ok(&["ps"])?;
        unlock(host, "nonsense")?.fails(1, &["invalid key string"])?;
        let other = format!("SWMKEY-1-{}", "A".repeat(43));
        unlock(host, &other)?.fails(1, &["swarm could not be unlocked: invalid key provided"])?;
        ensure!(swarm_state(host)?.trim() == "locked");
        unlock(host, &key)?.ok()?;
        ensure!(swarm_state(host)?.trim() == "active");
        let labels = host.ok(&[
            "node",
            "inspect",
            "--format",
            "{{.Spec.Labels.note}}",
            &host.name(),
        ])?;
        ensure!(labels.trim() == "written-before-the-lock", "{labels}");

        // From a terminal, without an echo.
        restart(host)?;
        let mut session = Session::start(&host.command(&["swarm", "unlock"]), 24, 80)?;
        session.expect("Enter unlock key: ")?;
        session.type_text(&format!("{key}\n"))?;
        ensure!(session.end()? == 0);
        ensure!(
            !session.shown().contains("SWMKEY"),
            "the key was shown: {}",
            session.shown()
        );
        ensure!(swarm_state(host)?.trim() == "active");

        let help = host.ok(&["swarm", "update"])?;
        ensure!(help.contains("Usage:  pontoon swarm update [OPTIONS]"), "{help}");
        let updated = host.ok(&["swarm", "update", "--autolock=false"])?;
        ensure!(updated.trim() == "Swarm updated.", "{updated}");
        host.pontoon(&["swarm", "unlock-key"])?
            .fails(1, &["no unlock key is set"])?;
        host.pontoon(&["swarm", "unlock-key", "--rotate"])?
            .fails(1, &["cannot rotate because autolock is not turned on"])?;
        wait_sealed(host, false)?;
        restart(host)?;
        wait_active(host)?;
        Ok(())
    });
}

#[test]
fn all_managers_take_a_new_key() {
    with_fleet(3, |fleet| {
        fleet.form_cluster(3)?;
        let first = fleet.host(1);
        let updated = first.ok(&["swarm", "update", "--autolock"])?;
        ensure!(
            updated.starts_with("Swarm updated.\nTo unlock a swarm manager"),
            "{updated}"
        );
        let old = key_in(&updated)?;
        for host in fleet.hosts() {
            wait_sealed(host, true)?;
            ensure!(host.ok(&["swarm", "unlock-key", "-q"])?.trim() == old);
        }
        // One is away while the key is replaced: it opens with the one that it knew, and then has the new one.
        let away = fleet.hosts().iter().find(|host| {
            fleet
                .leader(first)
                .is_ok_and(|leader| leader.number() != host.number())
        });
        let away = away.context("a follower")?;
        let here = fleet
            .hosts()
            .iter()
            .find(|host| host.number() != away.number())
            .context("another")?;
        away.stop()?;
        let rotated = here.ok(&["swarm", "unlock-key", "--rotate"])?;
        ensure!(
            rotated.starts_with("Successfully rotated manager unlock key.\n\nTo unlock"),
            "{rotated}"
        );
        let new = key_in(&rotated)?;
        ensure!(new != old);
        away.start()?;
        unlock(away, &new)?.fails(1, &["invalid key provided"])?;
        unlock(away, &old)?.ok()?;
        wait_until("it seals its keys by the new one", LONG, || {
            restart(away)?;
            let sealed = unlock(away, &new)?.ok();
            if sealed.is_err() {
                // Not yet; it must run to learn of the new one.
                unlock(away, &old)?.ok()?;
            }
            sealed.map(drop)
        })?;
        // No manager is left that the old one opens.
        restart(here)?;
        unlock(here, &old)?.fails(1, &["invalid key provided"])?;
        unlock(here, &new)?.ok()?;
        wait_until("all are back", LONG, || {
            let nodes = view::nodes(here)?;
            ensure!(
                nodes
                    .iter()
                    .all(|node| node.is_manager() && node.status == "Ready"),
                "{nodes:?}"
            );
            Ok(())
        })?;
        // A worker has nothing to lock.
        here.ok(&["node", "demote", &away.name()])?;
        wait_sealed_key(away, false)?;
        restart(away)?;
        wait_active(away)?;
        Ok(())
    });
}

fn wait_sealed_key(host: &Host, sealed: bool) -> Result<()> {
    wait_until("the TLS key is as its role wants it", LONG, || {
        let text = std::fs::read_to_string(cluster_dir(host).join("identity/key.pem"))?;
        ensure!(text.contains("SEALED SECRET") == sealed);
        ensure!(
            sealed || !cluster_dir(host).join("raft.keys").exists(),
            "the log's keys are still there"
        );
        Ok(())
    })
}
