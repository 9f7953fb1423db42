//! Control groups, version 1 and 2: where they are, limits, device rules, freezing, killing, statistics,
//! removal. Used by the shim for its container and by the engine for statistics.

mod stats;

pub use stats::{BlkioEntry, CpuStats, MemoryStats, PidsStats, Stats};
