//! The end of a layer: what depends on the layers below it, and what entries would have disturbed.
//!
//! In overlayfs' form directories that the layer does not list take the attributes that they have below, hard links to lower
//! files copy those up, whiteouts become devices and opaque directories get their mark. In a whole tree, which began as a
//! copy of what is below, whiteouts delete. Directory times come last.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};

use super::{
    Form, RelPath,
    apply::{Apply, LowerLink, PLAIN_DIR, missing_target},
    tree::{Attrs, Tree, xattrs_of},
};
use crate::{
    Result, archive,
    error::At,
    merged::{Found, Merged},
};

impl Apply {
    /// Completes the layer on top of `below`; gives the bytes of its regular files.
    pub(crate) fn finish(mut self, below: &Merged) -> Result<u64> {
        match self.form {
            Form::Overlay => self.finish_overlay(below)?,
            Form::Tree => self.finish_tree()?,
        }
        for (path, mtime) in std::mem::take(&mut self.dir_times).iter().rev() {
            let shown = path.shown();
            let (parent, name) = path.split();
            let dir = match self.tree.dir(&parent) {
                Ok(dir) => dir,
                Err(e) => return Err(self.failed(e, &shown)),
            };
            let name = if path.is_root() { OsStr::new(".") } else { name };
            let time = Timespec {
                tv_sec: mtime.0,
                tv_nsec: i64::from(mtime.1),
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| self.failed(e, &shown))?;
        }
        Ok(self.size)
    }

    fn finish_overlay(&mut self, below: &Merged) -> Result<()> {
        let mut copied = BTreeSet::new();
        for link in std::mem::take(&mut self.links) {
            self.finish_link(&link, below, &mut copied)?;
        }
        for path in self.whiteouts.clone() {
            self.finish_whiteout(&path, below)?;
        }
        for path in self.opaques.clone() {
            let shown = path.shown();
            if kind_below(below, &path)? != Some(FileType::Directory) {
                continue;
            }
            let dir = self.parent(&path, &shown)?;
            Tree::set_opaque(&dir).map_err(|e| self.failed(e, &shown))?;
        }
        for path in std::mem::take(&mut self.implied) {
            let found = find(below, &path)?.filter(|f| f.kind() == FileType::Directory);
            let Some(found) = found.filter(|_| !self.hides(&path)) else {
                continue;
            };
            let shown = path.shown();
            let dir = self.tree.dir(&path).map_err(|e| self.failed(e, &shown))?;
            self.copy_attrs(&found, &dir, &shown)?;
            self.dir_times.insert(path, mtime_of(&found));
        }
        Ok(())
    }

    /// A hard link may name a file of a lower layer: both names must then be one inode, here.
    fn finish_link(
        &mut self,
        link: &LowerLink,
        below: &Merged,
        copied: &mut BTreeSet<RelPath>,
    ) -> Result<()> {
        let shown = link.name.shown();
        let dir = self.parent(&link.name.split().0, &shown)?;
        let name = link.name.split().1;
        // A later entry has taken the name.
        if Tree::stat(&dir, name)
            .map_err(|e| self.failed(e, &shown))?
            .is_some()
        {
            return Ok(());
        }
        if !copied.contains(&link.target) {
            let found = find(below, &link.target)?.filter(|f| f.kind() == FileType::RegularFile);
            let Some(found) = found.filter(|_| !link.hidden) else {
                return Err(missing_target(&shown, &link.target));
            };
            let target_dir = self.parent(&link.target.split().0, &shown)?;
            let taken = Tree::stat(&target_dir, link.target.split().1).map_err(|e| self.failed(e, &shown))?;
            if taken.is_some() || self.hides(&link.target) {
                // The layer has replaced or deleted the target afterwards: only this name keeps the file.
                self.copy_up(&found, &dir, name, &shown)?;
                copied.insert(link.name.clone());
                return Ok(());
            }
            self.copy_up(&found, &target_dir, link.target.split().1, &shown)?;
            copied.insert(link.target.clone());
        }
        let target_dir = self.parent(&link.target.split().0, &shown)?;
        rustix::fs::linkat(&target_dir, link.target.split().1, &dir, name, AtFlags::empty())
            .map_err(|e| self.failed(e, &shown))?;
        copied.insert(link.name.clone());
        Ok(())
    }

