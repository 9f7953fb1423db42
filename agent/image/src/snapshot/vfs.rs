//! `vfs`: each layer and each container is a full copy of what is below it. File contents share their blocks where the file
//! system can (XFS, btrfs: `FICLONE`, ioctl_ficlone(2)); elsewhere they are copied, holes left out.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, openat2,
    },
    io::Errno,
};

use super::Snapshotter;
use crate::{
    Result,
    archive::{Node, Steps},
    error::At,
    merged::proc_path,
    unpack::Form,
};

pub(super) struct Vfs {
    backing: String,
}

impl Vfs {
    pub(super) fn new(folder: &Path) -> Self {
        Vfs {
            backing: super::backing_filesystem(folder),
        }
    }
}

impl Snapshotter for Vfs {
    fn name(&self) -> &'static str {
        "vfs"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn make(&self, dest: &Path, like: Option<&Path>) -> Result<()> {
        fs::create_dir(dest).at("cannot make", dest)?;
        match like {
            None => Ok(()),
            Some(like) => copy_tree(like, dest).at("cannot copy to", dest),
        }
    }

    fn status(&self) -> Vec<(String, String)> {
        vec![("Backing Filesystem".to_owned(), self.backing.clone())]
    }
}

/// Copies all that is in `from`, and its own attributes, to the existing directory `to`.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = Node::new(rustix::fs::open(from, flags, Mode::empty())?)?;
    let root: OwnedFd = rustix::fs::open(to, flags, Mode::empty())?;
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut dirs: Vec<(Vec<u8>, Node)> = Vec::new();
    let mut steps = Steps::new(&source)?;
    while let Some((path, node)) = steps.next()? {
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        let dir = open_beneath(&root, parent)?;
        let name = OsStr::from_bytes(name);
        if node.is_dir() {
            rustix::fs::mkdirat(&dir, name, Mode::RWXU)?;
            steps.enter(path.clone(), &node)?;
            dirs.push((path, node));
            continue;
        }
        let id = (node.stat.st_dev, node.stat.st_ino);
        if node.stat.st_nlink > 1
            && let Some(first) = links.get(&id)
        {
            let (at, first_name) = match first.iter().rposition(|b| *b == b'/') {
                Some(slash) => (&first[..slash], &first[slash + 1..]),
                None => (&b""[..], &first[..]),
            };
            let at = open_beneath(&root, at)?;
            rustix::fs::linkat(&at, OsStr::from_bytes(first_name), &dir, name, AtFlags::empty())?;
            continue;
        }
        copy_node(&node, &dir, name)?;
        if node.stat.st_nlink > 1 {
            links.insert(id, path);
        }
    }
    // Deepest first: what is made in a directory changes its time.
    for (path, node) in dirs.iter().rev() {
        let dir = open_beneath(&root, path)?;
        set_attributes(node, &dir, OsStr::new("."))?;
    }
    set_attributes(&source, &root, OsStr::new("."))
}

fn open_beneath(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    loop {
        match openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

fn copy_node(node: &Node, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match node.kind() {
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let to = File::from(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
            copy_content(
                &mut node.open()?,
                to,
                u64::try_from(node.stat.st_size).unwrap_or(0),
            )?;
        }
        FileType::Symlink => {
            rustix::fs::symlinkat(OsStr::from_bytes(&node.read_link()?), dir, name)?;
        }
        // Nobody can be on the other end of a copied socket.
        FileType::Socket => return Ok(()),
        kind => rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, node.stat.st_rdev)?,
    }
    set_attributes(node, dir, name)
}

/// Shares the blocks, or copies what is not a hole.
fn copy_content(from: &mut File, mut to: File, size: u64) -> io::Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(&to, &*from).is_ok() {
        return Ok(());
    }
    let mut offset = 0;
    while offset < size {
        let data = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(data))?;
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        io::copy(&mut from.take(end - data), &mut to)?;
        offset = end;
    }
    to.flush()?;
    to.set_len(size)
}

/// Owner first: chown clears set-id bits and capabilities.
fn set_attributes(node: &Node, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let stat = &node.stat;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if node.kind() != FileType::Symlink {
        rustix::fs::chmod(proc_path(&made), Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    for (key, value) in node.xattrs()? {
        let path = proc_path(dir).join(name);
        match rustix::fs::lsetxattr(path, key.as_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let time = |seconds, nanos| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
