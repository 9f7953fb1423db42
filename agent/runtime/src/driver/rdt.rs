//! `linux.intelRdt`: a container's share of last-level cache and memory bandwidth, through the kernel's resctrl file
//! system (Documentation/filesystems/resctrl.rst). Called by the native driver.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIntelRdt, Spec};

use crate::Error;
use crate::error::IoContext;

const RESCTRL: &str = "/sys/fs/resctrl";

/// A control group of resctrl.
#[derive(Debug)]
pub(super) struct Rdt {
    directory: PathBuf,
    /// Lines of `schemata`.
    schemata: Vec<String>,
    /// Made for this container, and so removed with it: one that `closID` names may be others' too.
    own: bool,
}

impl Rdt {
    /// What a specification asks for.
    pub(super) fn of(spec: &Spec, id: &str) -> Result<Option<Self>, Error> {
        let Some(wanted) = spec.linux().as_ref().and_then(|l| l.intel_rdt().as_ref()) else {
            return Ok(None);
        };
        if !Path::new(RESCTRL).join("schemata").exists() {
            return Err(Error::Unsupported(
                "linux.intelRdt: no resctrl file system is mounted on this host".to_owned(),
            ));
        }
        Self::at(Path::new(RESCTRL), wanted, id).map(Some)
    }

    fn at(root: &Path, wanted: &LinuxIntelRdt, id: &str) -> Result<Self, Error> {
        let class = wanted.clos_id().as_deref().filter(|c| !c.is_empty());
        let name = class.unwrap_or(id);
        if name == ".." || name.contains('/') {
            return Err(Error::InvalidSpec(format!(
                "intelRdt.closID {name} is not a plain name"
            )));
        }
        let mut schemata = wanted.schemata().clone().unwrap_or_default();
        schemata.extend(wanted.l3_cache_schema().clone());
        schemata.extend(wanted.mem_bw_schema().clone());
        if let Some(line) = schemata.iter().find(|l| l.trim().contains('\n')) {
            return Err(Error::InvalidSpec(format!(
                "intelRdt: {line:?} is more than one line"
            )));
        }
        Ok(Self {
            directory: root.join(name),
            schemata,
            own: class.is_none(),
        })
    }

    /// Makes the group, or checks that the one named is there if nothing is to be set in it.
    pub(super) fn create(&self) -> Result<(), Error> {
        let what = || format!("create {}", self.directory.display());
        match fs::create_dir(&self.directory) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && !self.own => {}
            result => result.context(what)?,
        }
        let path = self.directory.join("schemata");
        for line in &self.schemata {
            // One at a time: the kernel names no line when it refuses several.
            fs::write(&path, format!("{}\n", line.trim()))
                .context(|| format!("write {line} to {}", path.display()))?;
        }
        Ok(())
    }

    /// Puts a process into the group; what it starts goes with it.
    pub(super) fn join(&self, pid: u32) -> Result<(), Error> {
        let path = self.directory.join("tasks");
        fs::write(&path, pid.to_string()).context(|| format!("join {}", path.display()))
    }

    /// Removes a group of the container's own.
    pub(super) fn remove(&self) -> Result<(), Error> {
        if !self.own {
            return Ok(());
        }
        match fs::remove_dir(&self.directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(|| format!("remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let wanted: LinuxIntelRdt = serde_json::from_value(serde_json::json!({
            "closID": "shared", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=50"
        }))
        .unwrap();
        let rdt = Rdt::at(root.path(), &wanted, "c1").unwrap();
        rdt.create().unwrap();
        rdt.join(42).unwrap();
        let read = |file: &str| fs::read_to_string(root.path().join("shared").join(file)).unwrap();
        // A plain file keeps the last line that was written.
        assert_eq!(
            (read("schemata").as_str(), read("tasks").as_str()),
            ("MB:0=50\n", "42")
        );
        // It has a name of its own: others may be in it.
        rdt.remove().unwrap();
        assert!(root.path().join("shared").exists());
        let wanted: LinuxIntelRdt = serde_json::from_value(serde_json::json!({"closID": "../x"})).unwrap();
        assert!(Rdt::at(root.path(), &wanted, "c1").is_err());
        let own = Rdt::at(root.path(), &LinuxIntelRdt::default(), "c1").unwrap();
        own.create().unwrap();
        assert!(own.create().is_err(), "a container's own group is new");
        own.remove().unwrap();
        assert!(!root.path().join("c1").exists());
    }
}
