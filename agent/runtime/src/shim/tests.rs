//! Log format and rotation, without a container.

use super::log::Log;
use crate::LogConfig;
use crate::protocol::kind;

fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn writes_dockers_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let config = LogConfig::JsonFile {
        path: path.clone(),
        max_size: None,
        max_file: 1,
    };
    let mut log = Log::open(&config).unwrap();
    log.write(kind::STDOUT, b"one\ntw");
    log.write(kind::STDERR, b"<err> \xff\x01\n");
    log.write(kind::STDOUT, b"o\nrest");
    log.finish();
    let raw = std::fs::read_to_string(&path).unwrap();
    assert!(
        raw.starts_with("{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"2"),
        "{raw}"
    );
    assert!(
        raw.contains(r#"{"log":"\u003cerr\u003e \ufffd\u0001\n","stream":"stderr""#),
        "{raw}"
    );
    let texts: Vec<_> = lines(&path)
        .iter()
        .map(|l| l["log"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["one\n", "<err> \u{fffd}\u{1}\n", "two\n", "rest"]);
    assert!(raw.lines().all(|l| l.ends_with("Z\"}")), "{raw}");
}

#[test]
fn splits_long_lines_at_16_kib() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = LogConfig::JsonFile {
        path: path.clone(),
        max_size: None,
        max_file: 1,
    };
    let mut log = Log::open(&config).unwrap();
    let line = [vec![b'x'; 40_000], vec![b'\n']].concat();
    for chunk in line.chunks(7000) {
        log.write(kind::STDOUT, chunk);
    }
    let lengths: Vec<_> = lines(&path)
        .iter()
        .map(|l| l["log"].as_str().unwrap().len())
        .collect();
    assert_eq!(lengths, [16384, 16384, 40_001 - 2 * 16384]);
}

#[test]
fn rotates_by_size_and_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = LogConfig::JsonFile {
        path: path.clone(),
        max_size: Some(500),
        max_file: 3,
    };
    let mut log = Log::open(&config).unwrap();
    for n in 0..40 {
        log.write(kind::STDOUT, format!("line {n}\n").as_bytes());
    }
    log.finish();
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "log.1", "log.2"]);
    let all: Vec<_> = ["log.2", "log.1", "log"]
        .iter()
        .flat_map(|n| lines(&dir.path().join(n)))
        .map(|l| l["log"].as_str().unwrap().to_owned())
        .collect();
    let tail: Vec<_> = (40 - all.len()..40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(all, tail, "no line is lost between the files that are kept");
}
