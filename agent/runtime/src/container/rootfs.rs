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
use super::userns::UserNamespace;
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

/// The root file system as a mount that is attached nowhere. `at` is an empty directory of the host, needed
/// for a moment in this mount namespace where the kernel wants paths; the owners of an overlay's layers are
/// shown as the user namespace `user` maps them.
pub(super) fn open_root(
    source: &RootfsMount,
    at: &Path,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, Error> {
    match (source, user) {
        (RootfsMount::Bind(path), _) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            open_tree(CWD, path, flags).context(|| format!("bind root {}", path.display()))
        }
        (RootfsMount::Overlay { lower, upper, work }, None) => overlay_of(lower, upper, work, at),
        (RootfsMount::Overlay { lower, upper, work }, Some(user)) => {
            let scratch = Scratch::new(at)?;
            let layers = scratch.map_layers(lower, upper, work, &user.fd)?;
            as_root_of(user, || {
                overlay_of(&layers.lower, &layers.upper, &layers.work, &layers.spare)
            })
        }
    }
}

/// Runs `make` with the file system ids of the user namespace's root: overlayfs writes to its layers with the
/// ids of whoever has mounted it, and the host's root does not exist on id-mapped ones.
fn as_root_of<T>(user: &UserNamespace, make: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let unmapped = || Error::InvalidSpec("user and group 0 of the user namespace must be mapped".to_owned());
    let uid = user.mappings.outside_uid(0).ok_or_else(unmapped)?;
    let gid = user.mappings.outside_gid(0).ok_or_else(unmapped)?;
    let result = act_as(uid, gid).and_then(|()| make());
    act_as(0, 0)?;
    result
}

/// From here on this thread makes files as this user and group (setfsuid(2)), and keeps what it may. On file systems of a remapped
/// container the host's root does not exist: the kernel refuses what it would make there (EOVERFLOW).
///
/// # Errors
/// The kernel's, when capabilities can't be kept.
pub fn act_as(uid: u32, gid: u32) -> Result<(), Error> {
    let capabilities = rustix::thread::capabilities(None).context(|| "read capabilities")?;
    sys::process::set_file_system_ids(uid, gid);
    // The change of the user takes those that are still needed (capabilities(7)).
    rustix::thread::set_capabilities(None, capabilities).context(|| "keep capabilities")
}

fn overlay_of(lower: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Result<OwnedFd, Error> {
    match overlay(lower, upper, work) {
        // Before Linux 6.5 layers can't be given one by one.
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            overlay_by_options(lower, upper, work, at)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(CWD, at, flags).context(|| "open the overlay")?;
            unmount(at, UnmountFlags::DETACH).context(|| "detach the overlay")?;
            Ok(tree)
        }
        result => result,
    }
}

/// A tmpfs in this mount namespace that goes with this value.
pub(super) struct Scratch {
    at: PathBuf,
    pub(super) tree: OwnedFd,
}

struct MappedLayers {
    lower: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    spare: PathBuf,
}

impl Scratch {
    pub(super) fn new(at: &Path) -> Result<Self, Error> {
        let parameters = [("mode".to_owned(), Some("700".to_owned()))];
        let tree = new_file_system("tmpfs", "tmpfs", &parameters, 0)?;
        place(&tree, at)?;
        let at = at.to_owned();
        Ok(Self { at, tree })
    }

