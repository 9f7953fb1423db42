//! `--volumes-from NAME|ID[:ro|rw]`: the mounts of another container, as that one has them.

use super::plan::{PlannedMount, clean};
use crate::registry::Registry;
use crate::{Error, Result};

/// Takes one wish apart: which container, and whether read-only.
///
/// # Errors
/// Docker's, for an empty one and for a mode that it can't have.
pub(super) fn parse(spec: &str) -> Result<(&str, bool)> {
    if spec.is_empty() {
        return Err(Error::Invalid(
            "volumes-from specification cannot be an empty string".to_owned(),
        ));
    }
    let (name, mode) = spec.split_once(':').unwrap_or((spec, "rw"));
    let (mut read_only, mut write, mut label) = (0, 0, 0);
    for word in mode.split(',') {
        match word {
            "ro" => read_only += 1,
            "rw" => write += 1,
            // Without SELinux they mean nothing.
            "z" | "Z" => label += 1,
            _ => return Err(bad_mode(mode)),
        }
    }
    if read_only + write > 1 || label > 1 {
        return Err(bad_mode(mode));
    }
    Ok((name, read_only > 0))
}

fn bad_mode(mode: &str) -> Error {
    Error::Invalid(format!("invalid mode: {mode}"))
}

/// The mounts of the named containers. One that comes later replaces one with the same target.
///
/// # Errors
/// [`Error::NoSuchContainer`].
pub(super) fn mounts(containers: &Registry, wishes: &[String]) -> Result<Vec<PlannedMount>> {
    let mut all: Vec<PlannedMount> = Vec::new();
    for wish in wishes {
        let (name, read_only) = parse(wish)?;
        let other = containers.find(name)?;
        for mut mount in other.read(|record| record.mounts.clone()) {
            let wanted = mount.wanted.get_or_insert_default();
            wanted.read_only |= read_only;
            let target = clean(&wanted.target);
            mount.is_borrowed = true;
            all.retain(|known| known.target() != target);
            all.push(mount);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_taken_apart() {
        assert_eq!(parse("a").unwrap(), ("a", false));
        assert_eq!(parse("a:ro").unwrap(), ("a", true));
        assert_eq!(parse("a:rw,z").unwrap(), ("a", false));
        for (bad, text) in [
            ("", "volumes-from specification cannot be an empty string"),
            ("a:nocopy", "invalid mode: nocopy"),
            ("a:rshared", "invalid mode: rshared"),
            ("a:ro,rw", "invalid mode: ro,rw"),
            ("a:", "invalid mode: "),
        ] {
            assert_eq!(parse(bad).unwrap_err().to_string(), text);
        }
    }
}
