//! Deletes trees of any depth with a few descriptors and no recursion: a directory deeper than that is first renamed to
//! the top of what is being deleted, and comes up there later. Called by the layer store for its trash, and by the
//! extractor where an entry replaces a directory.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, openat, renameat, statat, unlinkat},
    io::Errno,
};

/// How deep it goes before it moves a directory up.
const DEPTH: usize = 48;

struct Level {
    name: OsString,
    fd: OwnedFd,
    names: Vec<Vec<u8>>,
}

/// Deletes what is called `name` in `dir`, with all that is in it. Links are deleted, not followed. What somebody else
/// deletes meanwhile is no error.
///
/// # Errors
/// Something can't be deleted: a mount point, an immutable file, a read-only file system.
pub fn remove_tree(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let dir = dir.as_fd();
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return gone_is_fine(unlinkat(dir, name, AtFlags::empty()));
    }
    let mut moved = 0_u64;
    let Some(top) = level(dir, name)? else {
        return gone_is_fine(unlinkat(dir, name, AtFlags::empty()));
    };
    let mut levels = vec![top];
    while let Some(last) = levels.last_mut() {
        let Some(next) = last.names.pop() else {
            let done = levels.pop().expect("the loop has one");
            let parent = levels.last().map_or(dir, |level| level.fd.as_fd());
            match unlinkat(parent, &done.name, AtFlags::REMOVEDIR) {
                // Deeper directories were moved here meanwhile, or somebody else makes new ones.
                Err(Errno::NOTEMPTY | Errno::EXIST) => match level(parent, &done.name)? {
                    Some(again) if !again.names.is_empty() => levels.push(again),
                    _ => {}
                },
                other => gone_is_fine(other)?,
            }
            continue;
        };
        let next = OsStr::from_bytes(&next);
        match unlinkat(&last.fd, next, AtFlags::empty()) {
            // POSIX says EPERM for a directory, Linux EISDIR.
            Err(Errno::ISDIR | Errno::PERM) => {}
            other => {
                gone_is_fine(other)?;
                continue;
            }
        }
        let is_deep = levels.len() >= DEPTH;
        let (parent, top) = (&levels[levels.len() - 1], &levels[0]);
        if is_deep && move_up(&parent.fd, next, &top.fd, &mut moved)? {
            continue;
        }
        match level(parent.fd.as_fd(), next)? {
            Some(deeper) => levels.push(deeper),
            None => gone_is_fine(unlinkat(&parent.fd, next, AtFlags::empty()))?,
        }
    }
    Ok(())
}

/// Renames a directory to a fresh name at the top; false when it has to be gone through where it is.
fn move_up(from: &OwnedFd, name: &OsStr, top: &OwnedFd, moved: &mut u64) -> io::Result<bool> {
    loop {
        *moved += 1;
        match renameat(from, name, top, format!(".removed-{moved}")) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            // overlayfs can't rename a directory of a lower layer.
            Err(Errno::XDEV) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Opens a directory and lists it; `None` when it is none (any more).
fn level(dir: impl AsFd, name: &OsStr) -> io::Result<Option<Level>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(Some(Level {
        name: name.to_owned(),
        fd,
        names,
    }))
}

fn gone_is_fine(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkdirat};

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn deletes_deeper_than_descriptors_and_paths() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        mkdirat(CWD, temp.path().join("top"), Mode::RWXU).unwrap();
        let mut dir = open(&temp.path().join("top"));
        for depth in 0..5000 {
            let name = format!("directory-{}", depth % 3);
            mkdirat(&dir, &name, Mode::RWXU).unwrap();
            if depth % 100 == 0 {
                rustix::fs::symlinkat(&outside, &dir, "link").unwrap();
                openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            }
            dir = openat(&dir, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(dir);
        remove_tree(open(temp.path()), OsStr::new("top")).unwrap();
        assert!(!temp.path().join("top").exists());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
        remove_tree(open(temp.path()), OsStr::new("top")).unwrap();
    }
}
