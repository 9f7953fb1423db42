//! `cp` and `export`: a helper process works on the container's files, this end carries the bytes.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_image::archive::IdMap;
use pontoon_proto::v1::{ContainerPathRequest, CopyToStart, PathStat};
use pontoon_runtime::{FileView, ViewSource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gate::Pass;
use super::helper::{Job, Stat, Task};
use super::places::{host_mounts, ids_of, running_mounts, stopped_mounts, users_of};
use super::process::{Helper, Input, Said};
use crate::container::Container;
use crate::container::record::{Record, has_process};
use crate::container::start::resolve_user;
use crate::engine::blocking;
use crate::event::ContainerEventKind;
use crate::undo::Undo;
use crate::{Engine, Error, Result};

/// Chunks that wait for the other side.
const CHUNKS: usize = 8;

/// An archive that is being read: chunks, the last one perhaps an error.
pub type Chunks = mpsc::Receiver<Result<Bytes>>;

impl Engine {
    /// Metadata of a path in a container.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NoSuchFile`].
    pub async fn stat_path(self: &Arc<Self>, request: &ContainerPathRequest) -> Result<PathStat> {
        let task = Task::Stat {
            path: request.path.clone(),
        };
        let mut copy = self.begin(&request.target, task).await?;
        match copy.next().await? {
            Said::Stat(stat) => Ok(view(stat)),
            Said::Done(Err(refusal)) => Err(refusal.into_error(&request.target)),
            Said::Done(Ok(())) | Said::Data(_) => Err(Error::ShuttingDown("a copy ended without an answer")),
        }
    }

    /// A path of a container as a tar archive, and its metadata.
    ///
    /// # Errors
    /// As [`Engine::stat_path`].
    pub async fn copy_out(self: &Arc<Self>, request: &ContainerPathRequest) -> Result<(PathStat, Chunks)> {
        let task = Task::CopyOut {
            path: request.path.clone(),
        };
        let mut copy = self.begin(&request.target, task).await?;
        let stat = match copy.next().await? {
            Said::Stat(stat) => view(stat),
            Said::Done(Err(refusal)) => return Err(refusal.into_error(&request.target)),
            Said::Done(Ok(())) | Said::Data(_) => {
                return Err(Error::ShuttingDown("a copy ended without an answer"));
            }
        };
        let path = request.path.clone();
        self.emit_for(&copy.container, ContainerEventKind::CopiedOut { path });
        Ok((stat, self.send(copy, &request.target)))
    }

    /// All files of a container, without its volumes, as a tar archive.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], or its file system can't be mounted.
    pub async fn export(self: &Arc<Self>, target: &str) -> Result<Chunks> {
        let copy = self.begin(target, Task::Export).await?;
        self.emit_for(&copy.container, ContainerEventKind::Exported);
        Ok(self.send(copy, target))
    }

    /// Extracts a tar archive, plain or compressed, into a folder of a container. `archive` gives its bytes and is
    /// closed at its end; an `Err` breaks it off.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NoSuchFile`], [`Error::Invalid`] when the folder is none or read-only, or the
    /// archive is not one. What was extracted before stays, as with any tar.
    pub async fn copy_in(
        self: &Arc<Self>,
        start: CopyToStart,
        archive: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<()> {
        let engine = self.clone();
        self.whole(async move { engine.copy_in_now(start, archive).await })
            .await
    }

    async fn copy_in_now(
        self: &Arc<Self>,
        start: CopyToStart,
        archive: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<()> {
        let container = self.containers.find(&start.target)?;
        let owner = match start.copy_uid_gid {
            true => self.owner(&container).await?,
            false => None,
        };
        let task = Task::CopyIn {
            path: start.path.clone(),
            no_overwrite_dir_non_dir: start.no_overwrite_dir_non_dir,
            owner,
        };
        let mut copy = self.begin(&container.id, task).await?;
        let Some(input) = copy.input.take() else {
            return Err(Error::ShuttingDown("a copy was started without its input"));
        };
        let feed = tokio::spawn(feed(input, archive));
        let said = copy.next().await;
        // It reads no more; who still waits to send is told by the end of the channel.
        feed.abort();
        match said? {
            Said::Done(outcome) => outcome.map_err(|refusal| refusal.into_error(&start.target))?,
            Said::Stat(_) | Said::Data(_) => {
                return Err(Error::ShuttingDown("a copy answered what nobody asked"));
            }
        }
        self.emit_for(&container, ContainerEventKind::CopiedIn { path: start.path });
        Ok(())
    }

    /// Who gets what `cp -a` copies in: the container's user when it has one, else the archive's owners stay.
    async fn owner(&self, container: &Container) -> Result<Option<(u32, u32)>> {
        let user = container.read(|record| record.config().user);
        if user.is_empty() {
            return Ok(None);
        }
        let (images, id) = (self.images.clone(), container.id.clone());
        blocking(move || {
            let rootfs = images.rootfs(&id).map_err(Error::Image)?;
            let user = resolve_user(&images, &rootfs, &user, &[])?;
            Ok(Some((user.uid, user.gid)))
        })
        .await
    }

    /// Starts a helper on a container's files.
    async fn begin(self: &Arc<Self>, target: &str, task: Task) -> Result<Copy> {
        let container = self.containers.find(target)?;
        let (pass, source) = self.source(&container).await?;
        let mut copy = Copy {
            helper: None,
            input: None,
            ending: container.gate.ending(),
            engine: self.clone(),
            container,
            pass: Some(pass),
            uses_volumes: false,
        };
        if copy.container.watch().borrow().removed {
            return Err(Error::NoSuchContainer(target.to_owned()));
        }
        let job = self.job(&mut copy, source, task).await?;
        let (helper, input) = Helper::start(&job).await?;
        copy.helper = Some(helper);
        copy.input = Some(input);
        Ok(copy)
    }

    /// Describes where a container's files are and what is to be done with them.
    async fn job(self: &Arc<Self>, copy: &mut Copy, source: ViewSource, task: Task) -> Result<Job> {
        let container = &copy.container;
        let record = container.record();
        let wants_mounts = !matches!(task, Task::Export);
        let mounted = match &source {
            ViewSource::Stopped(_) if wants_mounts => {
                copy.uses_volumes = true;
                // `Copy` gives them back, also when this fails half-way.
                let mut undo = Undo::default();
                self.use_mounts(&container.id, record.mounts.clone(), &mut undo)
                    .await?
            }
            _ => Vec::new(),
        };
        let (dir, run_dir) = (container.dir.clone(), container.run_dir.clone());
        let remap = self.remap(&record.host()).map(users_of).unwrap_or_default();
        blocking(move || {
            let mounts = match (&source, wants_mounts) {
                (_, false) => Vec::new(),
                (ViewSource::Running { .. }, true) => running_mounts(&run_dir)?,
                (ViewSource::Stopped(_), true) => stopped_mounts(&mounted, &dir)?,
            };
            let (ids, host_ids, host_mounts) = match &source {
                ViewSource::Running { pid, .. } => (ids_of(*pid), IdMap::default(), Vec::new()),
                // Owners on disk are the container's own: its layers are id-mapped when they are mounted for it. Its volumes
                // are not.
                ViewSource::Stopped(_) => (IdMap::default(), remap, host_mounts(&mounts, &mounted)),
            };
            let view = FileView {
                source,
                mounts,
                read_only: record.config().read_only,
                at: dir,
            };
            Ok(Job {
                view,
                ids,
                host_ids,
                host_mounts,
                task,
            })
        })
        .await
    }

    /// Waits for its turn and tells where the files are.
    async fn source(&self, container: &Arc<Container>) -> Result<(Pass, ViewSource)> {
        loop {
            let runs = |record: &Record| has_process(record.view().state());
            let pass = match container.read(runs) {
                true => container.gate.share().await,
                false => container.gate.alone().await,
            };
            let (running, pid) = container.read(|record| (runs(record), record.view().pid));
            match (&pass, running) {
                (Pass::Shared(_), true) => {
                    let id = container.id.clone();
                    return Ok((pass, ViewSource::Running { pid, id }));
                }
                (Pass::Alone(_), false) => {
                    let (images, id) = (self.images.clone(), container.id.clone());
                    let rootfs = blocking(move || images.rootfs(&id).map_err(Error::Image)).await?;
                    return Ok((pass, ViewSource::Stopped(crate::images::mount_of(rootfs))));
                }
                // It started or ended while we waited.
                _ => {}
            }
        }
    }

    /// Carries an archive from a helper to a channel, in a task that a shutdown waits for.
    fn send(self: &Arc<Self>, mut copy: Copy, target: &str) -> Chunks {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let target = target.to_owned();
        self.tasks.spawn(async move {
            loop {
                let said = tokio::select! {
                    said = copy.next() => said,
                    // The client has gone.
                    () = sender.closed() => return,
                };
                let chunk = match said {
                    Ok(Said::Data(data)) => Ok(data),
                    Ok(Said::Done(Ok(()))) => return,
                    Ok(Said::Done(Err(refusal))) => Err(refusal.into_error(&target)),
                    Ok(Said::Stat(_)) => Err(Error::ShuttingDown("a copy answered what nobody asked")),
                    Err(error) => Err(error),
                };
                let last = chunk.is_err();
                let ending = copy.ending.clone();
                tokio::select! {
                    sent = sender.send(chunk) => if sent.is_err() { return },
                    () = ending.cancelled() => return,
                    () = copy.engine.stop.cancelled() => return,
                }
                if last {
                    return;
                }
            }
        });
        receiver
    }
}

/// A helper at work, and what it needs for that.
struct Copy {
    helper: Option<Helper>,
    input: Option<Input>,
    ending: CancellationToken,
    engine: Arc<Engine>,
    container: Arc<Container>,
    pass: Option<Pass>,
    uses_volumes: bool,
}

impl Copy {
    /// The next thing that the helper says, unless the container or the engine goes first.
    async fn next(&mut self) -> Result<Said> {
        let Some(helper) = &mut self.helper else {
            return Err(Error::ShuttingDown("a copy has no process"));
        };
        tokio::select! {
            said = helper.next() => said,
            () = self.ending.cancelled() => Err(Error::Conflict(format!(
                "container {} was started or removed while its files were being copied",
                self.container.id
            ))),
            () = self.engine.stop.cancelled() => Err(Error::ShuttingDown("the copy was interrupted")),
        }
    }
}

impl Drop for Copy {
    /// Others may come to the files when the helper is gone, and with it what it has mounted.
    fn drop(&mut self) {
        let (helper, pass) = (self.helper.take(), self.pass.take());
        let volumes = self.uses_volumes.then(|| self.engine.volumes.clone());
        let id = self.container.id.clone();
        self.engine.tasks.spawn(async move {
            if let Some(helper) = helper {
                helper.end().await;
            }
            if let Some(volumes) = volumes {
                let given_back = blocking(move || {
                    volumes.end_all_uses(&id);
                    Ok(())
                });
                // It logs its own failures.
                let _ = given_back.await;
            }
            drop(pass);
        });
    }
}

/// Carries an archive to the helper. A helper that stops reading says why by itself.
async fn feed(mut input: Input, mut archive: mpsc::Receiver<io::Result<Bytes>>) {
    loop {
        match archive.recv().await {
            Some(Ok(data)) => {
                if input.data(data).await.is_err() {
                    return;
                }
            }
            Some(Err(_)) => return,
            None => break,
        }
    }
    // It has ended by itself, then.
    let _ = input.end().await;
}

fn view(stat: Stat) -> PathStat {
    PathStat {
        name: stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime: stat.mtime,
        link_target: stat.link_target,
    }
}
