//! Shims that are killed, with and without a daemon that watches.

use pontoon_proto::v1::{ContainerState, CreateContainerRequest, RestartPolicyName};

use super::{policy, shim_of};
use crate::bed::{Bed, cases, command, eventually, is_running, with};

cases![dead_shim, killed_shim_is_cleaned_up_and_restarted,];

async fn dead_shim() {
    let mut bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    let pid = bed.inspect(&id).pid;
    let shim = shim_of(pid);
    bed.engine.shutdown().await;
    crate::bed::run("kill", &["-9", &shim]);
    bed.reopen().await;
    let view = bed
        .until(&id, "its end is seen", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(view.exit_code, 255);
    // Whoever adopted the process may not have collected it yet.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
    let id = bed.start(command(&["sleep", "1000"])).await;
    let pid = bed.inspect(&id).pid;
    let shim = shim_of(pid);
    crate::bed::run("kill", &["-9", &shim]);
    bed.until(&id, "its end is seen at once", |c| {
        c.state() == ContainerState::Exited
    })
    .await;
    bed.finish().await;
}

async fn killed_shim_is_cleaned_up_and_restarted() {
    let bed = Bed::new().await;
    let bridged =
        |request: CreateContainerRequest| with(request, |_, host| host.network_mode = "bridge".to_owned());
    let plain = bed.start(bridged(command(&["sleep", "1000"]))).await;
    let kept = bed
        .start(policy(
            bridged(command(&["sleep", "1000"])),
            RestartPolicyName::OnFailure,
            0,
        ))
        .await;
    let views = [bed.inspect(&plain), bed.inspect(&kept)];
    for view in &views {
        crate::bed::run("kill", &["-9", &shim_of(view.pid)]);
    }
    let view = bed
        .until(&plain, "its end is seen", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(view.exit_code, 255);
    assert!(view.error.contains("shim"), "{:?}", view.error);
    let view = bed
        .until(&kept, "it runs again", |c| is_running(c) && c.restart_count == 1)
        .await;
    assert!(view.pid != views[1].pid && view.error.is_empty());
    eventually("the namespace of the dead one is gone", || async {
        (!std::path::Path::new(&views[0].sandbox_key).exists()).then_some(())
    })
    .await;
    for view in &views {
        let status = std::fs::read_to_string(format!("/proc/{}/status", view.pid)).unwrap_or_default();
        assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
    }
    bed.finish().await;
}
