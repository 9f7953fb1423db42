//! bpf(2) for device filters on cgroup v2.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replace: u32,
}

/// The part for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is one of the structs above, zero-initialised, with only live pointers in it; its
    // size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    })
}

fn descriptor(raw: libc::c_long) -> io::Result<OwnedFd> {
    let raw = i32::try_from(raw).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// Loads a device program given as 8-byte instructions.
pub(crate) fn load_device_program(code: &[u8]) -> io::Result<OwnedFd> {
    // The kernel wants the instructions aligned as u64.
    let aligned: Vec<u64> = code
        .chunks_exact(8)
        .map(|c| {
            c.iter()
                .rev()
                .fold(0, |word, &byte| (word << 8) | u64::from(byte))
        })
        .collect();
    let mut attributes = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(aligned.len()).unwrap_or(u32::MAX),
        instructions: aligned.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    descriptor(call(BPF_PROG_LOAD, &mut attributes)?)
}

/// Attaches a device program, then detaches those that were there before.
pub(crate) fn replace_device_program(cgroup: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: raw(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..Query::default()
    };
    call(BPF_PROG_QUERY, &mut query)?;
    let mut attach = Attach {
        target: raw(cgroup),
        program: raw(program),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        ..Attach::default()
    };
    call(BPF_PROG_ATTACH, &mut attach)?;
    for id in ids.into_iter().take(query.count as usize) {
        let mut by_id = [id, 0, 0];
        let old = descriptor(call(BPF_PROG_GET_FD_BY_ID, &mut by_id)?)?;
        let mut detach = Attach {
            target: raw(cgroup),
            program: raw(&old),
            attach_type: BPF_CGROUP_DEVICE,
            ..Attach::default()
        };
        call(BPF_PROG_DETACH, &mut detach)?;
    }
    Ok(())
}
