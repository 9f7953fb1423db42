//! This host's side of `cp`: what source and destination are, a tree as an archive, an archive as a tree. Archives are
//! made and read on a thread of their own, in chunks, so that memory stays flat.

use std::io::{self, BufWriter, Read as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;

use bytes::Bytes;
use pontoon_image::Limits;
use pontoon_image::archive::{
    ChunkReader, ExtractOptions, Extractor, Kind, Node, Place, TarReader, TarWriter, Walk,
};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{mpsc, oneshot};

use super::paths::{self, Info, Rename};
use crate::error::Failure;

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks that wait to be sent.
const CHUNKS: usize = 8;
/// Links that a destination may go through.
const MAX_LINKS: usize = 10;

/// An archive that is being made.
pub struct Archive {
    /// Its bytes.
    pub chunks: mpsc::Receiver<Bytes>,
    /// Why it broke off; it closes without a text when it did not. `None`: it is not ours.
    pub failed: Option<oneshot::Receiver<String>>,
}

/// Go's words for an error of the kernel.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn failed(operation: &str, path: &str, error: &io::Error) -> Failure {
    Failure::new(format!("{operation} {path}: {}", reason(error)))
}

/// Refuses a destination whose folder is not there, or that is a device (docker/cli `ValidateOutputPath`).
///
/// # Errors
/// Docker's text.
pub fn check_output(path: &str) -> Result<(), Failure> {
    let folder = paths::split_entry(&paths::clean(path)).0;
    if !matches!(std::fs::metadata(&folder), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
        return match kind {
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => Err(Failure::new(format!(
                "invalid output path: {path:?} must be a directory or a regular file: got a device"
            ))),
            _ => Ok(()),
        };
    }
    Err(Failure::new(format!(
        "invalid output path: directory {folder:?} does not exist"
    )))
}

/// What a destination is, links followed to the one that may yet be made.
///
/// # Errors
/// Its folder is not there.
pub fn destination(path: &str) -> Result<Info, Failure> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = paths::split_entry(&path).0;
                let parent = std::fs::metadata(&folder).map_err(|e| failed("stat", &folder, &e))?;
                if !parent.is_dir() {
                    return Err(Failure::new("not a directory"));
                }
                return Ok(Info {
                    path,
                    ..Info::default()
                });
            }
            Err(error) => return Err(failed("lstat", &path, &error)),
        };
        if !metadata.is_symlink() {
            return Ok(Info {
                path,
                exists: true,
                is_dir: metadata.is_dir(),
                rebase: None,
            });
        }
        let target = std::fs::read_link(&path).map_err(|e| failed("readlink", &path, &e))?;
        path = paths::link_target(&path, &target.to_string_lossy());
    }
    Err(Failure::new(format!("too many symlinks in {path}")))
}

/// What a source is; with `follow`, where its link leads.
///
/// # Errors
/// It is not there.
pub fn source(path: &str, follow: bool) -> Result<Info, Failure> {
    let (mut path, mut rebase) = (path.to_owned(), None);
    if follow {
        let real = std::fs::canonicalize(&path).map_err(|e| failed("lstat", &path, &e))?;
        (path, rebase) = paths::rebase_name(&path, &real.to_string_lossy());
    }
    let metadata = std::fs::symlink_metadata(&path).map_err(|e| failed("lstat", &path, &e))?;
    Ok(Info {
        is_dir: metadata.is_dir(),
        exists: true,
        path,
        rebase,
    })
}

/// Makes an archive of a source; its entries are called `name`, else as the source is.
pub fn archive(source: Info, name: Option<String>) -> Archive {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let (tell, failed) = oneshot::channel();
    let own = paths::split_entry(&source.path).1;
    let name = name.or(source.rebase.clone()).unwrap_or(own);
    tokio::task::spawn_blocking(move || {
        let written = open(&source).and_then(|node| {
            let out = BufWriter::with_capacity(CHUNK, Sender(sender));
            let mut tar = TarWriter::new(out);
            Walk::default().tree(&mut tar, &node, name.as_bytes())?;
            tar.finish().map(drop)
        });
        match written {
            // The daemon has refused: it says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => drop(tell.send(reason(&error))),
            Ok(()) => {}
        }
    });
    Archive {
        chunks,
        failed: Some(failed),
    }
}

/// A path that ends with a slash or `/.` has to be a folder, links followed.
fn open(source: &Info) -> io::Result<Node> {
    let end = match source.path.ends_with('/') || source.path.ends_with("/.") {
        true => OFlags::DIRECTORY,
        false => OFlags::NOFOLLOW,
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC | end;
    Node::new(rustix::fs::open(&source.path, flags, Mode::empty())?)
}

/// The user's own archive.
pub fn stdin() -> Archive {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    // A thread that nobody waits for: it may sit in a read of a terminal when the daemon has refused.
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut chunk = vec![0; CHUNK];
            match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    if sender.blocking_send(chunk.into()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return eprintln!("read archive: {}", reason(&error)),
            }
        }
    });
    Archive { chunks, failed: None }
}

/// Extracts an archive into a folder. `owners`: as the archive says, otherwise everything is the caller's.
///
/// # Errors
/// The archive is broken or refused, or this host's.
pub fn extract(
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    folder: &str,
    rename: Option<Rename>,
    owners: bool,
) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root: OwnedFd = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|error| failed("open", folder, &error.into()))?;
    let options = ExtractOptions {
        no_overwrite_dir_non_dir: true,
        chown: owners,
        ..ExtractOptions::default()
    };
    let limits = Limits {
        layer_bytes: u64::MAX,
        archive_bytes: u64::MAX,
        ..Limits::default()
    };
    let mut reader = TarReader::new(ChunkReader::new(chunks), &limits);
    let mut extractor = Extractor::new(Place::beneath(root), options);
    let run = || -> pontoon_image::Result<()> {
        while let Some(mut entry) = reader.next_entry()? {
            if let Some(rename) = &rename {
                entry.name = rename.apply(&entry.name);
                if entry.kind == Kind::Hardlink {
                    entry.link = rename.apply(&entry.link);
                }
            }
            extractor.entry(&entry, &mut reader)?;
        }
        extractor.finish()?;
        reader.drain()
    };
    run().map_err(|error| Failure::from(anyhow::Error::from(error)))
}

/// Writes into a channel.
struct Sender(mpsc::Sender<Bytes>);

impl Write for Sender {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(data));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
