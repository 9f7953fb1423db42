//! What happens when the engine is opened: records are read, running containers are found again by their shims, ends that
//! nobody saw are handled, leftovers are removed, restart policies applied. One bad container never stops the engine.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::ContainerState;
use pontoon_runtime::{ExitRecord, ShimClient, read_exit_record};

use super::record::{Record, has_process};
use super::{Container, boot, restart, supervise};
use crate::engine::blocking;
use crate::error::IoContext;
use crate::volumes::Found;
use crate::{Engine, Error, Result, volumes};

/// What to do with a container that was found, once all of them are known.
enum Next {
    /// Nothing.
    Rest,
    /// It runs: look after it.
    Watch(ShimClient),
    /// It has ended meanwhile.
    Ended(ExitRecord),
    /// Its removal was begun, or is due.
    Remove,
}

/// Restores all containers.
pub(crate) async fn run(engine: &Arc<Engine>) -> Result<()> {
    let run_dir = engine.config.run_dir.clone();
    blocking(move || boot::notice(&run_dir)).await?;
    let mut found = Vec::new();
    // Folders whose record can't be read keep their root file system: somebody may want to look.
    let mut unreadable = HashSet::new();
    for id in names(&engine.config.data_dir.join("engine/containers"))? {
        match restore(engine, &id).await {
            Ok(Some(container)) => found.push(container),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    container = id,
                    error = error.chain(),
                    "could not restore a container"
                );
                // Nobody could stop it.
                destroy(engine, &id).await;
                unreadable.insert(id);
            }
        }
    }
    let plans = inspect_all(engine, found).await;
    let live: HashSet<String> = plans
        .iter()
        .filter(|(_, next)| matches!(next, Next::Watch(_)))
        .map(|(container, _)| container.id.clone())
        .collect();
    for error in engine.network.reconcile(&live).await {
        tracing::warn!(%error, "could not reconcile the network");
    }
    for (container, next) in &plans {
        if matches!(next, Next::Watch(_)) {
            engine.reconcile_networks(container).await;
        }
    }
    take_over_volumes(engine, &live, &unreadable).await;
    remove_leftovers(engine, &live, &unreadable).await;
    for (container, next) in plans {
        carry_out(engine, container, next);
    }
    Ok(())
}

async fn take_over_volumes(engine: &Arc<Engine>, live: &HashSet<String>, unreadable: &HashSet<String>) {
    let found = engine.containers.all().into_iter().map(|container| Found {
        id: container.id.clone(),
        is_live: live.contains(&container.id),
        volumes: container.read(|record| {
            let names = record.mounts.iter().map(|mount| mount.volume.clone());
            names.filter(|name| !name.is_empty()).collect()
        }),
    });
    let (found, unreadable, volumes) = (
        found.collect::<Vec<_>>(),
        unreadable.clone(),
        engine.volumes.clone(),
    );
    let taken = blocking(move || {
        volumes.take_over(&found, &|id| unreadable.contains(id));
        Ok(())
    });
    if let Err(error) = taken.await {
        tracing::warn!(error = error.chain(), "could not look after the volumes");
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).context(|| format!("read {}", dir.display()))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

async fn restore(engine: &Arc<Engine>, id: &str) -> Result<Option<Arc<Container>>> {
    let dir = engine.container_dir(id);
    let Some(record) = Record::load(&dir)? else {
        tracing::info!(
            container = id,
            "removing what is left of a creation that was cut short"
        );
        std::fs::remove_dir_all(&dir).context(|| format!("remove {}", dir.display()))?;
        return Ok(None);
    };
    if record.view().id != id {
        return Err(Error::Invalid(format!(
            "the record in {} is of another container",
            dir.display()
        )));
    }
    // Its root file system is in another driver's store: as Docker, it is there again with that driver.
    let (made_with, driver) = (&record.view().driver, engine.images.storage().0);
    if !made_with.is_empty() && made_with != driver {
        return Err(Error::Invalid(format!(
            "it was made with storage driver {made_with}, and this daemon runs with {driver}"
        )));
    }
    let name = record.view().name.clone();
    engine.containers.reserve(&name, id)?;
    let container = Arc::new(Container::new(record, dir, engine.shim_dir(id)));
    engine.containers.insert(container.clone());
    Ok(Some(container))
}

/// Finds out what became of each container. All at once: one shim that hangs is waited for in vain.
async fn inspect_all(engine: &Arc<Engine>, found: Vec<Arc<Container>>) -> Vec<(Arc<Container>, Next)> {
    let mut asked = tokio::task::JoinSet::new();
    for container in found {
        let engine = engine.clone();
        asked.spawn(async move {
            let next = inspect(&engine, &container).await;
            (container, next)
        });
    }
    let mut plans = asked.join_all().await;
    plans.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
    plans
}

/// Finds out what became of a container.
async fn inspect(engine: &Engine, container: &Container) -> Next {
    let state = container.state();
    let (removing, auto_remove) = container.read(|record| (record.removing, record.host().auto_remove));
    let dir = &container.run_dir;
    if has_process(state) {
        container.live().held = true;
        match connect(dir).await {
            Ok(shim) => {
                container.live().shim = Some(shim.clone());
                return Next::Watch(shim);
            }
            Err(error) => {
                let exit = match read_exit_record(dir) {
                    Ok(Some(exit)) => exit,
                    Ok(None) => {
                        supervise::unseen(format!("it ended while nobody watched: {}", error.chain()))
                    }
                    Err(error) => supervise::unseen(error.chain()),
                };
                destroy(engine, &container.id).await;
                return Next::Ended(exit);
            }
        }
    }
    if dir.exists() {
        // A start that was cut short, or an end whose clean-up was.
        destroy(engine, &container.id).await;
    }
    match state {
        _ if removing => Next::Remove,
        ContainerState::Exited if auto_remove => Next::Remove,
        _ => Next::Rest,
    }
}

async fn connect(dir: &Path) -> Result<ShimClient, pontoon_runtime::Error> {
    let shim = ShimClient::connect(dir).await?;
    match shim.state().await?.status.as_str() {
        "running" | "paused" => Ok(shim),
        other => Err(pontoon_runtime::Error::State {
            state: other.to_owned(),
            operation: "take over".to_owned(),
        }),
    }
}

/// Ends what a shim or a container without one has left. The cgroup is found by its name too: the run folder may be gone.
async fn destroy(engine: &Engine, id: &str) {
    let dir = &engine.shim_dir(id);
    for ended in [
        pontoon_runtime::destroy(dir).await,
        pontoon_runtime::destroy_cgroup(&engine.cgroup(id)).await,
    ] {
        if let Err(error) = ended {
            tracing::warn!(
                container = id,
                error = error.chain(),
                "could not clean up after a container"
            );
        }
    }
    let removed = std::fs::remove_dir_all(dir);
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(container = id, %error, "could not remove the shim's folder");
    }
}

