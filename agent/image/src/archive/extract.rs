//! Puts archive entries into a tree that exists: `cp` into a container, and out of one into a folder of the user's.
//!
//! The archive is not trusted, nor is the tree: each entry's directory is opened with `openat2` from the place's root
//! (CVE-2018-15664), its last name is never followed, and a name that is taken is unlinked, never written through. Owner,
//! mode and times are set by descriptor, so no path of the host is ever changed (CVE-2021-41089).

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, openat,
        openat2,
    },
    io::Errno,
};

use super::{Entry, IdMap, Kind, TarReader, remove_tree};
use crate::{Error, Result, merged::proc_path, tar_stream::sparse, unpack::RelPath};

const BUFFER: usize = 128 << 10;
/// A run of zeros of this length and alignment becomes a hole.
const HOLE: usize = 4096;

/// Where entries go.
#[derive(Debug)]
pub struct Place {
    root: OwnedFd,
    base: Vec<u8>,
    resolve: ResolveFlags,
}

impl Place {
    /// The folder `base` (absolute) below a root: links on the way are followed, and end at the root, as for a process
    /// whose root it is.
    pub fn in_root(root: OwnedFd, base: &Path) -> Self {
        let base = base.strip_prefix("/").unwrap_or(base);
        Place {
            root,
            base: base.as_os_str().as_bytes().to_vec(),
            resolve: ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        }
    }

    /// A folder below which no link is followed.
    pub fn beneath(folder: OwnedFd) -> Self {
        Place {
            root: folder,
            base: Vec::new(),
            resolve: ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        }
    }

    fn dir(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        let path = super::walk::join(&self.base, path.as_os().as_bytes());
        let path = if path.is_empty() { b".".to_vec() } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            match openat2(
                &self.root,
                OsStr::from_bytes(&path),
                flags,
                Mode::empty(),
                self.resolve,
            ) {
                // openat2(2): a rename elsewhere on the system raced with the check.
                Err(Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }

    /// The path for messages.
    fn shown(&self, path: &RelPath) -> String {
        let full = super::walk::join(&[b"/", &self.base[..]].concat(), path.as_os().as_bytes());
        String::from_utf8_lossy(&full).into_owned()
    }
}

/// How entries are put in place.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Refuse to replace a directory by something else and the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Set owners: those of the archive, or `owner`. Otherwise everything belongs to the caller.
    pub chown: bool,
    /// Who gets everything.
    pub owner: Option<(u32, u32)>,
    /// Ids of the archive and `owner` on the host.
    pub ids: IdMap,
}

/// Extracts one archive.
pub struct Extractor {
    place: Place,
    options: ExtractOptions,
    /// The directory that was used last: archives come in directory order.
    cached: Option<(RelPath, OwnedFd)>,
    /// Set at the end, as entries change the times of their directories.
    dir_times: BTreeMap<RelPath, i64>,
    buffer: Vec<u8>,
}

impl Extractor {
    /// Begins. The place's folder must exist.
    pub fn new(place: Place, options: ExtractOptions) -> Self {
        Extractor {
            place,
            options,
            cached: None,
            dir_times: BTreeMap::new(),
            buffer: vec![0; BUFFER],
        }
    }

    /// Puts one entry in place; `data` gives its content. Names are relative to the place, also absolute ones.
    ///
    /// # Errors
    /// [`Error::HostileArchive`] for a name with `..`, [`Error::Overwrite`], or the file system's.
    pub fn entry<R: Read>(&mut self, entry: &Entry, data: &mut TarReader<'_, R>) -> Result<()> {
        let shown = entry.shown();
        let path = RelPath::new(trim(&entry.name), &shown)?;
        if path.is_root() {
            // The folder itself stays as it is.
            return match entry.kind {
                Kind::Dir => Ok(()),
                _ => Err(Error::hostile(
                    shown,
                    "replaces the folder that it is extracted into",
                )),
            };
        }
        let (parent, name) = path.split();
        let dir = self.parent(&parent)?;
        self.make_room(&dir, name, entry, &path)?;
        self.make(&dir, name, entry, &path, data)
    }

