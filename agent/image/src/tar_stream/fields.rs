//! One header and its extensions made into an [`Entry`]. Where header and PAX disagree, or a field makes no sense, readers would take the
//! archive apart in different ways: an error each.

use std::{
    io::{self, Read},
    ops::Range,
};

use tar::{EntryType, Header};

use super::{
    BLOCK, Entry, Kind, OCTAL_MAX, Pending, Records, Sparse, TarReader, padding,
    pax::{decimal, pax_time},
    read_failed, sparse,
};
use crate::{Result, snapshot::is_mark};

impl<R: Read> TarReader<'_, R> {
    pub(super) fn entry(&mut self, header: &Header, pending: Pending) -> Result<Entry> {
        let pax = pending.pax.unwrap_or_default();
        // The name of a sparse file stands apart: `path` is what readers see that don't know the form.
        let name = pax.get("GNU.sparse.name").or_else(|| pax.get("path"));
        let name = name.cloned().or(pending.long_name);
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        self.last_name = String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned();
        let link = pax.get("linkpath").cloned().or(pending.long_link);
        let link = link.unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map(|l| l.into_owned())
                .unwrap_or_default()
        });
        if name.len() > self.limits.path_bytes || link.len() > self.limits.path_bytes {
            return Err(self.bad(format!("path longer than {} bytes", self.limits.path_bytes)));
        }
        if name.contains(&0) || link.contains(&0) {
            return Err(self.bad("NUL in a path"));
        }
        let kind = self.kind(header, &name)?;
        let size = self.size(header, kind, &pax)?;
        (self.data_left, self.padding) = (size, padding(size));
        let (size, sparse) = self.sparse(header, kind, (&pax, &pending.runs), size)?;
        let field = |range: Range<usize>, r: io::Result<u64>| {
            empty_is_zero(header, range, r).map_err(|_| self.bad("malformed header field"))
        };
        let (uid, gid) = (
            empty_is_zero(header, 108..116, header.uid()),
            empty_is_zero(header, 116..124, header.gid()),
        );
        Ok(Entry {
            kind,
            size,
            sparse,
            mode: (field(100..108, header.mode().map(u64::from))? & 0o7777) as u32,
            uid: self.id("uid", &pax, uid)?,
            gid: self.id("gid", &pax, gid)?,
            mtime: match pax.get("mtime") {
                Some(v) => pax_time(v).ok_or_else(|| self.bad("malformed mtime"))?,
                None => (i64::try_from(field(136..148, header.mtime())?).unwrap_or(0), 0),
            },
            dev: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            xattrs: self.xattrs(&pax)?,
            name,
            link,
        })
    }

    fn kind(&self, header: &Header, name: &[u8]) -> Result<Kind> {
        Ok(match header.entry_type() {
            EntryType::Regular if name.ends_with(b"/") => Kind::Dir,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Dir,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Char => Kind::Char,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            EntryType::GNUSparse => Kind::File,
            other => return Err(self.bad(format!("unknown entry type {:#04x}", other.as_byte()))),
        })
    }

    /// The map of a sparse file, and how much data is left behind it.
    fn sparse(
        &mut self,
        header: &Header,
        kind: Kind,
        (pax, runs): (&Records, &[(u64, u64)]),
        size: u64,
    ) -> Result<(u64, Option<Sparse>)> {
        let malformed = "malformed sparse map";
        let found = if header.entry_type() == EntryType::GNUSparse {
            let inner = &mut self.inner;
            let next = |block: &mut [u8; BLOCK]| inner.read_exact(block).map(|()| true);
            sparse::of_gnu(header, next).map_err(read_failed)?
        } else {
            match sparse::of_pax(pax, runs) {
                sparse::Pax::No => return Ok((size, None)),
                sparse::Pax::Bad => None,
                sparse::Pax::Map(map) => Some(map),
                sparse::Pax::InData(real) => {
                    let read = sparse::of_data(&mut *self, real).map_err(read_failed)?;
                    read.map(|(map, _)| map)
                }
            }
        };
        let found = found.ok_or_else(|| self.bad(malformed))?;
        found.check(self.data_left).map_err(|reason| self.bad(reason))?;
        if kind != Kind::File {
            return Err(self.bad(malformed));
        }
        if found.size > self.limits.layer_bytes {
            return Err(self.bad(format!(
                "{} bytes, more than {} allowed",
                found.size, self.limits.layer_bytes
            )));
        }
        Ok((self.data_left, Some(found)))
    }

    /// The entry's size, on which all readers of this archive must agree.
    fn size(&self, header: &Header, kind: Kind, pax: &Records) -> Result<u64> {
        let in_header = header.entry_size().map_err(|_| self.bad("malformed size"))?;
        let size = match pax.get("size") {
            None => in_header,
            Some(v) => {
                let in_pax = decimal(v).ok_or_else(|| self.bad("malformed PAX size"))?;
                if in_pax != in_header && !(in_header == 0 && in_pax > OCTAL_MAX) {
                    return Err(self.bad(format!("header says {in_header} bytes, PAX says {in_pax}")));
                }
                in_pax
            }
        };
        if kind != Kind::File && size != 0 {
            return Err(self.bad(format!("{kind:?} with {size} bytes of data")));
        }
        if size > self.limits.layer_bytes {
            return Err(self.bad(format!(
                "{size} bytes, more than {} allowed",
                self.limits.layer_bytes
            )));
        }
        Ok(size)
    }

    fn id(&self, key: &str, pax: &Records, header: io::Result<u64>) -> Result<u32> {
        let id = match pax.get(key) {
            Some(v) => decimal(v),
            None => header.ok(),
        };
        // u32::MAX is chown(2)'s "leave as it is".
        match id.map(u32::try_from) {
            Some(Ok(id)) if id != u32::MAX => Ok(id),
            _ => Err(self.bad(format!("malformed {key}"))),
        }
    }

    fn xattrs(&self, pax: &Records) -> Result<Vec<(String, Vec<u8>)>> {
        let mut xattrs = Vec::new();
        for (key, value) in pax {
            let Some(name) = key.strip_prefix("SCHILY.xattr.") else {
                continue;
            };
            if value.len() > self.limits.xattr_bytes
                || name.len() > 255
                || name.is_empty()
                || name.contains('\0')
            {
                return Err(self.bad(format!("extended attribute {name:.64} is too large")));
            }
            // They steer overlayfs itself: a redirect in a layer would show other files of the host's layers.
            if is_mark(name) {
                return Err(self.bad(format!("extended attribute {name:.64} is overlayfs' own")));
            }
            xattrs.push((name.to_owned(), value.clone()));
        }
        Ok(xattrs)
    }
}

/// Writers leave numeric fields blank that they have nothing to say in; Go reads them as zero.
fn empty_is_zero(header: &Header, field: Range<usize>, value: io::Result<u64>) -> io::Result<u64> {
    let blank = header.as_bytes()[field].iter().all(|b| matches!(b, 0 | b' '));
    if blank { Ok(0) } else { value }
}
