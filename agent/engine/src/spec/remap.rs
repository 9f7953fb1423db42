//! User namespace remapping: which ids of the host stand for a container's, from the daemon's setting and the host's files of subordinate
//! ids (subuid(5), subgid(5); moby `parseRemappedRoot`, `user.LoadIdentityMapping`). Read once, when the engine is opened.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::{Error, Result};

/// The user whose ranges `userns-remap = "default"` takes, with Docker's as the second choice.
const DEFAULT_USERS: [&str; 2] = ["pontoon", "dockremap"];

/// One range of ids: from 0 on in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    container: u32,
    host: u32,
    size: u32,
}

/// The mappings of every remapped container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

impl IdMap {
    /// Reads the setting: empty is none, "default", or `USER[:GROUP]` by name or number.
    ///
    /// # Errors
    /// Says which user, group or entry is missing, and what to add.
    pub(crate) fn load(setting: &str) -> Result<Option<Self>> {
        Self::load_from(setting, Path::new("/etc"))
    }

    fn load_from(setting: &str, etc: &Path) -> Result<Option<Self>> {
        if setting.is_empty() {
            return Ok(None);
        }
        let (user, group) = setting.split_once(':').unwrap_or((setting, ""));
        if user.is_empty() || group.contains(':') || setting.ends_with(':') {
            return Err(Error::Invalid(format!(
                "invalid user/group specification in --userns-remap: {setting:?}"
            )));
        }
        let (user, group) = if setting == "default" {
            let chosen = DEFAULT_USERS
                .into_iter()
                .find(|user| matches!(ranges(&etc.join("subuid"), &[user]), Ok(found) if !found.is_empty()));
            let chosen = chosen.unwrap_or(DEFAULT_USERS[0]).to_owned();
            (vec![chosen.clone()], vec![chosen])
        } else {
            let user = names(&etc.join("passwd"), user, "user")?;
            let group = match group {
                "" => user.clone(),
                group => names(&etc.join("group"), group, "group")?,
            };
            (user, group)
        };
        // Mapping root to itself would change nothing.
        if user.iter().any(|name| name == "root" || name == "0") {
            return Ok(None);
        }
        let read = |file: &str, owner: &[String]| {
            let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
            let path = etc.join(file);
            let found = ranges(&path, &owner)?;
            if found.is_empty() {
                let name = owner.first().copied().unwrap_or_default();
                return Err(Error::Invalid(format!(
                    "no subordinate ids for {name:?} in {}: add a line such as \"{name}:100000:65536\"",
                    path.display()
                )));
            }
            Ok(found)
        };
        Ok(Some(Self {
            uids: read("subuid", &user)?,
            gids: read("subgid", &group)?,
        }))
    }

    /// The host's user and group that are root in the container.
    pub(crate) fn root(&self) -> (u32, u32) {
        let first = |ranges: &[Range]| ranges.first().map_or(0, |range| range.host);
        (first(&self.uids), first(&self.gids))
    }

    /// The host's owner for a container's; ids without a mapping stay as they are, as the container can't have them.
    pub(crate) fn to_host(&self, (uid, gid): (u32, u32)) -> (u32, u32) {
        let shift = |ranges: &[Range], id: u32| {
            let range = ranges
                .iter()
                .find(|r| id >= r.container && id - r.container < r.size);
            range.map_or(id, |r| r.host + (id - r.container))
        };
        (shift(&self.uids, uid), shift(&self.gids, gid))
    }

    /// The user mappings in the OCI's form.
    pub(crate) fn uids(&self) -> Vec<LinuxIdMapping> {
        mappings(&self.uids)
    }

    /// The group mappings in the OCI's form.
    pub(crate) fn gids(&self) -> Vec<LinuxIdMapping> {
        mappings(&self.gids)
    }
}

fn mappings(ranges: &[Range]) -> Vec<LinuxIdMapping> {
    ranges
        .iter()
        .map(|range| {
            LinuxIdMappingBuilder::default()
                .host_id(range.host)
                .container_id(range.container)
                .size(range.size)
                .build()
                .expect("every field has a default")
        })
        .collect()
}

