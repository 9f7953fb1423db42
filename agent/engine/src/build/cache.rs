//! The build cache: results of steps by the digest of what they were made from, and the folders of cache mounts. Results are stacks
//! that the image store keeps; here is what is known of them besides.
//!
//! ```text
//! <data>/engine/build/records/<key>.json   a result or a cache mount, replaced by rename
//! <data>/engine/build/mounts/<key>/        the folder of a cache mount
//! <data>/engine/build/tmp/                 builds under way; emptied at the start
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_image::{Digest, ImageStore, ListOptions, RemoveOptions, Stack, archive};
use serde::{Deserialize, Serialize};

use crate::engine::make_dir;
use crate::error::IoContext;
use crate::{Error, Result, id};

/// Before the address in the name of a download's folder.
pub(super) const HTTP: &str = "http ";
/// A step's result.
pub(super) const REGULAR: &str = "regular";
/// A cache mount's folder.
pub(super) const MOUNT: &str = "exec.cachemount";
/// What ADD has downloaded.
const DOWNLOAD: &str = "source.http";
/// Before the names of files that say which images came only for their cache.
const TAKEN: &str = "taken-";
/// Before the key of a result in the image store.
const KEPT: &str = "build-";

/// What is known of an entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) kind: String,
    pub(super) description: String,
    /// Nanoseconds since 1970.
    pub(super) created_at: i64,
    pub(super) last_used_at: i64,
    pub(super) usage_count: u64,
    /// Bytes of what it alone has; of a mount when it was last looked at.
    pub(super) size: u64,
    /// Of a mount: what its id is.
    #[serde(default)]
    pub(super) mount: String,
}

/// All entries.
pub(crate) struct BuildCache {
    dir: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
    /// Cache mounts in use, and how often.
    in_use: Mutex<HashMap<String, usize>>,
    /// Entries whose use is not noted on disk yet.
    touched: Mutex<BTreeSet<String>>,
    /// Taken by steps that want a mount for themselves.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl BuildCache {
    /// Reads what is there. Entries that are only half there go, and so do builds that were cut short.
    pub(crate) fn open(data: &Path, images: &ImageStore) -> Result<Self> {
        let dir = data.join("engine/build");
        make_dir(&dir)?;
        forget_taken(&dir.join("tmp"), images)?;
        remove(&dir, "tmp")?;
        for name in ["records", "mounts", "tmp"] {
            make_dir(&dir.join(name))?;
        }
        let mut records = read_records(&dir.join("records"))?;
        let kept: HashSet<String> = images.kept_keys().into_iter().collect();
        records.retain(|key, record| match record.kind.as_str() {
            REGULAR => kept.contains(&format!("{KEPT}{key}")),
            _ => dir.join("mounts").join(key).is_dir(),
        });
        for key in kept.iter().filter_map(|key| key.strip_prefix(KEPT)) {
            if !records.contains_key(key) {
                images.forget(&format!("{KEPT}{key}")).map_err(Error::Image)?;
            }
        }
        for name in names(&dir.join("mounts"))? {
            if !records.contains_key(&name) {
                remove(&dir.join("mounts"), &name)?;
            }
        }
        for name in names(&dir.join("records"))? {
            if !records.contains_key(name.trim_end_matches(".json")) {
                fs::remove_file(dir.join("records").join(&name)).context(|| format!("remove {name}"))?;
            }
        }
        Ok(Self {
            dir,
            records: Mutex::new(records),
            in_use: Mutex::default(),
            touched: Mutex::default(),
            locks: Mutex::default(),
        })
    }

    /// A folder for a build under way.
    pub(super) fn work_dir(&self, build: &str) -> PathBuf {
        self.dir.join("tmp").join(build)
    }

    /// Notes in a build's folder that an image comes only for the cache that it holds: by this name, or by none.
    pub(super) fn mark_taken(&self, dir: &Path, name: &str) -> Result<()> {
        make_dir(dir)?;
        let path = dir.join(format!("{TAKEN}{}", Digest::of(name.as_bytes()).short()));
        fs::write(&path, name).context(|| format!("write {}", path.display()))
    }

