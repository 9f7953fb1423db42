//! The mounts of a container's specification. Sources are opened before the mount namespace leaves the host's
//! peer groups, so that shared volumes stay shared; targets are descriptors inside the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::copy_up;
use super::options::{MountPlan, Source};
use super::resolve::{Kind, Root, stat_handle};
use super::rootfs::new_file_system;
use crate::Error;
use crate::cgroup::Version;
use crate::error::IoContext;
use crate::sys::mount::{attr, set_attributes, set_id_map};

/// The container's own cgroup directories: name below `/sys/fs/cgroup`, path on the host.
#[derive(Debug)]
pub(crate) struct CgroupView {
    pub version: Version,
    pub directories: Vec<(String, std::path::PathBuf)>,
}

/// A mount whose host side is open.
#[derive(Debug)]
pub(super) struct OpenMount<'a> {
    plan: &'a MountPlan,
    trees: Vec<(String, OwnedFd)>,
}

/// Attaches a detached mount to a target given by descriptor.
pub(super) fn attach(tree: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// A detached copy of what lies within a source, as a process whose root the source is would find it.
fn copy_within(source: OwnedFd, path: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    let found = Root(source).handle(path);
    let copied = found.and_then(|handle| copy_handle(handle, recursive));
    copied.context(|| format!("cannot access path {} within the source", path.display()))
}

/// A detached copy of a bind's source.
fn copy_source(plan: &MountPlan, path: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    let Some(subpath) = &plan.subpath else {
        return copy_tree(path, recursive);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let source = rustix::fs::open(path, flags, Mode::empty())
        .context(|| format!("bind source path {}", path.display()))?;
    copy_within(source, subpath, recursive)
}

/// A detached copy of the mount at a path of the host.
fn copy_tree(path: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).context(|| format!("bind source path {}", path.display()))
}

/// A detached copy of what a handle opens.
pub(super) fn copy_handle(handle: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(handle, "", flags)
}

/// Opens everything that lies on the host, with the attributes that it will have inside. `foreign` tells
/// which file systems belong to a namespace that the container's user namespace does not own: the container's
/// init would not be allowed to make them.
pub(super) fn open_sources<'a>(
    plans: &'a [MountPlan],
    cgroups: &CgroupView,
    foreign: impl Fn(&str) -> bool,
) -> Result<Vec<OpenMount<'a>>, Error> {
    plans
        .iter()
        .map(|plan| {
            let trees = match &plan.source {
                Source::Bind { path, recursive } => {
                    vec![(String::new(), copy_source(plan, path, *recursive)?)]
                }
                Source::Cgroup => cgroups
                    .directories
                    .iter()
                    .map(|(name, path)| Ok((name.clone(), copy_tree(path, false)?)))
                    .collect::<Result<_, Error>>()?,
                Source::FileSystem { typ, .. } if foreign(typ) => {
                    vec![(String::new(), file_system(plan, None)?)]
                }
                Source::FileSystem { .. } => Vec::new(),
            };
            if !matches!(plan.source, Source::FileSystem { .. }) {
                for (_, tree) in &trees {
                    own_attributes(tree, plan).map_err(|e| failed(plan, &e))?;
                }
            }
            Ok(OpenMount { plan, trees })
        })
        .collect()
}

fn failed(plan: &MountPlan, error: &Error) -> Error {
    Error::Create(format!(
        "mount {} inside the container: {}",
        plan.destination.display(),
        error.chain()
    ))
}

