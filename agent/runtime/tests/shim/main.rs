//! What the shim owes the daemon: it outlives it, loses nothing, leaves nothing, and is small.
#![allow(clippy::unwrap_used)]

mod daemons;
mod logs;
mod mounts;
mod processes;
#[path = "../support/mod.rs"]
mod support;

use support::{Bed, Kind};

fn bed() -> Option<Bed> {
    Bed::new(Kind::Native)
}