    fn copy_up(&mut self, found: &Found, dir: &OwnedFd, name: &OsStr, shown: &str) -> Result<()> {
        self.count(u64::try_from(found.stat.st_size).unwrap_or(0), shown)?;
        let mut copy = File::from(
            Tree::make_file(dir, name, found.stat.st_mode & 0o777).map_err(|e| self.failed(e, shown))?,
        );
        let copied = found.open().and_then(|mut f| io::copy(&mut f, &mut copy));
        copied.map_err(|e| self.failed(e, shown))?;
        self.copy_attrs(found, &copy, shown)
    }

    fn copy_attrs(&self, found: &Found, to: &impl std::os::fd::AsFd, shown: &str) -> Result<()> {
        let xattrs = xattrs_of(found).map_err(|e| self.failed(e, shown))?;
        Tree::set(to, &attrs_of(found, &xattrs)).map_err(|e| self.failed(e, shown))
    }

    /// A whiteout hides what lower layers have; what this layer has itself stays (OCI image spec, layer.md).
    ///
    /// Below an opaque directory there is nothing to hide, and overlayfs would list the device as an entry.
    fn finish_whiteout(&mut self, path: &RelPath, below: &Merged) -> Result<()> {
        if kind_below(below, path)?.is_none() || self.is_below_opaque(path) {
            return Ok(());
        }
        let shown = path.shown();
        let (parent, name) = path.split();
        let dir = self.parent(&parent, &shown)?;
        match Tree::stat(&dir, name).map_err(|e| self.failed(e, &shown))? {
            None => Tree::make_node(&dir, name, FileType::CharacterDevice, (0, 0))
                .map_err(|e| self.failed(e, &shown))?,
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.opaques.insert(path.clone());
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn finish_tree(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.whiteouts) {
            let shown = path.shown();
            if self.own.contains(&path) {
                self.keep_own(&path).map_err(|e| self.failed(e, &shown))?;
                continue;
            }
            let (parent, name) = path.split();
            match self.tree.dir(&parent) {
                Ok(dir) => {
                    let time = Tree::mtime(&dir).map_err(|e| self.failed(e, &shown))?;
                    self.dir_times.entry(parent).or_insert(time);
                    archive::remove_tree(&dir, name).map_err(|e| self.failed(e, &shown))?;
                }
                // Gone with a directory above, or never there: nothing to hide.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                Err(e) => return Err(self.failed(e, &shown)),
            }
        }
        for path in std::mem::take(&mut self.opaques) {
            let shown = path.shown();
            self.keep_own(&path).map_err(|e| self.failed(e, &shown))?;
        }
        self.dir_times
            .retain(|path, _| path.is_root() || self.tree.dir(path).is_ok());
        Ok(())
    }

    /// Deletes what is in a directory and not of this layer.
    fn keep_own(&mut self, top: &RelPath) -> io::Result<()> {
        let mut todo = vec![top.clone()];
        while let Some(path) = todo.pop() {
            let dir = match self.tree.dir(&path) {
                Ok(dir) => dir,
                Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => continue,
                Err(e) => return Err(e.into()),
            };
            // Attributes that it had below are hidden as well, unless the layer lists it.
            if path != *top && !self.listed.contains(&path) {
                Tree::set(&dir, &PLAIN_DIR)?;
                self.dir_times.insert(path.clone(), (0, 0));
            }
            for name in archive::Node::new(rustix::fs::openat(
                &dir,
                ".",
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )?)?
            .names()?
            {
                let inner = path.join(&name);
                if self.own.contains(&inner) {
                    todo.push(inner);
                } else {
                    archive::remove_tree(&dir, OsStr::from_bytes(&name))?;
                }
            }
        }
        Ok(())
    }
}

fn find(below: &Merged, path: &RelPath) -> Result<Option<Found>> {
    below
        .find(path.names())
        .at("cannot look into lower layers for", path.as_os())
}

fn kind_below(below: &Merged, path: &RelPath) -> Result<Option<FileType>> {
    Ok(find(below, path)?.map(|f| f.kind()))
}

fn attrs_of<'x>(found: &Found, xattrs: &'x [(String, Vec<u8>)]) -> Attrs<'x> {
    let stat = &found.stat;
    Attrs {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime_of(found),
        xattrs,
    }
}

fn mtime_of(found: &Found) -> (i64, u32) {
    (
        found.stat.st_mtime,
        u32::try_from(found.stat.st_mtime_nsec).unwrap_or(0),
    )
}
