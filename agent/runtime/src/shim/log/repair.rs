//! What a crash in the middle of a write leaves at the end of a file, taken away before the file is written on.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use super::encode::{LENGTH, LONGEST};

/// Makes the end of a file a place where a record may begin; gives the file's size.
pub(super) fn repair(mut file: &File, is_local: bool) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if size == 0 {
        return Ok(0);
    }
    if is_local {
        let end = local_end(file, size)?;
        if end < size {
            file.set_len(end)?;
        }
        return Ok(end);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, size - 1)?;
    if last == *b"\n" {
        return Ok(size);
    }
    // The torn line stays, as a line that no reader understands.
    match file.write_all(b"\n") {
        Ok(()) => Ok(size + 1),
        // On a full disk the torn line and the next are lost together.
        Err(_) => Ok(size),
    }
}

/// Where the last whole record ends.
fn local_end(file: &File, size: u64) -> io::Result<u64> {
    if let Some(length) = length_at(file, size, size.wrapping_sub(LENGTH as u64))?
        && let Some(start) = size.checked_sub(length + 2 * LENGTH as u64)
        && length_at(file, size, start)? == Some(length)
    {
        return Ok(size);
    }
    let mut end = 0;
    while let Some(length) = length_at(file, size, end)? {
        let close = end + LENGTH as u64 + length;
        if length_at(file, size, close)? != Some(length) {
            break;
        }
        end = close + LENGTH as u64;
    }
    Ok(end)
}

fn length_at(file: &File, size: u64, at: u64) -> io::Result<Option<u64>> {
    if at.checked_add(LENGTH as u64).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = [0; LENGTH];
    file.read_exact_at(&mut bytes, at)?;
    let length = u32::from_be_bytes(bytes);
    Ok((length as usize <= LONGEST).then_some(length.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(content: &[u8], is_local: bool) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, content).unwrap();
        let file = File::options().read(true).append(true).open(&path).unwrap();
        let size = repair(&file, is_local).unwrap();
        let now = std::fs::read(path).unwrap();
        assert_eq!(size, now.len() as u64);
        now
    }

    #[test]
    fn torn_records_are_cut_off() {
        let record = |text: &[u8]| {
            let length = (text.len() as u32).to_be_bytes();
            [&length[..], text, &length].concat()
        };
        let whole = [record(b"one"), record(b""), record(b"three")].concat();
        assert_eq!(repaired(&whole, true), whole);
        for torn in 1..record(b"torn").len() {
            let content = [&whole[..], &record(b"torn")[..torn]].concat();
            assert_eq!(repaired(&content, true), whole, "{torn} bytes");
        }
        assert_eq!(repaired(b"no log at all", true), b"");
    }

    #[test]
    fn torn_lines_are_ended() {
        assert_eq!(repaired(b"{}\n", false), b"{}\n");
        assert_eq!(repaired(b"{}\n{\"lo", false), b"{}\n{\"lo\n");
    }
}
