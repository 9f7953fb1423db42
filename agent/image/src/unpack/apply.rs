//! The apply loop of one layer: what each entry does to the directory. It needs nothing of the layers below, so layers are
//! unpacked at the same time, while they arrive; what depends on the layers below, and what later entries would disturb,
//! is noted here and done by `finish`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsStr,
    fs::File,
    io::{self, BufRead},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::{
    Form, RelPath,
    tree::{Attrs, Tree},
};
use crate::{
    Error, Result, archive,
    error::At,
    limits::Limits,
    tar_stream::{Entry, Kind, TarReader, sparse},
};

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What a directory gets that no layer lists.
pub(super) const PLAIN_DIR: Attrs<'static> = Attrs {
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: (0, 0),
    xattrs: &[],
};

/// A hard link to a file that this layer does not have so far.
pub(super) struct LowerLink {
    pub(super) name: RelPath,
    pub(super) target: RelPath,
    /// The layer had said before that what is below the target's name is gone.
    pub(super) hidden: bool,
}

/// A layer's directory and what is left to do for it. `Send`: it may be finished by another thread.
pub(crate) struct Apply {
    pub(super) dest: PathBuf,
    pub(super) tree: Tree,
    pub(super) form: Form,
    limits: Limits,
    pub(super) size: u64,
    pub(super) whiteouts: BTreeSet<RelPath>,
    pub(super) opaques: BTreeSet<RelPath>,
    pub(super) dir_times: BTreeMap<RelPath, (i64, u32)>,
    /// Directories made although the layer does not list them: they are to look as below.
    pub(super) implied: BTreeSet<RelPath>,
    pub(super) links: Vec<LowerLink>,
    /// In a whole tree: paths that the layer has, and the directories above them.
    pub(super) own: HashSet<RelPath>,
    /// In a whole tree: directories that the layer has an entry for.
    pub(super) listed: HashSet<RelPath>,
}

impl Apply {
    pub(super) fn new(dest: &Path, form: Form, limits: &Limits) -> Result<Self> {
        let tree = Tree::open(dest).at("cannot open layer directory", dest)?;
        let mut apply = Apply {
            dest: dest.into(),
            tree,
            form,
            limits: limits.clone(),
            size: 0,
            whiteouts: BTreeSet::new(),
            opaques: BTreeSet::new(),
            dir_times: BTreeMap::new(),
            implied: BTreeSet::new(),
            links: Vec::new(),
            own: HashSet::new(),
            listed: HashSet::new(),
        };
        apply.begin_root()?;
        Ok(apply)
    }

    fn begin_root(&mut self) -> Result<()> {
        let root = RelPath::default();
        let dir = self.tree.dir(&root).map_err(|e| self.failed(e, "/"))?;
        if self.form == Form::Tree {
            let time = Tree::mtime(&dir).map_err(|e| self.failed(e, "/"))?;
            self.dir_times.insert(root.clone(), time);
            self.own.insert(root);
            return Ok(());
        }
        Tree::set(&dir, &PLAIN_DIR).map_err(|e| self.failed(e, "/"))?;
        self.dir_times.insert(root.clone(), (0, 0));
        self.implied.insert(root);
        Ok(())
    }

