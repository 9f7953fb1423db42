//! Sparse files in archives: GNU tar's own entry type and its three PAX forms (GNU tar manual, "Sparse Formats"). An entry then
//! carries only the data between the holes; [`write`] puts it where it belongs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, Read, Seek, SeekFrom, Write},
};

use tar::Header;

use super::{BLOCK, Entry, TarReader, pax::decimal};

/// Runs of data that one file may have.
const RUNS: usize = 1 << 20;
/// Where GNU's old header keeps its map: four pairs of numbers, "there is more", and the real size.
const MAP: usize = 386;
const MORE: usize = 482;
const REAL_SIZE: usize = 483;

/// Where the data of a sparse file belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    /// Offset and length of each run, in order.
    pub runs: Vec<(u64, u64)>,
    /// Bytes of the file with its holes.
    pub size: u64,
}

impl Sparse {
    /// Runs in order, without overlap, inside the file, and as long together as the data that is there.
    pub(super) fn check(&self, data: u64) -> Result<(), &'static str> {
        let mut end = 0_u64;
        let mut total = 0_u64;
        for (offset, length) in &self.runs {
            let after = offset.checked_add(*length).ok_or("sparse map overflows")?;
            if *offset < end || after > self.size {
                return Err("sparse map is not in order or leaves the file");
            }
            (end, total) = (after, total + length);
        }
        if total != data {
            return Err("sparse map and data differ in length");
        }
        Ok(())
    }
}

/// Reads the map of a GNU entry; blocks with more of it follow the header.
pub(super) fn of_gnu(
    header: &Header,
    mut next: impl FnMut(&mut [u8; BLOCK]) -> io::Result<bool>,
) -> io::Result<Option<Sparse>> {
    let bytes = header.as_bytes();
    let mut runs = Vec::new();
    let Some(size) = number(&bytes[REAL_SIZE..REAL_SIZE + 12]) else {
        return Ok(None);
    };
    if !pairs(&bytes[MAP..MAP + 96], &mut runs) {
        return Ok(None);
    }
    let mut more = bytes[MORE] != 0;
    while more {
        let mut block = [0; BLOCK];
        if !next(&mut block)? || !pairs(&block[..504], &mut runs) || runs.len() > RUNS {
            return Ok(None);
        }
        more = block[504] != 0;
    }
    runs.retain(|(_, length)| *length > 0);
    Ok(Some(Sparse { runs, size }))
}

fn pairs(map: &[u8], runs: &mut Vec<(u64, u64)>) -> bool {
    for pair in map.chunks_exact(24) {
        if pair.iter().all(|b| matches!(b, 0 | b' ')) {
            continue;
        }
        let (Some(offset), Some(length)) = (number(&pair[..12]), number(&pair[12..])) else {
            return false;
        };
        runs.push((offset, length));
    }
    true
}

/// An octal number, or GNU's big-endian one with the first bit set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let high = field[..field.len() - 8].iter().enumerate();
        if high
            .into_iter()
            .any(|(i, b)| if i == 0 { *b != 0x80 } else { *b != 0 })
        {
            return None;
        }
        return Some(u64::from_be_bytes(field[field.len() - 8..].try_into().ok()?));
    }
    let text: Vec<u8> = field.iter().copied().filter(|b| !matches!(b, 0 | b' ')).collect();
    if text.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(std::str::from_utf8(&text).ok()?, 8).ok()
}

/// What PAX records say of a sparse file.
pub(super) enum Pax {
    /// No sparse file.
    No,
    /// The map is in the records (forms 0.0 and 0.1).
    Map(Sparse),
    /// The map begins the data (form 1.0); the file's real size.
    InData(u64),
    /// Records that make no sense.
    Bad,
}

/// `offsets`: form 0.0 repeats its records, in order.
pub(super) fn of_pax(pax: &BTreeMap<String, Vec<u8>>, offsets: &[(u64, u64)]) -> Pax {
    if !pax.keys().any(|k| k.starts_with("GNU.sparse.")) && offsets.is_empty() {
        return Pax::No;
    }
    let get = |key: &str| pax.get(key).and_then(|v| decimal(v));
    match (get("GNU.sparse.major"), get("GNU.sparse.minor")) {
        (Some(1), Some(0)) => get("GNU.sparse.realsize").map_or(Pax::Bad, Pax::InData),
        (None | Some(0), _) => {
            let Some(size) = get("GNU.sparse.size").or_else(|| get("GNU.sparse.realsize")) else {
                return Pax::Bad;
            };
            let runs = match pax.get("GNU.sparse.map") {
                None => Some(offsets.to_vec()),
                Some(map) => map_of(map),
            };
            match runs {
                Some(mut runs) if runs.len() <= RUNS => {
                    runs.retain(|(_, length)| *length > 0);
                    Pax::Map(Sparse { runs, size })
                }
                _ => Pax::Bad,
            }
        }
        _ => Pax::Bad,
    }
}

