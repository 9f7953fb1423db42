//! `wait` in its three conditions, `inspect`, and the view that executors watch.

use std::sync::Arc;

use pontoon_proto::v1::{self, ContainerState, WaitCondition, WaitContainerResponse};
use tokio::sync::watch;

use super::record::has_process;
use super::{Container, Phase};
use crate::engine::blocking;
use crate::{Engine, Error, Result};

impl Engine {
    /// Waits for a condition; gives the exit code of the end it was about.
    ///
    /// # Errors
    /// No such container, or the engine is shut down meanwhile.
    pub async fn wait(&self, target: &str, condition: WaitCondition) -> Result<WaitContainerResponse> {
        let container = self.containers.find(target)?;
        self.wait_on(container.watch(), condition).await
    }

    /// As [`Engine::wait`], on a phase that was watched before: nothing that happened since is missed.
    ///
    /// # Errors
    /// As there.
    pub async fn wait_on(
        &self,
        mut phase: watch::Receiver<Phase>,
        condition: WaitCondition,
    ) -> Result<WaitContainerResponse> {
        let exits = phase.borrow().exits;
        let holds = |phase: &Phase| {
            phase.removed
                || match condition {
                    WaitCondition::NotRunning => {
                        !has_process(phase.state) && phase.state != ContainerState::Restarting
                    }
                    WaitCondition::NextExit => phase.exits > exits,
                    WaitCondition::Removed => false,
                }
        };
        tokio::select! {
            reached = phase.wait_for(holds) => match reached {
                Ok(phase) => Ok(WaitContainerResponse { exit_code: phase.exit_code, error: phase.error.clone() }),
                Err(_) => Err(Error::ShuttingDown("the container is no longer looked after")),
            },
            () = self.stop.cancelled() => Err(Error::ShuttingDown("wait again when the daemon is back")),
        }
    }

    /// The changing part of a container's state, to be waited on.
    ///
    /// # Errors
    /// No such container.
    pub fn watch(&self, target: &str) -> Result<watch::Receiver<Phase>> {
        Ok(self.containers.find(target)?.watch())
    }

    /// Everything about a container.
    ///
    /// # Errors
    /// No such container.
    pub fn inspect(&self, target: &str) -> Result<v1::Container> {
        let container = self.containers.find(target)?;
        Ok(container.read(|record| record.view().clone()))
    }

    /// As [`Engine::inspect`], with what the record does not have: the layers' paths and the execs that run.
    ///
    /// # Errors
    /// No such container, or its root file system can't be looked up.
    pub async fn inspect_whole(self: &Arc<Self>, target: &str) -> Result<v1::Container> {
        let container = self.containers.find(target)?;
        let mut view = container.read(|record| record.view().clone());
        view.exec_ids = container.live().execs.iter().cloned().collect();
        let (images, id) = (self.images.clone(), container.id.clone());
        let rootfs = blocking(move || match images.rootfs(&id) {
            Ok(rootfs) => Ok(Some(rootfs)),
            // Being removed.
            Err(pontoon_image::Error::NoRootfs(_)) => Ok(None),
            Err(error) => Err(Error::Image(error)),
        });
        if let Some(rootfs) = rootfs.await? {
            let text = |path: &std::path::Path| path.display().to_string();
            let lower: Vec<String> = rootfs.lower.iter().map(|path| text(path)).collect();
            if rootfs.is_tree {
                return Ok(view);
            }
            view.driver_data.extend([
                ("LowerDir".to_owned(), lower.join(":")),
                ("MergedDir".to_owned(), text(&container.run_dir.join("rootfs"))),
                ("UpperDir".to_owned(), text(&rootfs.upper)),
                ("WorkDir".to_owned(), text(&rootfs.work)),
            ]);
        }
        Ok(view)
    }

    /// Fills in the sizes of a container's file system.
    pub(crate) async fn fill_size(self: &Arc<Self>, view: &mut v1::Container) -> Result<()> {
        let (images, id) = (self.images.clone(), view.id.clone());
        let size = blocking(move || images.rootfs_size(&id).map_err(Error::Image)).await?;
        view.size_rw = i64::try_from(size.rw).unwrap_or(i64::MAX);
        view.size_root_fs = i64::try_from(size.total).unwrap_or(i64::MAX);
        Ok(())
    }
}

impl Container {
    /// True if it runs, is frozen, or waits for its restart.
    pub(crate) fn is_alive(&self) -> bool {
        let state = self.state();
        has_process(state) || state == ContainerState::Restarting
    }
}
