//! Finds where the last so many lines of a chain of log files begin: plain files are read backwards, compressed ones, and
//! damaged ones of the local format, once from the beginning.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::chain::Member;
use super::format::{Format, Splitter};

/// Bytes read at once.
const BLOCK: u64 = 64 << 10;
/// Bytes before and after a local record's message.
const LENGTH: u64 = 4;

/// Position of the first of the last `lines` lines: file (0 is the newest) and offset. `files` are newest first.
pub(super) fn find(files: &mut [Member], format: Format, lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = lines;
    let last = files.len().saturating_sub(1);
    for (place, file) in files.iter_mut().enumerate() {
        let found = match (file.plain(), format) {
            (Some(plain), Format::Json) => lines_back(plain, &mut missing)?,
            (Some(plain), Format::Local) => match records_back(plain, missing)? {
                Some(Back::Found(offset)) => Some(offset),
                Some(Back::Missing(still)) => {
                    missing = still;
                    None
                }
                None => from_beginning(file, format, &mut missing)?,
            },
            (None, _) => from_beginning(file, format, &mut missing)?,
        };
        match found {
            Some(offset) => return Ok((place, offset)),
            None if place == last => return Ok((place, 0)),
            None => {}
        }
    }
    Ok((0, 0))
}

/// Offset at which the `missing` last lines begin, or `None` with `missing` reduced by what the file has.
fn lines_back(file: &File, missing: &mut u64) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    if *missing == 0 {
        return Ok(Some(size));
    }
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(1 << 16)];
    let mut end = size;
    let mut lines = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let part = &mut block[..usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(part, start)?;
        for place in memchr::memrchr_iter(b'\n', part) {
            let after = start + place as u64 + 1;
            // The newline at the very end closes the last line; each one before opens a line that counts.
            if after == size {
                continue;
            }
            lines += 1;
            if lines == *missing {
                return Ok(Some(after));
            }
        }
        end = start;
    }
    // The first line has no newline before it.
    if size > 0 {
        lines += 1;
    }
    if lines == *missing {
        return Ok(Some(0));
    }
    *missing -= lines;
    Ok(None)
}

/// What walking back found.
enum Back {
    Found(u64),
    /// So many are still to be found in older files.
    Missing(u64),
}

/// By the lengths behind the records; `None` if they don't fit together.
fn records_back(file: &File, lines: u64) -> io::Result<Option<Back>> {
    let mut at = file.metadata()?.len();
    let length = |offset: u64| -> io::Result<u64> {
        let mut bytes = [0; LENGTH as usize];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(u32::from_be_bytes(bytes).into())
    };
    let mut missing = lines;
    while missing > 0 && at > 0 {
        let Some(close) = at.checked_sub(LENGTH) else {
            return Ok(None);
        };
        let message = length(close)?;
        let Some(start) = close.checked_sub(message + LENGTH) else {
            return Ok(None);
        };
        if length(start)? != message {
            return Ok(None);
        }
        at = start;
        missing -= 1;
    }
    Ok(Some(if missing == 0 {
        Back::Found(at)
    } else {
        Back::Missing(missing)
    }))
}

/// Reads the whole file and remembers where the last records began.
fn from_beginning(file: &mut Member, format: Format, missing: &mut u64) -> io::Result<Option<u64>> {
    let wanted = usize::try_from(*missing).unwrap_or(usize::MAX);
    let mut splitter = Splitter::new(format, 0);
    let mut offsets = VecDeque::new();
    let (mut count, mut end) = (0_u64, 0_u64);
    let mut give = |offset: u64, record: &[u8]| {
        count += 1;
        offsets.push_back(offset);
        if offsets.len() > wanted {
            offsets.pop_front();
        }
        end = offset + record.len() as u64;
    };
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(1 << 16)];
    let mut size = 0;
    // A file that is cut off ends where it can't be read any more.
    while let Ok(length @ 1..) = file.read(&mut block) {
        splitter.push(&block[..length], &mut give);
        size += length as u64;
    }
    splitter.finish(&mut give);
    file.rewind()?;
    if wanted == 0 {
        return Ok(Some(size));
    }
    if count >= *missing {
        return Ok(offsets.front().copied());
    }
    *missing -= count;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content: &str, lines: u64) -> (Option<u64>, u64) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content.as_bytes(), 0).unwrap();
        let mut missing = lines;
        let offset = lines_back(&file, &mut missing).unwrap();
        (offset, missing)
    }

    #[test]
    fn counts_lines_back() {
        assert_eq!(lines("5\n6\n", 0), (Some(4), 0));
        assert_eq!(lines("5\n6\n", 1), (Some(2), 1));
        assert_eq!(lines("5\n6\n", 2).0, Some(0));
        assert_eq!(lines("5\n6\n", 5), (None, 3));
        assert_eq!(lines("", 3), (None, 3));
        assert_eq!(lines("a\nb", 1), (Some(2), 1));
        let long = "x".repeat(100_000) + "\n";
        assert_eq!(lines(&long.repeat(3), 2).0, Some(100_001));
    }
}
