//! Tells of a lack of memory in a running container at once (the event `oom`), not only at its end: the kernel says so through a
//! descriptor of the container's cgroup.

use std::sync::Arc;

use pontoon_runtime::cgroup::{Cgroup, Hierarchies};
use tokio::net::unix::pipe::Receiver;

use super::Container;
use crate::Engine;
use crate::engine::blocking;
use crate::event::ContainerEventKind;

/// Begins to look out. A host whose kernel can't tell is no error: the end of the container still says why.
pub(crate) fn spawn(engine: &Arc<Engine>, container: &Arc<Container>) {
    let cancelled = engine.stop.child_token();
    {
        let mut live = container.live();
        live.oom_told = false;
        if let Some(previous) = live.oom.replace(cancelled.clone()) {
            previous.cancel();
        }
    }
    let (engine, container) = (engine.clone(), container.clone());
    let tasks = engine.tasks.clone();
    tasks.spawn(async move {
        cancelled.run_until_cancelled(watch(&engine, &container)).await;
    });
}

async fn watch(engine: &Arc<Engine>, container: &Arc<Container>) {
    let path = engine.cgroup(&container.id);
    let found = blocking(move || {
        let open = || {
            let cgroup = Cgroup::find(&Hierarchies::detect()?, &path)?;
            let descriptor = cgroup.oom_descriptor()?;
            Ok((cgroup, descriptor))
        };
        open().map_err(|error| crate::Error::runtime("look out for a lack of memory", error))
    })
    .await;
    let opened = found.and_then(|(cgroup, descriptor)| {
        // Read like a pipe, as an inotify descriptor is.
        let events = Receiver::from_owned_fd_unchecked(descriptor);
        let events = events.map_err(|source| crate::Error::Io {
            what: "poll a cgroup".to_owned(),
            source,
        })?;
        Ok((cgroup, events))
    });
    let (cgroup, events) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(
                container = container.id,
                error = error.chain(),
                "no live oom events"
            );
            return;
        }
    };
    let mut kills = cgroup.oom_kills();
    let mut buffer = [0_u8; 4096];
    loop {
        if events.readable().await.is_err() {
            return;
        }
        match events.try_read(&mut buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        // Its removal shows here, too.
        if !cgroup.exists() {
            return;
        }
        let now = cgroup.oom_kills();
        if now > kills || cgroup.tells_before_the_kill() {
            kills = now;
            tell(engine, container);
        }
    }
}

fn tell(engine: &Engine, container: &Container) {
    {
        let mut live = container.live();
        if live.oom.is_none() {
            return;
        }
        live.oom_told = true;
    }
    if let Err(error) = container.update(|record| record.view_mut().oom_killed = true) {
        tracing::warn!(
            container = container.id,
            error = error.chain(),
            "could not record a lack of memory"
        );
    }
    engine.emit_for(container, ContainerEventKind::OutOfMemory);
}
