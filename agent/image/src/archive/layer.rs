//! An overlayfs upper directory as an OCI layer: 0/0 devices become `.wh.` files, opaque directories get `.wh..wh..opq`
//! (OCI image spec, layer.md). Names are sorted and no clock is read, so that the same directory gives the same bytes.

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags};

use super::{
    Head, Node, TarWriter, Walk,
    changes::{differs, has_other_capability, missing_names},
    walk::{Steps, at, join},
};
use crate::{LayerOptions, Rootfs, error::At, merged::Merged, snapshot::marks, tar_stream::read_failed};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes what a container has changed as a layer archive (plain tar). Ids in it are the container's.
///
/// # Errors
/// The directory can't be read, or holds a name that a layer can't: one that begins with `.wh.`.
pub fn write_layer(rootfs: &Rootfs, options: &LayerOptions, out: impl Write) -> crate::Result<()> {
    let upper = open(&rootfs.upper).at("cannot open", &rootfs.upper)?;
    let below = below(rootfs)?;
    match rootfs.is_tree {
        true => write_tree(&upper, &below, options, out),
        false => write(&upper, &below, options, out),
    }
    .map_err(read_failed)
}

/// The same of a whole tree: what differs from the tree that it was copied from.
fn write_tree(tree: &Node, below: &Merged, options: &LayerOptions, out: impl Write) -> io::Result<()> {
    let mut tar = TarWriter::new(out);
    let mut walk = Walk::new(options.ids.clone()).with_latest(options.latest);
    let whiteouts = |tar: &mut TarWriter<_>, path: &[u8], dir: &Node| -> io::Result<()> {
        for gone in missing_names(path, dir, below)? {
            let (dir, name) = split(&gone);
            tar.entry(&Head::file(join(dir, &[WHITEOUT, name].concat())))?;
        }
        Ok(())
    };
    if let Some(base) = below.find(std::iter::empty())?
        && differs(&base.stat, &tree.stat)
    {
        walk.node(&mut tar, tree, b"./")?;
    }
    whiteouts(&mut tar, b"", tree)?;
    let mut steps = Steps::new(tree)?;
    while let Some((path, node)) = steps.next()? {
        refuse_name(&path)?;
        let old = below.find(super::changes::names(&path))?;
        let changed = match &old {
            None => true,
            Some(old) => differs(&old.stat, &node.stat) || has_other_capability(&node, old)?,
        };
        if changed {
            walk.node(&mut tar, &node, &path)?;
        }
        if !node.is_dir() {
            continue;
        }
        if old.is_some_and(|old| old.kind() == FileType::Directory) {
            whiteouts(&mut tar, &path, &node)?;
        }
        steps.enter(path.clone(), &node).map_err(|e| at(&path, e))?;
    }
    tar.finish().map(drop)
}

fn refuse_name(path: &[u8]) -> io::Result<()> {
    if split(path).1.starts_with(WHITEOUT) {
        let text = "a name that begins with .wh. can't be kept in a layer: rename the file";
        return Err(at(path, io::Error::new(io::ErrorKind::InvalidFilename, text)));
    }
    Ok(())
}

pub(super) fn open(dir: &Path) -> io::Result<Node> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd: OwnedFd = rustix::fs::open(dir, flags, Mode::empty())?;
    Node::new(fd)
}

pub(super) fn below(rootfs: &Rootfs) -> crate::Result<Merged> {
    Merged::open(rootfs.initial_layers().iter().map(|p| p.as_path()))
        .at("cannot open layers of", &rootfs.upper)
}

/// overlayfs' own mark for "gone".
pub(super) fn is_whiteout(node: &Node) -> bool {
    node.kind() == FileType::CharacterDevice && node.stat.st_rdev == 0
}

/// The directory hides what lower layers have in it.
pub(super) fn is_opaque(dir: &Node) -> io::Result<bool> {
    Ok(dir.xattr(marks().opaque)?.as_deref() == Some(b"y"))
}

fn write(upper: &Node, below: &Merged, options: &LayerOptions, out: impl Write) -> io::Result<()> {
    let mut tar = TarWriter::new(out);
    let mut walk = Walk::new(options.ids.clone()).with_latest(options.latest);
    let base = below.find(std::iter::empty())?.map(|found| found.stat);
    let changed = base.is_none_or(|base| {
        (base.st_mode, base.st_uid, base.st_gid) != (upper.stat.st_mode, upper.stat.st_uid, upper.stat.st_gid)
    });
    if changed {
        walk.node(&mut tar, upper, b"./")?;
    }
    let mut steps = Steps::new(upper)?;
    while let Some((path, node)) = steps.next()? {
        let (dir, name) = split(&path);
        refuse_name(&path)?;
        if is_whiteout(&node) {
            tar.entry(&Head::file(join(dir, &[WHITEOUT, name].concat())))?;
            continue;
        }
        refuse_redirect(&node).map_err(|e| at(&path, e))?;
        walk.node(&mut tar, &node, &path)?;
        if !node.is_dir() {
            continue;
        }
        if is_opaque(&node).map_err(|e| at(&path, e))? && was_directory(below, &path)? {
            tar.entry(&Head::file(join(&path, OPAQUE)))?;
        }
        steps.enter(path.clone(), &node).map_err(|e| at(&path, e))?;
    }
    tar.finish().map(drop)
}

/// Only where a lower layer has the directory is there something to hide.
fn was_directory(below: &Merged, path: &[u8]) -> io::Result<bool> {
    Ok(below
        .find(super::changes::names(path))?
        .is_some_and(|found| found.kind() == FileType::Directory))
}

/// With `redirect_dir` or `metacopy` the upper directory does not hold what it shows. We mount without both.
fn refuse_redirect(node: &Node) -> io::Result<()> {
    let marks: &[&str] = match node.kind() {
        FileType::Directory => &[marks().redirect],
        FileType::RegularFile => &[marks().metacopy],
        _ => &[],
    };
    for mark in marks {
        if node.xattr(mark)?.is_some() {
            let text = format!("was written by an overlay mount with {mark}, which a layer can't express");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    }
    Ok(())
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
