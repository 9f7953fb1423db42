//! All volumes of this host by name, and which containers need them. A name can't be made and removed at the same time: the
//! table's lock is held while a folder comes or goes by rename. Blocks; called by `operations` and `plan`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_proto::v1;

use super::options::Options;
use super::volume::{Record, Volume};
use super::{ANONYMOUS, LOCAL};
use crate::error::IoContext;
use crate::{Error, Result, id};

/// What a new volume is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    /// Empty: made up, and the volume is anonymous.
    pub name: String,
    /// Empty: local.
    pub driver: String,
    /// `type`, `device`, `o`.
    pub options: HashMap<String, String>,
    /// Labels.
    pub labels: HashMap<String, String>,
}

/// A volume and the containers that have it.
#[derive(Debug)]
struct Entry {
    volume: Arc<Volume>,
    containers: BTreeSet<String>,
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    /// Who owns new volumes: the root of containers.
    owner: (u32, u32),
    table: Mutex<BTreeMap<String, Entry>>,
}

impl Volumes {
    /// Reads the folder, which is made if need be. What is left of creations and removals that broke off goes; a volume that
    /// can't be read is logged and left alone.
    pub(crate) fn open(root: PathBuf, owner: (u32, u32)) -> Result<Self> {
        crate::engine::make_dir(&root)?;
        std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .context(|| format!("set the mode of {}", root.display()))?;
        let mut table = BTreeMap::new();
        let entries = std::fs::read_dir(&root).context(|| format!("read {}", root.display()))?;
        for entry in entries.flatten() {
            let dir = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                if let Err(error) = std::fs::remove_dir_all(&dir) {
                    tracing::warn!(path = %dir.display(), %error, "could not remove what is left of a volume");
                }
            } else if dir.is_dir() {
                match Volume::load(dir, name.clone()) {
                    Ok(volume) => drop(table.insert(name, entry_of(volume))),
                    Err(error) => {
                        tracing::error!(volume = name, error = error.chain(), "could not read a volume");
                    }
                }
            }
        }
        Ok(Self {
            root,
            owner,
            table: Mutex::new(table),
        })
    }

    /// Makes a volume, or finds the one that has this name. For a container it is counted as used from then on.
    ///
    /// # Errors
    /// Docker's: a bad name, an unknown driver, bad options.
    pub(crate) fn create(&self, wish: &Wish, container: Option<&str>) -> Result<Arc<Volume>> {
        let made_up = if wish.name.is_empty() {
            Some(id::generate())
        } else {
            None
        };
        let name = made_up.as_deref().unwrap_or(&wish.name);
        let failed = |why: String| Error::Invalid(format!("create {name}: {why}"));
        if !matches!(wish.driver.as_str(), "" | LOCAL) {
            let driver = &wish.driver;
            return Err(failed(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        let mut table = self.table();
        if let Some(entry) = table.get_mut(name) {
            entry.containers.extend(container.map(str::to_owned));
            return Ok(entry.volume.clone());
        }
        validate_name(name).map_err(failed)?;
        Options::parse(&wish.options).map_err(failed)?;
        let mut labels = wish.labels.clone();
        if made_up.is_some() {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let record = Record {
            view: Some(v1::Volume {
                name: name.to_owned(),
                driver: LOCAL.to_owned(),
                mountpoint: self
                    .root
                    .join(name)
                    .join(super::volume::DATA)
                    .display()
                    .to_string(),
                created_at: id::now(),
                anonymous: labels.contains_key(ANONYMOUS),
                labels,
                options: wish.options.clone(),
                scope: "local".to_owned(),
                ..v1::Volume::default()
            }),
            made_for: container.unwrap_or_default().to_owned(),
            copying: false,
        };
        let mut entry = entry_of(Volume::create(&self.root, self.owner, record)?);
        entry.containers.extend(container.map(str::to_owned));
        let volume = entry.volume.clone();
        table.insert(name.to_owned(), entry);
        Ok(volume)
    }

    /// Counts a volume that exists as used by a container.
    pub(crate) fn refer(&self, name: &str, container: &str) -> Result<Arc<Volume>> {
        let mut table = self.table();
        let entry = table.get_mut(name).ok_or_else(|| missing(name))?;
        entry.containers.insert(container.to_owned());
        Ok(entry.volume.clone())
    }

    /// Finds a volume.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Volume>> {
        let table = self.table();
        table
            .get(name)
            .map(|entry| entry.volume.clone())
            .ok_or_else(|| missing(name))
    }

    /// All volumes with the containers that have them, by name.
    pub(crate) fn all(&self) -> Vec<(Arc<Volume>, BTreeSet<String>)> {
        let table = self.table();
        let pair = |entry: &Entry| (entry.volume.clone(), entry.containers.clone());
        table.values().map(pair).collect()
    }

    /// A container is gone, or was never made: it needs no volume any more.
    pub(crate) fn forget(&self, container: &str) {
        for entry in self.table().values_mut() {
            entry.containers.remove(container);
        }
    }

    /// As [`Volumes::forget`], for one volume.
    pub(crate) fn forget_one(&self, name: &str, container: &str) {
        if let Some(entry) = self.table().get_mut(name) {
            entry.containers.remove(container);
        }
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::Conflict`] names the containers; its folder can't be removed.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let trash = {
            let mut table = self.table();
            let entry = table.get(name).ok_or_else(|| missing(name))?;
            if !entry.containers.is_empty() {
                let ids: Vec<&str> = entry.containers.iter().map(String::as_str).collect();
                return Err(Error::Conflict(format!(
                    "remove {name}: volume is in use - [{}]",
                    ids.join(", ")
                )));
            }
            entry.volume.unmount_for_good()?;
            let trash = self.root.join(format!(".gone-{}", id::short(&id::generate())));
            match std::fs::rename(&entry.volume.dir, &trash) {
                // Deleted by hand.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                moved => moved.context(|| format!("remove {}", entry.volume.dir.display()))?,
            }
            table.remove(name);
            trash
        };
        match std::fs::remove_dir_all(&trash) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
                what: format!("remove the content of volume {name} in {}", trash.display()),
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Removes the volumes that were made for a container which was not made after all.
    pub(crate) fn abandon(&self, container: &str) -> Result<()> {
        self.forget(container);
        let mut first = Ok(());
        for (volume, _) in self.all() {
            if !volume.read(|record| record.made_for == container) {
                continue;
            }
            match self.remove(&volume.name) {
                // Another container has found it meanwhile: now it is that one's.
                Err(Error::Conflict(_) | Error::NoSuchVolume(_)) | Ok(()) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry_of(volume: Volume) -> Entry {
    Entry {
        volume: Arc::new(volume),
        containers: BTreeSet::new(),
    }
}

fn missing(name: &str) -> Error {
    Error::NoSuchVolume(name.to_owned())
}

/// Docker's rule for names: at least two characters, of a few kinds.
pub(super) fn validate_name(name: &str) -> Result<(), String> {
    if name.chars().count() == 1 {
        return Err(
            "volume name is too short, names should be at least two alphanumeric characters".to_owned(),
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let is_good = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain);
    // NAME_MAX: Docker learns it from the file system.
    if is_good && name.len() <= 255 {
        return Ok(());
    }
    if is_good {
        return Err("volume name is too long, the file system takes 255 characters".to_owned());
    }
    Err(format!(
        "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If \
         you intended to pass a host directory, use absolute path"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str) -> Wish {
        Wish {
            name: name.to_owned(),
            ..Wish::default()
        }
    }

    fn open(root: PathBuf) -> Volumes {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Volumes::open(root, (uid.as_raw(), gid.as_raw())).unwrap()
    }

    #[test]
    fn names_are_dockers() {
        for good in ["ab", "a.b_c-d", "00"] {
            validate_name(good).unwrap();
        }
        for bad in ["a", "", ".a", "a/b", "a b", "../x", "é1", &"x".repeat(256)] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
        assert_eq!(
            validate_name("a/b").unwrap_err(),
            "\"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. \
             If you intended to pass a host directory, use absolute path"
        );
    }

    #[test]
    fn volumes_survive_and_leftovers_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("volumes");
        let volumes = open(root.clone());
        let mut labelled = wish("one");
        labelled.labels.insert("a".into(), "b".into());
        volumes.create(&labelled, None).unwrap();
        std::fs::write(root.join("one/_data/file"), "x").unwrap();
        let anonymous = volumes.create(&Wish::default(), Some("c1")).unwrap();
        assert_eq!(anonymous.name.len(), 64);
        std::fs::create_dir_all(root.join(".new-1/_data")).unwrap();
        std::fs::create_dir_all(root.join("byhand/_data")).unwrap();
        drop(volumes);
        let volumes = open(root.clone());
        assert!(!root.join(".new-1").exists());
        let names: Vec<String> = volumes.all().iter().map(|(v, _)| v.name.clone()).collect();
        assert!(
            names.contains(&"byhand".to_owned()) && names.len() == 3,
            "{names:?}"
        );
        let one = volumes.get("one").unwrap().view();
        assert_eq!((one.labels["a"].as_str(), one.anonymous), ("b", false));
        assert!(one.mountpoint.ends_with("volumes/one/_data"));
        // Asked for again it is the same one, with its content.
        volumes.create(&wish("one"), None).unwrap();
        assert!(root.join("one/_data/file").exists());
    }

    #[test]
    fn used_volumes_stay() {
        let temp = tempfile::tempdir().unwrap();
        let volumes = open(temp.path().join("volumes"));
        volumes.create(&wish("used"), Some("c2")).unwrap();
        volumes.refer("used", "c1").unwrap();
        assert_eq!(
            volumes.remove("used").unwrap_err().to_string(),
            "remove used: volume is in use - [c1, c2]"
        );
        volumes.forget("c1");
        volumes.forget("c2");
        volumes.remove("used").unwrap();
        assert_eq!(
            volumes.remove("used").unwrap_err().to_string(),
            "get used: no such volume"
        );
        assert_eq!(std::fs::read_dir(&volumes.root).unwrap().count(), 0);
    }

    #[test]
    fn abandoned_ones_go_unless_others_use_them() {
        let temp = tempfile::tempdir().unwrap();
        let volumes = open(temp.path().join("volumes"));
        for name in ["mine", "shared"] {
            volumes.create(&wish(name), Some("c1")).unwrap();
        }
        volumes.create(&wish("older"), None).unwrap();
        volumes.refer("older", "c1").unwrap();
        volumes.refer("shared", "c2").unwrap();
        volumes.abandon("c1").unwrap();
        let names: Vec<String> = volumes.all().iter().map(|(v, _)| v.name.clone()).collect();
        assert_eq!(names, ["older", "shared"]);
    }

    #[test]
    fn other_drivers_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let volumes = open(temp.path().join("volumes"));
        let wish = Wish {
            driver: "x".into(),
            ..wish("name")
        };
        assert_eq!(
            volumes.create(&wish, None).unwrap_err().to_string(),
            "create name: error looking up volume plugin x: plugin \"x\" not found"
        );
    }
}
