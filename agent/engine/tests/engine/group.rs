//! The control group of a case. `main` makes its name, the case's beds put theirs below it, and when the case has ended, however it
//! ended, `main` empties and removes it: a frozen process would keep its pid namespace from ending.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Variable with the case's group, below each hierarchy's root.
const VARIABLE: &str = "PONTOON_ENGINE_GROUP";
const PATIENCE: Duration = Duration::from_secs(30);
const HIERARCHIES: &str = "/sys/fs/cgroup";

/// The group of a case.
pub struct Group(String);

impl Group {
    /// A name for a case of this run.
    pub fn new(case: &str) -> Self {
        Self(format!("pontoon-engine-{}-{case}", std::process::id()))
    }

    /// What the case's process gets.
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// In the case: the parent group of a bed.
    pub fn of_bed(tag: &str) -> String {
        let group = std::env::var(VARIABLE).expect("a case runs in a group");
        format!("/{group}/{tag}")
    }

    /// Ends what is left in it and removes it; gives the processes that there were.
    pub fn clear(&self) -> Vec<u32> {
        let mut left = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folders = self.folders();
            if folders.is_empty() {
                left.sort_unstable();
                left.dedup();
                return left;
            }
            assert!(Instant::now() < deadline, "{} can't be removed", self.0);
            for folder in folders {
                // Both may be missing: they belong to one hierarchy each.
                let _ = std::fs::write(folder.join("freezer.state"), "THAWED");
                let _ = std::fs::write(folder.join("cgroup.freeze"), "0");
                let pids = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for pid in pids.lines().filter_map(|line| line.parse().ok()) {
                    left.push(pid);
                    let _ = std::process::Command::new("kill")
                        .args(["-KILL", &pid.to_string()])
                        .status();
                }
                // Once it is empty; the kernel lets go of its processes a moment after their end.
                let _ = std::fs::remove_dir(&folder);
            }
            std::thread::yield_now();
        }
    }

    /// Its folders in all hierarchies, the deepest first.
    fn folders(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let roots = std::fs::read_dir(HIERARCHIES)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let roots: Vec<PathBuf> = roots.unwrap_or_default();
        for root in roots.iter().map(PathBuf::as_path).chain([Path::new(HIERARCHIES)]) {
            gather(&root.join(&self.0), &mut found);
        }
        found
    }
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
