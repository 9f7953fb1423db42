//! sched_setattr(2), ioprio_set(2), personality(2).

use std::io;

use super::check;

/// `struct sched_attr` of linux/sched/types.h.
#[repr(C)]
#[derive(Debug, Clone, Default)]
pub(crate) struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// Sets the calling thread's scheduling policy.
pub(crate) fn set_scheduler(attributes: &SchedAttr) -> io::Result<()> {
    let mut attributes = attributes.clone();
    attributes.size = u32::try_from(size_of::<SchedAttr>()).unwrap_or(0);
    // SAFETY: the struct lives across the call and says its size.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    check(result).map(drop)
}

/// Sets the calling thread's I/O priority, class and level in one.
pub(crate) fn set_io_priority(priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            libc::c_int::from(priority),
        )
    };
    check(result).map(drop)
}

/// Sets the execution domain, which execve keeps.
pub(crate) fn set_personality(personality: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(libc::c_long::from(unsafe {
        libc::personality(libc::c_ulong::from(personality))
    }))
    .map(drop)
}
