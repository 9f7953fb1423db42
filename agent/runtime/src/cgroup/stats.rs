//! Statistics of one container, read from its cgroup files. The engine calls this for `stats`.

use std::collections::BTreeMap;

use super::{Cgroup, Version, read_file};
use crate::Error;

/// v1 writes "no limit" as the largest multiple of the page size; no machine has half of that.
const UNLIMITED_V1: u64 = 1 << 62;

/// Usage of one container at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block I/O since the start.
    pub blkio: Vec<BlkioEntry>,
}

/// Processor time since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All of it, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub system_ns: u64,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Periods in which the container was throttled.
    pub throttled_periods: u64,
    /// Time for which it was throttled, nanoseconds.
    pub throttled_ns: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// Highest use so far; 0 where the kernel does not say.
    pub max_usage: u64,
    /// Limit; `u64::MAX` without one.
    pub limit: u64,
    /// Number of times that the limit was hit.
    pub failcnt: u64,
    /// `memory.stat`, under the kernel's names.
    pub stat: BTreeMap<String, u64>,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
}

/// Number of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// Limit; `None` without one.
    pub limit: Option<u64>,
}

/// Block I/O with one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioEntry {
    /// Device number, major.
    pub major: u64,
    /// Device number, minor.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Reads everything; a controller that the host lacks leaves its part empty.
pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, Error> {
    if !cgroup.exists() {
        return Err(Error::Shim {
            operation: "read statistics".to_owned(),
            message: "the container's cgroup is gone".to_owned(),
        });
    }
    match cgroup.version() {
        Version::V1 => Ok(read_v1(cgroup)),
        Version::V2 => Ok(read_v2(cgroup)),
    }
}

fn read_v1(cgroup: &Cgroup) -> Stats {
    let file = |controller: &str, name: &str| {
        cgroup
            .controller(controller)
            .and_then(|d| read_file(d, name))
            .unwrap_or_default()
    };
    let number = |controller: &str, name: &str| file(controller, name).trim().parse::<u64>().ok();
    let throttling = file("cpu", "cpu.stat");
    let memory_limit = number("memory", "memory.limit_in_bytes").unwrap_or(UNLIMITED_V1);
    let mut stats = Stats {
        cpu: CpuStats {
            usage_ns: number("cpuacct", "cpuacct.usage").unwrap_or(0),
            user_ns: number("cpuacct", "cpuacct.usage_user").unwrap_or(0),
            system_ns: number("cpuacct", "cpuacct.usage_sys").unwrap_or(0),
            periods: key(&throttling, "nr_periods").unwrap_or(0),
            throttled_periods: key(&throttling, "nr_throttled").unwrap_or(0),
            throttled_ns: key(&throttling, "throttled_time").unwrap_or(0),
        },
        memory: MemoryStats {
            usage: number("memory", "memory.usage_in_bytes").unwrap_or(0),
            max_usage: number("memory", "memory.max_usage_in_bytes").unwrap_or(0),
            limit: if memory_limit >= UNLIMITED_V1 {
                u64::MAX
            } else {
                memory_limit
            },
            failcnt: number("memory", "memory.failcnt").unwrap_or(0),
            stat: keys(&file("memory", "memory.stat")),
            oom_kills: cgroup.oom_kills(),
        },
        pids: PidsStats {
            current: number("pids", "pids.current").unwrap_or(0),
            limit: number("pids", "pids.max"),
        },
        blkio: Vec::new(),
    };
    let bytes = [
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.bfq.io_service_bytes_recursive",
    ];
    let operations = [
        "blkio.throttle.io_serviced_recursive",
        "blkio.bfq.io_serviced_recursive",
    ];
    for (names, is_bytes) in [(bytes, true), (operations, false)] {
        let text = names
            .iter()
            .map(|n| file("blkio", n))
            .find(|t| t.contains(':'))
            .unwrap_or_default();
        blkio_v1(&text, is_bytes, &mut stats.blkio);
    }
    stats
}

/// Lines like `8:0 Read 4096`.
fn blkio_v1(text: &str, is_bytes: bool, entries: &mut Vec<BlkioEntry>) {
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[device, operation, value] = fields.as_slice() else {
            continue;
        };
        let (Some(entry), Ok(value)) = (device_entry(device, entries), value.parse()) else {
            continue;
        };
        match (operation, is_bytes) {
            ("Read", true) => entry.read_bytes = value,
            ("Write", true) => entry.write_bytes = value,
            ("Read", false) => entry.reads = value,
            ("Write", false) => entry.writes = value,
            _ => {}
        }
    }
}

fn read_v2(cgroup: &Cgroup) -> Stats {
    let file = |name: &str| {
        cgroup
            .controller("")
            .and_then(|directory| read_file(directory, name))
            .unwrap_or_default()
    };
    let number = |name: &str| file(name).trim().parse::<u64>().ok();
    let cpu = file("cpu.stat");
    let micros = |name: &str| key(&cpu, name).unwrap_or(0).saturating_mul(1000);
    let events = file("memory.events");
    let mut stats = Stats {
        cpu: CpuStats {
            usage_ns: micros("usage_usec"),
            user_ns: micros("user_usec"),
            system_ns: micros("system_usec"),
            periods: key(&cpu, "nr_periods").unwrap_or(0),
            throttled_periods: key(&cpu, "nr_throttled").unwrap_or(0),
            throttled_ns: micros("throttled_usec"),
        },
        memory: MemoryStats {
            usage: number("memory.current").unwrap_or(0),
            max_usage: number("memory.peak").unwrap_or(0),
            limit: number("memory.max").unwrap_or(u64::MAX),
            failcnt: key(&events, "max").unwrap_or(0),
            stat: keys(&file("memory.stat")),
            oom_kills: key(&events, "oom_kill").unwrap_or(0),
        },
        pids: PidsStats {
            current: number("pids.current").unwrap_or(0),
            limit: number("pids.max"),
        },
        blkio: Vec::new(),
    };
    for line in file("io.stat").lines() {
        let mut fields = line.split_whitespace();
        let Some(entry) = fields.next().and_then(|d| device_entry(d, &mut stats.blkio)) else {
            continue;
        };
        for (name, value) in fields.filter_map(|f| f.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match name {
                "rbytes" => entry.read_bytes = value,
                "wbytes" => entry.write_bytes = value,
                "rios" => entry.reads = value,
                "wios" => entry.writes = value,
                _ => {}
            }
        }
    }
    stats
}

/// The entry of a device `major:minor`, made if new.
fn device_entry<'a>(device: &str, entries: &'a mut Vec<BlkioEntry>) -> Option<&'a mut BlkioEntry> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let index = entries
        .iter()
        .position(|e| e.major == major && e.minor == minor)
        .unwrap_or_else(|| {
            entries.push(BlkioEntry {
                major,
                minor,
                ..BlkioEntry::default()
            });
            entries.len() - 1
        });
    entries.get_mut(index)
}

/// The value of one key in a file of `key value` lines.
pub(super) fn key(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        if key == name {
            value.trim().parse().ok()
        } else {
            None
        }
    })
}

fn keys(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect()
}
