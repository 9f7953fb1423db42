//! `--chown` of COPY and ADD, and who gets the folder of WORKDIR: names are looked up in the tree that is copied into, as BuildKit
//! does; a number stands for itself, as user and group if no group is named.

use std::path::Path;

use super::Tree;
use crate::{Error, Result, error::At};

/// Bytes of a passwd or group file that are read.
const FILE: u64 = 4 << 20;

impl Tree {
    /// User and group of `user[:group]`.
    ///
    /// # Errors
    /// [`Error::UnknownUser`]; a file that can't be read.
    pub fn owner(&self, spec: &str) -> Result<(u32, u32)> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
            None => (spec, None),
        };
        let (uid, own) = match user.parse::<u32>() {
            Ok(uid) => (uid, uid),
            Err(_) if user.is_empty() => (0, 0),
            Err(_) => {
                let fields = self.entry("etc/passwd", "user", "passwd", user)?;
                (number(&fields, 2), number(&fields, 3))
            }
        };
        let gid = match group {
            None => own,
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => number(&self.entry("etc/group", "group", "group", group)?, 2),
            },
        };
        Ok((uid, gid))
    }

    fn entry(&self, path: &str, kind: &'static str, file: &'static str, name: &str) -> Result<Vec<String>> {
        let text = self
            .read(Path::new(path), FILE)
            .at("cannot read", path)?
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find(|line| line.split(':').next() == Some(name));
        let unknown = || Error::UnknownUser {
            kind,
            name: name.to_owned(),
            file,
        };
        let fields = line.ok_or_else(unknown)?.split(':').map(str::to_owned);
        Ok(fields.collect())
    }
}

fn number(fields: &[String], place: usize) -> u32 {
    fields
        .get(place)
        .and_then(|field| field.parse().ok())
        .unwrap_or_default()
}
