//! Unpacked layers, one directory per chain id, shared by all images and containers that have it, and the root
//! filesystems of containers on top.
//!
//! ```text
//! layers/<chain id>/{diff/, init/, meta.json, unsettled}    a layer comes into being by one rename
//! rootfs/<container id>/{upper/, work/, chain}   `chain` is a symbolic link whose text is the top chain id
//! ```
//!
//! A layer lives as long as an image, a container or a load in progress (a [`Pin`]) holds it. Two loads of one layer
//! unpack it once: the second waits for the first. `holders` counts and deletes; `settle` writes new ones to the disk.

mod holders;
mod init;
mod rootfs;
mod settle;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};

use self::settle::{Mark, Settler};
use crate::{Digest, Error, Result, archive, error::At, merged::Merged, snapshot::Snapshotter, unpack::Form};

/// Stands for the stack of an image without layers.
const EMPTY: &str = "empty";

/// What is known of a layer besides its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) parent: Option<Digest>,
    pub(crate) diff_id: Digest,
    /// Bytes of its regular files.
    pub(crate) size: u64,
}

struct Layer {
    holders: usize,
    /// `None` while it is being unpacked.
    meta: Option<Meta>,
}

/// All layers and root filesystems of a store.
pub(crate) struct Layers {
    dir: PathBuf,
    rootfs: PathBuf,
    staging: PathBuf,
    table: Mutex<HashMap<Digest, Layer>>,
    changed: Condvar,
    driver: Box<dyn Snapshotter>,
    settler: Settler,
}

/// A layer's directory that is being filled. Dropping it deletes it.
pub(crate) struct Staged {
    dir: tempfile::TempDir,
}

impl Staged {
    /// Where the layer's files go.
    pub(crate) fn diff(&self) -> PathBuf {
        self.dir.path().join("diff")
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Deeper than the standard library's removal reaches, perhaps. What stays is swept at the next open.
        if let Ok(dir) = fs::File::open(self.dir.path()) {
            let _ = archive::remove_tree(&dir, "diff".as_ref());
        }
    }
}

/// Holds a layer; when the last holder lets go, the layer is deleted.
pub(crate) struct Pin {
    layers: Arc<Layers>,
    pub(crate) chain: Digest,
    pub(crate) size: u64,
    kept: bool,
}

impl Pin {
    /// Hands the hold over to an image.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(e) = self.layers.release([self.chain]) {
            tracing::warn!(
                error = &e as &dyn std::error::Error,
                "cannot delete an unused layer"
            );
        }
    }
}

impl Layers {
    /// Finds the layers below `root`. Images then hold theirs, and [`Layers::sweep`] deletes the rest.
    pub(crate) fn open(root: &Path, driver: Box<dyn Snapshotter>) -> Result<Arc<Self>> {
        let dir = root.join("layers");
        let layers = Layers {
            settler: Settler::new(&dir)?,
            dir,
            rootfs: root.join("rootfs"),
            staging: root.join("staging"),
            table: Mutex::default(),
            changed: Condvar::new(),
            driver,
        };
        for dir in [&layers.dir, &layers.rootfs] {
            fs::create_dir_all(dir).at("cannot make", dir)?;
        }
        for entry in fs::read_dir(&layers.dir).at("cannot list", &layers.dir)? {
            let path = entry.at("cannot list", &layers.dir)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let meta = fs::read(path.join("meta.json"))
                .ok()
                .and_then(|m| serde_json::from_slice(&m).ok());
            let mark = layers.settler.read(&path);
            match (Digest::from_hex(name), meta) {
                (Some(chain), Some(meta)) if mark != Mark::Lost && path.join("diff").is_dir() => {
                    if mark == Mark::ThisBoot {
                        layers.settler.announce(chain);
                    }
                    layers.table().insert(
                        chain,
                        Layer {
                            holders: 0,
                            meta: Some(meta),
                        },
                    );
                }
                _ if name == EMPTY => {}
                _ => layers.discard(&path)?,
            }
        }
        Ok(Arc::new(layers))
    }

    /// Lets containers hold their layers, then deletes those without a holder.
    pub(crate) fn sweep(&self) -> Result<()> {
        self.hold_containers()?;
        let unused = self
            .table()
            .iter()
            .filter(|(_, l)| l.holders == 0)
            .map(|(chain, _)| *chain)
            .collect();
        self.delete(unused)
    }

    /// The storage driver.
    pub(crate) fn driver(&self) -> &dyn Snapshotter {
        &*self.driver
    }

    /// A directory for a layer on top of `parent`.
    pub(crate) fn stage(&self, parent: Option<&Digest>) -> Result<Staged> {
        let dir = tempfile::TempDir::new_in(&self.staging).at("cannot make a directory in", &self.staging)?;
        let staged = Staged { dir };
        let like = parent.map(|p| self.path(p).join("diff"));
        self.driver.make(&staged.diff(), like.as_deref())?;
        Ok(staged)
    }

