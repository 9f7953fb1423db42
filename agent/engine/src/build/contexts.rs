//! Files that the client sends: each context becomes a folder, made when it is first needed. Archives are not trusted:
//! extraction is confined, and devices are left out.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pontoon_image::Limits;
use pontoon_image::archive::{ExtractOptions, Extractor, Kind, Place, TarReader, plain};
use pontoon_image::build::Tree;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use tokio::sync::mpsc;

use super::files;
use crate::engine::{blocking, make_dir};
use crate::error::IoContext;
use crate::{Error, Result};
use pontoon_image::archive::ChunkReader;

/// Chunks that wait to be written.
const CHUNKS: usize = 8;
/// Bytes of a context's archive up to which it is kept in memory.
const IN_MEMORY: u64 = 32 << 20;

/// Streams of contexts by their name.
#[derive(Default)]
pub(super) struct Incoming {
    streams: Mutex<HashMap<String, mpsc::Sender<io::Result<Bytes>>>>,
}

impl Incoming {
    /// Begins to take a context's chunks.
    pub(super) fn expect(&self, name: &str) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        self.lock().insert(name.to_owned(), sender);
        receiver
    }

    /// Passes a chunk on; one that nobody asked for is dropped.
    pub(super) async fn data(&self, name: &str, data: Bytes, end: bool) {
        let sender = self.lock().get(name).cloned();
        if let Some(sender) = sender
            && !data.is_empty()
        {
            sender.send(Ok(data)).await.ok();
        }
        if end {
            self.lock().remove(name);
        }
    }

    /// The client has gone: what is not whole never will be.
    pub(super) async fn broken(&self) {
        let streams: Vec<_> = self.lock().drain().map(|(_, sender)| sender).collect();
        for sender in streams {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the client has gone");
            sender.send(Err(error)).await.ok();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<io::Result<Bytes>>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files of a context. Small ones are in memory, in a file system that nobody else sees and that goes with the daemon: most
/// builds only look at them, since all that would be made of them is cached, and making files on a disk takes longer than all else.
pub(super) struct Context {
    path: PathBuf,
    memory: Option<OwnedFd>,
    on_disk: tokio::sync::OnceCell<PathBuf>,
}

impl Context {
    /// One without files.
    pub(super) fn empty(dir: PathBuf) -> Result<Self> {
        make_dir(&dir)?;
        Ok(Self::at(dir))
    }

    fn at(path: PathBuf) -> Self {
        Self {
            path,
            memory: None,
            on_disk: tokio::sync::OnceCell::new(),
        }
    }

    /// Extracts what comes, to `dir` if it is too large for memory; gives the bytes that came too.
    pub(super) async fn extract(
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        dir: PathBuf,
    ) -> Result<(Self, u64)> {
        blocking(move || {
            let mut chunks = ChunkReader::new(chunks);
            let mut begin = Vec::new();
            let read = (&mut chunks).take(IN_MEMORY).read_to_end(&mut begin);
            read.context(|| "receive a context")?;
            if (begin.len() as u64) < IN_MEMORY
                && let Some(memory) = memory()
            {
                let path = PathBuf::from(format!("/proc/self/fd/{}/.", memory.as_raw_fd()));
                // What does not fit there may fit on the disk; what is wrong is wrong there too.
                if let Ok(bytes) = extract_from(begin.as_slice(), &path) {
                    let mut context = Self::at(path);
                    context.memory = Some(memory);
                    return Ok((context, bytes));
                }
            }
            make_dir(&dir)?;
            let bytes = extract_from(begin.as_slice().chain(chunks), &dir)?;
            Ok((Self::at(dir), bytes))
        })
        .await
    }

    /// Where the files are, for this process.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where other processes find the files: a copy in `dir` of those in memory, made once.
    pub(super) async fn path_for_mounts(&self, dir: PathBuf) -> Result<PathBuf> {
        if self.memory.is_none() {
            return Ok(self.path.clone());
        }
        let made = self.on_disk.get_or_try_init(|| {
            let from = self.path.clone();
            blocking(move || {
                make_dir(&dir)?;
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(&dir, mode).context(|| "copy a context")?;
                let tree = Arc::new(Tree::folder(&from).map_err(Error::Image)?);
                files::copy_tree(tree, "/", &dir)?;
                Ok(dir)
            })
        });
        made.await.cloned()
    }
}

/// A file system in memory without a place in the tree; `None` where the kernel has none (before 5.2) or forbids it.
fn memory() -> Option<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_set_string(fs.as_fd(), "size", (2 * IN_MEMORY).to_string()).ok()?;
    fsconfig_set_string(fs.as_fd(), "mode", "0755").ok()?;
    fsconfig_create(fs.as_fd()).ok()?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags).ok()
}

/// Extracts an archive, compressed or not, into a folder that is there. Everything belongs to root.
pub(super) fn extract_from(archive: impl Read, dir: &Path) -> Result<u64> {
    extract_as(archive, dir, Some((0, 0)))
}

/// As [`extract_from`]; without an owner everything keeps its own.
pub(super) fn extract_as(archive: impl Read, dir: &Path, owner: Option<(u32, u32)>) -> Result<u64> {
    let root = std::fs::File::open(dir).context(|| format!("open {}", dir.display()))?;
    let options = ExtractOptions {
        chown: true,
        owner,
        ..ExtractOptions::default()
    };
    let mut extractor = Extractor::new(Place::beneath(root.into()), options);
    let archive = plain(archive).context(|| "read the archive")?;
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits);
    let mut bytes = 0;
    while let Some(entry) = reader.next_entry().map_err(Error::Image)? {
        bytes += entry.size;
        if matches!(entry.kind, Kind::Char | Kind::Block) {
            continue;
        }
        extractor.entry(&entry, &mut reader).map_err(Error::Image)?;
    }
    extractor.finish().map_err(Error::Image)?;
    Ok(bytes)
}