fn map_of(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = text.split(|b| *b == b',').map(decimal).collect::<Option<_>>()?;
    numbers
        .len()
        .is_multiple_of(2)
        .then(|| numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Reads the map at the beginning of the data (form 1.0): decimal lines, filled up to a block. Gives the bytes read, too.
pub(super) fn of_data(mut data: impl Read, size: u64) -> io::Result<Option<(Sparse, u64)>> {
    let mut read = 0_u64;
    let mut block = [0; BLOCK];
    let mut at = BLOCK;
    let mut line = || -> io::Result<Option<u64>> {
        let mut text = Vec::new();
        loop {
            if at == BLOCK {
                data.read_exact(&mut block)?;
                (at, read) = (0, read + BLOCK as u64);
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return Ok(decimal(&text)),
                _ if text.len() > 20 => return Ok(None),
                _ => text.push(byte),
            }
        }
    };
    let Some(count) = line()?
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n <= RUNS)
    else {
        return Ok(None);
    };
    let mut runs = Vec::new();
    for _ in 0..count {
        match (line()?, line()?) {
            (Some(offset), Some(length)) => runs.push((offset, length)),
            _ => return Ok(None),
        }
    }
    runs.retain(|(_, length)| *length > 0);
    Ok(Some((Sparse { runs, size }, read)))
}

/// Writes an entry's content to a new file; holes stay holes.
pub(crate) fn write<R: Read>(
    entry: &Entry,
    data: &mut TarReader<'_, R>,
    file: &mut File,
    buffer: &mut [u8],
) -> io::Result<()> {
    let Some(sparse) = &entry.sparse else {
        return copy(data, file, buffer);
    };
    for (offset, length) in &sparse.runs {
        file.seek(SeekFrom::Start(*offset))?;
        copy(&mut data.take(*length), file, buffer)?;
    }
    file.set_len(sparse.size)
}

/// [`write`] from a stream that shows its content where it lies: nothing is copied but into the file.
pub(crate) fn write_pieces<R: BufRead>(
    entry: &Entry,
    data: &mut TarReader<'_, R>,
    file: &mut File,
) -> io::Result<()> {
    let Some(sparse) = &entry.sparse else {
        return copy_pieces(data, file, u64::MAX);
    };
    for (offset, length) in &sparse.runs {
        file.seek(SeekFrom::Start(*offset))?;
        copy_pieces(data, file, *length)?;
    }
    file.set_len(sparse.size)
}

fn copy_pieces(from: &mut impl BufRead, to: &mut File, mut left: u64) -> io::Result<()> {
    while left > 0 {
        let piece = from.fill_buf()?;
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            break;
        }
        to.write_all(&piece[..count])?;
        from.consume(count);
        left -= count as u64;
    }
    Ok(())
}

/// `io::copy` with a buffer that suits files of layers.
fn copy(from: &mut impl Read, to: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use std::{os::unix::fs::MetadataExt, path::Path, process::Command};

    /// What GNU tar writes of a file with holes, in each of its forms, comes back as it was.
    #[test]
    fn every_form_of_gnu_tar_comes_back() {
        let temp = tempfile::tempdir().unwrap();
        let original = temp.path().join("file");
        let mut file = File::create(&original).unwrap();
        for run in 0..40_u64 {
            file.seek(SeekFrom::Start(run * (1 << 20))).unwrap();
            file.write_all(format!("run {run}").as_bytes()).unwrap();
        }
        file.set_len(64 << 20).unwrap();
        let forms: [&[&str]; 4] = [
            &["--format=gnu"],
            &["--format=posix", "--sparse-version=0.0"],
            &["--format=posix", "--sparse-version=0.1"],
            &["--format=posix", "--sparse-version=1.0"],
        ];
        for form in forms {
            let output = Command::new("tar")
                .args(["--sparse", "-c", "-C"])
                .arg(temp.path())
                .args(form)
                .args(["file", "file"])
                .output()
                .unwrap();
            assert!(output.stdout.len() < 4 << 20, "{form:?} has no holes");
            let limits = Limits::default();
            let mut reader = TarReader::new(&output.stdout[..], &limits);
            let entry = reader.next_entry().unwrap().unwrap();
            assert_eq!(entry.name, b"file", "{form:?}");
            let check = |back: &Path| {
                let same = std::fs::read(back).unwrap() == std::fs::read(&original).unwrap();
                assert!(same, "{form:?}");
                let blocks = back.metadata().unwrap().blocks();
                assert!(blocks < 4096, "{form:?} fills its holes");
            };
            let back = temp.path().join("back");
            let mut file = File::create(&back).unwrap();
            write(&entry, &mut reader, &mut file, &mut [0; 4096]).unwrap();
            check(&back);
            let second = reader.next_entry().unwrap().unwrap();
            assert_eq!(second.name, b"file", "the stream goes on where it should");
            let mut reader = TarReader::new(&output.stdout[..], &limits);
            let entry = reader.next_entry().unwrap().unwrap();
            let mut file = File::create(&back).unwrap();
            write_pieces(&entry, &mut reader, &mut file).unwrap();
            check(&back);
            assert_eq!(reader.next_entry().unwrap().unwrap().name, b"file");
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        let map = |runs: &[(u64, u64)], size| Sparse {
            runs: runs.to_vec(),
            size,
        };
        assert!(map(&[(0, 5), (10, 5)], 20).check(10).is_ok());
        assert!(map(&[(0, 5), (10, 5)], 20).check(11).is_err());
        assert!(map(&[(10, 5), (0, 5)], 20).check(10).is_err());
        assert!(map(&[(0, 5), (4, 5)], 20).check(10).is_err());
        assert!(map(&[(18, 5)], 20).check(5).is_err());
        assert!(map(&[(u64::MAX, 5)], u64::MAX).check(5).is_err());
    }
}