    /// The result that is kept for a key, and when it was made.
    pub(super) fn find(&self, images: &ImageStore, key: &str) -> Option<(Stack, i64)> {
        let record = self.records().get(key).cloned()?;
        match images.kept(&format!("{KEPT}{key}")) {
            Ok(Some(stack)) => {
                self.touch(key);
                Some((stack, record.created_at))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(
                    key,
                    error = &error as &dyn std::error::Error,
                    "a cached result is damaged"
                );
                self.forget(images, key).ok();
                None
            }
        }
    }

    /// True if there is a result for a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.records().contains_key(key)
    }

    /// Keeps a result. `below`: how many of its layers it did not make.
    pub(super) fn keep(&self, images: &ImageStore, key: &str, stack: &Stack, made: &Made) -> Result<()> {
        images
            .keep(&format!("{KEPT}{key}"), stack)
            .map_err(Error::Image)?;
        self.save(
            key,
            Record {
                kind: REGULAR.into(),
                description: made.description.clone(),
                created_at: made.created_at,
                last_used_at: id::now(),
                usage_count: 1,
                size: stack.layers().skip(made.below).map(|layer| layer.size).sum(),
                mount: String::new(),
            },
        )
    }

    /// Removes an entry; gives the bytes that it alone had.
    pub(super) fn forget(&self, images: &ImageStore, key: &str) -> Result<u64> {
        let Some(record) = self.records().remove(key) else {
            return Ok(0);
        };
        let path = self.record_path(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        match record.kind.as_str() {
            REGULAR => drop(images.forget(&format!("{KEPT}{key}")).map_err(Error::Image)?),
            _ => remove(&self.dir.join("mounts"), key)?,
        }
        Ok(record.size)
    }

    /// All entries by key; sizes of mounts as they are now.
    pub(super) fn list(&self) -> Vec<(String, Record, bool)> {
        let records = self.records().clone();
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let entry = |(key, mut record): (String, Record)| {
            if record.kind != REGULAR {
                record.size = disk_use(&self.dir.join("mounts").join(&key));
            }
            let used = in_use.get(&key).is_some_and(|count| *count > 0);
            (key, record, used)
        };
        records.into_iter().map(entry).collect()
    }

    /// The folder of a cache mount, made if it is not there (true). `is_private`: one that nobody else uses.
    pub(super) fn mount(self: &Arc<Self>, mount: &str, is_private: bool) -> Result<(InUse, PathBuf, bool)> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        for copy in 0.. {
            let key = Digest::of(format!("mount\0{mount}\0{copy}").as_bytes()).hex();
            if is_private && in_use.get(&key).is_some_and(|count| *count > 0) {
                continue;
            }
            *in_use.entry(key.clone()).or_default() += 1;
            drop(in_use);
            let held = InUse {
                cache: self.clone(),
                key: key.clone(),
            };
            let path = self.dir.join("mounts").join(&key);
            let is_new = !path.exists();
            if is_new {
                make_dir(&path)?;
                let now = id::now();
                let (kind, description) = match mount.strip_prefix(HTTP) {
                    Some(url) => (DOWNLOAD, format!("http source for {url}")),
                    None => (MOUNT, format!("cached mount {mount} from exec")),
                };
                self.save(
                    &key,
                    Record {
                        kind: kind.into(),
                        description,
                        created_at: now,
                        last_used_at: now,
                        usage_count: 1,
                        size: 0,
                        mount: mount.to_owned(),
                    },
                )?;
            } else {
                self.touch(&key);
            }
            return Ok((held, path, is_new));
        }
        unreachable!("some copy is not in use")
    }

    /// What a step takes that wants a cache mount for itself.
    pub(super) fn lock_of(&self, mount: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(mount.to_owned()).or_default().clone()
    }

    fn touch(&self, key: &str) {
        if let Some(record) = self.records().get_mut(key) {
            record.last_used_at = id::now();
            record.usage_count += 1;
            self.touched().insert(key.to_owned());
        }
    }

    /// Writes what was used since the last time: after a build, when nobody waits. A daemon that dies before has used less.
    pub(super) fn write_touched(&self) {
        let touched = std::mem::take(&mut *self.touched());
        for key in touched {
            // Under the lock, so that an entry that is removed now does not come back.
            let records = self.records();
            if let Some(record) = records.get(&key)
                && let Err(error) = self.write(&key, record)
            {
                tracing::warn!(error = error.chain(), "could not note the use of a cached result");
            }
        }
    }

    fn touched(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, key: &str, record: Record) -> Result<()> {
        self.write(key, &record)?;
        self.records().insert(key.to_owned(), record);
        Ok(())
    }

    fn write(&self, key: &str, record: &Record) -> Result<()> {
        let path = self.record_path(key);
        // What is left of it by a death is removed at the start, having another name than a record.
        let staged = self
            .dir
            .join("records")
            .join(format!("{key}-{}.new", id::short(&id::generate())));
        let text = serde_json::to_vec(record).map_err(|e| Error::Invalid(e.to_string()))?;
        fs::write(&staged, text).context(|| format!("write {}", staged.display()))?;
        fs::rename(&staged, &path).context(|| format!("write {}", path.display()))
    }

    fn record_path(&self, key: &str) -> PathBuf {
        self.dir.join("records").join(format!("{key}.json"))
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a result came about.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) description: String,
    pub(super) created_at: i64,
    pub(super) below: usize,
}