/// A new file system as a mount wants it, attached nowhere. A tmpfs that has no mode gets that of the directory that it
/// covers, as with runc.
fn file_system(plan: &MountPlan, covers: Option<&Root>) -> Result<OwnedFd, Error> {
    let Source::FileSystem {
        typ,
        parameters,
        name,
    } = &plan.source
    else {
        return Err(Error::Create("the mount is no file system".to_owned()));
    };
    let set = (plan.set | plan.recursive_set) & !(plan.recursive_clear & !plan.set);
    let mut parameters = parameters.clone();
    if typ == "tmpfs"
        && !parameters.iter().any(|(key, _)| key == "mode")
        && let Some(covered) = covers.and_then(|root| root.handle(&plan.destination).ok())
    {
        let mode = stat_handle(&covered).context(|| "stat the target")?.st_mode & 0o7777;
        parameters.push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    let mut tree = new_file_system(typ, name, &parameters, set)?;
    if let Some(subpath) = &plan.subpath {
        tree = copy_within(tree, subpath, false)?;
    }
    let (propagation, recursive) = plan.propagation;
    if propagation != libc::MS_PRIVATE {
        set_attributes(&tree, recursive, 0, 0, propagation).context(|| "set propagation")?;
    }
    Ok(tree)
}

/// Makes all mounts, in the specification's order.
pub(super) fn mount_all(root: &Root, mounts: Vec<OpenMount<'_>>, version: Version) -> Result<(), Error> {
    for mount in mounts {
        let plan = mount.plan;
        mount_one(root, mount, version).map_err(|error| failed(plan, &error))?;
    }
    Ok(())
}

fn mount_one(root: &Root, mount: OpenMount<'_>, version: Version) -> Result<(), Error> {
    let OpenMount { plan, trees } = mount;
    match &plan.source {
        Source::Bind { .. } => {
            for (_, tree) in trees {
                bind(root, plan, &tree)?;
            }
            Ok(())
        }
        Source::FileSystem { typ, .. } => {
            let tree = match trees.into_iter().next() {
                Some((_, tree)) => tree,
                None => file_system(plan, Some(root))?,
            };
            let target = if matches!(typ.as_str(), "proc" | "sysfs") {
                match root.plain_directory(&plan.destination) {
                    Err(rustix::io::Errno::NOENT) => root.ensure(&plan.destination, Kind::Directory)?,
                    result => result.context(|| format!("{typ} needs a plain directory"))?,
                }
            } else {
                root.ensure(&plan.destination, kind_of(&tree)?)?
            };
            if plan.copy_up {
                copy_up::copy(&target, &tree)?;
            }
            attach(&tree, target).context(|| "attach")
        }
        Source::Cgroup if version == Version::V2 => {
            let target = root.ensure(&plan.destination, Kind::Directory)?;
            for (_, tree) in trees {
                attach(&tree, &target).context(|| "attach the cgroup")?;
            }
            Ok(())
        }
        Source::Cgroup => mount_cgroup_v1(root, plan, trees),
    }
}

/// What has to be there for a tree to be mounted on.
fn kind_of(tree: &OwnedFd) -> Result<Kind, Error> {
    let mode = stat_handle(tree).context(|| "stat the source")?.st_mode;
    Ok(match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    })
}

fn bind(root: &Root, plan: &MountPlan, tree: &OwnedFd) -> Result<(), Error> {
    let target = root.ensure(&plan.destination, kind_of(tree)?)?;
    // A symlink may have led into procfs by another name.
    let in_proc = fstatfs(&target).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC);
    if in_proc && !plan.destination.starts_with("/proc") {
        return Err(Error::InvalidSpec("the target is inside /proc".to_owned()));
    }
    attach(tree, target).context(|| "attach")
}

fn own_attributes(tree: &OwnedFd, plan: &MountPlan) -> Result<(), Error> {
    let (propagation, recursive) = plan.propagation;
    set_attributes(tree, recursive, 0, 0, propagation).context(|| "set propagation")?;
    let clear = |set: u64, clear: u64| {
        if set & attr::ATIME != 0 {
            clear | attr::ATIME
        } else {
            clear
        }
    };
    if plan.set != 0 || plan.clear != 0 {
        set_attributes(tree, false, plan.set, clear(plan.set, plan.clear), 0)
            .context(|| "set mount options")?;
    }
    if plan.recursive_set != 0 || plan.recursive_clear != 0 {
        let clear = clear(plan.recursive_set, plan.recursive_clear);
        set_attributes(tree, true, plan.recursive_set, clear, 0)
            .context(|| "set mount options recursively")?;
    }
    if let Some(map) = &plan.id_map {
        set_id_map(tree, map.recursive, &*map.namespace)
            .context(|| "id-map it (its file system may be unable to)")?;
    }
    Ok(())
}

/// A tmpfs with one bind per hierarchy, each the container's own directory: as read-only as the mount asks,
/// and the release agent of the hierarchy's root is out of reach (CVE-2022-0492).
fn mount_cgroup_v1(root: &Root, plan: &MountPlan, trees: Vec<(String, OwnedFd)>) -> Result<(), Error> {
    let parameters = [("mode".to_owned(), Some("755".to_owned()))];
    let base = new_file_system("tmpfs", "tmpfs", &parameters, plan.set & !attr::RDONLY)?;
    let target = root.ensure(&plan.destination, Kind::Directory)?;
    attach(&base, target).context(|| "attach the cgroup tree")?;
    let inside = Root(base);
    for (name, tree) in trees {
        let target = inside.ensure(&Path::new("/").join(&name), Kind::Directory)?;
        attach(&tree, target).context(|| format!("attach cgroup {name}"))?;
        // Programs look for each controller of a joint hierarchy under its own name.
        for single in name.split(',').filter(|single| *single != name) {
            rustix::fs::symlinkat(name.as_str(), &inside.0, single)
                .context(|| format!("link cgroup {single}"))?;
        }
    }
    if plan.set & attr::RDONLY != 0 {
        set_attributes(&inside.0, false, attr::RDONLY, 0, 0).context(|| "make the cgroup tree read-only")?;
    }
    Ok(())
}
