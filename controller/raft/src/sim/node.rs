//! One simulated member: the real core, log and snapshot files over a virtual disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::eraftpb::Message;

use crate::config::Config;
use crate::core::{Core, Output};
use crate::error::Error;
use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::vfs::Dir;
use crate::vfs::sim::SimDisk;
use crate::wal::{Image, Owner, PersistJob, Record, Wal};

/// Applied entries: index and data.
type State = Vec<(u64, Vec<u8>)>;

/// What a running member did that the world must know.
pub(super) enum Effect {
    /// A message, with the snapshot file that goes along.
    Send(Box<Message>, Option<Vec<u8>>),
    /// An entry was applied: index, nonce, data.
    Applied(u64, Vec<u8>, Vec<u8>),
    /// A read became possible: its context, and the highest index applied.
    Read(Vec<u8>),
}

/// The part of a member that a crash takes away.
struct Running {
    core: Core,
    wal: Wal,
    jobs: VecDeque<PersistJob>,
    /// Applied entries: index and data.
    state: State,
    at: SnapshotMeta,
    last_snapshot: u64,
    reads: BTreeMap<u64, Vec<Vec<u8>>>,
}

/// One simulated member.
pub(super) struct SimNode {
    pub(super) config: Config,
    pub(super) disk: SimDisk,
    dir: Dir,
    snapshots: SnapshotStore,
    election: usize,
    running: Option<Running>,
}

fn encode(state: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, data) in state {
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out.extend_from_slice(data);
    }
    out
}

fn decode(mut bytes: &[u8]) -> State {
    let mut state = Vec::new();
    while !bytes.is_empty() {
        let index = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let len = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) as usize;
        state.push((index, bytes[12..12 + len].to_vec()));
        bytes = &bytes[12 + len..];
    }
    state
}

impl SimNode {
    /// A member that is not running; `election` pins its election timeout.
    pub(super) fn new(config: Config, seed: u64, election: usize) -> Self {
        let disk = SimDisk::new(seed);
        let dir = Dir::new(Arc::new(disk.clone()), "/raft");
        let snapshots = SnapshotStore::new(dir.clone(), &config.cluster_id);
        Self {
            config,
            disk,
            dir,
            snapshots,
            election,
            running: None,
        }
    }

    fn owner(&self) -> Owner {
        Owner {
            cluster_id: self.config.cluster_id.clone(),
            raft_id: self.config.id,
        }
    }

    /// Makes the member's first files and starts it.
    pub(super) fn create(&mut self, meta: Option<&SnapshotMeta>, records: Vec<Record>) {
        if let Some(meta) = meta {
            self.snapshots
                .write(meta, |_| Ok(()))
                .expect("no fault is set yet");
        }
        Wal::create(self.dir.clone(), self.owner(), self.config.segment_bytes, records)
            .expect("no fault is set yet");
        self.start().expect("a new member starts");
    }

    /// Starts from the disk. Only a fault of the disk may keep it from that.
    pub(super) fn start(&mut self) -> Result<(), Error> {
        self.snapshots.remove_leftovers();
        let (wal, image) = Wal::open(self.dir.clone(), self.owner(), self.config.segment_bytes)?;
        let (at, state) = self.load(&image)?;
        let core = Core::new(&self.config, &image, Some(self.election))?;
        let last_snapshot = at.index;
        let (jobs, reads) = (VecDeque::new(), BTreeMap::new());
        self.running = Some(Running {
            core,
            wal,
            jobs,
            state,
            at,
            last_snapshot,
            reads,
        });
        Ok(())
    }

    fn load(&self, image: &Image) -> Result<(SnapshotMeta, State), Error> {
        let Some(marker) = &image.marker else {
            return Ok((SnapshotMeta::default(), Vec::new()));
        };
        let at = SnapshotMeta {
            index: marker.index,
            term: marker.term,
            conf_state: marker.conf_state.clone(),
            members: marker.members.clone(),
        };
        let state = self.read_snapshot(&at)?;
        self.snapshots.remove_below(at.index);
        Ok((at, state))
    }

