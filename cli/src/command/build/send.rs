//! Sends a context: a tar archive of the files that the build takes and that are not ignored, once. Everything belongs to root, so
//! that who builds makes no difference.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use pontoon_build::ignore::{self, Patterns};
use pontoon_image::archive::{IdMap, Kind, Node, TarWriter};
use pontoon_image::build::Tree;
use pontoon_proto::v1::{BuildData, BuildRequest, build_request::Request};
use tokio::sync::mpsc;

use crate::error::Failure;

/// Bytes sent at once.
const PIECE: usize = 256 << 10;

/// What is sent.
pub struct Files {
    /// All of it,
    pub folder: PathBuf,
    /// but not these.
    pub ignored: Patterns,
    /// `--compress`.
    pub compress: bool,
}

/// Begins to send a context in the background. One that can't be read is told of by way of `failures`: that ends the build.
pub fn send(
    name: String,
    files: Files,
    paths: &[String],
    requests: mpsc::Sender<BuildRequest>,
    failures: mpsc::Sender<Failure>,
) {
    let folder = files.folder.clone();
    let wanted = wanted(&folder, paths);
    tokio::task::spawn_blocking(move || {
        let pieces = Pieces {
            name: name.clone(),
            requests: requests.clone(),
        };
        let out = io::BufWriter::with_capacity(PIECE, pieces);
        let written = match files.compress {
            false => write(&files, &wanted, out).map(drop),
            true => write(&files, &wanted, GzEncoder::new(out, Compression::fast()))
                .and_then(GzEncoder::finish)
                .and_then(|mut out| out.flush()),
        };
        if let Err(error) = written {
            // A daemon that listens no more has its own reasons.
            if error.kind() != io::ErrorKind::BrokenPipe {
                let text = format!("ERROR: failed to read the context {}: {error}", folder.display());
                failures.blocking_send(Failure::new(text)).ok();
            }
            return;
        }
        let end = BuildData {
            name,
            end: true,
            ..BuildData::default()
        };
        requests.blocking_send(message(end)).ok();
    });
}

fn message(data: BuildData) -> BuildRequest {
    BuildRequest {
        request: Some(Request::Context(data)),
    }
}

struct Pieces {
    name: String,
    requests: mpsc::Sender<BuildRequest>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let data = BuildData {
            name: self.name.clone(),
            data: Bytes::copy_from_slice(bytes),
            ..BuildData::default()
        };
        let sent = self.requests.blocking_send(message(data));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The paths that have to be sent; empty: all. Wildcards and links may lead anywhere.
fn wanted(folder: &Path, paths: &[String]) -> Vec<String> {
    let Ok(tree) = Tree::folder(folder) else {
        return Vec::new();
    };
    let mut wanted = Vec::new();
    for path in paths {
        let path = path.trim_matches('/');
        if path.is_empty() || ignore::has_wildcards(path) {
            return Vec::new();
        }
        match tree.resolve(path.as_bytes()) {
            Ok(resolved) if resolved.path == path.as_bytes() => {}
            _ => return Vec::new(),
        }
        wanted.push(path.to_owned());
    }
    wanted
}

/// True for a path that is wanted, lies below one, or leads to one.
fn is_wanted(wanted: &[String], path: &str) -> bool {
    let below = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    wanted.is_empty() || wanted.iter().any(|want| below(path, want) || below(want, path))
}

fn write<W: Write>(files: &Files, wanted: &[String], out: W) -> io::Result<W> {
    let root = std::fs::File::open(&files.folder)?;
    let root = Node::new(rustix::fs::openat(
        &root,
        ".",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )?)?;
    let mut tar = TarWriter::new(out);
    let mut walk = Walk {
        ignored: &files.ignored,
        wanted,
    };
    walk.folder(&mut tar, &root, "")?;
    let mut out = tar.finish()?;
    out.flush()?;
    Ok(out)
}

struct Walk<'w> {
    ignored: &'w Patterns,
    wanted: &'w [String],
}

impl Walk<'_> {
    fn folder<W: Write>(&mut self, tar: &mut TarWriter<W>, dir: &Node, path: &str) -> io::Result<()> {
        for name in dir.names()? {
            let node = match Node::at(&dir.fd, OsStr::from_bytes(&name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let shown = String::from_utf8_lossy(&name).into_owned();
            let full = if path.is_empty() {
                shown
            } else {
                format!("{path}/{shown}")
            };
            if !is_wanted(self.wanted, &full) {
                continue;
            }
            let is_ignored = self.ignored.matches(&full);
            if is_ignored && !(node.is_dir() && self.ignored.may_have_exceptions_below(&full)) {
                continue;
            }
            if !is_ignored {
                self.node(tar, &node, &full)?;
            }
            if node.is_dir() {
                self.folder(tar, &node, &full)?;
            }
        }
        Ok(())
    }

    fn node<W: Write>(&self, tar: &mut TarWriter<W>, node: &Node, path: &str) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        let Some(mut head) = node.head(path.as_bytes(), &IdMap::default()).map_err(named)? else {
            return Ok(());
        };
        (head.uid, head.gid) = (0, 0);
        // Only what belongs to the file wherever it is.
        head.xattrs.retain(|(name, _)| name == "security.capability");
        match head.kind {
            Kind::Char | Kind::Block => Ok(()),
            Kind::File => {
                let mut file = node.open().map_err(named)?;
                tar.file(&head, &mut file).map_err(named)
            }
            _ => tar.entry(&head),
        }
    }
}
