//! Namespaces that a container shares with another: found by name at creation, and by the other's process at each start. Also the
//! `/dev/shm` of a shareable IPC namespace, a tmpfs on the host that others can bind.

use std::path::{Path, PathBuf};

use pontoon_proto::v1::{ContainerState, HostConfig};

use super::Container;
use super::record::{Record, has_process};
use crate::engine::{blocking, make_dir};
use crate::error::IoContext;
use crate::spec::namespaces::{IpcMode, Joined, PidMode};
use crate::undo::Undo;
use crate::{Engine, Error, Result};

/// Folder of the run folder with a mount point for each shareable `/dev/shm`.
const SHM_DIR: &str = "shm";

impl Engine {
    /// Replaces names of other containers by their ids, so that a rename changes nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], or another's IPC namespace that is not shareable.
    pub(super) fn resolve_shared(&self, host: &mut HostConfig) -> Result<()> {
        if let PidMode::Container(target) = PidMode::parse(&host.pid_mode)? {
            host.pid_mode = format!("container:{}", self.containers.find(target)?.id);
        }
        if let IpcMode::Container(target) = IpcMode::parse(&host.ipc_mode)? {
            host.ipc_mode = format!("container:{}", self.containers.find(target)?.id);
        }
        Ok(())
    }

    /// Finds the namespaces that a starting container joins, and makes what others may join.
    ///
    /// # Errors
    /// The other container is gone, does not run, or does not share.
    pub(super) async fn join_namespaces(
        &self,
        container: &Container,
        record: &Record,
        undo: &mut Undo,
    ) -> Result<Joined> {
        let host = record.host();
        let mut joined = Joined::default();
        if let PidMode::Container(target) = PidMode::parse(&host.pid_mode)? {
            let pid = self.running(target, "failed to join PID namespace")?.1;
            joined.pid = Some(namespace(pid, "pid"));
            self.join_users(&host, pid, &mut joined);
        }
        match IpcMode::parse(&host.ipc_mode)? {
            IpcMode::Container(target) => {
                let what = "failed to join IPC namespace";
                let (other, pid) = self.running(target, what)?;
                let shm = self.shm_path(&other);
                if !shm.is_dir() {
                    return Err(Error::Invalid(format!(
                        "{what}: container {target}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                    )));
                }
                joined.ipc = Some(namespace(pid, "ipc"));
                joined.shm = Some(shm);
                self.join_users(&host, pid, &mut joined);
            }
            IpcMode::Shareable => joined.shm = Some(self.make_shm(container, &host, undo).await?),
            IpcMode::Private | IpcMode::None | IpcMode::Host => {}
        }
        Ok(joined)
    }

    /// Namespaces belong to a user namespace: who joins those of a remapped container has to be in its own.
    fn join_users(&self, host: &HostConfig, pid: u32, joined: &mut Joined) {
        if self.remap(host).is_some() {
            joined.user = Some(namespace(pid, "user"));
        }
    }

    /// A container that another depends on: its id and the pid of its init.
    fn running(&self, target: &str, what: &str) -> Result<(String, u32)> {
        let failed = |why: String| Error::Conflict(format!("{what}: {why}"));
        let other = self
            .containers
            .find(target)
            .map_err(|error| Error::Invalid(format!("{what}: {error}")))?;
        let (state, pid) = other.read(|record| (record.view().state(), record.view().pid));
        match state {
            ContainerState::Restarting => Err(failed(format!(
                "container {target} is restarting, wait until the container is running"
            ))),
            state if has_process(state) && pid != 0 => Ok((other.id.clone(), pid)),
            _ => Err(failed(format!("container {target} is not running"))),
        }
    }

    /// Where a shareable `/dev/shm` is mounted on the host.
    fn shm_path(&self, id: &str) -> PathBuf {
        self.config.run_dir.join(SHM_DIR).join(id)
    }

    async fn make_shm(&self, container: &Container, host: &HostConfig, undo: &mut Undo) -> Result<PathBuf> {
        let path = self.shm_path(&container.id);
        let gone = path.clone();
        undo.push("remove the shared memory's mount", async move {
            blocking(move || unmount(&gone)).await
        });
        let size = host.shm_size;
        let (mount, owner) = (path.clone(), self.remap(host).map(|map| map.root()));
        blocking(move || {
            // Left by a daemon that was killed before it could.
            unmount(&mount)?;
            make_dir(&mount)?;
            let what = || format!("mount {}", mount.display());
            let flags = rustix::mount::MountFlags::NOEXEC
                | rustix::mount::MountFlags::NOSUID
                | rustix::mount::MountFlags::NODEV;
            let options = std::ffi::CString::new(format!("mode=1777,size={size}"))
                .map_err(|_| Error::Invalid("SHM size is no number".to_owned()))?;
            rustix::mount::mount("shm", &mount, "tmpfs", flags, Some(options.as_c_str())).context(what)?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&mount, Some(uid), Some(gid)).context(what)?;
            }
            Ok(())
        })
        .await?;
        Ok(path)
    }

    /// Takes away what a daemon that was killed has left of containers that don't run any more.
    pub(super) fn remove_shm_leftovers(&self, live: &std::collections::HashSet<String>) {
        let Ok(entries) = std::fs::read_dir(self.config.run_dir.join(SHM_DIR)) else {
            return;
        };
        for name in entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
        {
            if !live.contains(&name) {
                self.remove_shm(&name);
            }
        }
    }

    /// Takes away the shareable `/dev/shm` of a container that has ended. Who has it bound keeps it.
    pub(super) fn remove_shm(&self, id: &str) {
        if let Err(error) = unmount(&self.shm_path(id)) {
            tracing::warn!(
                container = id,
                error = error.chain(),
                "could not remove the shared memory's mount"
            );
        }
    }
}

/// A namespace of a process.
fn namespace(pid: u32, kind: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{kind}"))
}

/// Unmounts and removes a folder; one that is not there is fine.
fn unmount(path: &Path) -> Result<()> {
    let what = || format!("unmount {}", path.display());
    if !path.exists() {
        return Ok(());
    }
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        // It was no mount.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error).context(what),
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(what),
        _ => Ok(()),
    }
}
