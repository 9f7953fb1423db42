//! A container's mounts as the runtime gets them: the usual ones, its resolv.conf, hostname and hosts, then what `volumes` has
//! planned and made ready, parents before what is mounted in them.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use pontoon_proto::v1::{self, MountType};
use pontoon_runtime::defaults;

use super::Inputs;
use crate::config::NATIVE_RUNTIME;
use crate::{Error, Result};

/// Default size of `/dev/shm`.
const SHM_SIZE: i64 = 64 << 20;

/// A mount that is ready to be used.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// As asked for.
    pub wanted: v1::Mount,
    /// Where, without `.` and `..`.
    pub target: PathBuf,
    /// The part of it that is mounted; empty: all.
    pub subpath: String,
    /// What is mounted.
    pub origin: Origin,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A path of the host.
    Path(PathBuf),
    /// An image's layers, top first; at least two.
    Layers(Vec<PathBuf>),
    /// Layers, top first, and where changes go.
    Writable {
        /// The layers.
        lower: Vec<PathBuf>,
        /// What is written.
        upper: PathBuf,
        /// overlayfs' own.
        work: PathBuf,
    },
    /// A file system without one.
    Nothing,
}

/// All mounts in the order in which they are made.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let host = inputs.host;
    let shm_size = if host.shm_size == 0 {
        SHM_SIZE
    } else {
        host.shm_size
    };
    let user: Vec<PathBuf> = inputs.mounts.iter().map(|m| m.target.clone()).collect();
    let mut mounts = defaults::mounts(shm_size.unsigned_abs());
    mounts.retain(|mount| !user.contains(mount.destination()));
    if host.ipc_mode == "host" {
        for path in ["/dev/shm", "/dev/mqueue"] {
            mounts.retain(|mount| mount.destination() != Path::new(path));
            if Path::new(path).exists() && !user.contains(&PathBuf::from(path)) {
                mounts.push(mount(
                    path,
                    "bind",
                    Path::new(path),
                    &["rbind", "nosuid", "noexec", "nodev"],
                ));
            }
        }
    }
    if host.ipc_mode == "none" {
        mounts.retain(|mount| mount.destination() != Path::new("/dev/shm"));
    }
    if host.privileged {
        for mount in &mut mounts {
            if matches!(mount.typ().as_deref(), Some("sysfs" | "cgroup" | "cgroup2")) {
                let options = mount.options().clone().unwrap_or_default();
                let writable = options
                    .into_iter()
                    .map(|o| if o == "ro" { "rw".to_owned() } else { o });
                mount.set_options(Some(writable.collect()));
            }
        }
    }
    for (name, target) in [
        ("resolv.conf", "/etc/resolv.conf"),
        ("hostname", "/etc/hostname"),
        ("hosts", "/etc/hosts"),
    ] {
        if !user.contains(&PathBuf::from(target)) {
            mounts.push(mount(
                target,
                "bind",
                &inputs.dir.join(name),
                &["rbind", "rprivate"],
            ));
        }
    }
    let is_external = host.runtime != NATIVE_RUNTIME;
    mounts.extend(of_user(inputs.mounts, is_external, inputs.remap.is_some())?);
    Ok(mounts)
}

/// What the user asked for, parents before what is mounted in them. `is_remapped`: for a container with users of its own.
pub(crate) fn of_user(mounts: &[Mounted], is_external: bool, is_remapped: bool) -> Result<Vec<Mount>> {
    let mut wanted: Vec<&Mounted> = mounts.iter().collect();
    wanted.sort_by_key(|mount| (mount.target.components().count(), &mount.target));
    wanted
        .into_iter()
        .map(|mount| user_mount(mount, is_external, is_remapped))
        .collect()
}

/// A file of the engine's in a container.
pub(crate) fn bind(target: &Path, source: &Path) -> Mount {
    mount(
        &target.display().to_string(),
        "bind",
        source,
        &["rbind", "rprivate"],
    )
}

fn user_mount(mounted: &Mounted, is_external: bool, is_remapped: bool) -> Result<Mount> {
    let wanted = &mounted.wanted;
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match &mounted.origin {
        Origin::Path(path) => {
            options.push(if wanted.non_recursive { "bind" } else { "rbind" }.to_owned());
            options.push(match wanted.propagation.as_str() {
                "" => "rprivate".to_owned(),
                mode => mode.to_owned(),
            });
            if wanted.r#type() == MountType::Image && is_remapped {
                // Layers are owned by the image's own users.
                options.push("idmap".to_owned());
            }
            ("bind", path.clone())
        }
        Origin::Layers(layers) => {
            options.extend(layer_options(layers, is_external));
            ("overlay", PathBuf::from("overlay"))
        }
        Origin::Writable { lower, upper, work } => {
            options.extend(layer_options(lower, is_external));
            options.push(format!("upperdir={}", upper.display()));
            options.push(format!("workdir={}", work.display()));
            ("overlay", PathBuf::from("overlay"))
        }
        Origin::Nothing => {
            options.extend(["noexec", "nosuid", "nodev"].map(str::to_owned));
            options.extend(tmpfs(wanted));
            ("tmpfs", PathBuf::from("tmpfs"))
        }
    };
    let is_read_only = wanted.read_only || wanted.r#type() == MountType::Image;
    if is_read_only {
        // As Docker since 25: what is mounted below is read-only as well. There is no "rw" for others: a source that is
        // mounted read-only on the host stays so.
        let alone = kind != "bind" || wanted.read_only_non_recursive || wanted.non_recursive;
        options.push(if alone { "ro" } else { "rro" }.to_owned());
    }
    if !mounted.subpath.is_empty() {
        if is_external {
            return Err(Error::Invalid(format!(
                "a subpath on {} needs the runtime {NATIVE_RUNTIME}: another one would follow links out of the volume",
                wanted.target
            )));
        }
        options.push(format!("pontoon.subpath={}", mounted.subpath));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(mount(
        &mounted.target.display().to_string(),
        kind,
        &source,
        &options,
    ))
}

/// Our runtime takes layers one by one, others only in one text.
fn layer_options(layers: &[PathBuf], is_external: bool) -> Vec<String> {
    let texts = layers.iter().map(|layer| layer.display().to_string());
    if is_external {
        return vec![format!("lowerdir={}", texts.collect::<Vec<_>>().join(":"))];
    }
    texts.map(|layer| format!("lowerdir+={layer}")).collect()
}

/// What makes a tmpfs another than the usual one; later words win.
fn tmpfs(wanted: &v1::Mount) -> Vec<String> {
    let mut options = Vec::new();
    if wanted.tmpfs_size > 0 {
        options.push(format!("size={}", wanted.tmpfs_size));
    }
    if wanted.tmpfs_mode != 0 {
        options.push(format!("mode={:o}", wanted.tmpfs_mode));
    }
    // An empty value would be an option of its own.
    options.extend(
        wanted
            .tmpfs_options
            .iter()
            .filter(|option| *option != "defaults")
            .cloned(),
    );
    options
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.iter().map(|&o| o.to_owned()).collect()));
    mount
}

/// How the root's own propagation has to be so that the binds' can work.
pub(super) fn rootfs_propagation(mounts: &[Mounted]) -> Option<String> {
    let modes: Vec<&str> = mounts
        .iter()
        .map(|mounted| mounted.wanted.propagation.trim_start_matches('r'))
        .collect();
    ["shared", "slave"]
        .into_iter()
        .find(|mode| modes.contains(mode))
        .map(str::to_owned)
}
