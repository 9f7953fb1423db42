//! Reading while files are rotated and compressed.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::format::local_record;
use super::*;

fn record(format: Format, text: &str) -> Vec<u8> {
    match format {
        Format::Json => {
            format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}}\n")
                .into()
        }
        Format::Local => local_record(text, 0),
    }
}

fn append(path: &Path, format: Format, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(&record(format, text)).unwrap();
}

fn numbered(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

/// As the shim does it, for up to four files.
fn rotate(path: &Path) {
    for suffix in ["", ".gz"] {
        for place in (1..3).rev() {
            let from = numbered(path, &format!(".{place}{suffix}"));
            let _ = std::fs::rename(from, numbered(path, &format!(".{}{suffix}", place + 1)));
        }
    }
    std::fs::rename(path, numbered(path, ".1")).unwrap();
    std::fs::File::create(path).unwrap();
}

fn compress(path: &Path, last_time: &str) {
    let plain = numbered(path, ".1");
    let content = std::fs::read(&plain).unwrap();
    let inode = std::fs::metadata(&plain).unwrap().ino();
    let file = std::fs::File::create(numbered(path, ".1.gz")).unwrap();
    let mut encoder = flate2::GzBuilder::new()
        .extra(format!(r#"{{"lastTime":"{last_time}","inode":{inode}}}"#))
        .write(file, flate2::Compression::fast());
    encoder.write_all(&content).unwrap();
    encoder.finish().unwrap();
    std::fs::remove_file(plain).unwrap();
}

fn open(path: &Path, format: Format, tail: Option<u64>) -> Cursor {
    Cursor::open(path.to_owned(), format, Start { tail, since: 0 }).unwrap()
}

fn drain(mut cursor: Cursor) -> (Vec<String>, Cursor) {
    let mut texts = Vec::new();
    loop {
        let (entries, back) = cursor.batch().unwrap();
        cursor = back;
        if entries.is_empty() {
            return (texts, cursor);
        }
        texts.extend(
            entries
                .iter()
                .map(|e| String::from_utf8_lossy(&e.line).trim().to_owned()),
        );
    }
}

#[test]
fn follows_over_rotations_and_compression() {
    for format in [Format::Json, Format::Local] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (texts, cursor) = drain(open(&path, format, None));
        assert!(texts.is_empty());
        append(&path, format, "1");
        append(&path, format, "2");
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["1", "2"]);
        append(&path, format, "3");
        rotate(&path);
        append(&path, format, "4");
        compress(&path, "1970-01-01T00:00:00Z");
        rotate(&path);
        compress(&path, "1970-01-01T00:00:00Z");
        append(&path, format, "5");
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["3", "4", "5"]);
        append(&path, format, "6");
        rotate(&path);
        compress(&path, "1970-01-01T00:00:00Z");
        append(&path, format, "7");
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["6", "7"]);
        assert!(numbered(&path, ".3.gz").exists());
        for tail in 0..10 {
            let all = ["1", "2", "3", "4", "5", "6", "7"];
            let expected = &all[all.len() - all.len().min(tail)..];
            assert_eq!(
                drain(open(&path, format, Some(tail as u64))).0,
                expected,
                "{format:?} {tail}"
            );
        }
        assert_eq!(drain(open(&path, format, None)).0.len(), 7);
        // So often rotated that the file under the cursor is gone.
        for n in 0..6 {
            rotate(&path);
            append(&path, format, &format!("r{n}"));
        }
        assert_eq!(drain(cursor).0, ["r2", "r3", "r4", "r5"]);
    }
}

#[test]
fn files_before_since_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, Format::Json, "old");
    rotate(&path);
    compress(&path, "1970-01-01T00:00:05Z");
    append(&path, Format::Json, "new");
    let since = |seconds: i64| {
        let since = seconds * 1_000_000_000;
        let cursor = Cursor::open(path.clone(), Format::Json, Start { tail: None, since }).unwrap();
        drain(cursor).0
    };
    assert_eq!(since(5), ["old", "new"]);
    assert_eq!(since(6), ["new"]);
}

#[test]
fn a_torn_end_is_waited_for_and_then_skipped() {
    for format in [Format::Json, Format::Local] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&path, format, "1");
        let torn = record(format, "2");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&torn[..10]).unwrap();
        let (texts, cursor) = drain(open(&path, format, None));
        assert_eq!(texts, ["1"]);
        assert!(cursor.is_amid());
        file.write_all(&torn[10..]).unwrap();
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["2"]);
        file.write_all(&torn[..10]).unwrap();
        rotate(&path);
        append(&path, format, "3");
        let (texts, cursor) = drain(cursor);
        assert_eq!(texts, ["3"]);
        assert!(cursor.is_told);
        assert_eq!(drain(open(&path, format, Some(1))).0, ["3"]);
        assert_eq!(drain(open(&path, format, None)).0, ["1", "2", "3"]);
    }
}

#[test]
fn a_compressed_file_that_is_cut_off_gives_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for n in 0..1000 {
        append(&path, Format::Local, &n.to_string());
    }
    rotate(&path);
    compress(&path, "1970-01-01T00:00:00Z");
    append(&path, Format::Local, "last");
    let file = OpenOptions::new()
        .write(true)
        .open(numbered(&path, ".1.gz"))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let (texts, cursor) = drain(open(&path, Format::Local, None));
    assert_eq!((texts[0].as_str(), texts.last().unwrap().as_str()), ("0", "last"));
    assert!(cursor.is_told);
    assert_eq!(drain(open(&path, Format::Local, Some(1))).0, ["last"]);
}

/// Rotates and compresses as fast as it can while a reader follows.
#[test]
fn a_reader_loses_nothing_to_a_busy_writer() {
    const LINES: usize = 3000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    append(&path, Format::Local, "0");
    let mut cursor = open(&path, Format::Local, None);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
    let writer = std::thread::spawn({
        let path = path.clone();
        move || {
            for n in 1..LINES {
                append(&path, Format::Local, &n.to_string());
                // Never further ahead than the chain is long: what is rotated away is lost by right.
                if n % 100 == 0 {
                    rotate(&path);
                    compress(&path, "1970-01-01T00:00:00Z");
                    receiver.recv().unwrap();
                }
            }
        }
    });
    let mut seen = 0;
    while seen < LINES {
        let (entries, back) = cursor.batch().unwrap();
        cursor = back;
        for entry in entries {
            assert_eq!(entry.line, format!("{seen}\n").as_bytes());
            if seen % 100 == 0 && seen > 0 {
                sender.send(()).unwrap();
            }
            seen += 1;
        }
    }
    writer.join().unwrap();
}
