//! The control group of a test, in every hierarchy: whatever became of the test, `clear` thaws, ends and removes what is in it.
//! A frozen process would otherwise keep its pid namespace from ending, and an empty folder would stay on the host for good.
//!
//! Shared by the suites of the runtime, the engine and the agent. Those that run a case in a process of its own hand the
//! group's name down in a variable.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Variable with the case's group, below each hierarchy's root.
const VARIABLE: &str = "PONTOON_TEST_GROUP";
const PATIENCE: Duration = Duration::from_secs(30);
const HIERARCHIES: &str = "/sys/fs/cgroup";

/// The group of a case or bed.
pub struct Group(String);

/// What was in a group when it was cleared.
#[derive(Debug, Default)]
pub struct Left {
    /// Processes that had to be killed.
    pub processes: Vec<i32>,
    /// Folders that could not be removed: processes in them don't end.
    pub folders: Vec<PathBuf>,
}

impl Left {
    /// Whether the group had been left as it should be.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.folders.is_empty()
    }
}

impl Group {
    /// A name for a case of this run of a suite.
    pub fn of_case(suite: &str, case: &str) -> Self {
        Self(format!("pontoon-{suite}-{}-{case}", std::process::id()))
    }

    /// The group with this name, relative to each hierarchy's root.
    pub fn named(name: &str) -> Self {
        Self(name.trim_matches('/').to_owned())
    }

    /// In the case's process: the group that it runs in.
    pub fn mine() -> Self {
        Self(std::env::var(VARIABLE).expect("a case runs in a group"))
    }

    /// What the case's process gets.
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// The parent group of a bed of this case, as an engine is told it.
    pub fn of_bed(&self, tag: &str) -> String {
        format!("/{}/{tag}", self.0)
    }

    /// Its folder in each hierarchy of this host, whether it is there or not.
    pub fn places(&self) -> Vec<PathBuf> {
        let top = PathBuf::from(HIERARCHIES);
        let roots = if is_hierarchy(&top) {
            vec![top]
        } else {
            let entries = std::fs::read_dir(top).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.path())
                .filter(|path| is_hierarchy(path))
                .collect()
        };
        roots.into_iter().map(|root| root.join(&self.0)).collect()
    }

    /// Ends what is left in it and removes it; gives what there was.
    pub fn clear(&self) -> Left {
        let mut killed = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folders = self.folders();
            if folders.is_empty() || Instant::now() > deadline {
                return Left {
                    processes: killed.into_iter().collect(),
                    folders,
                };
            }
            for folder in folders {
                // Both may be missing: they belong to one hierarchy each.
                let _ = std::fs::write(folder.join("freezer.state"), "THAWED");
                let _ = std::fs::write(folder.join("cgroup.freeze"), "0");
                let pids = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for raw in pids.lines().filter_map(|line| line.parse().ok()) {
                    // 0 stands for one of a namespace that we don't see: not ours to end.
                    if let Some(pid) = Pid::from_raw(raw) {
                        killed.insert(raw);
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                // Once it is empty; the kernel lets go of its processes a moment after their end.
                let _ = std::fs::remove_dir(&folder);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its folders in all hierarchies, the deepest first.
    fn folders(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for place in self.places() {
            gather(&place, &mut found);
        }
        found
    }
}

/// Polls a condition; false if it never holds.
pub fn holds_within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Version 2 has one, version 1 has one for each controller below a plain folder.
fn is_hierarchy(path: &Path) -> bool {
    path.join("cgroup.procs").exists()
}

fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), found);
        }
    }
    found.push(folder.to_owned());
}
