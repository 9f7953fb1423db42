//! [`ImageStore`]: the crate's front door. Owns the store's folder and the order of what happens to it:
//!
//! ```text
//! <root>/            0700
//!   lock             held while a process has the store open
//!   images.json      which images and tags exist (see `catalog`)
//!   blobs/sha256/    content (see `blobs`)
//!   layers/ rootfs/  unpacked (see `layers`)
//!   staging/         what is under way; emptied at open
//! ```
//!
//! A commit puts blobs in place and makes them durable, then replaces `images.json` (see `commit`). A crash at any point leaves the old
//! catalog and files that the next open sweeps away. Unpacked layers reach the disk a little later (see `layers`).

mod commit;
mod staging;

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock},
    time::Duration,
};

pub(crate) use commit::Candidate;

use crate::{
    CommitOptions, ContainerUse, Digest, Error, History, Image, ImageId, ImageSummary, ImportOptions,
    LayersUsage, ListOptions, LoadEvent, Loaded, Reference, RemoveOptions, Removed, Result, Rootfs,
    RootfsSize, User, archive,
    blobs::Blobs,
    catalog::{Catalog, Record, Target, nanos},
    commit as container,
    error::At,
    import,
    layers::Layers,
    limits::Limits,
    list, load,
    oci::Platform,
    recover, remove, save,
    snapshot::StorageOptions,
    stack::chains,
    tail::Offers,
    transfer::Transfers,
    user,
};

/// All images of a daemon and the root filesystems made from them. Blocking; `Send + Sync`; one process at a time.
pub struct ImageStore {
    root: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) offers: Offers,
    catalog: RwLock<Catalog>,
    /// Held by whoever changes the catalog, across the write to disk; readers go on with the old one meanwhile.
    writing: Mutex<()>,
    /// Told after each change of the catalog.
    watcher: OnceLock<Watcher>,
    _lock: File,
}

/// Called after each change of what is in the store; must not call the store.
type Watcher = Box<dyn Fn() + Send + Sync>;

