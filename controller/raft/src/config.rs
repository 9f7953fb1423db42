//! Settings of one member. Filled in by the controller, checked once when the member starts.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::host::Host;
use crate::seal::Keyring;

/// Settings of one member of the raft group.
#[derive(Debug, Clone)]
pub struct Config {
    /// Raft id of this member: random, never 0, never used twice ([`crate::Member::random_id`]).
    pub id: u64,
    /// Id of the cluster; files and messages of another cluster are refused. At most 64 bytes.
    pub cluster_id: String,
    /// Folder of the log and the snapshots, created if missing; one process at a time.
    pub dir: PathBuf,
    /// Data keys that log and snapshots are sealed with; none: they are written in clear.
    pub keys: Option<Keyring>,
    /// host:port where the others reach this member.
    pub advertise: String,
    /// Node id of this manager.
    pub node_id: String,
    /// Raft ids of a group that this one replaces, for [`crate::Raft::seed`]: they are told that they were removed.
    pub retired: Vec<u64>,
    /// Length of a raft tick.
    pub tick: Duration,
    /// Ticks without a leader before an election; the real timeout is drawn from one to two times this.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Entries after which a snapshot is taken.
    pub snapshot_every: u64,
    /// Bytes of entries after which a snapshot is taken, whatever their number; as many as the newest one had if that is more.
    pub snapshot_bytes: u64,
    /// Entries kept in the log behind a snapshot for followers that are a little late.
    pub keep_entries: u64,
    /// Largest proposal in bytes.
    pub max_proposal: usize,
    /// Size at which the write-ahead log goes on in a new segment.
    pub segment_bytes: u64,
    /// How long a linearizable read tries to find a leader.
    pub read_timeout: Duration,
    /// The machine beneath.
    pub host: Host,
}

impl Config {
    /// Settings with default timers: 50 ms ticks, heartbeat every 200 ms, election after 0.5 to 1 s.
    pub fn new(
        id: u64,
        cluster_id: impl Into<String>,
        node_id: impl Into<String>,
        dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            id,
            cluster_id: cluster_id.into(),
            dir: dir.into(),
            keys: None,
            advertise: String::new(),
            retired: Vec::new(),
            node_id: node_id.into(),
            tick: Duration::from_millis(50),
            election_ticks: 10,
            heartbeat_ticks: 4,
            snapshot_every: 10_000,
            snapshot_bytes: 64 << 20,
            keep_entries: 2_000,
            max_proposal: 4 << 20,
            segment_bytes: 64 << 20,
            read_timeout: Duration::from_secs(5),
            host: Host::default(),
        }
    }

    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |what: &'static str| Err(Error::Config { what });
        if self.id == 0 {
            return refuse("the raft id must not be 0");
        }
        if self.cluster_id.is_empty() || self.cluster_id.len() > 64 {
            return refuse("the cluster id must have 1 to 64 bytes");
        }
        if self.tick.is_zero() {
            return refuse("the tick must not be 0");
        }
        if self.heartbeat_ticks == 0 || self.election_ticks < 2 * self.heartbeat_ticks {
            return refuse("the election timeout must be at least twice the heartbeat");
        }
        if self.snapshot_every == 0 || self.snapshot_bytes == 0 {
            return refuse("the snapshot interval must not be 0");
        }
        if self.segment_bytes < 64 << 10 {
            return refuse("a log segment must have at least 64 KiB");
        }
        if self.max_proposal == 0 || self.max_proposal > 8 << 20 {
            return refuse("the largest proposal must be between 1 byte and 8 MiB");
        }
        Ok(())
    }
}
