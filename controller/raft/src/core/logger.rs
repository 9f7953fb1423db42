//! raft-rs logs through slog; this hands its lines to tracing.

use std::fmt::{Arguments, Write};

use slog::{Drain, KV, Key, Level, Logger, OwnedKVList, Record, Serializer};

struct Bridge;

/// Collects the key-value pairs of a line.
struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

impl Drain for Bridge {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        // raft's `info` is one line per message of an election; ours is what an operator wants to read.
        let enabled = match record.level() {
            Level::Critical | Level::Error => tracing::enabled!(tracing::Level::ERROR),
            Level::Warning => tracing::enabled!(tracing::Level::WARN),
            Level::Info => tracing::enabled!(tracing::Level::DEBUG),
            Level::Debug | Level::Trace => return Ok(()),
        };
        if !enabled {
            return Ok(());
        }
        let mut pairs = Pairs(String::new());
        // A pair that can't be shown only makes the line shorter.
        let _ = record.kv().serialize(record, &mut pairs);
        let _ = values.serialize(record, &mut pairs);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!("raft: {}{}", record.msg(), pairs.0),
            Level::Warning => tracing::warn!("raft: {}{}", record.msg(), pairs.0),
            _ => tracing::debug!("raft: {}{}", record.msg(), pairs.0),
        }
        Ok(())
    }
}

/// The logger to give to raft.
pub(super) fn logger() -> Logger {
    Logger::root(Bridge, slog::o!())
}
