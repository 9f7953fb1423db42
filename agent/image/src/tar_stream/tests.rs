//! Conflicts and malformed headers that the reader must not let through.

use std::io::Read;

use tar::{EntryType, Header};

use super::{TarReader, pax::pax_time};
use crate::{Error, Limits};

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut h = Header::new_ustar();
    h.set_path(name).unwrap();
    h.set_entry_type(kind);
    h.set_size(size);
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h.set_cksum();
    h
}

fn with_pax(records: &[u8], entry: &Header, data: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header("pax", EntryType::XHeader, records.len() as u64), records)
        .unwrap();
    tar.append(entry, data).unwrap();
    tar.into_inner().unwrap()
}

fn read(archive: &[u8], limits: &Limits) -> crate::Result<Vec<(String, Vec<u8>, super::Entry)>> {
    let mut reader = TarReader::new(archive, limits);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        out.push((entry.shown(), data, entry));
    }
    Ok(out)
}

fn hostile(archive: &[u8]) -> String {
    match read(archive, &Limits::default()) {
        Err(Error::HostileArchive { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn rustsec_2026_0068_pax_size_conflict_is_refused() {
    let archive = with_pax(b"12 size=512\n", &header("a", EntryType::Regular, 0), b"");
    assert!(hostile(&archive).contains("header says 0 bytes, PAX says 512"));
}

#[test]
fn cve_2025_62518_tarmageddon_header_zero_with_nested_archive_is_refused() {
    // The header says 0 and PAX the true size: a reader that believes the header takes the data for entries.
    let mut nested = tar::Builder::new(Vec::new());
    nested
        .append(&header("evil", EntryType::Regular, 0), &b""[..])
        .unwrap();
    let nested = nested.into_inner().unwrap();
    let record = format!("13 size={}\n", nested.len());
    let archive = with_pax(record.as_bytes(), &header("a", EntryType::Regular, 0), &nested);
    hostile(&archive);
}

#[test]
fn malformed_pax_records_are_errors() {
    for records in [
        &b"x size=1\n"[..],
        b"99 path=a\n",
        b"8 path=a\n",
        b"8 path=a",
        b"6 =ab\n",
        b"4 a\n",
    ] {
        let archive = with_pax(records, &header("a", EntryType::Regular, 0), b"");
        assert_eq!(
            hostile(&archive),
            "malformed PAX record",
            "{}",
            String::from_utf8_lossy(records)
        );
    }
    let twice = with_pax(
        b"10 path=a\n10 path=b\n",
        &header("a", EntryType::Regular, 0),
        b"",
    );
    assert!(hostile(&twice).contains("two PAX records"));
}

#[test]
fn binary_attribute_with_newlines_does_not_hide_records() {
    let mut records = b"29 SCHILY.xattr.user.x=\n\x00 a=\n".to_vec();
    assert_eq!(records.len(), 29);
    records.extend(b"14 path=other\n");
    let archive = with_pax(&records, &header("a", EntryType::Regular, 0), b"");
    let entries = read(&archive, &Limits::default()).unwrap();
    assert_eq!(entries[0].0, "other");
    assert_eq!(entries[0].2.xattrs[0].0, "user.x");
}

#[test]
fn bombs_are_refused_before_they_are_read() {
    let limits = Limits {
        entries: 10,
        ..Limits::default()
    };
    let mut many = tar::Builder::new(Vec::new());
    for _ in 0..11 {
        many.append(&header("a", EntryType::Regular, 0), &b""[..])
            .unwrap();
    }
    assert!(read(&many.into_inner().unwrap(), &limits).is_err());
    // An extension header that claims a gigabyte: refused on its header alone.
    let mut claim = header("x", EntryType::XHeader, 1 << 30).as_bytes().to_vec();
    assert!(hostile(&claim).contains("extension header of"));
    claim = header("x", EntryType::GNULongName, 1 << 30).as_bytes().to_vec();
    hostile(&claim);
    let mut value = b"70010 SCHILY.xattr.user.x=".to_vec();
    value.resize(70009, b'v');
    value.push(b'\n');
    assert!(hostile(&with_pax(&value, &header("a", EntryType::Regular, 0), b"")).contains("too large"));
    let long = format!("5012 path={}\n", "a/".repeat(2500) + "a");
    hostile(&with_pax(
        long.as_bytes(),
        &header("a", EntryType::Regular, 0),
        b"",
    ));
    let big = header("a", EntryType::Regular, 1 << 60).as_bytes().to_vec();
    assert!(hostile(&big).contains("bytes, more than"));
}

#[test]
fn overlayfs_own_attributes_are_refused() {
    let record = b"46 SCHILY.xattr.trusted.overlay.redirect=/etc\n";
    let archive = with_pax(record, &header("a", EntryType::Regular, 0), b"");
    assert!(hostile(&archive).contains("overlayfs' own"));
}

#[test]
fn data_after_a_lone_zero_block_and_headerless_extensions_are_refused() {
    let mut archive = vec![0; 512];
    archive.extend(header("a", EntryType::Regular, 0).as_bytes());
    hostile(&archive);
    let mut lone = header("x", EntryType::XHeader, 0).as_bytes().to_vec();
    lone.extend([0; 1024]);
    assert!(hostile(&lone).contains("without an entry"));
}

#[test]
fn times_before_the_epoch() {
    assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
    assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
    assert_eq!(pax_time(b"-3"), Some((-3, 0)));
    assert_eq!(pax_time(b"1.1234567899"), Some((1, 123_456_789)));
    assert_eq!(pax_time(b"1.x"), None);
}

#[test]
fn an_archive_may_end_with_its_last_byte_of_content() {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header("a", EntryType::Regular, 3), &b"abc"[..])
        .unwrap();
    let whole = tar.into_inner().unwrap();
    let limits = Limits::default();
    let found = read(&whole[..512 + 3], &limits).unwrap();
    assert_eq!((found.len(), found[0].1.as_slice()), (1, &b"abc"[..]));
    let mut reader = TarReader::new(&whole[..512 + 2], &limits);
    reader.next_entry().unwrap();
    assert!(matches!(reader.next_entry(), Err(Error::NotAnArchive(_))));
}
