//! Writes tar archives: ustar headers with PAX records for what ustar can't hold (long names, big numbers, extended
//! attributes). Equal entries give equal bytes: no clock, no user names, times in whole seconds as Docker writes them.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::tar_stream::Kind;

const BLOCK: usize = 512;
const BUFFER: usize = 128 << 10;
/// Largest values of ustar's octal fields of 8 and 12 bytes.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;
/// Bytes of a name in the header itself; longer ones go into a PAX record.
const NAME: usize = 100;

/// What an archive says about one entry.
#[derive(Debug, Clone)]
pub struct Head {
    /// Path, relative; of a directory with or without a slash at its end.
    pub name: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Bytes of content; only of files.
    pub size: u64,
    /// Major and minor number of a device.
    pub dev: (u32, u32),
    /// Extended attributes, in the order in which they are to be written.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// An empty file of root's with mode 0: whiteouts, and a start for others.
    pub fn file(name: impl Into<Vec<u8>>) -> Self {
        Head {
            name: name.into(),
            link: Vec::new(),
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            dev: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// Writes entries one after another; [`TarWriter::finish`] ends the archive.
pub struct TarWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// An archive that goes to `out`, which should be buffered.
    pub fn new(out: W) -> Self {
        TarWriter {
            out,
            buffer: vec![0; BUFFER],
        }
    }

    /// Writes an entry without content.
    ///
    /// # Errors
    /// `out` fails, or the name has a NUL.
    pub fn entry(&mut self, head: &Head) -> io::Result<()> {
        debug_assert!(head.size == 0);
        self.head(head)
    }

    /// Writes a file. Exactly `head.size` bytes are taken from `data`: what a file has gained since its size was read is
    /// left out, what it has lost is filled with zeros, so that a file that changes meanwhile can't spoil the archive.
    ///
    /// # Errors
    /// `out` or `data` fails.
    pub fn file(&mut self, head: &Head, data: &mut impl Read) -> io::Result<()> {
        self.head(head)?;
        let mut left = head.size;
        let mut ended = false;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = &mut self.buffer[..want];
            let mut count = 0;
            if !ended {
                count = loop {
                    match data.read(part) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        other => break other?,
                    }
                };
            }
            if count == 0 {
                ended = true;
                part.fill(0);
                count = want;
            }
            self.out.write_all(&part[..count])?;
            left -= count as u64;
        }
        self.pad(head.size)
    }