fn read_file(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Io {
            what: format!("read {}", path.display()),
            source,
        }),
    }
}

/// Name and number of an entry of passwd(5) or group(5): subordinate ids may be given to either.
fn names(path: &Path, wanted: &str, what: &str) -> Result<Vec<String>> {
    let text = read_file(path)?;
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if name == wanted || number == wanted {
            return Ok(vec![name.to_owned(), number.to_owned()]);
        }
    }
    Err(Error::Invalid(format!(
        "--userns-remap: {what} {wanted:?} has no entry in {}",
        path.display()
    )))
}

/// The ranges of one of the owners, joined so that the container's ids begin with 0 and have no gap.
fn ranges(path: &Path, owners: &[&str]) -> Result<Vec<Range>> {
    let text = read_file(path)?;
    let mut found: Vec<(u32, u32)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut fields = line.trim().split(':');
        if !fields.next().is_some_and(|owner| owners.contains(&owner)) {
            continue;
        }
        let mut number = || fields.next().and_then(|field| field.trim().parse::<u32>().ok());
        let (Some(first), Some(size)) = (number(), number()) else {
            return Err(Error::Invalid(format!(
                "{}:{}: {line:?} is not NAME:FIRST:COUNT",
                path.display(),
                at + 1
            )));
        };
        if size > 0 {
            found.push((first, size));
        }
    }
    found.sort_unstable();
    let mut container = 0_u32;
    let mut result = Vec::new();
    for (host, size) in found {
        result.push(Range {
            container,
            host,
            size,
        });
        container = container.saturating_add(size);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            (
                "passwd",
                "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\nnone:x:7:7::/:\n",
            ),
            ("group", "root:x:0:\nme:x:1000:\nothers:x:2000:\n"),
            (
                "subuid",
                "me:300000:10\nme:100000:65536\ndockremap:500000:65536\n",
            ),
            (
                "subgid",
                "1000:200000:65536\nothers:700000:5\ndockremap:600000:65536\n",
            ),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn ranges_follow_each_other_in_the_container() {
        let etc = etc();
        let map = IdMap::load_from("me", etc.path()).unwrap().unwrap();
        let triple = |m: &LinuxIdMapping| (m.container_id(), m.host_id(), m.size());
        let uids: Vec<_> = map.uids().iter().map(triple).collect();
        assert_eq!(uids, [(0, 100_000, 65536), (65536, 300_000, 10)]);
        assert_eq!(map.root(), (100_000, 200_000));
        let map = IdMap::load_from("1000:others", etc.path()).unwrap().unwrap();
        assert_eq!(map.root(), (100_000, 700_000));
        let map = IdMap::load_from("default", etc.path()).unwrap().unwrap();
        assert_eq!(map.root(), (500_000, 600_000));
    }

    #[test]
    fn what_is_missing_is_said() {
        let etc = etc();
        assert_eq!(IdMap::load_from("", etc.path()).unwrap(), None);
        assert_eq!(IdMap::load_from("root", etc.path()).unwrap(), None);
        for (setting, why) in [
            ("nobody-here", "user \"nobody-here\" has no entry"),
            ("me:nowhere", "group \"nowhere\" has no entry"),
            ("none", "no subordinate ids for \"none\""),
            ("a:b:c", "invalid user/group specification"),
            (":x", "invalid user/group specification"),
        ] {
            let error = IdMap::load_from(setting, etc.path()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::write(etc.path().join("subuid"), "me:x:1\n").unwrap();
        let error = IdMap::load_from("me", etc.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not NAME:FIRST:COUNT"), "{error}");
        std::fs::write(etc.path().join("subuid"), "").unwrap();
        let error = IdMap::load_from("default", etc.path()).unwrap_err().to_string();
        assert!(
            error.contains("add a line such as \"pontoon:100000:65536\""),
            "{error}"
        );
    }
}
