//! Memory and CPU time of processes, from `/proc`. Used by `memory`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pontoon_tests::{Host, cgroups};
use serde_json::{Value, json};

use crate::report::round;

/// Memory of one process in KiB, from `smaps_rollup` (proc(5)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// All resident pages.
    pub rss: u64,
    /// Resident pages, a shared one counted by its share.
    pub pss: u64,
    /// Written pages that nobody else has: what one more such process costs at least.
    pub private_dirty: u64,
    /// Unwritten pages that nobody else has: file pages, given back under pressure.
    pub private_clean: u64,
}

impl Memory {
    /// Reads a process's figures.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(pid: i32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("cannot read the memory of process {pid}"))?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let word = line.and_then(|line| line.split_whitespace().nth(1));
            word.and_then(|word| word.parse().ok()).unwrap_or_default()
        };
        Ok(Self {
            rss: field("Rss:"),
            pss: field("Pss:"),
            private_dirty: field("Private_Dirty:"),
            private_clean: field("Private_Clean:"),
        })
    }

    /// The mean of several.
    pub fn mean(all: &[Self]) -> Self {
        let count = all.len().max(1) as u64;
        let mean = |field: fn(&Self) -> u64| all.iter().map(field).sum::<u64>() / count;
        Self {
            rss: mean(|memory| memory.rss),
            pss: mean(|memory| memory.pss),
            private_dirty: mean(|memory| memory.private_dirty),
            private_clean: mean(|memory| memory.private_clean),
        }
    }

    /// All of it in MiB.
    pub fn json(self) -> Value {
        json!({
            "unit": "MiB",
            "rss": mib(self.rss),
            "pss": mib(self.pss),
            "private_dirty": mib(self.private_dirty),
            "private_clean": mib(self.private_clean),
        })
    }
}

/// KiB in MiB.
pub fn mib(kib: u64) -> f64 {
    round(kib as f64 / 1024.0)
}

/// The processes of a host that run a hidden subcommand of our binary (`shim`, `netd`, `daemon`).
///
/// # Errors
/// When the control groups can't be listed.
pub fn of_kind(host: &Host, kind: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for pid in cgroups::processes(host.group())? {
        let pid = pid.as_raw_nonzero().get();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        if words.next() == Some(kind.as_bytes()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// CPU time of all threads in seconds, exact and not sampled at ticks (`schedstat`). Threads that have ended are not counted.
pub fn cpu_time(pid: i32) -> f64 {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(Path::new(&folder)).into_iter().flatten().flatten();
    let nanoseconds: u64 = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1e9
}