    /// Writes the end of the archive.
    ///
    /// # Errors
    /// `out` fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn head(&mut self, head: &Head) -> io::Result<()> {
        if head.name.contains(&0) || head.link.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "NUL in a path"));
        }
        let mut name = head.name.clone();
        if head.kind == Kind::Dir && !name.ends_with(b"/") {
            name.push(b'/');
        }
        let mut header = Header::new_ustar();
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        text(&mut header.as_old_mut().name, "path", &name, &mut pax);
        text(
            &mut header.as_old_mut().linkname,
            "linkpath",
            &head.link,
            &mut pax,
        );
        header.set_entry_type(entry_type(head.kind));
        header.set_mode(head.mode & 0o7777);
        let small = |key: &str, value: u64, max: u64, pax: &mut Vec<(String, Vec<u8>)>| {
            if value <= max {
                return value;
            }
            pax.push((key.to_owned(), value.to_string().into_bytes()));
            0
        };
        header.set_uid(small("uid", u64::from(head.uid), OCTAL_7, &mut pax));
        header.set_gid(small("gid", u64::from(head.gid), OCTAL_7, &mut pax));
        header.set_size(small("size", head.size, OCTAL_11, &mut pax));
        match u64::try_from(head.mtime) {
            Ok(mtime) => header.set_mtime(small("mtime", mtime, OCTAL_11, &mut pax)),
            Err(_) => {
                pax.push(("mtime".to_owned(), head.mtime.to_string().into_bytes()));
                header.set_mtime(0);
            }
        }
        if matches!(head.kind, Kind::Char | Kind::Block) {
            header.set_device_major(head.dev.0)?;
            header.set_device_minor(head.dev.1)?;
        }
        for (name, value) in &head.xattrs {
            pax.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if !pax.is_empty() {
            self.extension(&pax)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// A PAX header before the entry it speaks of.
    fn extension(&mut self, records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let mut body = Vec::new();
        for (key, value) in records {
            record(&mut body, key, value);
        }
        let mut header = Header::new_ustar();
        let name = b"PaxHeaders.0/entry";
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(&body)?;
        self.pad(body.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.out
            .write_all(&[0; BLOCK][..usize::try_from(padding).unwrap_or(0)])
    }
}

/// A name into its field, or its record when it is too long for that or not ASCII (which ustar leaves open).
fn text(field: &mut [u8; NAME], key: &str, value: &[u8], pax: &mut Vec<(String, Vec<u8>)>) {
    let fits = value.len() <= NAME;
    if !fits || !value.is_ascii() {
        pax.push((key.to_owned(), value.to_owned()));
    }
    let count = value.len().min(NAME);
    field[..count].copy_from_slice(&value[..count]);
}

/// `<length> <key>=<value>\n`, the length including itself (POSIX pax, "pax Extended Header").
fn record(body: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    body.extend_from_slice(length.to_string().as_bytes());
    body.push(b' ');
    body.extend_from_slice(key.as_bytes());
    body.push(b'=');
    body.extend_from_slice(value);
    body.push(b'\n');
}

fn entry_type(kind: Kind) -> EntryType {
    match kind {
        Kind::File => EntryType::Regular,
        Kind::Dir => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::Hardlink => EntryType::Link,
        Kind::Char => EntryType::Char,
        Kind::Block => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, tar_stream::TarReader};

    fn heads() -> Vec<Head> {
        let long = vec![b'n'; 300];
        vec![
            Head {
                kind: Kind::Dir,
                mode: 0o755,
                ..Head::file("dir")
            },
            Head {
                mode: 0o4711,
                uid: 3_000_000,
                gid: 7,
                mtime: -5,
                ..Head::file(long.clone())
            },
            Head {
                xattrs: vec![
                    ("user.a".into(), b"line\nbreak".to_vec()),
                    ("user.b".into(), vec![0, 255]),
                ],
                ..Head::file("with attributes".as_bytes())
            },
            Head {
                kind: Kind::Symlink,
                link: long,
                ..Head::file("link")
            },
            Head {
                kind: Kind::Char,
                dev: (1, 3),
                ..Head::file("null")
            },
            Head {
                kind: Kind::Fifo,
                ..Head::file("na\u{ef}ve")
            },
            Head {
                kind: Kind::Hardlink,
                link: b"dir/x".to_vec(),
                ..Head::file("hard")
            },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let write = || {
            let mut writer = TarWriter::new(Vec::new());
            for head in heads() {
                writer.entry(&head).unwrap();
            }
            let shrunk = Head {
                size: 600,
                ..Head::file("shrunk")
            };
            writer.file(&shrunk, &mut &b"abc"[..]).unwrap();
            let grown = Head {
                size: 2,
                ..Head::file("grown")
            };
            writer.file(&grown, &mut &b"abc"[..]).unwrap();
            writer.finish().unwrap()
        };
        let archive = write();
        assert_eq!(archive, write(), "equal entries give equal bytes");
        let limits = Limits::default();
        let mut reader = TarReader::new(&archive[..], &limits);
        for head in heads() {
            let entry = reader.next_entry().unwrap().unwrap();
            let mut name = head.name.clone();
            if head.kind == Kind::Dir {
                name.push(b'/');
            }
            assert_eq!((entry.name, entry.link, entry.kind), (name, head.link, head.kind));
            assert_eq!(
                (entry.uid, entry.gid, entry.mode),
                (head.uid, head.gid, head.mode)
            );
            assert_eq!(
                (entry.mtime.0, entry.dev, entry.xattrs),
                (head.mtime, head.dev, head.xattrs)
            );
        }
        let mut content = Vec::new();
        assert_eq!(reader.next_entry().unwrap().unwrap().size, 600);
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(
            (&content[..3], content.len(), content[599]),
            (&b"abc"[..], 600, 0)
        );
        content.clear();
        assert_eq!(reader.next_entry().unwrap().unwrap().size, 2);
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"ab");
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn record_lengths_include_themselves() {
        for length in [1, 80, 88, 89, 90, 91, 985, 986, 987, 9980, 9990] {
            let mut body = Vec::new();
            record(&mut body, "k", &vec![b'x'; length]);
            let text = String::from_utf8(body.clone()).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, body.len());
        }
    }
}
