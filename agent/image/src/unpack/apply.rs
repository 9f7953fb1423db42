//! The apply loop of one layer: what each entry does to the directory, and what is left for the end (whiteouts, opaque
//! marks and directory times, which later entries would disturb).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::{
    RelPath,
    tree::{Attrs, Tree, xattrs_of},
};
use crate::{
    Error, Result,
    error::At,
    limits::Limits,
    merged::{Found, Merged},
    tar_stream::{Entry, Kind, TarReader},
};

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

pub(super) struct Apply<'a> {
    dest: PathBuf,
    tree: Tree,
    below: &'a Merged,
    limits: &'a Limits,
    size: u64,
    whiteouts: BTreeSet<RelPath>,
    opaques: BTreeSet<RelPath>,
    dir_times: BTreeMap<RelPath, (i64, u32)>,
    buffer: Vec<u8>,
}

impl<'a> Apply<'a> {
    pub(super) fn new(dest: &Path, below: &'a Merged, limits: &'a Limits) -> Result<Self> {
        let tree = Tree::open(dest).at("cannot open layer directory", dest)?;
        let mut apply = Apply {
            dest: dest.into(),
            tree,
            below,
            limits,
            size: 0,
            whiteouts: BTreeSet::new(),
            opaques: BTreeSet::new(),
            dir_times: BTreeMap::new(),
            buffer: vec![0; 128 << 10],
        };
        apply.inherit_root()?;
        Ok(apply)
    }

