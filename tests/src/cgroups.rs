//! A host's processes by control group: everything that a daemon starts stays below the group that its host has, so a host can be
//! ended like a machine that loses power. Works on cgroup v1, hybrid and v2. Used by [`crate::host`] and [`crate::footprint`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_until;

/// Mount points of all cgroup hierarchies of this machine.
///
/// # Errors
/// When `/proc/mounts` can't be read.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (point, kind) = (words.nth(1)?, words.next()?);
            (kind == "cgroup" || kind == "cgroup2").then(|| PathBuf::from(point))
        })
        .collect())
}

/// Makes the group in which a host's daemon starts and returns its folder: `pids` on v1 (any hierarchy whose membership is
/// inherited and which the daemon does not configure for itself would do), the only hierarchy on v2.
///
/// # Errors
/// When it can't be made.
pub fn home(group: &str) -> Result<PathBuf> {
    let all = hierarchies()?;
    let hierarchy = all
        .iter()
        .find(|point| point.ends_with("pids"))
        .or(all.first())
        .context("no cgroup hierarchy is mounted")?;
    let folder = below(hierarchy, group);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// All groups at and below `group`, in every hierarchy, deepest first.
///
/// # Errors
/// When the hierarchies can't be listed.
pub fn groups(group: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        collect(&below(&hierarchy, group), &mut found);
    }
    Ok(found)
}

/// The processes at and below `group`.
///
/// # Errors
/// When the hierarchies can't be listed.
pub fn processes(group: &str) -> Result<Vec<Pid>> {
    let mut pids: Vec<i32> = groups(group)?
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids.into_iter().filter_map(Pid::from_raw).collect())
}

/// Kills every process at and below `group`, paused ones too, until none is left.
///
/// # Errors
/// When some stay alive for ten seconds.
pub fn kill_all(group: &str) -> Result<()> {
    wait_until("the end of a host's processes", Duration::from_secs(10), || {
        thaw(group)?;
        let pids = processes(group)?;
        for pid in &pids {
            // One that has just ended is what we want.
            let _ = kill_process(*pid, Signal::KILL);
        }
        ensure!(pids.is_empty(), "processes {pids:?} are still there");
        Ok(())
    })
}

/// Removes the empty groups at and below `group`.
///
/// # Errors
/// When some can't be removed, with all of them.
pub fn remove(group: &str) -> Result<()> {
    let mut failures = Vec::new();
    for folder in groups(group)? {
        match fs::remove_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("{}: {error}", folder.display()));
            }
            _ => {}
        }
    }
    ensure!(
        failures.is_empty(),
        "cannot remove control groups: {}",
        failures.join("; ")
    );
    Ok(())
}

fn thaw(group: &str) -> Result<()> {
    for folder in groups(group)? {
        for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = folder.join(file);
            if file.exists() {
                let _ = fs::write(file, word);
            }
        }
    }
    Ok(())
}

fn below(hierarchy: &Path, group: &str) -> PathBuf {
    hierarchy.join(group.trim_start_matches('/'))
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
    found.push(folder.to_owned());
}
