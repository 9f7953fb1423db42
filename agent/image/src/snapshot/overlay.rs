//! `overlay2`: directories are plain; the kernel's overlayfs stacks them at the mount. At the start a mount is tried, so that a
//! file system that can't hold an upper layer is found then and not at the first container.

use std::{fs, path::Path};

use rustix::{
    fs::{FileType, Mode, XattrFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

use super::{Snapshotter, backing_filesystem};
use crate::{Error, Result, error::At, unpack::Form};

pub(super) struct Overlay {
    backing: String,
}

impl Overlay {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let backing = backing_filesystem(folder);
        supported(folder).map_err(|reason| {
            Error::InvalidArgument(format!(
                "storage driver overlay2 can't use {} ({backing}): {reason}; use --storage-driver vfs there, btrfs on a btrfs \
                 file system, or a --data-dir on ext4 or xfs",
                folder.display()
            ))
        })?;
        Ok(Overlay { backing })
    }
}

/// Tries what layers need: a 0/0 device (whiteout), a `trusted.overlay` attribute (opaque mark), and an upper directory.
fn supported(folder: &Path) -> std::result::Result<(), String> {
    let fail = |what: &str| {
        let what = what.to_owned();
        move |e: &dyn std::fmt::Display| format!("{what}: {e}")
    };
    let probe = tempfile::TempDir::new_in(folder).map_err(|e| fail("can't write")(&e))?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| probe.path().join(name));
    for dir in [&lower, &upper, &work] {
        fs::create_dir(dir).map_err(|e| fail("can't write")(&e))?;
    }
    let whiteout = upper.join("whiteout");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &whiteout,
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .map_err(|e| fail("it can't hold whiteouts")(&e))?;
    rustix::fs::setxattr(&upper, "trusted.overlay.opaque", b"y", XattrFlags::empty()).map_err(|e| {
        fail("it has no trusted extended attributes (in a user namespace there are none)")(&e)
    })?;
    let mounted = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|overlay| {
        for (key, path) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
            fsconfig_set_string(&overlay, key, path)?;
        }
        fsconfig_set_string(&overlay, "index", "off")?;
        fsconfig_create(&overlay)?;
        fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    });
    mounted
        .map(drop)
        .map_err(|e| fail("the kernel refuses an overlay on it")(&e))
}

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        "overlay2"
    }

    fn form(&self) -> Form {
        Form::Overlay
    }

    fn make(&self, dest: &Path, _like: Option<&Path>) -> Result<()> {
        fs::create_dir(dest).at("cannot make", dest)
    }

    fn status(&self) -> Vec<(String, String)> {
        // Mounts turn redirect_dir and metacopy off: the upper directory always holds what it shows.
        [
            ("Backing Filesystem", self.backing.as_str()),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }
}
