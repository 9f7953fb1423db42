//! Looking after a running container: its end is recorded and published at once, what it used is released, and its restart
//! policy or `--rm` is carried out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::ContainerState;
use pontoon_runtime::{ExitRecord, ShimClient};
use tokio_util::sync::CancellationToken;

use super::{Container, health, oom, restart};
use crate::event::ContainerEventKind;
use crate::{Engine, id};

/// Exit code of a container whose end nobody saw.
pub(crate) const UNSEEN: i32 = 255;

/// Begins to look after a container that has a process.
pub(crate) fn spawn(engine: &Arc<Engine>, container: &Arc<Container>, shim: ShimClient) {
    health::spawn(engine, container, &shim);
    oom::spawn(engine, container);
    let (engine, container) = (engine.clone(), container.clone());
    let tasks = engine.tasks.clone();
    tasks.spawn(watch(engine, container, shim));
}

// Boxed: a restart leads back here.
fn watch(
    engine: Arc<Engine>,
    container: Arc<Container>,
    shim: ShimClient,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let ended = tokio::select! {
            ended = shim.wait() => ended,
            () = engine.stop.cancelled() => return,
        };
        let exit = match ended {
            Ok(exit) => exit,
            Err(error) => {
                let reason = error.chain();
                if let Err(error) = pontoon_runtime::destroy(&container.run_dir).await {
                    tracing::warn!(
                        container = container.id,
                        error = error.chain(),
                        "could not clean up"
                    );
                }
                unseen(reason)
            }
        };
        ended_with(engine, container, exit).await;
    })
}

/// The record of an end that nobody saw.
pub(crate) fn unseen(reason: String) -> ExitRecord {
    ExitRecord {
        code: UNSEEN,
        signal: None,
        oom_killed: false,
        finished_at: id::now(),
        error: Some(reason),
    }
}

/// Handles the end of a container's program.
pub(crate) async fn ended_with(engine: Arc<Engine>, container: Arc<Container>, exit: ExitRecord) {
    let starts = container.watch().borrow().starts;
    // Read before the end is published: `restart`, which waits for that, takes its wish back afterwards.
    let auto_remove = container.read(|record| record.host().auto_remove) && !container.live().keep;
    let delay = publish_end(&engine, &container, exit);
    if auto_remove {
        engine.remove_quietly(&container).await;
        return;
    }
    {
        let _operation = container.operation.lock().await;
        // Another operation may have started it again, and released what was held, before the lock was ours.
        if container.watch().borrow().starts != starts {
            return;
        }
        engine.release(&container).await;
    }
    if let Some((delay, cancelled)) = delay {
        restart_after(engine, container, delay, cancelled).await;
    }
}

/// Records the end and tells those who wait; gives the delay of the restart that follows, if any.
fn publish_end(
    engine: &Engine,
    container: &Container,
    exit: ExitRecord,
) -> Option<(Duration, CancellationToken)> {
    let oom_told;
    let restart = {
        let mut live = container.live();
        live.shim = None;
        for token in [live.health.take(), live.oom.take()].into_iter().flatten() {
            token.cancel();
        }
        live.execs.clear();
        oom_told = live.oom_told;
        let plan = container.read(|record| {
            let view = record.view();
            let policy = record.host().restart_policy.unwrap_or_default();
            let ran = exit.finished_at.saturating_sub(view.started_at);
            restart::wanted(policy, record.stopped_by_user, exit.code, view.restart_count)
                .then(|| Duration::from_nanos(u64::try_from(ran).unwrap_or_default()))
        });
        plan.map(|ran| {
            let cancelled = CancellationToken::new();
            live.restart = Some(cancelled.clone());
            (live.backoff.next(ran), cancelled)
        })
    };
    let state = if restart.is_some() {
        ContainerState::Restarting
    } else {
        ContainerState::Exited
    };
    let recorded = container.update_exited(|record| {
        let view = record.view_mut();
        view.set_state(state);
        view.pid = 0;
        view.exit_code = exit.code;
        view.oom_killed = exit.oom_killed;
        view.finished_at = exit.finished_at;
        view.error = exit.error.clone().unwrap_or_default();
        view.ports.clear();
        view.sandbox_key.clear();
        for network in &mut view.networks {
            network.ip_address.clear();
            network.ip_prefix_len = 0;
            network.gateway.clear();
            network.ipv6_address.clear();
            network.ipv6_prefix_len = 0;
            network.ipv6_gateway.clear();
            network.mac_address.clear();
            network.endpoint_id.clear();
        }
    });
    if let Err(error) = recorded {
        tracing::warn!(
            container = container.id,
            error = error.chain(),
            "could not record an end"
        );
    }
    if exit.oom_killed && !oom_told {
        engine.emit_for(container, ContainerEventKind::OutOfMemory);
    }
    let kind = ContainerEventKind::Died {
        exit_code: exit.code,
        oom_killed: exit.oom_killed,
    };
    engine.emit(&container.id, kind);
    restart
}

/// Starts the container again after its delay, unless somebody else does something to it first. A start that fails
/// counts as an end.
async fn restart_after(
    engine: Arc<Engine>,
    container: Arc<Container>,
    mut delay: Duration,
    cancelled: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = cancelled.cancelled() => return,
            () = engine.stop.cancelled() => return,
        }
        let _operation = container.operation.lock().await;
        if cancelled.is_cancelled() || container.state() != ContainerState::Restarting {
            return;
        }
        let counted = container.update(|record| record.view_mut().restart_count += 1);
        if let Err(error) = counted {
            tracing::warn!(
                container = container.id,
                error = error.chain(),
                "could not record a restart"
            );
        }
        let Err(error) = engine.launch(&container).await else {
            container.live().restart = None;
            return;
        };
        tracing::warn!(
            container = container.id,
            error = error.chain(),
            "could not restart a container"
        );
        let again = container.read(|record| {
            let policy = record.host().restart_policy.unwrap_or_default();
            let view = record.view();
            restart::wanted(
                policy,
                record.stopped_by_user,
                error.exit_code(),
                view.restart_count,
            )
        });
        if !again {
            container.live().restart = None;
            return;
        }
        delay = container.live().backoff.next(Duration::ZERO);
        if let Err(error) = container.update(|r| r.view_mut().set_state(ContainerState::Restarting)) {
            tracing::warn!(
                container = container.id,
                error = error.chain(),
                "could not record a restart"
            );
        }
    }
}
