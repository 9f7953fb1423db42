//! Layers and power cuts. A commit waits for blobs and the catalog to be on the disk, not for the thousands of files of an unpacked
//! layer: those can be made again from the blob. So that a power cut does not leave half-written ones in use, a layer has a mark until a
//! `syncfs` a little later has written it: `unsettled`, a symbolic link whose text is the id of the boot in which it was unpacked. At
//! open a mark of this boot means that only the daemon has ended (the page cache is whole); any other that the layer can't be trusted.
//!
//! Metadata reaches the disk in order, and the mark is made before the rename that makes the layer, so no layer comes without its mark.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Digest, Result, error::At};

const MARK: &str = "unsettled";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long new layers wait for more of them: one `syncfs` does for all.
const DELAY: Duration = Duration::from_secs(3);

/// Whether a layer's files are to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// On the disk.
    Settled,
    /// In the page cache, perhaps not on the disk.
    ThisBoot,
    /// Was not on the disk for certain when the power went.
    Lost,
}

/// What knows which layers are not on the disk yet, and writes them.
pub(super) struct Settler {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    boot: String,
}

struct Shared {
    /// The layers' folder.
    dir: PathBuf,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Layers, and how often each was announced: one that came again meanwhile keeps its mark.
    layers: HashMap<Digest, u64>,
    announced: u64,
    running: bool,
    ending: bool,
}

impl Settler {
    /// For the layers in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let boot = fs::read_to_string(BOOT_ID).at("cannot read", BOOT_ID)?;
        Ok(Settler {
            shared: Arc::new(Shared {
                dir: dir.into(),
                waiting: Mutex::default(),
                changed: Condvar::new(),
            }),
            thread: Mutex::default(),
            boot: boot.trim().to_owned(),
        })
    }

    /// What the mark of a layer's folder says.
    pub(super) fn read(&self, layer: &Path) -> Mark {
        match fs::read_link(layer.join(MARK)) {
            Ok(boot) if boot.as_os_str() == self.boot.as_str() => Mark::ThisBoot,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Mark::Settled,
            Ok(_) | Err(_) => Mark::Lost,
        }
    }

    /// Marks a layer that is about to take its place: `staged` is its folder, or the place itself when files are added to it.
    pub(super) fn mark(&self, staged: &Path, chain: Digest) -> Result<()> {
        // Told first: whoever takes marks off then knows that this one is newer than the sync.
        self.announce(chain);
        let mark = staged.join(MARK);
        match symlink(&self.boot, &mark) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).at("cannot make", mark),
            _ => Ok(()),
        }
    }

    /// A layer has a mark of this boot: it is written in a while.
    pub(super) fn announce(&self, chain: Digest) {
        let mut waiting = self.shared.waiting();
        waiting.announced += 1;
        let number = waiting.announced;
        waiting.layers.insert(chain, number);
        if waiting.running {
            return;
        }
        let shared = self.shared.clone();
        let spawned = thread::Builder::new()
            .name("settle".into())
            .spawn(move || shared.run());
        match spawned {
            Ok(thread) => {
                waiting.running = true;
                *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
            }
            // Its mark stays until a later layer brings a thread, or the store is opened again.
            Err(e) => tracing::warn!(error = &e as &dyn std::error::Error, "no thread to sync layers"),
        }
    }
}

impl Drop for Settler {
    /// Writes what is left, so that an orderly end leaves no marks.
    fn drop(&mut self) {
        self.shared.waiting().ending = true;
        self.shared.changed.notify_all();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic there is told already, and leaves marks at worst.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when nothing waits any more.
    fn run(&self) {
        loop {
            let waiting = self.waiting();
            let idle = |w: &mut Waiting| !w.ending;
            let (waiting, _) = self
                .changed
                .wait_timeout_while(waiting, DELAY, idle)
                .unwrap_or_else(PoisonError::into_inner);
            let batch = waiting.layers.clone();
            drop(waiting);
            if let Err(e) = fs::File::open(&self.dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?)) {
                // The marks stay: after a power cut these are made again.
                tracing::warn!(error = &e as &dyn std::error::Error, "cannot sync new layers");
                let mut waiting = self.waiting();
                waiting.layers.clear();
                waiting.running = false;
                return;
            }
            if self.unmark(batch) {
                return;
            }
        }
    }

    /// Takes the marks off layers that are on the disk now, but for those that were announced again since. True: none waits.
    fn unmark(&self, batch: HashMap<Digest, u64>) -> bool {
        let mut waiting = self.waiting();
        for (chain, number) in batch {
            if waiting.layers.get(&chain) == Some(&number) {
                waiting.layers.remove(&chain);
                // Gone with its layer, perhaps.
                let _ = fs::remove_file(self.dir.join(chain.hex()).join(MARK));
            }
        }
        waiting.running = !waiting.layers.is_empty();
        !waiting.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dir: &Path, chain: Digest) -> PathBuf {
        let path = dir.join(chain.hex());
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_mark_goes_with_an_orderly_end_and_tells_boots_apart() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let settler = Settler::new(temp.path()).unwrap();
        let path = layer(temp.path(), one);
        assert_eq!(settler.read(&path), Mark::Settled);
        settler.mark(&path, one).unwrap();
        settler.mark(&path, one).unwrap();
        assert_eq!(settler.read(&path), Mark::ThisBoot);
        let lost = layer(temp.path(), two);
        symlink("another boot", lost.join(MARK)).unwrap();
        assert_eq!(settler.read(&lost), Mark::Lost);
        drop(settler);
        let settler = Settler::new(temp.path()).unwrap();
        assert_eq!(settler.read(&path), Mark::Settled);
        assert_eq!(settler.read(&lost), Mark::Lost, "nobody announced it");
    }

    #[test]
    fn a_layer_that_came_again_during_the_sync_keeps_its_mark() {
        let temp = tempfile::tempdir().unwrap();
        let chain = Digest::of(b"1");
        let settler = Settler::new(temp.path()).unwrap();
        let path = layer(temp.path(), chain);
        symlink(&settler.boot, path.join(MARK)).unwrap();
        settler.shared.waiting().layers.insert(chain, 2);
        assert!(!settler.shared.unmark(HashMap::from([(chain, 1)])));
        assert_eq!(settler.read(&path), Mark::ThisBoot);
        assert!(settler.shared.unmark(HashMap::from([(chain, 2)])));
        assert_eq!(settler.read(&path), Mark::Settled);
    }
}
