//! What a host has on the machine: interfaces, firewall rules, mounts, control groups, processes, namespace files, and the
//! daemon's folders of containers, root file systems, shims, sandboxes, volumes and networks. Tests take it
//! before and after, and what is there afterwards only was left behind. Used by [`crate::host`].

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cgroups;
use crate::fleet::mounts_below;
use crate::host::Host;
use crate::wait::wait_until;
use crate::wire::HOST_LINK;

/// One host's things on the machine, each as one line that starts with its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    things: BTreeSet<String>,
}

impl Footprint {
    /// Collects what the host has now.
    ///
    /// # Errors
    /// When a part can't be listed.
    pub fn of(host: &Host) -> Result<Self> {
        let mut things = BTreeSet::new();
        for line in interfaces(host)?.lines() {
            let name = line.split([':', '@']).nth(1).unwrap_or_default().trim();
            if name != "lo" && name != HOST_LINK {
                things.insert(format!("interface {name}"));
            }
        }
        for line in host.exec(&["ip", "-oneline", "-4", "route"])?.ok()?.lines() {
            // A bridge without ports has no carrier: that comes and goes with containers.
            things.insert(format!(
                "route {}",
                line.trim().trim_end_matches("linkdown").trim_end()
            ));
        }
        // Handles and counters differ from listing to listing, elements and rules do not.
        for line in host
            .exec(&["nft", "--stateless", "list", "ruleset"])?
            .ok()?
            .lines()
        {
            things.insert(format!("rule {}", line.trim()));
        }
        for point in mounts_below(host.folder()) {
            things.insert(format!("mount {}", point.display()));
        }
        for folder in cgroups::groups(host.group())? {
            things.insert(format!("cgroup {}", folder.display()));
        }
        for pid in cgroups::processes(host.group())? {
            let pid = pid.as_raw_nonzero();
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // A new daemon is the same thing as the one before: processes count by what they are.
            things.insert(format!("process {}", line.trim()));
        }
        for path in entries(&host.run_dir().join("netns")) {
            things.insert(format!("netns {}", path.display()));
        }
        let (data, run) = (host.data_dir(), host.run_dir());
        let mut parents: Vec<PathBuf> = [
            "image/rootfs",
            "image/staging",
            "image/layers",
            "image/blobs/sha256",
            "network",
            "volumes",
        ]
        .iter()
        .map(|part| data.join(part))
        .collect();
        for parent in [data.join("engine"), run] {
            parents.extend(entries(&parent));
            parents.push(parent);
        }
        // Compiled filters are kept for the next container.
        for parent in parents.iter().filter(|parent| !parent.ends_with("seccomp")) {
            for path in entries(parent) {
                things.insert(format!("file {}", path.display()));
            }
        }
        Ok(Self { things })
    }

    /// What is here but was not in `before`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.things.difference(&before.things).cloned().collect()
    }

    /// Things whose line starts with `kind`.
    pub fn of_kind(&self, kind: &str) -> Vec<&str> {
        self.things
            .iter()
            .filter(|thing| thing.starts_with(kind))
            .map(String::as_str)
            .collect()
    }

    /// Checks that nothing is here that was not in `before`.
    ///
    /// # Errors
    /// With what was left behind.
    pub fn ensure_nothing_since(&self, before: &Self) -> Result<()> {
        let left = self.since(before);
        ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        Ok(())
    }
}

/// The host's interfaces. Those of removed containers are set down and put into a group, which the kernel takes a moment to
/// forget: they are given that. Where no daemon runs to remove them they count as what they are.
fn interfaces(host: &Host) -> Result<String> {
    const RETIRED: &str = "group 1886350964";
    let list = || host.exec(&["ip", "-oneline", "link"])?.ok();
    let settled = wait_until("retired interfaces are gone", Duration::from_secs(2), || {
        let links = list()?;
        ensure!(!links.contains(RETIRED), "{links}");
        Ok(links)
    });
    settled.or_else(|_| list())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.things.iter().try_for_each(|thing| writeln!(f, "{thing}"))
    }
}