/// A cache mount in use.
pub(super) struct InUse {
    cache: Arc<BuildCache>,
    key: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = self.cache.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_use.get_mut(&self.key) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Removes images that builds which were cut short had here only for their cache.
fn forget_taken(tmp: &Path, images: &ImageStore) -> Result<()> {
    if !tmp.is_dir() {
        return Ok(());
    }
    for build in names(tmp)? {
        let dir = tmp.join(build);
        // A record that was being written is a file.
        let marks = if dir.is_dir() { names(&dir)? } else { Vec::new() };
        for mark in marks.iter().filter(|name| name.starts_with(TAKEN)) {
            let name = fs::read_to_string(dir.join(mark)).unwrap_or_default();
            for image in images.list(&ListOptions::default()).map_err(Error::Image)? {
                let is_meant = match name.as_str() {
                    "" => image.repo_tags.is_empty() && image.repo_digests.is_empty(),
                    name => {
                        image.repo_tags.is_empty() && image.repo_digests.iter().any(|digest| digest == name)
                    }
                };
                let id = image.id.to_string();
                let config = images.get(&id).map_err(Error::Image)?.config;
                if is_meant && !config.cache.is_empty() && config.history.is_empty() {
                    let options = RemoveOptions {
                        force: true,
                        ..RemoveOptions::default()
                    };
                    images
                        .remove(&id, &options, &|_| Vec::new())
                        .map_err(Error::Image)?;
                }
            }
        }
    }
    Ok(())
}

fn read_records(dir: &Path) -> Result<BTreeMap<String, Record>> {
    let mut records = BTreeMap::new();
    for name in names(dir)? {
        let record = fs::read(dir.join(&name))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if let (Some(record), Some(key)) = (record, name.strip_suffix(".json")) {
            records.insert(key.to_owned(), record);
        }
    }
    Ok(records)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).context(|| format!("read {}", dir.display()))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// Removes a folder however deep it is; none is no error.
pub(super) fn remove(parent: &Path, name: &str) -> Result<()> {
    if fs::symlink_metadata(parent.join(name)).is_err() {
        return Ok(());
    }
    let dir = fs::File::open(parent).context(|| format!("open {}", parent.display()))?;
    archive::remove_tree(&dir, name.as_ref()).context(|| format!("remove {}", parent.join(name).display()))
}

/// Bytes of the files in a folder; what goes meanwhile counts nothing.
fn disk_use(dir: &Path) -> u64 {
    let mut todo = vec![dir.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(stat) if stat.is_dir() => todo.push(entry.path()),
                Ok(stat) if stat.is_file() => bytes += stat.len(),
                _ => {}
            }
        }
    }
    bytes
}
