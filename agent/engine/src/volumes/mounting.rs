//! Using a volume: its folder is checked, its driver's mount made for the first user and taken away after the last. Users are
//! containers, by id; a daemon that starts again learns them from the containers that run. Blocks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::options::Options;
use super::store::Volumes;
use super::volume::Volume;
use crate::{Error, Result};

impl Volume {
    /// Makes the volume's folder ready for a user, waiting until content that is being copied is there, and gives its path.
    ///
    /// # Errors
    /// The folder is gone, or its driver could not mount.
    pub(crate) fn begin_use(&self, user: &str) -> Result<PathBuf> {
        let _content = self.content();
        self.begin_use_locked(user)
    }

    /// As [`Volume::begin_use`], for who holds the lock on the content.
    pub(super) fn begin_use_locked(&self, user: &str) -> Result<PathBuf> {
        let path = self.path();
        let failed =
            |why: String| Error::Invalid(format!("error while mounting volume '{}': {why}", path.display()));
        let mut mounted = self.mounted();
        if !path.is_dir() {
            return Err(failed(format!(
                "the folder of volume {} is gone: remove the volume with 'volume rm {}' and make it again",
                self.name, self.name
            )));
        }
        let options = self.options().map_err(failed)?;
        if let Some(options) = &options
            && !mounted.is_mounted
        {
            options.mount(&path).map_err(failed)?;
            mounted.is_mounted = true;
        }
        let has_users = !mounted.users.is_empty();
        mounted.users.insert(user.to_owned());
        drop(mounted);
        self.finish_broken_copy(has_users)?;
        Ok(path)
    }

    /// A user is done. Tells whether it was one.
    ///
    /// # Errors
    /// The mount can't be taken away; it stays counted as mounted.
    pub(crate) fn end_use(&self, user: &str) -> Result<bool> {
        let mut mounted = self.mounted();
        let was_user = mounted.users.remove(user);
        if was_user && mounted.users.is_empty() && mounted.is_mounted {
            unmount(&self.path()).map_err(|errno| self.unmount_failed(errno))?;
            mounted.is_mounted = false;
        }
        Ok(was_user)
    }

    /// Before the folder is removed: whatever is mounted there must not be emptied.
    pub(super) fn unmount_for_good(&self) -> Result<()> {
        let mut mounted = self.mounted();
        let path = self.path();
        while is_mount_point(&path) {
            unmount(&path).map_err(|errno| self.unmount_failed(errno))?;
        }
        mounted.is_mounted = false;
        Ok(())
    }

    /// What its driver mounts, if anything.
    pub(super) fn options(&self) -> Result<Option<Options>, String> {
        self.read(|record| match &record.view {
            Some(view) => Options::parse(&view.options),
            None => Ok(None),
        })
    }

    fn unmount_failed(&self, errno: Errno) -> Error {
        Error::Io {
            what: format!("unmount volume {} from {}", self.name, self.path().display()),
            source: errno.into(),
        }
    }

    /// After a start of the daemon: who uses it, and whether it is mounted.
    fn take_over(&self, users: BTreeSet<String>) -> Result<()> {
        let path = self.path();
        let is_mounted = is_mount_point(&path);
        if is_mounted && users.is_empty() {
            tracing::info!(volume = self.name, "unmounting a volume that nobody uses");
            return self.unmount_for_good();
        }
        *self.mounted() = super::volume::Mounted { users, is_mounted };
        Ok(())
    }
}

/// A container as a daemon that starts again finds it.
pub(crate) struct Found {
    /// Its id.
    pub id: String,
    /// It runs.
    pub is_live: bool,
    /// Its volumes.
    pub volumes: Vec<String>,
}

impl Volumes {
    /// After a start of the daemon: counts what the containers have, unmounts what nobody uses, and removes volumes whose
    /// creation was cut short together with that of their container. `unreadable` are containers that are there, but whose
    /// records can't be read: what was made for them stays.
    pub(crate) fn take_over(&self, containers: &[Found], unreadable: &dyn Fn(&str) -> bool) {
        for container in containers {
            for name in &container.volumes {
                if let Err(error) = self.refer(name, &container.id) {
                    tracing::warn!(
                        container = container.id,
                        error = error.chain(),
                        "a container's volume is missing"
                    );
                }
            }
        }
        for (volume, _) in self.all() {
            let live = containers
                .iter()
                .filter(|c| c.is_live && c.volumes.contains(&volume.name));
            let mut done = volume.take_over(live.map(|c| c.id.clone()).collect());
            let maker = volume.read(|record| record.made_for.clone());
            let is_known = |id: &str| containers.iter().any(|c| c.id == id) || unreadable(id);
            if !maker.is_empty() && !is_known(&maker) {
                tracing::info!(
                    volume = volume.name,
                    "removing a volume whose creation was cut short"
                );
                done = match self.remove(&volume.name) {
                    Err(Error::Conflict(_)) => Ok(()),
                    other => other,
                };
            }
            if let Err(error) = done {
                tracing::warn!(
                    volume = volume.name,
                    error = error.chain(),
                    "could not tidy up a volume"
                );
            }
        }
    }

    /// A container has ended: its volumes are not in use by it any more. Errors are logged, all are tried. Gives the names
    /// of those that it used.
    pub(crate) fn end_all_uses(&self, container: &str) -> Vec<String> {
        let mut used = Vec::new();
        for (volume, _) in self.all() {
            match volume.end_use(container) {
                Ok(true) => used.push(volume.name.clone()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(container, error = error.chain(), "could not unmount a volume");
                }
            }
        }
        used
    }
}

/// Takes a mount away at once; processes that still use it keep it.
pub(super) fn unmount(path: &Path) -> Result<(), Errno> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// Whether something is mounted right there (statx(2), Linux 5.8).
pub(super) fn is_mount_point(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(CWD, path, flags, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
