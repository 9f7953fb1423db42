//! A bundle's `config.json`: read, checked as the specification demands, its relative paths made absolute.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::Error;
use crate::error::IoContext;

/// Reads the bundle at an absolute path. The specification's root path is absolute afterwards.
pub(super) fn read(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::InvalidSpec(format!(
                "JSON specification file {} not found",
                path.display()
            )));
        }
        result => result.context(|| format!("read {}", path.display()))?,
    };
    let mut spec: Spec = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        what: format!("parse {}", path.display()),
        source,
    })?;
    check_version(spec.version())?;
    if spec.process().is_none() {
        return Err(Error::InvalidSpec(
            "process property must not be empty".to_owned(),
        ));
    }
    if spec.linux().is_none() {
        return Err(Error::InvalidSpec("linux property must not be empty".to_owned()));
    }
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::InvalidSpec("root property must not be empty".to_owned()))?;
    let root_path = std::fs::canonicalize(bundle.join(root.path()))
        .context(|| format!("root path {}", root.path().display()))?;
    if !root_path.is_dir() {
        return Err(Error::InvalidSpec(format!(
            "root path {} is not a directory",
            root_path.display()
        )));
    }
    if let Some(root) = spec.root_mut() {
        root.set_path(root_path);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bound = mount.typ().as_deref() == Some("bind")
            || mount
                .options()
                .iter()
                .flatten()
                .any(|o| o == "bind" || o == "rbind");
        if let (true, Some(source)) = (bound, mount.source().clone()) {
            mount.set_source(Some(bundle.join(source)));
        }
        // Older callers leave the leading slash out; it means the root's.
        let destination = Path::new("/").join(mount.destination());
        mount.set_destination(destination);
    }
    Ok(spec)
}

/// Versions that this runtime can follow: everything compatible with 1.0 (SemVer 2.0.0).
fn check_version(version: &str) -> Result<(), Error> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u32> = numbers.split('.').filter_map(|n| n.parse().ok()).collect();
    match numbers.as_slice() {
        [1, _, _] => Ok(()),
        _ => Err(Error::InvalidSpec(format!(
            "ociVersion {version:?} is not supported: it must be 1.x.y"
        ))),
    }
}

/// The container's cgroup: as asked, taken from the top where it is relative, or one named for the container.
pub(super) fn cgroup_path(spec: &Spec, id: &str) -> PathBuf {
    let asked = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone());
    match asked.filter(|p| !p.as_os_str().is_empty()) {
        Some(path) => Path::new("/").join(path),
        None => PathBuf::from(format!("/pontoon-oci-{id}")),
    }
}

#[cfg(test)]
mod tests {
    use super::check_version;

    #[test]
    fn versions() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.0", "1.3.0+x"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "0.9.0", "2.0.0", "1", "one"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
