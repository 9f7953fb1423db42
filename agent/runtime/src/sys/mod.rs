//! The crate's unsafe corner: system calls that no safe wrapper covers, one small function each. Nothing here
//! decides anything.

#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod btrfs;
pub(crate) mod exec;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod sched;
pub(crate) mod signal;

use std::io;

/// A system call's result as Rust has it.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
