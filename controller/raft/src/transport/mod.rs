//! What leaves this member: one ordered stream of messages to each peer, and snapshots apart from it.
//!
//! Owned by the node loop, which never waits here: a queue that is full drops the message and says so, and raft sends
//! again. The tasks run on the tokio runtime in which the member was started.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prost_raft::Message as _;
use raft::eraftpb::{Message, MessageType};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connector::Connector;
use crate::host::{Host, Outlet};
use crate::member::Member;
use crate::node::Event;
use crate::snapshot::SnapshotStore;

mod peer;
mod snapshot;

/// Messages and bytes that may wait for one peer.
const MAX_QUEUE: usize = 4096;
const MAX_QUEUE_BYTES: usize = 64 << 20;

/// What every task of the transport needs.
pub(crate) struct PeerContext {
    pub(crate) id: u64,
    pub(crate) cluster_id: String,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) events: Outlet<Event>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) host: Host,
    /// Where this member is reached, as the membership says; empty as long as that does not have it.
    pub(crate) addr: Mutex<String>,
}

impl PeerContext {
    fn own_addr(&self) -> String {
        self.addr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the node loop; when it has ended nobody needs to know.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// The sending side of one peer.
struct Peer {
    member: Member,
    queue: mpsc::Sender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    /// A snapshot on its way.
    snapshot: Option<JoinHandle<()>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(task) = &self.snapshot {
            task.abort();
        }
    }
}

/// The streams to all peers.
pub(crate) struct Transport {
    context: Arc<PeerContext>,
    runtime: Handle,
    peers: BTreeMap<u64, Peer>,
    /// Members that have said who they are before this one has learnt of them: a leader may have come to the group by entries that are
    /// still on their way, and waits for answers before it sends those.
    strangers: BTreeMap<u64, Member>,
}

impl Transport {
    /// A transport without peers; must be called in a tokio runtime.
    pub(crate) fn new(context: PeerContext) -> Self {
        Self {
            context: Arc::new(context),
            runtime: Handle::current(),
            peers: BTreeMap::new(),
            strangers: BTreeMap::new(),
        }
    }

    /// Follows the membership: peers that are gone or have moved lose their stream.
    pub(crate) fn update(&mut self, members: &[Member]) {
        self.strangers
            .retain(|id, _| !members.iter().any(|member| member.id == *id));
        if let Some(me) = members.iter().find(|member| member.id == self.context.id) {
            let mut addr = self.context.addr.lock().unwrap_or_else(PoisonError::into_inner);
            me.addr.clone_into(&mut addr);
        }
        let members: Vec<Member> = members.iter().chain(self.strangers.values()).cloned().collect();
        self.peers
            .retain(|id, peer| members.iter().any(|m| m.id == *id && m.addr == peer.member.addr));
        for member in &members {
            if member.id != self.context.id && !self.peers.contains_key(&member.id) {
                let (queue, inbox) = mpsc::channel(MAX_QUEUE);
                let queued = Arc::new(AtomicUsize::new(0));
                let task = peer::run(self.context.clone(), member.clone(), inbox, queued.clone());
                let task = self.runtime.spawn(task);
                self.peers.insert(
                    member.id,
                    Peer {
                        member: member.clone(),
                        queue,
                        queued,
                        task,
                        snapshot: None,
                    },
                );
            }
        }
    }

    /// Somebody who is no member as far as this one knows speaks for a member: it can be answered from now on. Of these only the
    /// newest is kept, as only a leader needs it.
    pub(crate) fn introduce(&mut self, stranger: Member, members: &[Member]) {
        if self.strangers.get(&stranger.id) != Some(&stranger) {
            self.strangers = BTreeMap::from([(stranger.id, stranger)]);
            self.update(members);
        }
    }

    /// Queues a message for its peer.
    pub(crate) fn send(&mut self, message: Message) {
        let to = message.to;
        let Some(peer) = self.peers.get_mut(&to) else {
            // Not a member (any more), or one that this member has not learnt of yet.
            self.context.tell(Event::Unreachable { id: to });
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.context.tell(Event::SnapshotSent { to, ok: false });
            }
            return;
        };
        if message.get_msg_type() == MessageType::MsgSnapshot {
            if let Some(before) = peer.snapshot.take() {
                before.abort();
            }
            let task = snapshot::send(self.context.clone(), peer.member.clone(), message);
            peer.snapshot = Some(self.runtime.spawn(task));
            return;
        }
        let bytes = message.encode_to_vec();
        let len = bytes.len();
        let full = peer.queued.fetch_add(len, Ordering::AcqRel) + len > MAX_QUEUE_BYTES;
        if full || peer.queue.try_send(bytes).is_err() {
            peer.queued.fetch_sub(len, Ordering::AcqRel);
            self.context.tell(Event::Unreachable { id: to });
        }
    }
}
