//! A container's files for somebody outside: its root file system with the user's mounts, in a mount namespace that only
//! the calling process has, so that nothing is left on the host when it dies. The engine's `cp` and `export` use it, in a
//! process of their own.
//!
//! Of a running container the mounts themselves are copied (in its mount namespace, by descriptor), so that a tmpfs is
//! seen and a path that the container swaps can lead nowhere but into the container. Of another one they are made.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::mounts::{CgroupView, attach, copy_handle, mount_all, open_sources};
use super::options::{MountPlan, Source};
use super::resolve::Root;
use super::rootfs::{finish, open_root};
use crate::Error;
use crate::cgroup::Version;
use crate::config::RootfsMount;
use crate::error::IoContext;
use crate::sys::mount::set_attributes;

/// Where a container's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewSource {
    /// In the mount namespace of its process.
    Running {
        /// Its pid.
        pid: u32,
        /// What its cgroup's path contains, so that another process with this pid is not taken for it.
        id: String,
    },
    /// Not mounted.
    Stopped(RootfsMount),
}

/// A container's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileView {
    /// Where they are.
    pub source: ViewSource,
    /// The user's mounts, parents first; file systems in memory are seen in a running container only.
    pub mounts: Vec<Mount>,
    /// The root file system is mounted read-only.
    pub read_only: bool,
    /// A directory of the host over which the root is mounted for this process.
    pub at: PathBuf,
}

impl FileView {
    /// Gives the calling process a mount namespace of its own with the container's files, and opens their root. The
    /// process must have one thread, and should not do anything else afterwards.
    ///
    /// # Errors
    /// [`Error::State`] when the running container has ended; else the kernel's.
    pub fn enter(&self) -> Result<OwnedFd, Error> {
        unshare_mounts()?;
        match &self.source {
            ViewSource::Stopped(rootfs) => self.make(rootfs),
            ViewSource::Running { pid, id } => self.copy(*pid, id),
        }
    }

    fn make(&self, rootfs: &RootfsMount) -> Result<OwnedFd, Error> {
        // Owners as they are on disk: there is no container whose user namespace could map them.
        let mounts: Vec<_> = self.mounts.iter().cloned().map(unmapped).collect();
        let plans = super::plan_mounts(&mounts, None, None)?;
        let lasting = |plan: &MountPlan| match &plan.source {
            Source::Bind { .. } => true,
            // An image.
            Source::FileSystem { typ, .. } => typ == "overlay",
            Source::Cgroup => false,
        };
        let lasting: Vec<MountPlan> = plans.into_iter().filter(lasting).collect();
        let no_cgroups = CgroupView {
            version: Version::V2,
            directories: Vec::new(),
        };
        let sources = open_sources(&lasting, &no_cgroups, |_| false)?;
        let tree = open_root(rootfs, &self.at, None)?;
        let root = self.place(tree)?;
        mount_all(&root, sources, Version::V2)?;
        finish(&root, self.read_only)?;
        Ok(root.0)
    }

    fn copy(&self, pid: u32, id: &str) -> Result<OwnedFd, Error> {
        let ended = || Error::State {
            state: "stopped".to_owned(),
            operation: "looking at the files of its process".to_owned(),
        };
        let open = |name: &str, flags: OFlags| {
            rustix::fs::open(
                format!("/proc/{pid}/{name}"),
                flags | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let theirs = open("ns/mnt", OFlags::RDONLY).map_err(|_| ended())?;
        let root = open("root", OFlags::PATH | OFlags::DIRECTORY).map_err(|_| ended())?;
        // The pid was the container's when the engine read it. Both descriptors were opened before this check, so
        // when it still is the container now, they are the container's.
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if !cgroup.contains(id) {
            return Err(ended());
        }
        let ours = rustix::fs::open(
            "/proc/self/ns/mnt",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| "open our mount namespace")?;
        let join = |namespace: &OwnedFd| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
                .context(|| "join a mount namespace")
        };
        join(&theirs)?;
        let copied = self.copy_mounts(&Root(root));
        join(&ours)?;
        let (tree, mounts) = copied?;
        let root = self.place(tree)?;
        for (mount, tree) in mounts {
            // The container has moved the directory meanwhile: it does not see the mount there either.
            if let Ok(target) = root.handle(mount.destination()) {
                attach(&tree, target).context(|| format!("attach {}", mount.destination().display()))?;
            }
        }
        Ok(root.0)
    }

    /// Copies of the root's mount and of the user's, made in the container's mount namespace, as the kernel asks.
    fn copy_mounts(&self, root: &Root) -> Result<(OwnedFd, Vec<MountedAt<'_>>), Error> {
        let private = |tree: OwnedFd| {
            set_attributes(&tree, true, 0, 0, libc::MS_PRIVATE).context(|| "make a copied mount private")?;
            Ok::<_, Error>(tree)
        };
        let tree = private(copy_handle(&root.0, false).context(|| "copy the root's mount")?)?;
        let mut mounts = Vec::new();
        for mount in &self.mounts {
            let Ok(handle) = root.handle(mount.destination()) else {
                continue;
            };
            if is_mount(&handle) {
                let what = || format!("copy the mount {}", mount.destination().display());
                mounts.push((mount, private(copy_handle(&handle, true).context(what)?)?));
            }
        }
        Ok((tree, mounts))
    }

    fn place(&self, tree: OwnedFd) -> Result<Root, Error> {
        let shown = || format!("mount the container's root on {}", self.at.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::open(&self.at, flags, Mode::empty()).context(shown)?;
        set_attributes(&tree, true, 0, 0, libc::MS_PRIVATE).context(shown)?;
        attach(&tree, &target).context(shown)?;
        Ok(Root(tree))
    }
}

/// The handle is a mount's root, not a directory that has lost its mount.
fn is_mount(handle: &OwnedFd) -> bool {
    let stat = statx(handle, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[allow(deprecated)]
fn unshare_mounts() -> Result<(), Error> {
    rustix::thread::unshare(UnshareFlags::NEWNS).context(|| "make a mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context(|| "make mounts private to this process")
}

/// A mount of the specification with the handle that opens it.
type MountedAt<'a> = (&'a Mount, OwnedFd);

/// A mount without its id-mapping.
fn unmapped(mut mount: Mount) -> Mount {
    let options = mount.options().clone().unwrap_or_default();
    let kept = options
        .into_iter()
        .filter(|o| o != "idmap" && o != "ridmap")
        .collect();
    mount
        .set_options(Some(kept))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    mount
}
