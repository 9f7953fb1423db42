//! The root file system: mounted where only the container sees it, and entered with pivot_root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_change, open_tree, unmount,
};

use super::mounts::attach;
use super::resolve::Root;
use crate::config::RootfsMount;
use crate::error::IoContext;
use crate::sys::mount::set_attributes;
use crate::{Error, sys};

/// Makes this (the container's own) mount namespace deaf to nothing but mute towards the host: mounts made on
/// the host still arrive in volumes that ask for it, none made here leaves.
pub(super) fn detach_from_host() -> Result<(), Error> {
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context(|| "make mounts private to the container")
}

/// Mounts the root at its place and opens it.
pub(super) fn mount_root(source: &RootfsMount, at: &Path) -> Result<Root, Error> {
    match source {
        RootfsMount::Bind(path) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, path, flags).context(|| format!("bind root {}", path.display()))?;
            set_attributes(&tree, true, 0, 0, libc::MS_PRIVATE).context(|| "make the root private")?;
            place(&tree, at)?;
        }
        RootfsMount::Overlay { lower, upper, work } => match overlay(lower, upper, work) {
            Ok(tree) => place(&tree, at)?,
            // Before Linux 6.5 layers can't be given one by one.
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                overlay_by_options(lower, upper, work, at)?;
            }
            Err(error) => return Err(error),
        },
    }
    let root = rustix::fs::open(
        at,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open {}", at.display()))?;
    Ok(Root(root))
}

fn place(tree: &OwnedFd, at: &Path) -> Result<(), Error> {
    let target = rustix::fs::open(
        at,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open {}", at.display()))?;
    attach(tree, &target).context(|| format!("mount the root on {}", at.display()))
}

/// One call per layer: no limit on the number or length of the paths, no quoting.
fn overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Error> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).context(|| "open overlayfs")?;
    for layer in lower {
        fsconfig_set_string(&fs, "lowerdir+", layer).context(|| format!("add layer {}", layer.display()))?;
    }
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&fs, key, path).context(|| format!("set {key} {}", path.display()))?;
    }
    // An index would tie the upper directory to these very layers.
    fsconfig_set_string(&fs, "index", "off").context(|| "set index=off")?;
    create(&fs, "overlay")?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).context(|| "mount overlayfs")
}

fn overlay_by_options(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Result<(), Error> {
    let quote = |path: &Path| {
        path.display()
            .to_string()
            .replace('\\', "\\\\")
            .replace(',', "\\,")
            .replace(':', "\\:")
    };
    let layers: Vec<String> = lower.iter().map(|p| quote(p)).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off",
        layers.join(":"),
        quote(upper),
        quote(work)
    );
    let options = std::ffi::CString::new(options)
        .map_err(|_| Error::InvalidSpec("a layer's path contains a NUL byte".to_owned()))?;
    mount("overlay", at, "overlay", MountFlags::empty(), options.as_c_str())
        .context(|| format!("mount overlayfs with {} layers on {}", lower.len(), at.display()))
}

/// A new instance of a file system, not yet visible anywhere.
pub(super) fn new_file_system(
    typ: &str,
    name: &str,
    parameters: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd, Error> {
    let fs = fsopen(typ, FsOpenFlags::FSOPEN_CLOEXEC).context(|| format!("open file system {typ}"))?;
    if !name.is_empty() {
        fsconfig_set_string(&fs, "source", name).context(|| format!("name the {typ}"))?;
    }
    for (key, value) in parameters {
        match value {
            Some(value) => fsconfig_set_string(&fs, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&fs, key.as_str()),
        }
        .context(|| format!("mount {typ}: option {key}{}", reason(&fs)))?;
    }
    create(&fs, typ)?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context(|| format!("mount {typ}"))
}

fn create(fs: &OwnedFd, typ: &str) -> Result<(), Error> {
    fsconfig_create(fs).context(|| format!("make a {typ}{}", reason(fs)))
}

/// What the kernel has to say about the last failure on a file system context (fsopen(2)).
fn reason(fs: &OwnedFd) -> String {
    let mut buffer = [0; 256];
    match rustix::io::read(fs, &mut buffer) {
        Ok(length) => format!(" ({})", String::from_utf8_lossy(&buffer[..length]).trim()),
        Err(_) => String::new(),
    }
}

/// Sets the root read-only and its propagation, as the specification asks.
pub(super) fn finish(root: &Root, read_only: bool, propagation: Option<&str>) -> Result<(), Error> {
    if read_only {
        set_attributes(&root.0, false, sys::mount::attr::RDONLY, 0, 0)
            .context(|| "make the root read-only")?;
    }
    let flag = match propagation.unwrap_or_default() {
        "shared" | "rshared" => libc::MS_SHARED,
        "unbindable" | "runbindable" => libc::MS_UNBINDABLE,
        "" | "private" | "rprivate" | "slave" | "rslave" => return Ok(()),
        other => return Err(Error::InvalidSpec(format!("rootfs propagation {other}"))),
    };
    set_attributes(&root.0, false, 0, 0, flag).context(|| "set the root's propagation")
}

/// Makes `root` the root and unmounts everything else.
pub(super) fn enter(root: &Root) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = rustix::fs::open("/", flags, Mode::empty()).context(|| "open the host's root")?;
    let pivot = || -> Result<(), Errno> {
        rustix::process::fchdir(&root.0)?;
        // The old root ends up stacked over the new one; its descriptor is the way to it (pivot_root(2)).
        rustix::process::pivot_root(".", ".")?;
        rustix::process::fchdir(&host)?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    pivot().context(|| "enter the container's root")
}
