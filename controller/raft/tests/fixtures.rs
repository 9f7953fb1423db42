//! Folders that earlier versions of this program wrote: each must be read for ever, or refused with a clear error.
//!
//! A version that changes a format of the log or of snapshots adds its folder with `cargo test -p pontoon-raft --test fixtures
//! write -- --ignored` (after naming it in [`NEWEST`]) and leaves the old ones as they are. All hold the same history.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pontoon_raft::{
    Config, ConnectError, Connector, DataKey, Error, KeyId, Keyring, Member, Raft, RaftHandle,
    SnapshotWriter, StateMachine,
};
use tonic::transport::Channel;

/// Written by this version: in clear, and sealed.
const NEWEST: [&str; 2] = ["clear-1", "sealed-2"];
/// All that there are.
const ALL: [&str; 2] = NEWEST;
/// Writes in each of them.
const WRITES: usize = 70;

type Applied = Arc<Mutex<Vec<Vec<u8>>>>;

/// Keeps what it is given.
struct State(Applied);

struct Pinned(Vec<Vec<u8>>);

impl SnapshotWriter for Pinned {
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|data| {
            writer.write_all(&(data.len() as u32).to_le_bytes())?;
            writer.write_all(data)
        })
    }
}

impl StateMachine for State {
    fn apply(&mut self, _index: u64, data: &[u8]) {
        self.0.lock().expect("no test panics with it").push(data.to_vec());
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        Box::new(Pinned(self.0.lock().expect("no test panics with it").clone()))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        let (mut rest, mut state) = (bytes.as_slice(), Vec::new());
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (data, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            state.push(data.to_vec());
            rest = tail;
        }
        *self.0.lock().expect("no test panics with it") = state;
        Ok(())
    }
}

/// The only member dials nobody.
struct Nobody;

#[async_trait::async_trait]
impl Connector for Nobody {
    async fn connect(&self, _member: &Member) -> Result<Channel, ConnectError> {
        Err("nobody is there".into())
    }

    async fn probe(&self, _addr: &str) -> Result<(), ConnectError> {
        Err("nobody is there".into())
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The key of the sealed folders; a secret of nobody.
fn keys() -> Keyring {
    Keyring::new(DataKey::new(KeyId([7; 16]), [42; 32].into()), [])
}

fn config(name: &str, dir: &Path) -> Config {
    let mut config = Config::new(0xbeef, "fixture-cluster", "fixture-node", dir);
    config.advertise = "127.0.0.1:2377".to_owned();
    config.snapshot_every = 30;
    config.keep_entries = 5;
    config.keys = name.starts_with("sealed").then(keys);
    config
}

fn data(i: usize) -> Vec<u8> {
    format!("write {i} {}", "x".repeat(i)).into_bytes()
}

async fn lead(handle: &RaftHandle) {
    let mut leadership = handle.leadership();
    let leads = tokio::time::timeout(Duration::from_secs(60), leadership.wait_for(|l| l.is_leader)).await;
    assert!(leads.is_ok(), "the only member leads");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the fixture").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

#[tokio::test]
async fn every_version_s_folder_is_read_and_goes_on() {
    for name in ALL {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&fixtures().join(name), folder.path());
        // Twice: the second start reads what this version has added.
        for start in 0..2 {
            let applied = Applied::default();
            let config = config(name, folder.path());
            let handle = Raft::open(config, State(applied.clone()), Arc::new(Nobody)).await;
            let handle = handle.unwrap_or_else(|error| panic!("{name}: {error}"));
            lead(&handle).await;
            handle.read_barrier().await.expect("it leads");
            let expected: Vec<_> = (0..WRITES + start).map(data).collect();
            assert_eq!(*applied.lock().expect("lock"), expected, "{name}, start {start}");
            let members = handle.members();
            assert_eq!(members.len(), 1, "{name}");
            assert_eq!(members[0].addr, "127.0.0.1:2377", "{name}");
            handle
                .propose(data(WRITES + start).into())
                .await
                .expect("it takes writes");
            handle.shutdown().await;
        }
    }
}

#[tokio::test]
async fn a_newer_version_s_files_are_refused_by_name() {
    for name in ALL {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&fixtures().join(name), folder.path());
        let segments = |name: &String| name.starts_with("wal-");
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .expect("the copy")
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(segments)
            .collect();
        names.sort();
        let path = folder.path().join(names.pop().expect("there is a segment"));
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[8] = 99;
        std::fs::write(&path, &bytes).expect("write");
        let opened = Raft::open(
            config(name, folder.path()),
            State(Applied::default()),
            Arc::new(Nobody),
        )
        .await;
        let refused = opened.err().expect("refused");
        assert!(
            matches!(refused, Error::CorruptLog { offset: 0, .. }),
            "{refused}"
        );
        assert!(
            refused
                .to_string()
                .contains("version 99 is not known: a newer program wrote"),
            "{refused}"
        );
        assert_eq!(std::fs::read(&path).expect("read"), bytes, "nothing was written");
    }
}

#[tokio::test]
#[ignore = "writes the fixtures of this version"]
async fn write() {
    for name in NEWEST {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = config(name, folder.path());
        let state = State(Applied::default());
        let handle = Raft::bootstrap(config, state, Arc::new(Nobody))
            .await
            .expect("bootstrap");
        lead(&handle).await;
        for i in 0..WRITES {
            handle.propose(Bytes::from(data(i))).await.expect("write");
        }
        handle.shutdown().await;
        std::fs::remove_file(folder.path().join("lock")).expect("the lock file");
        let target = fixtures().join(name);
        // An old one of this version, if any.
        let _ = std::fs::remove_dir_all(&target);
        copy(folder.path(), &target);
        for entry in std::fs::read_dir(&target).expect("the copy").flatten() {
            // Zeros written ahead are of no interest.
            let bytes = std::fs::read(entry.path()).expect("read");
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            if entry.file_name().to_string_lossy().starts_with("wal-") {
                let len = bytes.len().min(used.next_multiple_of(1024));
                std::fs::write(entry.path(), &bytes[..len]).expect("write");
            }
        }
    }
}
