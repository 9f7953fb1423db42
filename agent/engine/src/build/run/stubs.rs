//! Mount points that the runtime had to make for a step: they are taken out of what the step has written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pontoon_image::{Rootfs, Stack};

use crate::build::Build;
use crate::engine::blocking;
use crate::error::IoContext;
use crate::spec::mounts::Mounted;
use crate::{Error, Result};

impl Build {
    /// Mount points and the folders on the way: the runtime makes what is missing, and that must not become part of the layer.
    pub(super) async fn stubs(&self, base: &Stack, mounts: &[Mounted]) -> Result<Vec<Stub>> {
        let (images, base) = (self.engine.images.clone(), base.clone());
        let targets: Vec<PathBuf> = mounts.iter().map(|mount| mount.target.clone()).collect();
        blocking(move || {
            let tree = images.tree(&base).map_err(Error::Image)?;
            let failed = || "look for mount points";
            let mut paths = Vec::new();
            for target in targets {
                let path = tree.resolve(target.as_os_str().as_bytes()).context(failed)?.path;
                let ends = path
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| **b == b'/')
                    .map(|(at, _)| at);
                paths.extend(ends.chain([path.len()]).map(|end| path[..end].to_vec()));
            }
            // The deepest first.
            paths.sort_by_key(|path| (std::cmp::Reverse(path.len()), path.clone()));
            paths.dedup();
            let stub = |path: Vec<u8>| {
                let before = tree.get(&path).context(failed)?;
                Ok(Stub {
                    before: before.map(|node| rights_of(&node.stat)),
                    path,
                })
            };
            paths.into_iter().map(stub).collect()
        })
        .await
    }
}

/// A path on the way to a mount, and what it was before.
pub(super) struct Stub {
    path: Vec<u8>,
    before: Option<(u32, u32, u32)>,
}

fn rights_of(stat: &rustix::fs::Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

/// Takes mount points out of what the step has written: empty files and folders that were not there, and folders that are as they were.
pub(super) fn remove(rootfs: &Rootfs, stubs: &[Stub]) -> Result<()> {
    for stub in stubs {
        let path = rootfs.upper.join(OsStr::from_bytes(&stub.path));
        // A link in the way is the program's; it is not followed.
        let mut above = path.ancestors().skip(1).take_while(|dir| *dir != rootfs.upper);
        let Ok(stat) = rustix::fs::lstat(&path) else {
            continue;
        };
        if above.any(Path::is_symlink) || stub.before.is_some_and(|before| before != rights_of(&stat)) {
            continue;
        }
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            // Folders with something in them stay. In a tree of its own one that was there before is no copy of it.
            rustix::fs::FileType::Directory
                if stub.before.is_none() || !pontoon_image::is_opaque(&path) && !rootfs.is_tree =>
            {
                let _ = std::fs::remove_dir(&path);
            }
            rustix::fs::FileType::RegularFile if stat.st_size == 0 && stub.before.is_none() => {
                std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
            }
            _ => {}
        }
    }
    Ok(())
}