    /// Applies one entry; `data` gives its content.
    pub(super) fn entry<R: BufRead>(&mut self, entry: &Entry, data: &mut TarReader<'_, R>) -> Result<()> {
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
        // A new file is simply made: most names are free.
        if entry.kind != Kind::File || self.form == Form::Tree {
            self.make_room(&dir, &path, entry, &shown)?;
        }
        let attrs = Attrs {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        };
        match entry.kind {
            Kind::Dir => {
                let made = Tree::make_dir(&dir, name, entry.mode).map_err(|e| self.failed(e, &shown))?;
                Tree::set(&made, &attrs).map_err(|e| self.failed(e, &shown))?;
                self.implied.remove(&path);
                if self.form == Form::Tree {
                    self.listed.insert(path.clone());
                }
                self.dir_times.insert(path, entry.mtime);
                Ok(())
            }
            Kind::File => self.file((&dir, &path), entry, &attrs, data),
            Kind::Hardlink => self.hardlink(&dir, path.clone(), entry, &shown),
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
        self.implied.remove(&RelPath::default());
        self.dir_times.insert(RelPath::default(), entry.mtime);
        Ok(())
    }

    fn whiteout(&mut self, parent: RelPath, name: &[u8], shown: &str) -> Result<()> {
        if name == OPAQUE {
            // In a whole tree a directory that is not there has nothing to hide.
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

    /// Clears the way for an entry at a name that is taken.
    fn make_room(&mut self, dir: &OwnedFd, path: &RelPath, entry: &Entry, shown: &str) -> Result<()> {
        let (_, name) = path.split();
        let is_new = self.form == Form::Tree && self.own.insert(path.clone());
        let Some(stat) = Tree::stat(dir, name).map_err(|e| self.failed(e, shown))? else {
            return Ok(());
        };
        let old = FileType::from_raw_mode(stat.st_mode);
        if is_new {
            // What lower layers have there goes; of a directory only its attributes.
            return match (entry.kind, old) {
                (Kind::Dir, FileType::Directory) => {
                    Tree::clear_xattrs(dir, name).map_err(|e| self.failed(e, shown))
                }
                _ => archive::remove_tree(dir, name).map_err(|e| self.failed(e, shown)),
            };
        }
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

    fn file<R: BufRead>(
        &mut self,
        (dir, path): (&OwnedFd, &RelPath),
        entry: &Entry,
        attrs: &Attrs<'_>,
        data: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let (shown, name) = (entry.shown(), path.split().1);
        // Holes cost no disk, but whoever reads the file reads them.
        self.count(entry.sparse.as_ref().map_or(entry.size, |s| s.size), &shown)?;
        let made = match Tree::make_file(dir, name, entry.mode) {
            Err(Errno::EXIST) => {
                self.make_room(dir, path, entry, &shown)?;
                Tree::make_file(dir, name, entry.mode)
            }
            other => other,
        };
        let fd = made.map_err(|e| self.failed(e, &shown))?;
        let mut file = File::from(fd);
        sparse::write_pieces(entry, data, &mut file).map_err(|e| self.failed(e, &shown))?;
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

    fn hardlink(&mut self, dir: &OwnedFd, name: RelPath, entry: &Entry, shown: &str) -> Result<()> {
        let target = RelPath::new(&entry.link, shown)?;
        if target.is_root() {
            return Err(Error::hostile(shown, "hard link to the root"));
        }
        let (parent, target_name) = target.split();
        let hidden = self.hides(&target);
        let target_dir = match self.tree.dir(&parent) {
            Ok(dir) => Some(dir),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(self.failed(e, shown)),
        };
        let stat = target_dir.as_ref().map(|dir| Tree::stat(dir, target_name));
        let stat = stat.transpose().map_err(|e| self.failed(e, shown))?.flatten();
        let stat = stat.filter(|_| self.form == Form::Overlay || self.own.contains(&target) || !hidden);
        match (stat, target_dir) {
            (Some(stat), _) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(Error::hostile(shown, "hard link to a directory"))
            }
            (Some(_), Some(target_dir)) => {
                rustix::fs::linkat(&target_dir, target_name, dir, name.split().1, AtFlags::empty())
                    .map_err(|e| self.failed(e, shown))
            }
            _ if self.form == Form::Tree => Err(missing_target(shown, &target)),
            _ => {
                self.links.push(LowerLink { name, target, hidden });
                Ok(())
            }
        }
    }

    /// Opens an entry's directory; missing ones are made.
    pub(super) fn parent(&mut self, path: &RelPath, shown: &str) -> Result<Arc<OwnedFd>> {
        if self.form == Form::Overlay || self.own.contains(path) {
            match self.tree.dir(path) {
                Err(Errno::NOENT) => {}
                Ok(fd) => return Ok(fd),
                Err(e) => return Err(self.failed(e, shown)),
            }
        }
        let mut dir = self
            .tree
            .dir(&RelPath::default())
            .map_err(|e| self.failed(e, shown))?;
        let mut made = RelPath::default();
        for name in path.names() {
            made = made.join(name.as_bytes());
            dir = self.enter(&dir, name, &made).map_err(|e| self.failed(e, shown))?;
        }
        Ok(dir)
    }

    fn enter(&mut self, dir: &OwnedFd, name: &OsStr, path: &RelPath) -> io::Result<Arc<OwnedFd>> {
        let is_new = self.form == Form::Tree && self.own.insert(path.clone());
        match Tree::stat(dir, name)? {
            None => {}
            Some(stat) if is_new => {
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    // What is written into it must not change its time.
                    let fd = self.tree.dir(path)?;
                    self.dir_times.insert(path.clone(), Tree::mtime(&fd)?);
                    return Ok(fd);
                }
                archive::remove_tree(dir, name)?;
            }
            Some(_) => return Ok(self.tree.dir(path)?),
        }
        let new = Tree::make_dir(dir, name, PLAIN_DIR.mode)?;
        Tree::set(&new, &PLAIN_DIR)?;
        self.dir_times.insert(path.clone(), (0, 0));
        self.implied.insert(path.clone());
        Ok(Arc::new(new))
    }

    /// This layer has said so far that what lower layers have at `path` is gone.
    pub(super) fn hides(&self, path: &RelPath) -> bool {
        let mut at = path.clone();
        while !at.is_root() {
            if self.whiteouts.contains(&at) {
                return true;
            }
            at = at.split().0;
        }
        self.is_below_opaque(path)
    }

    pub(super) fn is_below_opaque(&self, path: &RelPath) -> bool {
        let mut at = path.clone();
        while !at.is_root() {
            at = at.split().0;
            if self.opaques.contains(&at) {
                return true;
            }
        }
        false
    }

    pub(super) fn count(&mut self, bytes: u64, shown: &str) -> Result<()> {
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
    pub(super) fn failed(&self, error: impl Into<io::Error>, shown: &str) -> Error {
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

pub(super) fn missing_target(shown: &str, target: &RelPath) -> Error {
    Error::hostile(
        shown,
        format!("hard link to {}, which does not exist", target.shown()),
    )
}
