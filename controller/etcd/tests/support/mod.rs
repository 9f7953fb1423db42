//! Real etcd servers on loopback ports, a proxy that cuts, and a state machine that remembers everything. For the tests of
//! this crate.

#![allow(dead_code)] // Each test binary uses its part.

pub mod proxy;
pub mod servers;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_etcd::{EtcdConfig, EtcdLog};
use pontoon_raft::{Member, SnapshotWriter, StateMachine};

/// Longest wait for anything; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

type Entry = (u64, Vec<u8>);

/// A state machine that is the list of its entries.
#[derive(Clone, Default)]
pub struct Entries {
    list: Arc<Mutex<Vec<Entry>>>,
    restored: Arc<Mutex<usize>>,
    /// An entry that an older program must not apply.
    too_new: Option<&'static str>,
}

impl Entries {
    /// The same list, kept by a program that must not apply the entry `too_new`.
    pub fn older(&self, too_new: &'static str) -> Self {
        Self {
            too_new: Some(too_new),
            ..self.clone()
        }
    }

    pub fn data(&self) -> Vec<String> {
        let list = self.list.lock().unwrap();
        list.iter()
            .map(|(_, data)| String::from_utf8_lossy(data).into_owned())
            .collect()
    }

    pub fn indexes(&self) -> Vec<u64> {
        self.list
            .lock()
            .unwrap()
            .iter()
            .map(|(index, _)| *index)
            .collect()
    }

    /// How often the state was replaced by a checkpoint.
    pub fn restored(&self) -> usize {
        *self.restored.lock().unwrap()
    }
}

impl StateMachine for Entries {
    fn apply(&mut self, index: u64, data: &[u8]) {
        self.list.lock().unwrap().push((index, data.to_vec()));
    }

    fn refuses(&self, data: &[u8]) -> Option<String> {
        let too_new = self.too_new.map(str::as_bytes);
        (too_new == Some(data)).then(|| "it needs a newer program".to_owned())
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        Box::new(Pinned(self.list.lock().unwrap().clone()))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let mut list = Vec::new();
        let mut count = [0; 8];
        reader.read_exact(&mut count)?;
        for _ in 0..u64::from_be_bytes(count) {
            let mut head = [0; 16];
            reader.read_exact(&mut head)?;
            let index = u64::from_be_bytes(head[..8].try_into().unwrap());
            let length = u64::from_be_bytes(head[8..].try_into().unwrap());
            let mut data = vec![0; usize::try_from(length).unwrap()];
            reader.read_exact(&mut data)?;
            list.push((index, data));
        }
        *self.list.lock().unwrap() = list;
        *self.restored.lock().unwrap() += 1;
        Ok(())
    }
}

struct Pinned(Vec<Entry>);

impl SnapshotWriter for Pinned {
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()> {
        writer.write_all(&(self.0.len() as u64).to_be_bytes())?;
        for (index, data) in self.0 {
            writer.write_all(&index.to_be_bytes())?;
            writer.write_all(&(data.len() as u64).to_be_bytes())?;
            writer.write_all(&data)?;
        }
        Ok(())
    }
}

/// A member of the tests' cluster: id 1 is node `n1`.
pub fn member(id: u64) -> Member {
    Member::new(id, format!("n{id}"), format!("127.0.0.1:{id}"))
}

/// Waits for a condition; fails with what was waited for.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, waited).await.is_ok(),
        "never: {what}"
    );
}

/// The first manager of a new cluster, which leads.
pub async fn first(config: EtcdConfig) -> (EtcdLog, Entries) {
    let entries = Entries::default();
    let log = EtcdLog::bootstrap(config, "c", member(1), entries.clone())
        .await
        .unwrap();
    leads(&log).await;
    (log, entries)
}

/// Waits until `log` leads.
pub async fn leads(log: &EtcdLog) {
    until("a leader", || log.leadership().borrow().is_leader).await;
}

/// Proposes text, which must work.
pub async fn write(log: &EtcdLog, text: &str) -> u64 {
    log.propose(text.to_owned().into()).await.unwrap()
}
