//! Where a container's files are and whose: the user's mounts of one that runs and of one that does not, and the ids by which their
//! owners are told. Read by `copy` for each helper.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};
use pontoon_image::archive::{IdMap, IdRange};
use pontoon_proto::v1::MountType;

use crate::spec::mounts::Mounted;
use crate::{Error, Result, spec};

/// The specification of a running container, in its shim's folder.
const SPEC: &str = "config.json";

/// The mounts that the user of a running container sees as his: not those that every container has.
pub(super) fn running_mounts(run_dir: &Path) -> Result<Vec<Mount>> {
    let path = run_dir.join(SPEC);
    let spec: Spec = Spec::load(&path).map_err(|error| Error::Io {
        what: format!("read {}", path.display()),
        source: io::Error::other(error),
    })?;
    let mounts = spec.mounts().clone().unwrap_or_default();
    let every = pontoon_runtime::defaults::mounts(0);
    let of_all = |mount: &Mount| {
        every
            .iter()
            .any(|other| other.destination() == mount.destination())
    };
    let user = mounts.into_iter().filter(|mount| !of_all(mount));
    Ok(user.collect())
}

/// The mounts of a container that does not run. A tmpfs has no content then.
pub(super) fn stopped_mounts(mounted: &[Mounted], dir: &Path) -> Result<Vec<Mount>> {
    let mut mounts = spec::mounts::of_user(mounted, false, false)?;
    mounts.retain(|mount| mount.typ().as_deref() != Some("tmpfs"));
    for name in ["resolv.conf", "hostname", "hosts"] {
        let (source, target) = (dir.join(name), PathBuf::from("/etc").join(name));
        let taken = mounts.iter().any(|mount| *mount.destination() == target);
        // Made at its first start.
        if source.exists() && !taken {
            mounts.insert(0, spec::mounts::bind(&target, &source));
        }
    }
    Ok(mounts)
}

/// The targets of mounts whose files belong to the host's users: all but images, which are the container's like its root.
pub(super) fn host_mounts(mounts: &[Mount], mounted: &[Mounted]) -> Vec<PathBuf> {
    let is_image = |target: &PathBuf| {
        let mut images = mounted.iter().filter(|m| m.wanted.r#type() == MountType::Image);
        images.any(|image| image.target == *target)
    };
    let targets = mounts.iter().map(|mount| mount.destination().clone());
    targets.filter(|target| !is_image(target)).collect()
}

/// The daemon's mappings, as archives take them.
pub(super) fn users_of(remap: &spec::remap::IdMap) -> IdMap {
    let ranges = |mappings: Vec<LinuxIdMapping>| {
        let range = |mapping: &LinuxIdMapping| IdRange {
            container: mapping.container_id(),
            host: mapping.host_id(),
            count: mapping.size(),
        };
        mappings.iter().map(range).collect()
    };
    IdMap {
        uids: ranges(remap.uids()),
        gids: ranges(remap.gids()),
    }
}

/// The mappings of a process's user namespace; none for the host's own.
pub(super) fn ids_of(pid: u32) -> IdMap {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let ranges: Vec<IdRange> = text.lines().filter_map(range).collect();
        let whole = |r: &IdRange| r.container == 0 && r.host == 0 && r.count == u32::MAX;
        if ranges.iter().any(whole) {
            Vec::new()
        } else {
            ranges
        }
    };
    IdMap {
        uids: read("uid_map"),
        gids: read("gid_map"),
    }
}

fn range(line: &str) -> Option<IdRange> {
    let mut numbers = line.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(IdRange {
        container: next()?,
        host: next()?,
        count: next()?,
    })
}
