//! The log thread: takes persist jobs, writes all that wait, syncs once, tells the raft thread.
//!
//! Started by the node. It is the only one that touches the segments of a running member.

use super::{Record, Wal};
use crate::error::Error;
use crate::host::{Host, Inbox, Outlet, Running};

/// Largest group of records, in encoded bytes of entries, that one sync covers.
const MAX_GROUP: usize = 8 << 20;

/// Records that must reach the disk in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PersistJob {
    /// Number of raft's ready; reported when this and all before are durable.
    pub(crate) number: u64,
    /// What to write.
    pub(crate) records: Vec<Record>,
    /// Whether a promise to others depends on it; if not, the next sync may cover it.
    pub(crate) sync: bool,
}

impl PersistJob {
    fn size(&self) -> usize {
        let entry = |record: &Record| {
            if let Record::Entry(e) = record {
                e.data.len()
            } else {
                0
            }
        };
        self.records.iter().map(entry).sum()
    }
}

/// Result of a group: the last job's number, or what failed.
pub(crate) type OnDone = Box<dyn Fn(Result<u64, String>) + Send>;

/// The running log thread; dropping the sender ends it after what it has been given.
pub(crate) struct Committer {
    jobs: Option<Outlet<PersistJob>>,
    running: Option<Running>,
}

impl Committer {
    /// Starts the thread; `on_done` is called after every group.
    pub(crate) fn start(host: &Host, wal: Wal, on_done: OnDone) -> Result<Self, Error> {
        let (jobs, inbox) = host.queue();
        let running = host.start("raft-log", run(host.clone(), wal, inbox, on_done))?;
        Ok(Self {
            jobs: Some(jobs),
            running: Some(running),
        })
    }

    /// Queues a job. After a failure it is ignored: `on_done` has said so already.
    pub(crate) fn submit(&self, job: PersistJob) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Writes out what is queued and ends the thread.
    pub(crate) async fn stop(&mut self) {
        self.jobs = None;
        if let Some(running) = self.running.take() {
            running.ended().await;
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(running) = self.running.take() {
            running.join();
        }
    }
}

async fn run(host: Host, mut wal: Wal, mut inbox: Inbox<PersistJob>, on_done: OnDone) {
    while let Some(mut group) = inbox.next().await {
        host.disk_pause().await;
        let mut size = group.size();
        while size < MAX_GROUP
            && let Some(job) = inbox.try_next()
        {
            size += job.size();
            group.number = group.number.max(job.number);
            group.sync |= job.sync;
            group.records.extend(job.records);
        }
        #[cfg(feature = "planted-bugs")]
        if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetVote) {
            group
                .records
                .retain(|record| !matches!(record, Record::HardState(_)));
        }
        match wal.append(&group.records, group.sync) {
            Ok(()) => {
                host.disk_pause().await;
                on_done(Ok(group.number));
            }
            Err(error) => {
                let source = std::error::Error::source(&error)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                on_done(Err(format!("{error}: {source}")));
                return;
            }
        }
    }
    // Unsynced commit indexes only make the next start faster; an error here loses nothing.
    if let Err(error) = wal.append(&[], true) {
        tracing::warn!(%error, "could not sync the log at shutdown");
    }
}
