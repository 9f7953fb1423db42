//! Who holds which layer, and how layers go that nobody holds: moved away in one rename, then deleted, so that no crash leaves half of
//! one in its place.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::{EMPTY, Layers};
use crate::{Digest, Error, Result, archive, error::At};

impl Layers {
    /// Layers that are held by fewer than `expected` says, with that number and theirs.
    pub(crate) fn short_counts(
        &self,
        expected: &BTreeMap<Digest, usize>,
        repair: bool,
    ) -> Vec<(Digest, usize, usize)> {
        let mut table = self.table();
        let mut short = Vec::new();
        for (chain, expected) in expected {
            if let Some(layer) = table.get_mut(chain).filter(|l| l.holders < *expected) {
                short.push((*chain, *expected, layer.holders));
                if repair {
                    layer.holders = *expected;
                }
            }
        }
        short
    }

    /// Names of directories that are no known layer.
    pub(crate) fn strays(&self) -> Result<Vec<String>> {
        let table = self.table();
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).at("cannot list", &self.dir)? {
            let entry = entry.at("cannot list", &self.dir)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != EMPTY && !Digest::from_hex(&name).is_some_and(|d| table.contains_key(&d)) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Deletes what [`Layers::strays`] named.
    pub(crate) fn discard_stray(&self, name: &str) -> Result<()> {
        self.discard(&self.dir.join(name))
    }

    /// Adds a holder to each layer of a stack, or to none.
    pub(crate) fn hold(&self, stack: &[Digest]) -> Result<()> {
        let mut table = self.table();
        if let Some(missing) = stack
            .iter()
            .find(|c| table.get(c).is_none_or(|l| l.meta.is_none()))
        {
            return Err(Error::corrupt(*missing, "the unpacked layer is missing"));
        }
        for chain in stack {
            if let Some(layer) = table.get_mut(chain) {
                layer.holders += 1;
            }
        }
        Ok(())
    }

    /// Takes a holder from each layer; gives (and deletes) those that nobody holds any more.
    pub(crate) fn release(&self, stack: impl IntoIterator<Item = Digest>) -> Result<Vec<Digest>> {
        let mut dead = Vec::new();
        let mut table = self.table();
        for chain in stack {
            if let Some(layer) = table.get_mut(&chain) {
                layer.holders = layer.holders.saturating_sub(1);
                if layer.holders == 0 {
                    dead.push(chain);
                }
            }
        }
        drop(table);
        self.delete(dead.clone())?;
        Ok(dead)
    }

    /// Deletes layers that have no holder: renamed away while the table is locked, so that nobody can take them up.
    pub(super) fn delete(&self, chains: Vec<Digest>) -> Result<()> {
        let mut trash = Vec::new();
        let mut table = self.table();
        for chain in chains {
            if table.get(&chain).is_some_and(|l| l.holders == 0) {
                table.remove(&chain);
                trash.push(self.to_trash(&self.path(&chain))?);
            }
        }
        drop(table);
        trash.into_iter().flatten().try_for_each(|t| self.empty(t))
    }

    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        match self.to_trash(path)? {
            Some(trash) => self.empty(trash),
            None => Ok(()),
        }
    }

    /// Deletes what was moved away, however deep it is.
    pub(super) fn empty(&self, trash: tempfile::TempDir) -> Result<()> {
        let dir = fs::File::open(trash.path()).at("cannot open", trash.path())?;
        archive::remove_tree(&dir, "dead".as_ref()).at("cannot delete below", &self.staging)?;
        trash.close().at("cannot delete below", &self.staging)
    }

    /// Moves a directory into the staging area, from where it goes also after a crash.
    pub(super) fn to_trash(&self, path: &Path) -> Result<Option<tempfile::TempDir>> {
        let trash =
            tempfile::TempDir::new_in(&self.staging).at("cannot make a directory in", &self.staging)?;
        match fs::rename(path, trash.path().join("dead")) {
            Ok(()) => Ok(Some(trash)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at("cannot move away", path),
        }
    }
}