impl ImageStore {
    /// Opens the store below `root`, making it if it is not there. Sweeps what a crash has left.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Limits::default())
    }

    /// [`ImageStore::open`] with other bounds for archives.
    pub fn open_with(root: &Path, limits: Limits) -> Result<Self> {
        Self::open_on(root, limits, &StorageOptions::default())
    }

    /// [`ImageStore::open_with`] on a storage driver: [`StorageOptions::choose`] finds one, and [`crate::folder_of`] says where its
    /// store is.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the driver does not work there.
    pub fn open_on(root: &Path, limits: Limits, storage: &StorageOptions) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .at("cannot make", root)?;
        // CVE-2021-41089, CVE-2021-41091: set-id files of images must not be reachable by the host's users.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).at("cannot chmod", root)?;
        let lock = File::create(root.join("lock")).at("cannot open", root.join("lock"))?;
        take(&lock).map_err(|_| Error::Locked(root.into()))?;
        staging::make(root)?;
        let blobs = Blobs::open(root)?;
        let mut catalog = Catalog::read(root, &blobs)?;
        let layers = Layers::open(root, storage.open(root)?)?;
        let recovered = recover::lost_layers(&catalog, &layers, &blobs, &limits);
        drop_incomplete(&mut catalog, &layers);
        let needed = catalog.blobs();
        let transfers = Transfers::open(root, &needed)?;
        blobs.need(needed)?;
        blobs.sweep()?;
        layers.sweep()?;
        drop(recovered);
        let (catalog, writing) = (RwLock::new(catalog), Mutex::new(()));
        Ok(ImageStore {
            root: root.into(),
            limits,
            blobs,
            layers,
            transfers,
            offers: Offers::default(),
            catalog,
            writing,
            watcher: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Sets who is told after each change of which images and names there are; the first one stays.
    pub fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) {
        self.watcher.get_or_init(|| Box::new(watcher));
    }

    /// Loads the images of a docker-save archive or an OCI layout (tar, plain or compressed).
    ///
    /// # Errors
    /// [`Error::HostileArchive`], [`Error::Corrupt`], [`Error::NotAnArchive`]; after any error the store is as before.
    pub fn load(&self, r: impl Read, progress: &mut dyn FnMut(LoadEvent)) -> Result<Vec<Loaded>> {
        load::load(self, r, None, progress)
    }

    /// As [`ImageStore::load`], only the images of one platform.
    ///
    /// # Errors
    /// As there; [`Error::WrongPlatform`] when the archive has none for it.
    pub fn load_platform(
        &self,
        r: impl Read,
        platform: &Platform,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<Loaded>> {
        load::load(self, r, Some(platform), progress)
    }

    /// Makes an image from a flat root filesystem archive (tar, plain or compressed).
    pub fn import(&self, r: impl Read, options: &ImportOptions) -> Result<ImageId> {
        import::import(self, r, options)
    }

    /// Makes an image of a container's root filesystem: its image's layers and one more with what the container changed.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the container's image is gone, [`Error::InvalidChange`], [`Error::InvalidReference`].
    pub fn commit_container(&self, container_id: &str, options: &CommitOptions) -> Result<ImageId> {
        container::commit(self, container_id, options)
    }

    /// What a container has changed of its image's file system, sorted by path.
    ///
    /// # Errors
    /// [`Error::NoRootfs`].
    pub fn changes(&self, container_id: &str) -> Result<Vec<archive::Change>> {
        archive::changes(&self.rootfs(container_id)?)
    }

    /// Writes images as one tar that is an OCI layout and a docker-save archive at once. A name without a tag stands
    /// for all tags of the repository, an id for the image without tags. Equal images give equal bytes.
    pub fn save(&self, names: &[String], w: impl Write) -> Result<()> {
        save::save(self, names, None, w)
    }

    /// As [`ImageStore::save`], of names that stand for several platforms only the images of one.
    ///
    /// # Errors
    /// As there; [`Error::PlatformMissing`].
    pub fn save_platform(&self, names: &[String], platform: &Platform, w: impl Write) -> Result<()> {
        save::save(self, names, Some(platform), w)
    }

    /// Lists images, newest first.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<ImageSummary>> {
        list::list(&self.view(), options)
    }

    /// What the layers of all images take on disk.
    /// `is_used` says which images something was made from.
    pub fn layers_usage(&self, is_used: &dyn Fn(&ImageId) -> bool) -> LayersUsage {
        list::layers_usage(&self.view(), &self.layers, &self.blobs, is_used)
    }

    /// Finds an image by name, `name:tag`, `name@digest`, id, or unique id prefix.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::InvalidReference`].
    pub fn get(&self, name_or_id: &str) -> Result<Image> {
        let catalog = self.read();
        catalog.image(&catalog.find(name_or_id)?)
    }

    /// As [`ImageStore::get`], for one platform: of a name that stands for several images the one that fits.
    ///
    /// # Errors
    /// As there; [`Error::PlatformMissing`].
    pub fn get_platform(&self, name_or_id: &str, platform: &Platform) -> Result<Image> {
        let catalog = self.read();
        catalog.image(&catalog.find_platform(name_or_id, platform)?)
    }

    /// Points the tag `target` at an image; a tag that exists moves.
    pub fn tag(&self, source: &str, target: &str) -> Result<()> {
        let target = Reference::parse(target)?.with_default_tag();
        if target.digest().is_some() {
            return Err(Error::InvalidArgument(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        self.change(|catalog| {
            let id = catalog.find(source)?;
            // All platforms of a name that has several go along.
            let named = Reference::parse(source).ok().map(Reference::with_default_tag);
            let whole = named
                .and_then(|r| catalog.references.get(&r))
                .filter(|t| t.image == id);
            // An image that was made for an archive is not on the disk yet; the blobs of others are, and cost nothing.
            if let Some(record) = catalog.images.get(&id) {
                let own = [id, record.manifest];
                self.blobs.settle(record.blobs.iter().copied().chain(own))?;
            }
            let to = whole.cloned().unwrap_or_else(|| Target::new(id));
            catalog.settle(&id, std::slice::from_ref(&target));
            catalog.references.insert(target, to);
            Ok(())
        })
    }

    /// Bytes of one unpacked layer, by its chain id; 0 when it is not there.
    pub fn layer_size(&self, chain: &Digest) -> u64 {
        self.layers.size(chain)
    }

    /// Removes a tag, and with the last one the image, by Docker's rules. `in_use` tells which containers were made
    /// from an image.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a container or another tag is in the way.
    pub fn remove(
        &self,
        name: &str,
        options: &RemoveOptions,
        in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
    ) -> Result<Vec<Removed>> {
        remove::remove(self, name, options, in_use)
    }

    /// Ends what an image was made for with [`crate::NewImage::is_passing`] under these names. What somebody has named meanwhile stays.
    ///
    /// # Errors
    /// The catalog can't be written.
    pub fn let_go(&self, image: &ImageId, references: &[Reference]) -> Result<()> {
        remove::let_go(self, image, references)
    }

    /// Removes images of some platforms from a name that stands for several; with the last one the name goes too.
    ///
    /// # Errors
    /// As [`ImageStore::remove`]; [`Error::PlatformMissing`].
    pub fn remove_platforms(
        &self,
        name: &str,
        platforms: &[Platform],
        options: &RemoveOptions,
        in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
    ) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for platform in platforms {
            removed.extend(remove::remove_platform(self, name, platform, options, in_use)?);
        }
        Ok(removed)
    }

    /// The folders of an image's layers under the names that `image inspect` shows them by; empty for drivers whose layers are
    /// whole trees.
    pub fn image_folders(&self, image: &Image) -> Vec<(String, String)> {
        self.layers.folders(&image.layers)
    }

    /// How an image came about, newest step first.
    pub fn history(&self, name: &str) -> Result<Vec<History>> {
        let image = self.get(name)?;
        Ok(list::history(&image, &self.layers))
    }

    /// Makes the directories of a container's root filesystem. Fast: no sync, nothing copied.
    ///
    /// # Errors
    /// [`Error::RootfsExists`]; [`Error::Corrupt`] when the image went away meanwhile.
    pub fn prepare_rootfs(&self, container_id: &str, image: &Image) -> Result<Rootfs> {
        let rootfs = self.layers.prepare(container_id, &image.layers)?;
        self.touch(&image.id);
        Ok(rootfs)
    }

    /// The directories of an existing container's root filesystem.
    ///
    /// # Errors
    /// [`Error::NoRootfs`].
    pub fn rootfs(&self, container_id: &str) -> Result<Rootfs> {
        self.layers.rootfs(container_id)
    }

    /// Ids of all containers that have a root filesystem here, for the sweep at the daemon's start.
    pub fn rootfs_ids(&self) -> Result<Vec<String>> {
        self.layers.containers()
    }

    /// Removes a container's root filesystem; no error if there is none.
    pub fn remove_rootfs(&self, container_id: &str) -> Result<()> {
        self.layers.remove_rootfs(container_id)
    }

    /// Disk use of a container's root filesystem; walks the writable layer.
    pub fn rootfs_size(&self, container_id: &str) -> Result<RootfsSize> {
        self.layers.rootfs_size(container_id)
    }

    /// Resolves `user[:group]` (names or numbers, empty for root) with the root filesystem's passwd and group files.
    ///
    /// # Errors
    /// [`Error::UnknownUser`], [`Error::InvalidArgument`].
    pub fn resolve_user(&self, rootfs: &Rootfs, user: &str) -> Result<User> {
        user::resolve_user(rootfs, user)
    }

    /// Resolves one group name or number, as `--group-add` gives it.
    pub fn resolve_group(&self, rootfs: &Rootfs, group: &str) -> Result<u32> {
        user::resolve_group(rootfs, group)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Name of the storage driver, and what `info` says of it.
    pub fn storage(&self) -> (&'static str, Vec<(String, String)>) {
        let driver = self.layers.driver();
        (driver.name(), driver.status())
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// A copy of the catalog as it is now.
    pub(crate) fn view(&self) -> Catalog {
        self.read().clone()
    }

    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Takes the store's lock. A child that was just forked has it until its execve: whoever opens a store again waits for that.
fn take(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..50 {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            answer => return answer,
        }
    }
    lock.try_lock()
}

/// Images whose unpacked layers are lost can't run: better gone (and loaded again) than failing later.
fn drop_incomplete(catalog: &mut Catalog, layers: &Layers) {
    catalog.images.retain(|id, record| match layers.hold(&record.layers) {
        Ok(()) => true,
        Err(e) => {
            tracing::error!(image = %id, error = &e as &dyn std::error::Error, "image is damaged; load it again");
            false
        }
    });
    catalog.drop_dangling_names();
    catalog.kept.retain(|key, stack| {
        let held = layers.hold(&chains(stack.iter().map(|l| &l.diff_id)));
        if let Err(e) = &held {
            tracing::warn!(
                key,
                error = e as &dyn std::error::Error,
                "kept layers are damaged: dropped"
            );
        }
        held.is_ok()
    });
}

/// Creation time for sorting.
pub(crate) fn created(record: &Record) -> i64 {
    nanos(record.config.created.as_deref())
}

#[cfg(test)]
mod tests;