    /// Applies one entry; `data` gives its content.
    pub(super) fn entry<R: Read>(&mut self, entry: &Entry, data: &mut TarReader<'_, R>) -> Result<()> {
        let shown = entry.shown();
        let path = RelPath::new(&entry.name, &shown)?;
        if path.is_root() {
            return self.root(entry, &shown);
        }
        let (parent, name) = path.split();
        if parent.names().any(|n| n.as_bytes().starts_with(WHITEOUT)) {
            return Err(Error::hostile(shown, "whiteout used as a directory"));
        }
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(parent, name.as_bytes(), &shown);
        }
        // A 0/0 device is overlayfs' own whiteout, so it can only mean one.
        if entry.kind == Kind::Char && entry.dev == (0, 0) {
            self.whiteouts.insert(path);
            return Ok(());
        }
        let dir = self.parent(&parent, &shown)?;
        self.make_room(&dir, name, entry, &shown)?;
        let attrs = Attrs {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        };
        match entry.kind {
            Kind::Dir => {
                let made = Tree::make_dir(&dir, name).map_err(|e| self.failed(e, &shown))?;
                Tree::set(&made, &attrs).map_err(|e| self.failed(e, &shown))?;
                self.dir_times.insert(path, entry.mtime);
                Ok(())
            }
            Kind::File => self.file(&dir, name, entry, &attrs, data),
            Kind::Hardlink => self.hardlink(&dir, name, entry, &shown),
            Kind::Symlink => {
                let link = OsStr::from_bytes(&entry.link);
                rustix::fs::symlinkat(link, &dir, name)
                    .map_err(io::Error::from)
                    .and_then(|()| Tree::set_special(&dir, name, true, &attrs))
                    .map_err(|e| self.failed(e, &shown))
            }
            Kind::Char => self.node(&dir, name, FileType::CharacterDevice, entry, &attrs),
            Kind::Block => self.node(&dir, name, FileType::BlockDevice, entry, &attrs),
            Kind::Fifo => self.node(&dir, name, FileType::Fifo, entry, &attrs),
        }
    }

    /// Writes what had to wait for the end; gives the layer's size.
    pub(super) fn finish(mut self) -> Result<u64> {
        for path in std::mem::take(&mut self.whiteouts) {
            self.finish_whiteout(&path)?;
        }
        for path in std::mem::take(&mut self.opaques) {
            let shown = path.shown();
            if self.below_kind(&path)? != Some(FileType::Directory) {
                continue;
            }
            let dir = self.parent(&path, &shown)?;
            Tree::set_opaque(&dir).map_err(|e| self.failed(e, &shown))?;
        }
        for (path, mtime) in std::mem::take(&mut self.dir_times).iter().rev() {
            let (parent, name) = path.split();
            let shown = path.shown();
            let dir = self.tree.dir(&parent).map_err(|e| self.failed(e, &shown))?;
            let name = if path.is_root() { OsStr::new(".") } else { name };
            let time = rustix::fs::Timespec {
                tv_sec: mtime.0,
                tv_nsec: i64::from(mtime.1),
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| self.failed(e, &shown))?;
        }
        Ok(self.size)
    }

    /// A whiteout hides what lower layers have; what this layer has itself stays (OCI image spec, layer.md).
    ///
    /// Below an opaque directory there is nothing to hide, and overlayfs would list the device as an entry.
    fn finish_whiteout(&mut self, path: &RelPath) -> Result<()> {
        if self.below_kind(path)?.is_none() || self.is_below_opaque(path) {
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

    fn root(&mut self, entry: &Entry, shown: &str) -> Result<()> {
        if entry.kind != Kind::Dir {
            return Err(Error::hostile(shown, "the root of a layer must be a directory"));
        }
        let dir = self
            .tree
            .dir(&RelPath::default())
            .map_err(|e| self.failed(e, shown))?;
        let attrs = Attrs {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        };
        Tree::set(&dir, &attrs).map_err(|e| self.failed(e, shown))?;
        self.dir_times.insert(RelPath::default(), entry.mtime);
        Ok(())
    }

    fn whiteout(&mut self, parent: RelPath, name: &[u8], shown: &str) -> Result<()> {
        if name == OPAQUE {
            self.parent(&parent, shown)?;
            self.opaques.insert(parent);
            return Ok(());
        }
        // AUFS' own bookkeeping, which the layer spec reserves and Docker skips.
        if name.starts_with(META) {
            return Ok(());
        }
        let target = &name[WHITEOUT.len()..];
        if target.is_empty() || target == b"." || target == b".." {
            return Err(Error::hostile(shown, "whiteout of no name"));
        }
        self.whiteouts.insert(parent.join(target));
        Ok(())
    }

    /// Clears the way for an entry at a name that this layer has already.
    fn make_room(&mut self, dir: &OwnedFd, name: &OsStr, entry: &Entry, shown: &str) -> Result<()> {
        let Some(stat) = Tree::stat(dir, name).map_err(|e| self.failed(e, shown))? else {
            return Ok(());
        };
        let old = FileType::from_raw_mode(stat.st_mode);
        match (entry.kind, old) {
            (Kind::Dir, FileType::Directory) => return Ok(()),
            (Kind::Dir, FileType::Symlink) => Err(Error::hostile(shown, "directory over a symbolic link")),
            (_, FileType::Directory) => Err(Error::hostile(shown, "replaces a directory")),
            (Kind::Hardlink, _) => Err(Error::hostile(shown, "hard link over an existing entry")),
            _ => Ok(()),
        }?;
        // The name goes, never the inode behind it, which other names may share.
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(|e| self.failed(e, shown))
    }

    fn file<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        attrs: &Attrs<'_>,
        data: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let shown = entry.shown();
        self.count(entry.size, &shown)?;
        let fd = Tree::make_file(dir, name).map_err(|e| self.failed(e, &shown))?;
        let mut file = File::from(fd);
        copy(data, &mut file, &mut self.buffer).map_err(|e| self.failed(e, &shown))?;
        Tree::set(&file, attrs).map_err(|e| self.failed(e, &shown))
    }

    fn node(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        kind: FileType,
        entry: &Entry,
        attrs: &Attrs<'_>,
    ) -> Result<()> {
        Tree::make_node(dir, name, kind, entry.dev)
            .map_err(io::Error::from)
            .and_then(|()| Tree::set_special(dir, name, false, attrs))
            .map_err(|e| self.failed(e, &entry.shown()))
    }

    fn hardlink(&mut self, dir: &OwnedFd, name: &OsStr, entry: &Entry, shown: &str) -> Result<()> {
        let target = RelPath::new(&entry.link, shown)?;
        if target.is_root() {
            return Err(Error::hostile(shown, "hard link to the root"));
        }
        let (parent, target_name) = target.split();
        let target_dir = self.parent(&parent, shown)?;
        match Tree::stat(&target_dir, target_name).map_err(|e| self.failed(e, shown))? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Error::hostile(shown, "hard link to a directory"));
            }
            Some(_) => {}
            None => self.copy_up(&target, &target_dir, target_name, shown)?,
        }
        rustix::fs::linkat(&target_dir, target_name, dir, name, AtFlags::empty())
            .map_err(|e| self.failed(e, shown))
    }

    /// A hard link may name a file of a lower layer: both names must then be one inode, here.
    fn copy_up(&mut self, path: &RelPath, dir: &OwnedFd, name: &OsStr, shown: &str) -> Result<()> {
        let found = self
            .find_below(path)?
            .filter(|f| f.kind() == FileType::RegularFile);
        let Some(found) = found.filter(|_| !self.hides(path)) else {
            return Err(Error::hostile(
                shown,
                format!("hard link to {}, which does not exist", path.shown()),
            ));
        };
        self.count(u64::try_from(found.stat.st_size).unwrap_or(0), shown)?;
        let mut copy = File::from(Tree::make_file(dir, name).map_err(|e| self.failed(e, shown))?);
        let copied = found.open().and_then(|mut f| io::copy(&mut f, &mut copy));
        copied.map_err(|e| self.failed(e, shown))?;
        self.copy_attrs(&found, &copy, shown)
    }

    fn copy_attrs(&self, found: &Found, to: &impl std::os::fd::AsFd, shown: &str) -> Result<()> {
        let xattrs = xattrs_of(found).map_err(|e| self.failed(e, shown))?;
        Tree::set(to, &attrs_of(found, &xattrs)).map_err(|e| self.failed(e, shown))
    }

    /// Opens an entry's directory. Missing ones are made as the lower layers have them, else 0755 and root's.
    fn parent(&mut self, path: &RelPath, shown: &str) -> Result<OwnedFd> {
        match self.tree.dir(path) {
            Err(Errno::NOENT) => {}
            Ok(fd) => return Ok(fd),
            Err(e) => return Err(self.failed(e, shown)),
        }
        let mut dir = self
            .tree
            .dir(&RelPath::default())
            .map_err(|e| self.failed(e, shown))?;
        let mut made = RelPath::default();
        for name in path.names() {
            made = made.join(name.as_bytes());
            let exists = Tree::stat(&dir, name)
                .map_err(|e| self.failed(e, shown))?
                .is_some();
            dir = if exists {
                self.tree.dir(&made).map_err(|e| self.failed(e, shown))?
            } else {
                let new = Tree::make_dir(&dir, name).map_err(|e| self.failed(e, shown))?;
                let below = self
                    .find_below(&made)?
                    .filter(|f| f.kind() == FileType::Directory);
                let below = below.filter(|_| !self.hides(&made));
                match below {
                    Some(found) => {
                        self.copy_attrs(&found, &new, shown)?;
                        self.dir_times.insert(made.clone(), mtime_of(&found));
                    }
                    None => {
                        let attrs = Attrs {
                            mode: 0o755,
                            uid: 0,
                            gid: 0,
                            mtime: (0, 0),
                            xattrs: &[],
                        };
                        Tree::set(&new, &attrs).map_err(|e| self.failed(e, shown))?;
                        self.dir_times.insert(made.clone(), (0, 0));
                    }
                }
                new
            };
        }
        Ok(dir)
    }

    fn inherit_root(&mut self) -> Result<()> {
        let root = RelPath::default();
        let dir = self.tree.dir(&root).map_err(|e| self.failed(e, "/"))?;
        match self.find_below(&root)? {
            Some(found) => {
                self.copy_attrs(&found, &dir, "/")?;
                self.dir_times.insert(root, mtime_of(&found));
            }
            None => {
                let attrs = Attrs {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    mtime: (0, 0),
                    xattrs: &[],
                };
                Tree::set(&dir, &attrs).map_err(|e| self.failed(e, "/"))?;
                self.dir_times.insert(root, (0, 0));
            }
        }
        Ok(())
    }

    /// This layer has said so far that what lower layers have at `path` is gone.
    fn hides(&self, path: &RelPath) -> bool {
        let mut at = path.clone();
        while !at.is_root() {
            if self.whiteouts.contains(&at) {
                return true;
            }
            at = at.split().0;
        }
        self.is_below_opaque(path)
    }

    fn is_below_opaque(&self, path: &RelPath) -> bool {
        let mut at = path.clone();
        while !at.is_root() {
            at = at.split().0;
            if self.opaques.contains(&at) {
                return true;
            }
        }
        false
    }

    fn find_below(&self, path: &RelPath) -> Result<Option<Found>> {
        self.below
            .find(path.names())
            .at("cannot look into lower layers for", path.as_os())
    }

    fn below_kind(&self, path: &RelPath) -> Result<Option<FileType>> {
        Ok(self.find_below(path)?.map(|f| f.kind()))
    }

    fn count(&mut self, bytes: u64, shown: &str) -> Result<()> {
        self.size = self.size.saturating_add(bytes);
        if self.size > self.limits.layer_bytes {
            return Err(Error::hostile(
                shown,
                format!("layer has more than {} bytes", self.limits.layer_bytes),
            ));
        }
        Ok(())
    }

    /// Tells an archive's trick from a failing disk.
    fn failed(&self, error: impl Into<io::Error>, shown: &str) -> Error {
        let source = error.into();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP | Errno::NOTDIR) => Error::hostile(
                shown,
                "path goes through something that is no directory, such as a symbolic link",
            ),
            Some(Errno::XDEV) => Error::hostile(shown, "path leaves the layer"),
            Some(Errno::NAMETOOLONG) => Error::hostile(shown, "path too long"),
            Some(_) => Error::Io {
                op: "cannot unpack",
                path: self.dest.join(shown.trim_start_matches('/')),
                source,
            },
            None => crate::tar_stream::read_failed(source),
        }
    }
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

/// `io::copy` with a buffer that suits files of layers.
fn copy(from: &mut impl Read, to: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

fn mtime_of(found: &Found) -> (i64, u32) {
    (
        found.stat.st_mtime,
        u32::try_from(found.stat.st_mtime_nsec).unwrap_or(0),
    )
}
