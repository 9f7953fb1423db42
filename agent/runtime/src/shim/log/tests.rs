//! Files and rotation, without a container.

use std::path::Path;

use super::Log;
use crate::protocol::kind;
use crate::{FileLog, LogConfig, LogTarget};

fn json(path: &Path, max_size: Option<u64>, max_file: u32) -> LogConfig {
    LogConfig {
        target: LogTarget::JsonFile(FileLog {
            path: path.to_owned(),
            max_size,
            max_file,
            compress: false,
        }),
        ..LogConfig::default()
    }
}

fn open(config: &LogConfig) -> Log {
    Log::open(config, Path::new("/nowhere")).unwrap()
}

fn texts(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|value| value["log"].as_str().unwrap().to_owned())
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn writes_lines_of_both_streams() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut log = open(&json(&path, None, 1));
    log.write(kind::STDOUT, b"one\ntw");
    log.write(kind::STDERR, b"error\n");
    log.write(kind::STDOUT, b"o\nrest");
    log.finish();
    assert_eq!(texts(&path), ["one\n", "error\n", "two\n", "rest"]);
    assert!(log.is_done() && log.notices().is_empty());
}

#[test]
fn rotates_by_size_and_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&json(&path, Some(500), 3));
    for n in 0..40 {
        log.write(kind::STDOUT, format!("line {n}\n").as_bytes());
    }
    log.finish();
    assert_eq!(names(dir.path()), ["log", "log.1", "log.2"]);
    let all: Vec<_> = ["log.2", "log.1", "log"]
        .iter()
        .flat_map(|name| texts(&dir.path().join(name)))
        .collect();
    let tail: Vec<_> = (40 - all.len()..40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(all, tail, "no line is lost between the files that are kept");
    assert!(all.len() > 12, "{all:?}");
}

#[test]
fn a_single_file_is_replaced_not_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&json(&path, Some(100), 1));
    log.write(kind::STDOUT, b"one\ntwo\n");
    let mut reader = std::fs::File::open(&path).unwrap();
    log.write(kind::STDOUT, b"three\n");
    assert_eq!(
        (names(dir.path()), texts(&path)),
        (vec!["log".to_owned()], vec!["three\n".to_owned()])
    );
    let mut old = String::new();
    std::io::Read::read_to_string(&mut reader, &mut old).unwrap();
    assert_eq!(old.lines().count(), 2, "a reader of the old file finishes it");
}

#[test]
fn rotation_goes_on_where_a_predecessor_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = json(&path, Some(150), 9);
    for n in 0..8 {
        let mut log = open(&config);
        log.write(kind::STDOUT, format!("line {n}\n").as_bytes());
        log.finish();
    }
    assert!(names(dir.path()).len() > 2);
    std::fs::write(&path, "{\"log\":\"tor").unwrap();
    let mut log = open(&config);
    log.write(kind::STDOUT, b"next\n");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"log\":\"tor\n{\"log\":\"next\\n\""), "{text}");
}

#[test]
fn rotation_that_fails_keeps_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&json(&path, Some(100), 3));
    // A folder with something in it can't be replaced by a file.
    std::fs::create_dir_all(dir.path().join("log.1/x")).unwrap();
    for n in 0..10 {
        log.write(kind::STDOUT, format!("line {n}\n").as_bytes());
    }
    std::fs::remove_dir_all(dir.path().join("log.2")).ok();
    let notices = log.notices();
    assert_eq!(
        texts(&path).len() + texts(&dir.path().join("log.1")).len(),
        10,
        "{notices:?}"
    );
}
