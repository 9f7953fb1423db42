//! The staging folder: everything is made in it and comes into being by a rename. Emptied at open, so a crash leaves nothing.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::{Result, archive, error::At};

/// Makes the folder below `root`, without what a crash has left in it.
pub(super) fn make(root: &Path) -> Result<()> {
    let staging = root.join("staging");
    if staging.exists() {
        // Trees of containers may be deeper than the standard library's removal reaches.
        let dir = File::open(root).at("cannot open", root)?;
        archive::remove_tree(&dir, "staging".as_ref()).at("cannot empty", &staging)?;
    }
    fs::create_dir(&staging).at("cannot make", &staging)?;
    if let Err(error) = spread(&staging) {
        tracing::debug!(%error, "the file system has no hint for unrelated folders");
    }
    Ok(())
}

/// Tells ext4 that what is made in a folder has nothing to do with each other (chattr(1), `T`): layers and containers then lie apart. A
/// new layer in the place of one that was just deleted is slow: where there is no journal, each new file looks at every inode that was
/// freed in the last minutes (`recently_deleted` in fs/ext4/ialloc.c), which costs ten times all else.
fn spread(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    let flags = ioctl_getflags(&folder)?;
    Ok(ioctl_setflags(&folder, flags | IFlags::TOPDIR)?)
}
