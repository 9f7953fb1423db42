//! The files of a log: `<path>` is written now, `<path>.1` was before, and so on, older ones perhaps compressed (`.1.gz`).
//! They are renamed while they are read, so each is known by its inode; a compressed one tells the inode that it had before.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;

/// Places that may be empty in the middle of a rotation.
const HOLES: usize = 2;
/// Attempts to see the chain at rest, a millisecond each.
const ATTEMPTS: usize = 200;

/// An open file of the chain.
pub(super) struct Member {
    reader: Reader,
    inode: u64,
}

enum Reader {
    Plain(File),
    Gzip(Box<GzDecoder<File>>),
}

/// What the header of a compressed file tells (moby `rotateFileMetadata`, and an inode).
#[derive(Debug, Default, Deserialize)]
struct Header {
    #[serde(rename = "lastTime")]
    last_time: Option<String>,
    inode: Option<u64>,
}

impl Member {
    /// The plain file, if it is one: it can be read from its end.
    pub(super) fn plain(&self) -> Option<&File> {
        match &self.reader {
            Reader::Plain(file) => Some(file),
            Reader::Gzip(_) => None,
        }
    }

    /// Goes to an offset of the (decompressed) content, from its beginning.
    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.reader {
            Reader::Plain(file) => file.seek(SeekFrom::Start(offset)).map(drop),
            Reader::Gzip(decoder) => io::copy(&mut decoder.take(offset), &mut io::sink()).map(drop),
        }
    }

    /// Back to the beginning.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        match &mut self.reader {
            Reader::Plain(file) => file.rewind(),
            Reader::Gzip(decoder) => {
                let mut file = decoder.get_ref().try_clone()?;
                file.rewind()?;
                **decoder = GzDecoder::new(file);
                Ok(())
            }
        }
    }

    /// All its lines are older; only a compressed file tells.
    pub(super) fn ends_before(&self, time: i64) -> bool {
        let Reader::Gzip(decoder) = &self.reader else {
            return false;
        };
        let last = header(decoder.get_ref()).last_time;
        let last: Option<jiff::Timestamp> = last.and_then(|text| text.parse().ok());
        // A file whose compression was begun by a shim that had written nothing tells the epoch.
        last.is_some_and(|last| last > jiff::Timestamp::UNIX_EPOCH && last.as_nanosecond() < time.into())
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.reader {
            Reader::Plain(file) => file.read(buffer),
            Reader::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

/// The extra field of a gzip header (RFC 1952), without moving the file's position.
fn header(file: &File) -> Header {
    use std::os::unix::fs::FileExt;
    const EXTRA: u8 = 4;
    let mut head = [0; 12];
    if file.read_exact_at(&mut head, 0).is_err() || head[..2] != [0x1f, 0x8b] || head[3] & EXTRA == 0 {
        return Header::default();
    }
    let mut extra = vec![0; usize::from(u16::from_le_bytes([head[10], head[11]]))];
    match file.read_exact_at(&mut extra, 12) {
        Ok(()) => serde_json::from_slice(&extra).unwrap_or_default(),
        Err(_) => Header::default(),
    }
}

/// The chain itself.
#[derive(Debug)]
pub(super) struct Chain {
    path: PathBuf,
}

impl Chain {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn numbered(&self, place: usize, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        if place > 0 {
            name.push(format!(".{place}{suffix}"));
        }
        name.into()
    }

    fn open(&self, place: usize) -> io::Result<Option<Member>> {
        if let Some(file) = open(&self.numbered(place, ""))? {
            let inode = file.metadata()?.ino();
            let reader = Reader::Plain(file);
            return Ok(Some(Member { reader, inode }));
        }
        if place == 0 {
            return Ok(None);
        }
        // A file goes only when its compressed form is there.
        let Some(file) = open(&self.numbered(place, ".gz"))? else {
            return Ok(None);
        };
        let inode = file.metadata()?.ino();
        let reader = Reader::Gzip(Box::new(GzDecoder::new(file)));
        Ok(Some(Member { reader, inode }))
    }

    /// All files, newest first. Files only move to higher places, so looking upwards meets each at least once.
    pub(super) fn all(&self) -> io::Result<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
        let (mut place, mut holes) = (0, 0);
        while holes < HOLES {
            match self.open(place)? {
                Some(member) => {
                    holes = 0;
                    if members.iter().all(|known| known.inode != member.inode) {
                        members.push(member);
                    }
                }
                None => holes += 1,
            }
            place += 1;
        }
        Ok(members)
    }

    /// The file that is written now.
    pub(super) fn newest(&self) -> io::Result<Option<Member>> {
        self.open(0)
    }

    /// Where a file is now; `None` if it was removed.
    fn find(&self, member: &Member) -> io::Result<Option<usize>> {
        let (mut place, mut holes) = (0, 0);
        while holes < HOLES {
            match std::fs::metadata(self.numbered(place, "")) {
                Ok(metadata) if metadata.ino() == member.inode => return Ok(Some(place)),
                Ok(_) => holes = 0,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) if place == 0 => holes += 1,
                Err(_) => match open(&self.numbered(place, ".gz"))? {
                    None => holes += 1,
                    Some(file) => {
                        holes = 0;
                        let is_it = match member.reader {
                            Reader::Gzip(_) => file.metadata()?.ino() == member.inode,
                            Reader::Plain(_) => header(&file).inode == Some(member.inode),
                        };
                        if is_it {
                            return Ok(Some(place));
                        }
                    }
                },
            }
            place += 1;
        }
        Ok(None)
    }

    /// The file that was begun after this one; `None` if this is the newest.
    pub(super) fn next(&self, member: &Member) -> io::Result<Option<Member>> {
        for _ in 0..ATTEMPTS {
            let Some(place) = self.find(member)? else {
                // Rotated away while it was read: the oldest that is left goes on.
                return Ok(self.all()?.pop());
            };
            let Some(newer) = place.checked_sub(1) else {
                return Ok(None);
            };
            // Valid only if no rotation came between the two looks.
            if let Some(next) = self.open(newer)?
                && self.find(member)? == Some(place)
            {
                return Ok(Some(next));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // A rotation that was broken off in its middle: the next one closes the gap.
        Ok(None)
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
