//! Finds where the last so many lines of a chain of log files begin, reading backwards in blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read at once.
const BLOCK: u64 = 64 << 10;

/// Position of the first of the last `lines` lines: file (0 is the newest) and offset. `files` are newest first.
pub(super) fn find(files: &[File], lines: u64) -> io::Result<(usize, u64)> {
    let mut missing = lines;
    for (place, file) in files.iter().enumerate() {
        let size = file.metadata()?.len();
        match find_in(file, size, &mut missing)? {
            Some(offset) => return Ok((place, offset)),
            None if place + 1 == files.len() => return Ok((place, 0)),
            None => {}
        }
    }
    Ok((0, 0))
}

/// Offset at which the `missing` last lines begin, or `None` with `missing` reduced by what the file has.
fn find_in(file: &File, size: u64, missing: &mut u64) -> io::Result<Option<u64>> {
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
        for (place, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn counts_back_over_files() {
        let files = [file("5\n6\n"), file("3\n4\n"), file("1\n2\n")];
        let cases = [
            (0, (0, 4)),
            (1, (0, 2)),
            (2, (0, 0)),
            (3, (1, 2)),
            (4, (1, 0)),
            (6, (2, 0)),
            (9, (2, 0)),
        ];
        for (lines, place) in cases {
            assert_eq!(find(&files, lines).unwrap(), place, "{lines}");
        }
        assert_eq!(find(&[file("")], 3).unwrap(), (0, 0));
        assert_eq!(find(&[file("a\nb")], 1).unwrap(), (0, 2));
        let long = "x".repeat(100_000) + "\n";
        assert_eq!(find(&[file(&long.repeat(3))], 2).unwrap(), (0, 100_001));
    }
}
