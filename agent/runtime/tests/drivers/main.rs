//! The same cases through the shim on both drivers, our own and runc, with the same assertions.

#![allow(clippy::unwrap_used)]

mod files;
mod limits;
mod process;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use support::{Bed, Kind};

/// Runs each case on both drivers.
macro_rules! table {
    ($($case:ident),* $(,)?) => {$(
        mod $case {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn native() {
                if let Some(bed) = super::Bed::new(super::Kind::Native) { super::cases::$case(bed).await }
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn runc() {
                if let Some(bed) = super::Bed::new(super::Kind::Runc) { super::cases::$case(bed).await }
            }
        }
    )*};
}

table![
    exit_codes,
    signal_exit,
    process_environment,
    users_and_groups,
    capabilities_and_seccomp,
    no_new_privileges,
    resource_limits,
    read_only_root,
    masked_paths,
    cgroup_limits,
    oom_kill,
    missing_program,
    not_executable,
    mounts,
    symlink_target_stays_inside,
    cgroup_is_read_only,
    devices,
    signals,
    pause,
    terminal_with_resize,
    stdin_to_its_end,
    slow_reader,
    exec_codes,
    exec_terminal,
    no_leaked_descriptors,
    user_namespaces_blocked,
    sysctls,
    update_limits,
    log_file,
];

/// The same cases where only the unified hierarchy is mounted. Controllers that this host has given to v1 are
/// missing there, so the cases that need them are left out.
#[test]
fn unified_hierarchy_alone() {
    if !rustix::process::geteuid().is_root()
        || std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    {
        return eprintln!("skipped: needs root and a host that is not on v2 anyway");
    }
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap());
    command.args(["native", "--test-threads", "2"]);
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !controllers.contains("memory") || !controllers.contains("pids") {
        for case in [
            "cgroup_is_read_only",
            "cgroup_limits",
            "update_limits",
            "oom_kill",
        ] {
            command.args(["--skip", case]);
        }
    }
    match command.status() {
        Ok(status) => assert!(status.success(), "cases fail on v2"),
        Err(error) => eprintln!("skipped: unshare: {error}"),
    }
}

/// The cases by their names alone, which are those of the table.
mod cases {
    pub use crate::files::*;
    pub use crate::limits::*;
    pub use crate::process::*;
    pub use crate::streams::*;
}
