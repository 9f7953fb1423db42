//! Images as mounts: the read-only view of a stack of layers that content is copied from, and mounts of type image, whose
//! layers are held in the image store as long as the container is there.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_image::Rootfs;
use pontoon_proto::v1::MountType;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen,
};

use super::plan::PlannedMount;
use crate::engine::blocking;
use crate::error::IoContext;
use crate::spec::mounts::Origin;
use crate::undo::Undo;
use crate::{Engine, Error, Result, id};

impl Engine {
    /// Holds the layers of the images that a new container mounts.
    pub(super) async fn hold_images(
        self: &Arc<Self>,
        container: &str,
        planned: &mut [PlannedMount],
        undo: &mut Undo,
    ) -> Result<()> {
        let images = planned.iter_mut().filter(|mount| {
            let wanted = mount.wanted.as_ref();
            wanted.is_some_and(|wanted| wanted.r#type() == MountType::Image)
        });
        for (number, mount) in images.enumerate() {
            let image = self.find_image(&mount.wanted().source).await?;
            let rootfs = format!("{container}-{number}");
            let (store, held) = (self.images.clone(), rootfs.clone());
            undo.push("let a mounted image go", async move {
                blocking(move || store.remove_rootfs(&held).map_err(Error::Image)).await
            });
            let (store, held) = (self.images.clone(), rootfs.clone());
            blocking(move || store.prepare_rootfs(&held, &image).map_err(Error::Image)).await?;
            mount.rootfs = rootfs;
            // Another container's hold ends with that one.
            mount.is_borrowed = false;
        }
        Ok(())
    }
}

/// The container that holds a root file system in the image store: its own, or a mounted image's.
pub(crate) fn holder(rootfs: &str) -> &str {
    rootfs.split('-').next().unwrap_or(rootfs)
}

/// What is mounted for an image: its layers without the mount points that a container's own root has.
pub(super) fn origin(rootfs: &Rootfs) -> Origin {
    match rootfs.image_layers() {
        [only] => Origin::Path(only.clone()),
        layers => Origin::Layers(layers.to_vec()),
    }
}

/// The layers below a container as one read-only tree, mounted nowhere: it is gone with the descriptor.
pub(super) fn view(rootfs: &Rootfs, run_dir: &Path) -> Result<OwnedFd> {
    let root = match rootfs.initial_layers() {
        [only] => openat(
            CWD,
            only,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ),
        layers => match detached(layers) {
            // Before Linux 6.5 layers can't be given one by one.
            Err(Errno::INVAL) => mounted(layers, run_dir),
            other => other,
        },
    };
    root.context(|| "open the image's file system")
}

fn detached(layers: &[PathBuf]) -> Result<OwnedFd, Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&fs, "lowerdir+", layer)?;
    }
    fsconfig_create(&fs)?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn mounted(layers: &[PathBuf], run_dir: &Path) -> Result<OwnedFd, Errno> {
    let point = run_dir.join(format!("view-{}", id::short(&id::generate())));
    rustix::fs::mkdir(&point, Mode::RWXU)?;
    let quoted: Vec<String> = layers
        .iter()
        .map(|layer| {
            layer
                .display()
                .to_string()
                .replace('\\', "\\\\")
                .replace(':', "\\:")
                .replace(',', "\\,")
        })
        .collect();
    let options =
        std::ffi::CString::new(format!("lowerdir={}", quoted.join(":"))).map_err(|_| Errno::INVAL)?;
    let root = rustix::mount::mount(
        "overlay",
        &point,
        "overlay",
        MountFlags::RDONLY,
        options.as_c_str(),
    )
    .and_then(|()| {
        let root = openat(
            CWD,
            &point,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        // The descriptor keeps it.
        rustix::mount::unmount(&point, UnmountFlags::DETACH)?;
        root
    });
    let _ = rustix::fs::rmdir(&point);
    root
}