    /// The layer `chain`; if it is not there, `unpack` gives its filled directory and how many bytes are in it. Waits
    /// while another thread unpacks the same layer. True: it was there.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        chain: Digest,
        parent: Option<Digest>,
        diff_id: Digest,
        unpack: impl FnOnce(&Merged) -> Result<(Staged, u64)>,
    ) -> Result<(Pin, bool)> {
        let mut table = self.table();
        loop {
            match table.get_mut(&chain) {
                None => break,
                Some(Layer {
                    holders,
                    meta: Some(meta),
                }) => {
                    *holders += 1;
                    return Ok((self.pin_of(chain, meta.size), true));
                }
                Some(_) => table = self.changed.wait(table).unwrap_or_else(|e| e.into_inner()),
            }
        }
        table.insert(
            chain,
            Layer {
                holders: 1,
                meta: None,
            },
        );
        drop(table);
        let unpacking = Unpacking { layers: self, chain };
        let meta = self.unpack_in_place(chain, parent, diff_id, unpack)?;
        let size = meta.size;
        self.table().insert(
            chain,
            Layer {
                holders: 1,
                meta: Some(meta),
            },
        );
        drop(unpacking);
        Ok((self.pin_of(chain, size), false))
    }

    fn pin_of(self: &Arc<Self>, chain: Digest, size: u64) -> Pin {
        Pin {
            layers: self.clone(),
            chain,
            size,
            kept: false,
        }
    }

    /// Holds a layer that is there.
    pub(crate) fn pin(self: &Arc<Self>, chain: &Digest) -> Result<Pin> {
        self.hold(&[*chain])?;
        Ok(self.pin_of(*chain, self.size(chain)))
    }

    fn unpack_in_place(
        &self,
        chain: Digest,
        parent: Option<Digest>,
        diff_id: Digest,
        unpack: impl FnOnce(&Merged) -> Result<(Staged, u64)>,
    ) -> Result<Meta> {
        let below = self.merged(parent.as_ref())?;
        let (staged, size) = unpack(&below)?;
        let meta = Meta {
            parent,
            diff_id,
            size,
        };
        let file = staged.dir.path().join("meta.json");
        let text = serde_json::to_vec(&meta).map_err(|source| Error::Json {
            what: "layer".into(),
            source,
        })?;
        fs::write(&file, text).at("cannot write", &file)?;
        self.settler.mark(staged.dir.path(), chain)?;
        fs::rename(staged.dir.path(), self.path(&chain)).at("cannot put in place", self.path(&chain))?;
        Ok(meta)
    }

    /// Bytes of one layer.
    pub(crate) fn size(&self, chain: &Digest) -> u64 {
        self.table()
            .get(chain)
            .and_then(|l| l.meta.as_ref())
            .map_or(0, |m| m.size)
    }

    /// The layer is unpacked.
    pub(crate) fn has(&self, chain: &Digest) -> bool {
        self.table().get(chain).is_some_and(|l| l.meta.is_some())
    }

    /// overlay2's folders of a stack (bottom first), as Docker's `GraphDriver.Data` names them.
    pub(crate) fn folders(&self, stack: &[Digest]) -> Vec<(String, String)> {
        let Some((top, lower)) = stack.split_last().filter(|_| self.driver.form() == Form::Overlay) else {
            return Vec::new();
        };
        let diff = |chain: &Digest| self.path(chain).join("diff").display().to_string();
        let lower: Vec<String> = lower.iter().rev().map(diff).collect();
        let mut folders = vec![("UpperDir".to_owned(), diff(top))];
        if !lower.is_empty() {
            folders.push(("LowerDir".to_owned(), lower.join(":")));
        }
        folders
    }

    /// The layer is known and its files are there.
    pub(crate) fn is_whole(&self, chain: &Digest) -> bool {
        self.has(chain) && self.path(chain).join("diff").is_dir()
    }

    /// Unpacks a layer whose files are lost; its holders keep it.
    pub(crate) fn restore(
        &self,
        chain: Digest,
        parent: Option<Digest>,
        diff_id: Digest,
        unpack: impl FnOnce(&Merged) -> Result<(Staged, u64)>,
    ) -> Result<()> {
        self.discard(&self.path(&chain))?;
        let meta = self.unpack_in_place(chain, parent, diff_id, unpack)?;
        let mut table = self.table();
        let holders = table.get(&chain).map_or(1, |l| l.holders);
        table.insert(
            chain,
            Layer {
                holders,
                meta: Some(meta),
            },
        );
        drop(table);
        self.make_init(Some(&chain))
    }

    /// The stack that ends in `top`, bottom first.
    fn stack(&self, top: Option<&Digest>) -> Result<Vec<Digest>> {
        let table = self.table();
        let mut stack = Vec::new();
        let mut next = top.copied();
        while let Some(chain) = next {
            let meta = table.get(&chain).and_then(|l| l.meta.as_ref());
            let meta = meta.ok_or_else(|| Error::corrupt(chain, "the unpacked layer is missing"))?;
            stack.push(chain);
            next = meta.parent;
        }
        stack.reverse();
        Ok(stack)
    }

    /// A view of the stack that ends in `top`.
    pub(crate) fn merged(&self, top: Option<&Digest>) -> Result<Merged> {
        let mut stack = self.stack(top)?;
        if self.driver.form() == Form::Tree {
            // The highest one has all that is below it.
            stack.drain(..stack.len().saturating_sub(1));
        }
        let dirs: Vec<PathBuf> = stack.iter().rev().map(|c| self.path(c).join("diff")).collect();
        Merged::open(dirs.iter().map(PathBuf::as_path)).at("cannot open a layer in", &self.dir)
    }

    fn path(&self, chain: &Digest) -> PathBuf {
        self.dir.join(chain.hex())
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Layer>> {
        // A panic under the lock leaves counts at worst too high: layers that stay until the next open.
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Takes the "being unpacked" mark off again, whatever happens, and wakes those who wait.
struct Unpacking<'a> {
    layers: &'a Layers,
    chain: Digest,
}

impl Drop for Unpacking<'_> {
    fn drop(&mut self) {
        let mut table = self.layers.table();
        if table.get(&self.chain).is_some_and(|l| l.meta.is_none()) {
            table.remove(&self.chain);
        }
        self.layers.changed.notify_all();
    }
}