    /// Sets the times of directories.
    ///
    /// # Errors
    /// The file system's; a directory that is gone meanwhile is none.
    pub fn finish(mut self) -> Result<()> {
        for (path, mtime) in std::mem::take(&mut self.dir_times).iter().rev() {
            let (parent, name) = path.split();
            let set = self
                .open_dir(&parent)
                .and_then(|dir| rustix::fs::utimensat(&dir, name, &times(*mtime), AtFlags::SYMLINK_NOFOLLOW));
            match set {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(self.failed(e, path)),
            }
        }
        Ok(())
    }

    fn open_dir(&mut self, path: &RelPath) -> Result<OwnedFd, Errno> {
        if let Some((cached, fd)) = &self.cached
            && cached == path
        {
            return fd.try_clone().map_err(|_| Errno::MFILE);
        }
        let fd = self.place.dir(path)?;
        self.cached = Some((path.clone(), fd.try_clone().map_err(|_| Errno::MFILE)?));
        Ok(fd)
    }

    /// Opens an entry's directory; missing ones are made 0755.
    fn parent(&mut self, path: &RelPath) -> Result<OwnedFd> {
        match self.open_dir(path) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|e| self.failed(e, path)),
        }
        let mut made = RelPath::default();
        let mut dir = self.place.dir(&made).map_err(|e| self.failed(e, path))?;
        for name in path.names() {
            made = made.join(name.as_bytes());
            dir = match self.place.dir(&made) {
                Err(Errno::NOENT) => {
                    let new = make_dir(&dir, name).map_err(|e| self.failed(e, &made))?;
                    let owner = self.owner((0, 0), &made)?;
                    set(&new, owner, 0o755, &[]).map_err(|e| self.failed(e, &made))?;
                    new
                }
                other => other.map_err(|e| self.failed(e, &made))?,
            };
        }
        Ok(dir)
    }

    /// Clears the way for an entry at a name that is taken.
    fn make_room(&self, dir: &OwnedFd, name: &OsStr, entry: &Entry, path: &RelPath) -> Result<()> {
        let old = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|e| self.failed(e, path))?,
        };
        let was_dir = FileType::from_raw_mode(old.st_mode) == FileType::Directory;
        let is_dir = entry.kind == Kind::Dir;
        if was_dir && is_dir {
            return Ok(());
        }
        if self.options.no_overwrite_dir_non_dir && was_dir != is_dir {
            let (old, new) = match was_dir {
                true => ("directory", "non-directory"),
                false => ("non-directory", "directory"),
            };
            return Err(Error::Overwrite(format!(
                "cannot overwrite {old} {:?} with {new} {:?}",
                self.place.shown(path),
                self.place.shown(&RelPath::default())
            )));
        }
        // The name goes, never the inode behind it, which other names may share.
        let removed = match was_dir {
            true => remove_tree(dir, name),
            false => rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(Into::into),
        };
        removed.map_err(|e| self.failed(e, path))
    }

    fn make<R: Read>(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        path: &RelPath,
        data: &mut TarReader<'_, R>,
    ) -> Result<()> {
        let owner = self.owner((entry.uid, entry.gid), path)?;
        let made = match entry.kind {
            Kind::Dir => make_dir(dir, name).and_then(|fd| {
                self.dir_times.insert(path.clone(), entry.mtime.0);
                set(&fd, owner, entry.mode, &entry.xattrs)
            }),
            Kind::File => make_file(dir, name).and_then(|mut file| {
                match entry.sparse {
                    Some(_) => sparse::write(entry, data, &mut file, &mut self.buffer)?,
                    None => copy(data, &mut file, &mut self.buffer)?,
                }
                set(&file, owner, entry.mode, &entry.xattrs)?;
                Ok(rustix::fs::futimens(&file, &times(entry.mtime.0))?)
            }),
            Kind::Hardlink => return self.hardlink(dir, name, entry, path),
            Kind::Symlink => rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), dir, name)
                .map_err(Into::into)
                .and_then(|()| set_special(dir, name, owner, entry)),
            Kind::Char | Kind::Block | Kind::Fifo => {
                make_node(dir, name, entry).and_then(|()| set_special(dir, name, owner, entry))
            }
        };
        made.map_err(|e| match e.raw_os_error() {
            Some(_) => self.failed(e, path),
            None => crate::tar_stream::read_failed(e),
        })
    }

    /// The target is another entry's name, so it is looked for in the same place, and not followed.
    fn hardlink(&mut self, dir: &OwnedFd, name: &OsStr, entry: &Entry, path: &RelPath) -> Result<()> {
        let shown = entry.shown();
        let target = RelPath::new(trim(&entry.link), &shown)?;
        if target.is_root() {
            return Err(Error::hostile(shown, "hard link to the root"));
        }
        let (parent, target_name) = target.split();
        let from = self.open_dir(&parent).map_err(|e| self.failed(e, &target))?;
        rustix::fs::linkat(&from, target_name, dir, name, AtFlags::empty()).map_err(|e| self.failed(e, path))
    }

    /// Owner on the host; `None`: not set.
    fn owner(&self, archive: (u32, u32), path: &RelPath) -> Result<Option<(u32, u32)>> {
        if !self.options.chown {
            return Ok(None);
        }
        let (uid, gid) = self.options.owner.unwrap_or(archive);
        let mapped = self.options.ids.to_host(uid, gid);
        let unmapped = || Error::hostile(path.shown(), format!("the container has no user {uid}:{gid}"));
        mapped.map(Some).ok_or_else(unmapped)
    }

    fn failed(&self, error: impl Into<io::Error>, path: &RelPath) -> Error {
        Error::Io {
            op: "cannot extract",
            path: PathBuf::from(std::ffi::OsString::from_vec(self.place.shown(path).into_bytes())),
            source: error.into(),
        }
    }
}

