//! Restart policies, and what clients see of them.

use pontoon_proto::v1::{ContainerState, RestartPolicyName};

use super::policy;
use crate::bed::{Bed, cases, is_running, sh, stop, with};

cases![
    restarts_on_failure,
    always_restarts_until_stopped,
    attached_clients_leave_at_the_first_end,
    memory_is_lacked_live,
];

async fn restarts_on_failure() {
    let bed = Bed::new().await;
    let id = bed
        .start(policy(sh("echo run; exit 1"), RestartPolicyName::OnFailure, 2))
        .await;
    let view = bed
        .until(&id, "it gives up", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!((view.restart_count, view.exit_code), (2, 1));
    assert_eq!(bed.log(&id).await, "run\nrun\nrun\n");
    let id = bed
        .start(policy(sh("exit 0"), RestartPolicyName::OnFailure, 0))
        .await;
    assert_eq!(bed.wait(&id).await, 0);
    assert_eq!(bed.inspect(&id).restart_count, 0);
    bed.finish().await;
}

async fn always_restarts_until_stopped() {
    let bed = Bed::new().await;
    let id = bed
        .start(policy(sh("exit 0"), RestartPolicyName::Always, 0))
        .await;
    bed.until(&id, "it restarts", |c| c.restart_count >= 3).await;
    bed.engine.stop(stop(&id)).await.unwrap();
    assert_eq!(bed.inspect(&id).state(), ContainerState::Exited);
    let count = bed.inspect(&id).restart_count;
    bed.engine.start(&id).await.unwrap();
    bed.engine.remove(&id, true).await.unwrap();
    assert!(count >= 3);
    bed.assert_empty().await;
    bed.finish().await;
}

async fn attached_clients_leave_at_the_first_end() {
    let bed = Bed::new().await;
    let id = bed
        .create(policy(sh("echo run; exit 4"), RestartPolicyName::OnFailure, 2))
        .await;
    let session = bed
        .engine
        .attach(&id, crate::bed::all_streams(), false)
        .await
        .unwrap();
    bed.engine.start(&id).await.unwrap();
    let (out, _, code) = crate::bed::collect(session).await;
    assert_eq!((out.as_str(), code), ("run\n", Some(4)));
    bed.until(&id, "it gives up", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(bed.log(&id).await, "run\nrun\nrun\n");
    bed.finish().await;
}

async fn memory_is_lacked_live() {
    let bed = Bed::new().await;
    let script = "while ! test -e /end; do (x=a; while :; do x=$x$x; done); sleep 0.1; done";
    let id = bed
        .create(with(sh(script), |_, host| {
            host.resources = Some(pontoon_proto::v1::Resources {
                memory_bytes: 20 << 20,
                ..Default::default()
            });
        }))
        .await;
    let mut events = bed.engine.events();
    bed.engine.start(&id).await.unwrap();
    let told = async {
        while events.recv().await.unwrap().kind != pontoon_engine::ContainerEventKind::OutOfMemory {}
    };
    tokio::time::timeout(crate::bed::PATIENCE, told)
        .await
        .expect("the lack of memory is told");
    let view = bed.inspect(&id);
    assert!(is_running(&view) && view.oom_killed);
    bed.finish().await;
}
