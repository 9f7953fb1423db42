//! What the daemon needs and does not get: space, descriptors, processes, control groups, its folders, readable records. Each time the
//! user is told, nothing is left half-made, everything else goes on, and it works again when there is enough.

mod disk;
mod folders;
mod limits;
mod records;

use anyhow::Result;
use pontoon_tests::{Fleet, Host, images};

fn load_busybox(fleet: &Fleet, host: &Host) -> Result<()> {
    let archive = images::write_busybox(fleet.folder())?;
    host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    Ok(())
}

/// A host with busybox and its bridge made.
fn warm(fleet: &Fleet) -> Result<&Host> {
    let host = fleet.host(1);
    load_busybox(fleet, host)?;
    host.ok(&["run", "--rm", "--publish", "7070:7070", "busybox", "true"])?;
    Ok(host)
}

fn state(host: &Host, name: &str) -> Result<String> {
    host.ok(&["inspect", "--format", "{{.State.Status}}", name])
}