    fn read_snapshot(&self, meta: &SnapshotMeta) -> Result<State, Error> {
        let file = self.snapshots.open(meta.index, meta.term)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file.reader().expect("a verified file"), &mut bytes)
            .expect("a verified file");
        Ok(decode(&bytes))
    }

    pub(super) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// The process ends; what the disk makes of that is decided at the restart.
    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    pub(super) fn core(&mut self) -> Option<&mut Core> {
        self.running.as_mut().map(|running| &mut running.core)
    }

    pub(super) fn applied(&self) -> u64 {
        self.running.as_ref().map_or(0, |r| r.at.index)
    }

    pub(super) fn state(&self) -> &[(u64, Vec<u8>)] {
        self.running.as_ref().map_or(&[], |r| &r.state)
    }

    pub(super) fn waiting_jobs(&self) -> usize {
        self.running.as_ref().map_or(0, |r| r.jobs.len())
    }

    /// Writes the first `count` jobs as one group. False: the disk failed and the member has ended.
    pub(super) fn persist(&mut self, count: usize) -> bool {
        let Some(running) = &mut self.running else {
            return true;
        };
        let count = count.min(running.jobs.len());
        let mut group = PersistJob::default();
        for job in running.jobs.drain(..count) {
            group.number = job.number;
            group.sync |= job.sync;
            group.records.extend(job.records);
        }
        if count == 0 {
            return true;
        }
        if running.wal.append(&group.records, group.sync).is_err() {
            self.running = None;
            return false;
        }
        running.core.persisted(group.number);
        true
    }

    /// Takes a local snapshot. False: the machine has crashed.
    pub(super) fn snapshot(&mut self) -> bool {
        let Some(running) = &mut self.running else {
            return true;
        };
        if running.at.index == running.last_snapshot {
            return true;
        }
        let (meta, bytes) = (running.at.clone(), encode(&running.state));
        match self.snapshots.write(&meta, |writer| writer.write_all(&bytes)) {
            Ok(()) => {
                running.last_snapshot = meta.index;
                running.core.snapshot_saved(meta);
            }
            Err(_) if self.disk.is_crashed() => {
                self.running = None;
                return false;
            }
            // Without a snapshot the log just stays longer.
            Err(_) => {}
        }
        true
    }

    /// Receives a snapshot file and its message. `None`: the machine has crashed; false: it was refused.
    pub(super) fn install(&mut self, message: Message, file: &[u8]) -> Option<bool> {
        let running = self.running.as_mut()?;
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let received = self.snapshots.receive().and_then(|mut incoming| {
            incoming.write(file)?;
            incoming.finish(index, term)
        });
        match received {
            Ok(()) => {
                running.core.step(message);
                Some(true)
            }
            Err(_) if self.disk.is_crashed() => {
                self.running = None;
                None
            }
            Err(_) => Some(false),
        }
    }

    /// Takes the core's outputs and carries out all but the writes, which wait for [`Self::persist`].
    pub(super) fn poll(&mut self) -> Vec<Effect> {
        if self.disk.is_crashed() {
            self.running = None;
        }
        let mut wanted = false;
        let mut effects = Vec::new();
        let Some(running) = &mut self.running else {
            return effects;
        };
        for output in running.core.poll() {
            match output {
                Output::Send(message) => {
                    let metadata = message.get_snapshot().get_metadata();
                    let file = (metadata.index > 0).then(|| {
                        // A file that is gone or unreadable is an empty transfer, which the receiver refuses.
                        let file = self.snapshots.open(metadata.index, metadata.term);
                        file.and_then(|file| file.chunk(0)).unwrap_or_default()
                    });
                    effects.push(Effect::Send(Box::new(message), file));
                }
                Output::Persist(job) => running.jobs.push_back(job),
                Output::Apply(entries) => {
                    for entry in entries {
                        assert!(
                            entry.index == running.at.index + 1,
                            "entries are applied in order, without gaps"
                        );
                        (running.at.index, running.at.term) = (entry.index, entry.term);
                        if let Some((conf_state, members)) = entry.conf {
                            (running.at.conf_state, running.at.members) = (conf_state, members);
                        }
                        if !entry.data.is_empty() {
                            running.state.push((entry.index, entry.data.clone()));
                            effects.push(Effect::Applied(entry.index, entry.nonce, entry.data));
                        }
                    }
                }
                Output::Restore(meta) => {
                    assert!(
                        meta.index > running.at.index,
                        "a snapshot never takes the state back"
                    );
                    let file = self
                        .snapshots
                        .open(meta.index, meta.term)
                        .expect("a durable snapshot can be read");
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut file.reader().expect("verified"), &mut bytes)
                        .expect("verified");
                    running.state = decode(&bytes);
                    running.last_snapshot = meta.index;
                    running.at = meta;
                }
                Output::ReadReady { context, index } => running.reads.entry(index).or_default().push(context),
                Output::SnapshotWanted => wanted = true,
                Output::Obsolete { below } => self.snapshots.remove_below(below),
            }
        }
        while let Some(first) = running.reads.first_entry()
            && *first.key() <= running.at.index
        {
            effects.extend(first.remove().into_iter().map(Effect::Read));
        }
        if wanted {
            self.snapshot();
        }
        effects
    }
}
