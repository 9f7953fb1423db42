//! Restart policies, health checks, and the daemon's own restarts. Here is what the cases share.

mod daemon;
mod health;
mod policies;
mod shims;

use pontoon_proto::v1::{ContainerRestartPolicy, CreateContainerRequest, RestartPolicyName};

use crate::bed::with;

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [
        daemon::cases(),
        health::cases(),
        policies::cases(),
        shims::cases(),
    ]
    .concat()
}

fn policy(request: CreateContainerRequest, name: RestartPolicyName, count: u32) -> CreateContainerRequest {
    with(request, |_, host| {
        host.restart_policy = Some(ContainerRestartPolicy {
            name: name.into(),
            maximum_retry_count: count,
        });
    })
}

/// The pid of the process that holds a container's.
fn shim_of(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.unwrap().trim().to_owned()
}
