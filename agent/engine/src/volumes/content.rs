//! Copying an image's content into volumes that are empty, when a container is made. Both ends are descriptors: the image's
//! root is a detached read-only mount in which the path is resolved (openat2(2)), so neither its links nor another
//! container that uses the volume can lead the copy astray. A note in the volume's record says that a copy goes on: what a killed
//! daemon left of one is removed before the volume is used again.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use pontoon_proto::v1::HostConfig;
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::plan::PlannedMount;
use super::volume::Volume;
use super::{check, image, tree};
use crate::engine::blocking;
use crate::error::IoContext;
use crate::{Engine, Error, Result};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Engine {
    /// Puts the image's content into a new container's volumes. Its root file system is there already.
    ///
    /// # Errors
    /// The content can't be copied; then the volume is as empty as before.
    pub(crate) async fn fill_volumes(
        self: &Arc<Self>,
        id: &str,
        host: HostConfig,
        planned: &[PlannedMount],
    ) -> Result<()> {
        let mounts: Vec<PlannedMount> = planned.iter().filter(|m| m.takes_content()).cloned().collect();
        if mounts.is_empty() {
            return Ok(());
        }
        let (engine, id) = (self.clone(), id.to_owned());
        blocking(move || {
            let rootfs = engine.images.rootfs(&id).map_err(Error::Image)?;
            let remap = engine.remap(&host);
            let owner = |ids| remap.map_or(ids, |remap| remap.to_host(ids));
            let root = image::view(&rootfs, &engine.config.run_dir)?;
            for mount in mounts {
                let volume = engine.volumes.get(&mount.volume)?;
                fill(&volume, &id, (&root, &owner), &mount)?;
            }
            Ok(())
        })
        .await
    }
}

/// An image's root, and who owns on the host what is copied from it.
type Image<'a> = (&'a OwnedFd, tree::Owner<'a>);

fn fill(volume: &Volume, container: &str, image: Image<'_>, mount: &PlannedMount) -> Result<()> {
    let _content = volume.content();
    let path = volume.begin_use_locked(container)?;
    let filled = copy(volume, container, image, &path, mount);
    // Its own failure counts only if there is no other.
    let ended = volume.end_use(container);
    filled.and(ended.map(drop))
}

fn copy(
    volume: &Volume,
    container: &str,
    (root, owner): Image<'_>,
    path: &Path,
    mount: &PlannedMount,
) -> Result<()> {
    let target = mount.target();
    let Some(destination) = destination(path, mount.subpath())? else {
        return Ok(());
    };
    let source = match open_within(root, &target, DIRECTORY) {
        Ok(source) => source,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR) => {
            return Err(Error::Invalid(format!(
                "cannot mount volume over existing file, file exists {}",
                target.display()
            )));
        }
        Err(errno) => return Err(errno).context(|| format!("open {} in the image", target.display())),
    };
    let is_empty = is_empty(&destination).context(|| format!("read {}", path.display()))?;
    if !is_empty {
        return Ok(());
    }
    volume.update(|record| record.copying = true)?;
    let copied = tree::copy(&source, &destination, owner);
    if copied.is_err() && volume.is_only_user(container) {
        // Half a copy would count as content.
        tree::clear(&destination).context(|| format!("empty volume {}", volume.name))?;
    }
    let noted = volume.update(|record| record.copying = false);
    copied.map_err(|error| {
        Error::Invalid(format!(
            "copy the image's content of {} into volume {}: {}",
            target.display(),
            volume.name,
            check::go_text(&error)
        ))
    })?;
    noted
}

/// The folder that gets the content; `None`: what is mounted is a file.
fn destination(path: &Path, subpath: &str) -> Result<Option<OwnedFd>> {
    let data = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
        .context(|| format!("open {}", path.display()))?;
    if subpath.is_empty() {
        return Ok(Some(data));
    }
    match open_within(&data, Path::new(subpath), DIRECTORY) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Error::Invalid(format!(
            "cannot access path {}: {}",
            path.join(subpath).display(),
            check::go_text(&errno.into())
        ))),
    }
}

/// Opens a path as a process whose root is `root` would.
pub(super) fn open_within(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, relative, flags, Mode::empty(), resolve) {
            // openat2(2): a rename elsewhere on the system raced with the check.
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

fn is_empty(folder: &OwnedFd) -> std::io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Volume {
    /// Nobody but this container uses it now.
    fn is_only_user(&self, container: &str) -> bool {
        self.mounted().users.iter().all(|user| user == container)
    }

    /// Removes what a copy that broke off has left, unless somebody uses the volume already. The lock on the content is held.
    pub(super) fn finish_broken_copy(&self, users: bool) -> Result<()> {
        if !self.read(|record| record.copying) {
            return Ok(());
        }
        let path = self.path();
        if !users {
            tracing::info!(volume = self.name, "removing content whose copy broke off");
            let folder = rustix::fs::openat(CWD, &path, DIRECTORY, Mode::empty())
                .context(|| format!("open {}", path.display()))?;
            tree::clear(&folder).context(|| format!("empty volume {}", self.name))?;
        }
        self.update(|record| record.copying = false)
    }
}