fn carry_out(engine: &Arc<Engine>, container: Arc<Container>, next: Next) {
    let tasks = engine.tasks.clone();
    let engine = engine.clone();
    match next {
        Next::Watch(shim) => {
            tracing::info!(
                container = container.id,
                pid = shim.pid(),
                "found a running container"
            );
            supervise::spawn(&engine, &container, shim.clone());
            tasks.spawn(async move { engine.adopt_execs(&container, &shim).await });
        }
        Next::Ended(exit) => {
            tasks.spawn(supervise::ended_with(engine, container, exit));
        }
        Next::Remove => {
            tasks.spawn(async move { engine.remove_quietly(&container).await });
        }
        Next::Rest => {
            let (wanted, state) = container.read(|record| {
                let view = record.view();
                let policy = record.host().restart_policy.unwrap_or_default();
                let wanted = restart::wanted_at_boot(
                    policy,
                    record.stopped_by_user,
                    view.exit_code,
                    view.restart_count,
                );
                (wanted && view.started_at != 0, view.state())
            });
            let restarting = state == ContainerState::Restarting;
            if restarting && !wanted {
                container
                    .update(|record| record.view_mut().set_state(ContainerState::Exited))
                    .ok();
            } else if wanted {
                tasks.spawn(start_again(engine, container));
            }
        }
    }
}

/// Pause before a start is tried again for which managers of the cluster are needed.
const AGAIN: Duration = Duration::from_secs(2);

/// Starts a container whose policy asks for it. One in a network of the cluster waits for the managers, as long as nobody does anything to it.
async fn start_again(engine: Arc<Engine>, container: Arc<Container>) {
    loop {
        let Err(error) = engine.start(&container.id).await else {
            return;
        };
        tracing::warn!(
            container = container.id,
            error = error.chain(),
            "could not start a container again"
        );
        if !matches!(error, Error::Unreachable(_)) {
            return;
        }
        let mut phase = container.watch();
        phase.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = phase.changed() => return,
            () = engine.stop.cancelled() => return,
        }
    }
}

/// Shims and root file systems that no container owns.
async fn remove_leftovers(engine: &Arc<Engine>, live: &HashSet<String>, unreadable: &HashSet<String>) {
    // A mounted image has the container's id in its name.
    let is_known = |id: &str| engine.containers.find(id).is_ok_and(|c| c.id == id) || unreadable.contains(id);
    for id in names(&engine.config.run_dir.join("shim")).unwrap_or_default() {
        if !live.contains(&id) && !unreadable.contains(&id) && !is_known(&id) {
            tracing::info!(container = id, "removing a shim without a container");
            destroy(engine, &id).await;
        }
    }
    engine.remove_shm_leftovers(live);
    let images = engine.images.clone();
    let ids = match blocking(move || images.rootfs_ids().map_err(Error::Image)).await {
        Ok(ids) => ids,
        Err(error) => {
            tracing::warn!(error = error.chain(), "could not list root file systems");
            return;
        }
    };
    for id in ids.into_iter().filter(|id| !is_known(volumes::holder(id))) {
        tracing::info!(container = id, "removing a root file system without a container");
        let images = engine.images.clone();
        if let Err(error) = blocking(move || images.remove_rootfs(&id).map_err(Error::Image)).await {
            tracing::warn!(error = error.chain(), "could not remove a root file system");
        }
    }
}
