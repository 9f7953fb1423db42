//! Managers whose disk is full: they step down, say so, and come back by themselves. Damage is named, with what to do.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::{Fleet, Host, LONG, view, wait_until, with_fleet};

/// Puts the host's folder of the cluster on a small file system of its own.
fn on_small_disk(host: &Host) -> Result<PathBuf> {
    let folder = host.data_dir().join("cluster");
    // The daemon sees only mounts that were there when it started.
    host.stop()?;
    fs::create_dir_all(&folder)?;
    let path = folder.display().to_string();
    tool(
        "mount",
        &["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", &path],
    )?;
    host.start()?;
    Ok(folder.join("filler"))
}

fn fill(filler: &Path) -> Result<()> {
    let mut file = fs::File::create(filler).context("cannot make the filler")?;
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    Ok(())
}

/// Writes until the log wants a place on the disk; refusals are what this is about.
fn write(host: &Host, node: &str) {
    let label = format!("note={}", "x".repeat(60_000));
    for _ in 0..40 {
        let _ = host.pontoon(&["node", "update", "--label-add", &label, node]);
        let _ = host.pontoon(&["node", "update", "--label-rm", "note", node]);
    }
}

fn info(host: &Host) -> Result<String> {
    host.ok(&["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}"])
}

fn wait_stopped(host: &Host) -> Result<()> {
    wait_until("the manager says that its disk is full", LONG, || {
        let info = info(host)?;
        ensure!(info.starts_with("error "), "{info}");
        ensure!(info.contains("No space left on device"), "{info}");
        ensure!(info.contains("free space on the file system of"), "{info}");
        Ok(())
    })
}

fn manager_status(asked: &Host, of: &Host) -> Result<String> {
    Ok(view::node(asked, &of.name())?.manager)
}

#[test]
fn a_leader_without_space_steps_down_and_comes_back() {
    with_fleet(3, |fleet| {
        let fillers = fleet
            .hosts()
            .iter()
            .map(on_small_disk)
            .collect::<Result<Vec<_>>>()?;
        fleet.form_cluster(3)?;
        let full = fleet.leader(fleet.host(1))?;
        let other = other_than(fleet, full)?;
        fill(&fillers[full.number() - 1])?;
        write(other, &full.name());
        wait_stopped(full)?;
        wait_until("another leads, and counts it as unreachable", LONG, || {
            let leader = fleet.leader(other)?;
            ensure!(leader.number() != full.number(), "{} still leads", leader.name());
            let status = manager_status(other, full)?;
            ensure!(status == "Unreachable", "{status}");
            Ok(())
        })?;
        other.ok(&[
            "node",
            "update",
            "--label-add",
            "written=without-it",
            &full.name(),
        ])?;
        full.pontoon(&["node", "ls"])?
            .fails(1, &["No space left on device", "goes on by itself"])?;
        fs::remove_file(&fillers[full.number() - 1])?;
        wait_until("it is back", LONG, || {
            ensure!(info(full)?.starts_with("active"), "{}", info(full)?);
            let status = manager_status(other, full)?;
            ensure!(status == "Reachable", "{status}");
            Ok(())
        })?;
        let label = full.ok(&[
            "node",
            "inspect",
            "--format",
            "{{.Spec.Labels.written}}",
            &full.name(),
        ])?;
        ensure!(label.trim() == "without-it", "{label}");
        Ok(())
    });
}

fn other_than<'a>(fleet: &'a Fleet, host: &Host) -> Result<&'a Host> {
    let other = fleet.hosts().iter().find(|other| other.number() != host.number());
    other.context("another host")
}

#[test]
fn a_lone_manager_without_space_loses_nothing() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        let filler = on_small_disk(host)?;
        fleet.form_cluster(1)?;
        host.ok(&["node", "update", "--label-add", "kept=yes", &host.name()])?;
        fill(&filler)?;
        write(host, &host.name());
        wait_stopped(host)?;
        host.pontoon(&["service", "ls"])?
            .fails(1, &["No space left on device"])?;
        // Neither does a restart make it worse, nor does it hide the reason.
        host.stop()?;
        host.start()?;
        wait_stopped(host)?;
        fs::remove_file(&filler)?;
        wait_until("it is back", LONG, || {
            ensure!(info(host)?.starts_with("active"), "{}", info(host)?);
            Ok(())
        })?;
        let label = host.ok(&[
            "node",
            "inspect",
            "--format",
            "{{.Spec.Labels.kept}}",
            &host.name(),
        ])?;
        ensure!(label.trim() == "yes", "{label}");
        host.ok(&["node", "update", "--label-add", "again=yes", &host.name()])?;
        Ok(())
    });
}

#[test]
fn a_damaged_log_is_named_with_what_to_do() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        fleet.form_cluster(1)?;
        for i in 0..20 {
            host.ok(&["node", "update", "--label-add", &format!("n={i}"), &host.name()])?;
        }
        host.stop()?;
        let raft = host.data_dir().join("cluster/raft");
        let mut segments: Vec<PathBuf> = fs::read_dir(&raft)?.flatten().map(|entry| entry.path()).collect();
        segments.retain(|path| path.extension().is_some_and(|ext| ext == "log"));
        segments.sort();
        let path = segments.last().context("a segment")?;
        let mut bytes = fs::read(path)?;
        bytes[1000] ^= 4;
        fs::write(path, bytes)?;
        host.start()?;
        let info = info(host)?;
        for part in [
            "error ",
            "is damaged at offset",
            "checksum",
            "pontoon swarm leave --force",
        ] {
            ensure!(info.contains(part), "{part:?} is not in {info}");
        }
        Ok(())
    });
}