    /// Id-mapped views of an overlay's layers, at paths, as kernels before 6.15 take no detached ones.
    fn map_layers(
        &self,
        lower: &[PathBuf],
        upper: &Path,
        work: &Path,
        map: &OwnedFd,
    ) -> Result<MappedLayers, Error> {
        // Both must be reached through one mount.
        let shared: PathBuf = upper
            .components()
            .zip(work.components())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a)
            .collect();
        let inside = |path: &Path| path.strip_prefix(&shared).unwrap_or(path).to_owned();
        let writable = self.view("writable", &shared, map)?;
        let lower = lower
            .iter()
            .enumerate()
            .map(|(index, path)| self.view(&index.to_string(), path, map))
            .collect::<Result<_, Error>>()?;
        let spare = self.directory("spare")?;
        Ok(MappedLayers {
            lower,
            upper: writable.join(inside(upper)),
            work: writable.join(inside(work)),
            spare,
        })
    }

    fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        rustix::fs::mkdirat(&self.tree, name, Mode::from_raw_mode(0o700))
            .context(|| format!("create {name} for an id-mapped layer"))?;
        Ok(self.at.join(name))
    }

    fn view(&self, name: &str, path: &Path, map: &OwnedFd) -> Result<PathBuf, Error> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let what = || format!("id-map layer {}", path.display());
        let tree = open_tree(CWD, path, flags).context(what)?;
        set_attributes(&tree, false, 0, 0, libc::MS_PRIVATE).context(what)?;
        sys::mount::set_id_map(&tree, false, map).context(what)?;
        let at = self.directory(name)?;
        place(&tree, &at)?;
        Ok(at)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // In a mount namespace that ends with its container; nothing depends on it.
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// Attaches the root at its path, where hooks look for it; over this mount namespace's old root if the user
/// namespace's root may not walk there.
pub(super) fn attach_root(tree: OwnedFd, at: &Path, propagation: Option<&str>) -> Result<Root, Error> {
    let keep_slave = matches!(propagation, Some("slave" | "rslave"));
    let flag = if keep_slave {
        libc::MS_SLAVE
    } else {
        libc::MS_PRIVATE
    };
    set_attributes(&tree, true, 0, 0, flag).context(|| "set the root's propagation")?;
    match place(&tree, at) {
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EACCES) => {
            place(&tree, Path::new("/"))?;
        }
        result => result?,
    }
    Ok(Root(tree))
}

fn place(tree: &OwnedFd, at: &Path) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(at, flags, Mode::empty()).context(|| format!("open {}", at.display()))?;
    attach(tree, &target).context(|| format!("mount {}", at.display()))
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
    for (option, value) in overlay_options() {
        let set = match value {
            Some(value) => fsconfig_set_string(&fs, *option, *value),
            None => fsconfig_set_flag(&fs, *option),
        };
        set.context(|| format!("set the overlay's option {option}"))?;
    }
    create(&fs, "overlay")?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).context(|| "mount overlayfs")
}

/// What every overlay is mounted with, whatever the kernel's defaults. An index would tie the upper directory to these very layers; with a
/// redirect_dir or metacopy the upper directory would not hold what it shows, and `commit` and `diff` read it. In a user namespace
/// overlayfs keeps its marks in `user.` attributes, and then has neither of the two.
fn overlay_options() -> &'static [(&'static str, Option<&'static str>)] {
    const HOST: &[(&str, Option<&str>)] = &[
        ("index", Some("off")),
        ("redirect_dir", Some("off")),
        ("metacopy", Some("off")),
    ];
    const INSIDE: &[(&str, Option<&str>)] = &[("index", Some("off")), ("userxattr", None)];
    // The host's own user namespace maps every id onto itself (user_namespaces(7)).
    match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) if !map.split_whitespace().eq(["0", "0", "4294967295"]) => INSIDE,
        _ => HOST,
    }
}

/// One mount(2) with everything in its options; attached at `at`.
pub(crate) fn overlay_by_options(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    at: &Path,
) -> Result<(), Error> {
    let quote = |path: &Path| {
        path.display()
            .to_string()
            .replace('\\', "\\\\")
            .replace(',', "\\,")
            .replace(':', "\\:")
    };
    let layers: Vec<String> = lower.iter().map(|p| quote(p)).collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        layers.join(":"),
        quote(upper),
        quote(work)
    );
    for (option, value) in overlay_options() {
        options += &format!(",{option}{}", value.map(|v| format!("={v}")).unwrap_or_default());
    }
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

/// Refuses a propagation that does not exist, before anything is made.
pub(crate) fn check_propagation(word: Option<&str>) -> Result<(), Error> {
    match word.unwrap_or_default() {
        "" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable"
        | "runbindable" => Ok(()),
        other => Err(Error::InvalidSpec(format!(
            "rootfsPropagation={other} is not supported"
        ))),
    }
}

/// Sets the root read-only, if the specification asks for it.
pub(super) fn finish(root: &Root, read_only: bool) -> Result<(), Error> {
    if !read_only {
        return Ok(());
    }
    set_attributes(&root.0, false, sys::mount::attr::RDONLY, 0, 0).context(|| "make the root read-only")
}

/// Sets the root's propagation, once it is the root: pivot_root takes no shared one.
pub(super) fn propagate(root: &Root, word: Option<&str>) -> Result<(), Error> {
    let flag = match word.unwrap_or_default() {
        "shared" | "rshared" => libc::MS_SHARED,
        "unbindable" | "runbindable" => libc::MS_UNBINDABLE,
        _ => return Ok(()),
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
