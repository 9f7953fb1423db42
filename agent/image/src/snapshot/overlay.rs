//! `overlay2`: directories are plain; the kernel's overlayfs stacks them at the mount. At the start a mount is tried, so that a
//! file system that can't hold an upper layer is found then and not at the first container.

use std::{fs, path::Path};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, XattrFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
        fsmount, fsopen,
    },
};

use super::{Snapshotter, backing_filesystem, marks};
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

/// Tries what layers need: entries that tell what they are (overlayfs finds whiteouts by that), a 0/0 device (whiteout), an attribute of
/// overlayfs (opaque mark), and an upper directory.
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
    if !tells_types(probe.path()).map_err(|e| fail("can't list a folder")(&e))? {
        return Err(
            "it does not tell the types of a folder's entries (d_type); xfs must be made with ftype=1"
                .to_owned(),
        );
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
    let marks = marks();
    rustix::fs::setxattr(&upper, marks.opaque, b"y", XattrFlags::empty())
        .map_err(|e| fail(&format!("it can't hold the attribute {}", marks.opaque))(&e))?;
    let refused = if marks.userxattr {
        "the kernel refuses an overlay on it with userxattr, which a user namespace needs (Linux 5.11)"
    } else {
        "the kernel refuses an overlay on it"
    };
    try_mount([&lower, &upper, &work].map(|path| path.as_path())).map_err(|e| fail(refused)(&e))
}

fn tells_types(folder: &Path) -> rustix::io::Result<bool> {
    let folder = rustix::fs::open(
        folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in Dir::read_from(folder)? {
        if entry?.file_type() == FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Mounts what containers get, attached nowhere.
fn try_mount([lower, upper, work]: [&Path; 3]) -> rustix::io::Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&overlay, key, path)?;
    }
    fsconfig_set_string(&overlay, "index", "off")?;
    if marks().userxattr {
        fsconfig_set_flag(&overlay, "userxattr")?;
    }
    fsconfig_create(&overlay)?;
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
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
            ("userxattr", if marks().userxattr { "true" } else { "false" }),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }
}
