//! The init layer: the mount points that every container needs and an image may lack (`/proc`, `/etc/hosts` …), so
//! that they do not appear as changes of the container. As Docker's `setupInitLayer`, but made once per image. With drivers of
//! whole trees it is the image's tree with these in it.

use std::{fs, io, path::PathBuf};

use tar::{EntryType, Header};

use super::{EMPTY, Layers};
use crate::{Digest, Result, error::At, limits::Limits, unpack};

const DIRS: [&str; 4] = ["dev", "etc", "proc", "sys"];
const FILES: [(&str, u32); 4] = [
    (".dockerenv", 0o755),
    ("etc/hostname", 0o644),
    ("etc/hosts", 0o644),
    ("etc/resolv.conf", 0o644),
];
const MTAB: (&str, &str) = ("etc/mtab", "/proc/mounts");

impl Layers {
    /// Makes the init layer of the stack that ends in `top`, unless it is there.
    pub(crate) fn make_init(&self, top: Option<&Digest>) -> Result<()> {
        let dest = self.init_path(top);
        if dest.exists() {
            return Ok(());
        }
        let staged =
            tempfile::TempDir::new_in(&self.staging).at("cannot make a directory in", &self.staging)?;
        let below = self.merged(top)?;
        let missing = |path: &str| {
            below
                .find(path.split('/').map(AsRef::as_ref))
                .map(|f| f.is_none())
        };
        let etc = below
            .find(["etc".as_ref()].into_iter())
            .at("cannot look into layers of", &self.dir)?;
        let etc_is_dir = etc.is_none_or(|f| f.kind() == rustix::fs::FileType::Directory);
        let wanted = |path: &str| Ok((etc_is_dir || !path.starts_with("etc/")) && missing(path)?);
        let archive = archive_of(wanted).at("cannot look into layers of", &self.dir)?;
        let made = staged.path().join("init");
        let like = top.map(|chain| self.path(chain).join("diff"));
        self.driver.make(&made, like.as_deref())?;
        let form = self.driver.form();
        unpack::unpack(&archive[..], &made, form, &below, &Limits::default())?;
        match top {
            Some(chain) => self.settler.mark(&self.path(chain), *chain)?,
            None => fs::create_dir_all(self.dir.join(EMPTY)).at("cannot make", self.dir.join(EMPTY))?,
        }
        match fs::rename(&made, &dest) {
            Ok(()) => Ok(()),
            // Another load of the same image was faster.
            Err(_) if dest.exists() => Ok(()),
            Err(e) => Err(e).at("cannot put in place", dest),
        }
    }

    pub(super) fn init_path(&self, top: Option<&Digest>) -> PathBuf {
        let stack = top.map_or_else(|| self.dir.join(EMPTY), |chain| self.path(chain));
        stack.join("init")
    }
}

/// A layer archive of what is wanted; the unpacker then gives directories the lower layers' attributes.
fn archive_of(wanted: impl Fn(&str) -> io::Result<bool>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: EntryType, mode: u32, link: Option<&str>| {
        if !wanted(path)? {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_path(path)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if let Some(link) = link {
            header.set_link_name(link)?;
        }
        header.set_cksum();
        tar.append(&header, io::empty())
    };
    for dir in DIRS {
        add(dir, EntryType::Directory, 0o755, None)?;
    }
    for (file, mode) in FILES {
        add(file, EntryType::Regular, mode, None)?;
    }
    add(MTAB.0, EntryType::Symlink, 0o777, Some(MTAB.1))?;
    tar.into_inner()
}
