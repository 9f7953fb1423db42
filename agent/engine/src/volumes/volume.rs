//! One volume: its record (replaced by rename), its folder, and the mount of its driver. Made and found by `store`.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_proto::v1;
use prost::Message;

use super::{ANONYMOUS, LOCAL};
use crate::error::IoContext;
use crate::{Error, Result, id};

/// The folder that containers see.
pub(super) const DATA: &str = "_data";
const RECORD: &str = "volume.pb";

/// What is kept of a volume. Fields are only ever added.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    /// What `inspect` shows, without size and count.
    #[prost(message, optional, tag = "1")]
    pub view: Option<v1::Volume>,
    /// The container for which it was made, until that one has used it: a daemon that finds the volume without the
    /// container knows that the creation was cut short.
    #[prost(string, tag = "2")]
    pub made_for: String,
    /// An image's content is being copied into it.
    #[prost(bool, tag = "3")]
    pub copying: bool,
}

/// What exists only while the daemon runs.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    /// Who needs the driver's mount: ids of containers.
    pub users: BTreeSet<String>,
    /// The driver's mount is there.
    pub is_mounted: bool,
}

/// One volume.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Its name.
    pub name: String,
    pub(super) dir: PathBuf,
    record: Mutex<Record>,
    mounted: Mutex<Mounted>,
    content: Mutex<()>,
}

impl Volume {
    /// Makes a volume's folder; it comes into being by one rename.
    pub(super) fn create(root: &Path, (uid, gid): (u32, u32), record: Record) -> Result<Self> {
        let view = record.view.clone().unwrap_or_default();
        let dir = root.join(&view.name);
        let staged = root.join(format!(".new-{}", id::short(&id::generate())));
        let make = || -> Result<()> {
            // Others than root pass through: a remapped container's root has to reach its volume.
            folder(&staged, 0o711)?;
            folder(&staged.join(DATA), 0o755)?;
            std::os::unix::fs::chown(staged.join(DATA), Some(uid), Some(gid))
                .context(|| format!("change the owner of {}", staged.join(DATA).display()))?;
            save(&staged, &record)?;
            // A folder of that name that is no volume is somebody's: the rename over it fails unless it is empty.
            std::fs::rename(&staged, &dir).context(|| format!("create {}", dir.display()))
        };
        if let Err(error) = make() {
            // What could not be made may also fail to be removed; the next start of the daemon does it.
            let _ = std::fs::remove_dir_all(&staged);
            return Err(error);
        }
        Ok(Self::new(view.name, dir, record))
    }

    /// Reads a volume from its folder. One without a record, put there by hand, is a plain volume.
    pub(super) fn load(dir: PathBuf, name: String) -> Result<Self> {
        let path = dir.join(RECORD);
        let record = match std::fs::read(&path) {
            Ok(bytes) => Record::decode(bytes.as_slice()).map_err(|source| Error::Record { path, source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(source) => {
                return Err(Error::Io {
                    what: format!("read {}", path.display()),
                    source,
                });
            }
        };
        let mut record = record;
        let view = record.view.get_or_insert_with(|| v1::Volume {
            created_at: made_at(&dir),
            ..v1::Volume::default()
        });
        LOCAL.clone_into(&mut view.driver);
        "local".clone_into(&mut view.scope);
        view.name.clone_from(&name);
        view.mountpoint = dir.join(DATA).display().to_string();
        view.anonymous = view.labels.contains_key(ANONYMOUS);
        Ok(Self::new(name, dir, record))
    }

    fn new(name: String, dir: PathBuf, record: Record) -> Self {
        Self {
            name,
            dir,
            record: Mutex::new(record),
            mounted: Mutex::default(),
            content: Mutex::default(),
        }
    }

    /// The folder that containers see.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    /// What `inspect` shows, without size and count.
    pub(super) fn view(&self) -> v1::Volume {
        self.read(|record| record.view.clone().unwrap_or_default())
    }

    /// Reads something off the record.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&lock(&self.record))
    }

    /// Changes the record and saves it. One that was put there by hand gets its first record that way.
    pub(super) fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = lock(&self.record);
        let mut changed = record.clone();
        change(&mut changed);
        save(&self.dir, &changed)?;
        *record = changed;
        Ok(())
    }

    /// Held while an image's content is copied in.
    pub(super) fn content(&self) -> MutexGuard<'_, ()> {
        lock(&self.content)
    }

    /// The driver's mount. Held while it is made or taken away.
    pub(super) fn mounted(&self) -> MutexGuard<'_, Mounted> {
        lock(&self.mounted)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn made_at(dir: &Path) -> i64 {
    std::fs::metadata(dir).map_or(0, |m| m.mtime().saturating_mul(1_000_000_000))
}

fn folder(path: &Path, mode: u32) -> Result<()> {
    let made = std::fs::DirBuilder::new().mode(mode).create(path);
    made.and_then(|()| {
        // The daemon's umask has no say in it.
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    })
    .context(|| format!("create {}", path.display()))
}

fn save(dir: &Path, record: &Record) -> Result<()> {
    let path = dir.join(RECORD);
    let temporary = dir.join("volume.tmp");
    let write = || -> io::Result<()> {
        use std::io::Write;
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&record.encode_to_vec())?;
        // Without its options a volume would be another one after a power failure.
        file.sync_data()?;
        std::fs::rename(&temporary, &path)
    };
    write().context(|| format!("write {}", path.display()))
}
