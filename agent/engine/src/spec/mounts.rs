//! A container's mounts: the usual ones, its resolv.conf, hostname and hosts, the user's binds and tmpfs.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use pontoon_proto::v1::{self, MountType};
use pontoon_runtime::defaults;

use super::Inputs;
use crate::{Error, Result};

/// Default size of `/dev/shm`.
const SHM_SIZE: i64 = 64 << 20;

/// Checks a propagation mode; empty is Docker's default.
pub(crate) fn propagation(mode: &str) -> Result<&str> {
    match mode {
        "" => Ok("rprivate"),
        "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => Ok(mode),
        other => Err(Error::Invalid(format!("invalid propagation mode: {other}"))),
    }
}

/// All mounts in the order in which they are made.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let config = inputs.config;
    let host = inputs.host;
    let shm_size = if host.shm_size == 0 {
        SHM_SIZE
    } else {
        host.shm_size
    };
    let user: Vec<PathBuf> = config.mounts.iter().map(|m| PathBuf::from(&m.target)).collect();
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
    // Parents before what is mounted in them.
    let mut wanted: Vec<&v1::Mount> = config.mounts.iter().collect();
    wanted.sort_by_key(|mount| Path::new(&mount.target).components().count());
    for mount in wanted {
        mounts.push(user_mount(mount)?);
    }
    Ok(mounts)
}

fn user_mount(wanted: &v1::Mount) -> Result<Mount> {
    let mut options: Vec<String> = Vec::new();
    let (kind, source) = match wanted.r#type() {
        MountType::Bind => {
            options.push("rbind".to_owned());
            options.push(propagation(&wanted.propagation)?.to_owned());
            ("bind", PathBuf::from(&wanted.source))
        }
        MountType::Tmpfs => {
            options.extend(["noexec", "nosuid", "nodev"].map(str::to_owned));
            if wanted.tmpfs_size > 0 {
                options.push(format!("size={}", wanted.tmpfs_size));
            }
            let mode = if wanted.tmpfs_mode == 0 {
                0o1777
            } else {
                wanted.tmpfs_mode
            };
            options.push(format!("mode={mode:o}"));
            ("tmpfs", PathBuf::from("tmpfs"))
        }
    };
    options.push(if wanted.read_only { "ro" } else { "rw" }.to_owned());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(mount(&wanted.target, kind, &source, &options))
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
pub(super) fn rootfs_propagation(config: &v1::ContainerSpec) -> Option<String> {
    let modes: Vec<&str> = config
        .mounts
        .iter()
        .map(|m| m.propagation.trim_start_matches('r'))
        .collect();
    if modes.contains(&"shared") {
        Some("shared".to_owned())
    } else if modes.contains(&"slave") {
        Some("slave".to_owned())
    } else {
        None
    }
}