fn trim(name: &[u8]) -> &[u8] {
    let start = name.iter().position(|b| *b != b'/').unwrap_or(name.len());
    &name[start..]
}

/// Makes a directory (or takes the existing one) and opens it.
fn make_dir(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

fn make_file(dir: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?))
}

fn make_node(dir: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let kind = match entry.kind {
        Kind::Char => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let dev = rustix::fs::makedev(entry.dev.0, entry.dev.1);
    Ok(rustix::fs::mknodat(
        dir,
        name,
        kind,
        Mode::RUSR | Mode::WUSR,
        dev,
    )?)
}

/// Owner first: chown clears set-id bits and capabilities.
fn set(
    fd: &impl std::os::fd::AsFd,
    owner: Option<(u32, u32)>,
    mode: u32,
    xattrs: &[(String, Vec<u8>)],
) -> io::Result<()> {
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    for (name, value) in xattrs {
        unless_unsupported(rustix::fs::fsetxattr(
            fd,
            name.as_str(),
            value,
            XattrFlags::empty(),
        ))?;
    }
    Ok(())
}

/// The same for what can't be opened: links, devices, FIFOs. The descriptor names exactly what was just made.
fn set_special(dir: &OwnedFd, name: &OsStr, owner: Option<(u32, u32)>, entry: &Entry) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(dir, name, flags, Mode::empty())?;
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    if entry.kind != Kind::Symlink {
        rustix::fs::chmod(proc_path(&node), Mode::from_raw_mode(entry.mode))?;
    }
    for (name, value) in &entry.xattrs {
        let set = rustix::fs::setxattr(proc_path(&node), name.as_str(), value, XattrFlags::empty());
        unless_unsupported(set)?;
    }
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &times(entry.mtime.0),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Attributes that the file system does not know, or that the caller may not set, are left out, as Docker does.
fn unless_unsupported(answer: Result<(), Errno>) -> io::Result<()> {
    match answer {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

/// Copies a file's content; long runs of zeros become holes, so that a sparse file does not fill the disk.
fn copy(from: &mut impl Read, to: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = 0_u64;
    let mut hole_at_end = false;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            break;
        }
        length += filled as u64;
        let mut start = 0;
        for (i, block) in buffer[..filled].chunks(HOLE).enumerate() {
            hole_at_end = block.len() == HOLE && block.iter().all(|b| *b == 0);
            if hole_at_end {
                to.write_all(&buffer[start..i * HOLE])?;
                to.seek(SeekFrom::Current(HOLE as i64))?;
                start = (i + 1) * HOLE;
            }
        }
        to.write_all(&buffer[start.min(filled)..filled])?;
    }
    if hole_at_end {
        to.set_len(length)?;
    }
    Ok(())
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
