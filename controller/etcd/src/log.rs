//! The handle: opening a log in etcd, and what the controller calls. The tasks behind it are `follow` and `lead`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use pontoon_raft::watch;
use pontoon_raft::{
    Leadership, Member, MembershipError, ProposeError, ReadError, SnapshotWriter, StateMachine, StopReason,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::applier::Applier;
use crate::checkpoint::{Encoded, guarded};
use crate::client::{Etcd, describe};
use crate::config::EtcdConfig;
use crate::error::Error;
use crate::follow;
use crate::keys::{self, Checkpoint, Keys};
use crate::lead::{self, Resign};
use crate::propose::Proposer;
use crate::seal::Seal;
use crate::view::View;

/// Longest wait for one answer; a request that is repeated must fit into a lease twice.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Largest entry: etcd takes requests of 1.5 MiB unless told otherwise, and there is the rest of the transaction.
const MAX_ENTRY: usize = 1_500_000;
/// Index of the checkpoint that a log of a state begins with.
const SEEDED: u64 = 1;

/// What the tasks and the handle share.
pub(crate) struct Shared {
    pub(crate) etcd: Etcd,
    pub(crate) config: EtcdConfig,
    pub(crate) keys: Keys,
    pub(crate) seal: Option<Seal>,
    pub(crate) own: Member,
    pub(crate) view: View,
    pub(crate) applier: Applier,
    pub(crate) proposer: Proposer,
    pub(crate) resign: mpsc::Sender<Resign>,
}

/// A manager's part in a log that lies in etcd. It runs until [`EtcdLog::shutdown`] or its removal.
#[derive(Clone)]
pub struct EtcdLog {
    shared: Arc<Shared>,
    reads: crate::propose::Reads,
    stop: CancellationToken,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl EtcdLog {
    /// Makes the log of a new cluster with this manager as its first.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Unavailable`].
    pub async fn bootstrap(
        config: EtcdConfig,
        cluster: &str,
        own: Member,
        state: impl StateMachine,
    ) -> Result<Self, Error> {
        let (etcd, keys, seal) = connect(&config, cluster).await?;
        let member = keys::encode_member(&own);
        let txn = Txn::new()
            .when([Compare::create_revision(keys.format(), CompareOp::Equal, 0)])
            .and_then([
                TxnOp::put(keys.format(), keys::FORMAT, None),
                TxnOp::put(keys.head(), "0", None),
                TxnOp::put(keys.member(&own.node_id), member.clone(), None),
            ])
            .or_else([TxnOp::get(keys.member(&own.node_id), None)]);
        let answer = etcd.ask(&config, txn).await?;
        // The same member is there only if an earlier try was done whose answer was lost: ids are random.
        let mut found = answer.op_responses().into_iter().flat_map(key_values);
        if !answer.succeeded() && !found.any(|kv| kv.value() == member) {
            return Err(Error::Exists {
                cluster: cluster.to_owned(),
                prefix: config.prefix,
            });
        }
        Ok(Self::start(config, (etcd, keys, seal), own, state))
    }

    /// Makes the log of a cluster with this manager as its only one and a state that is there already; to be opened then.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Unavailable`].
    pub async fn seed(
        config: &EtcdConfig,
        cluster: &str,
        own: &Member,
        state: Box<dyn SnapshotWriter + Send>,
    ) -> Result<(), Error> {
        let (etcd, keys, seal) = connect(config, cluster).await?;
        let exists = || Error::Exists {
            cluster: cluster.to_owned(),
            prefix: config.prefix.clone(),
        };
        let none = Compare::create_revision(keys.format(), CompareOp::Equal, 0);
        let looked = etcd.ask(config, Txn::new().when([none.clone()])).await?;
        if !looked.succeeded() {
            return Err(exists());
        }
        // They count once the format is there.
        let mut encoded = Encoded::start(state);
        let mut count = 0;
        while let Some(put) = encoded.next(&keys, SEEDED, count, seal.as_ref()).await {
            etcd.ask(config, Txn::new().when([none.clone()]).and_then([put]))
                .await?;
            count += 1;
        }
        encoded
            .finish()
            .await
            .map_err(|reason| keys::corrupt(&keys.states(), &reason))?;
        let checkpoint = Checkpoint {
            index: SEEDED,
            chunks: count,
            is_sealed: seal.is_some(),
        };
        let member = keys::encode_member(own);
        let txn = Txn::new()
            .when([none])
            .and_then([
                TxnOp::put(keys.state(), checkpoint.encode(), None),
                TxnOp::put(keys.head(), SEEDED.to_string(), None),
                TxnOp::put(keys.member(&own.node_id), member.clone(), None),
                TxnOp::put(keys.format(), keys::FORMAT, None),
            ])
            .or_else([TxnOp::get(keys.member(&own.node_id), None)]);
        let answer = etcd.ask(config, txn).await?;
        let mut found = answer.op_responses().into_iter().flat_map(key_values);
        if !answer.succeeded() && !found.any(|kv| kv.value() == member) {
            return Err(exists());
        }
        Ok(())
    }

    /// Joins as a further manager.
    ///
    /// # Errors
    /// [`Error::Missing`] when etcd has no such cluster, [`Error::Taken`], [`Error::Unavailable`].
    pub async fn join(
        config: EtcdConfig,
        cluster: &str,
        own: Member,
        state: impl StateMachine,
    ) -> Result<Self, Error> {
        let (etcd, keys, seal) = connect(&config, cluster).await?;
        let others = members(&etcd, &config, &keys, cluster).await?;
        readable(&etcd, &config, &keys, seal.as_ref()).await?;
        if let Some(other) = others
            .iter()
            .find(|m| m.addr == own.addr && m.node_id != own.node_id)
        {
            return Err(Error::Taken {
                addr: own.addr,
                node: other.node_id.clone(),
            });
        }
        let put = TxnOp::put(keys.member(&own.node_id), keys::encode_member(&own), None);
        etcd.ask(&config, Txn::new().and_then([put])).await?;
        Ok(Self::start(config, (etcd, keys, seal), own, state))
    }

    /// Goes on after a restart. A manager that was removed meanwhile stops at once: see [`EtcdLog::stopped`].
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Unavailable`].
    pub async fn open(
        config: EtcdConfig,
        cluster: &str,
        own: Member,
        state: impl StateMachine,
    ) -> Result<Self, Error> {
        let (etcd, keys, seal) = connect(&config, cluster).await?;
        let members = members(&etcd, &config, &keys, cluster).await?;
        readable(&etcd, &config, &keys, seal.as_ref()).await?;
        let known = members.iter().find(|member| member.node_id == own.node_id);
        if known.is_some_and(|known| known.addr != own.addr || known.id != own.id) {
            let key = keys.member(&own.node_id);
            // Who is being removed at this moment does not put itself back.
            let is_there = Compare::create_revision(key.clone(), CompareOp::Greater, 0);
            let put = TxnOp::put(key, keys::encode_member(&own), None);
            etcd.ask(&config, Txn::new().when([is_there]).and_then([put]))
                .await?;
        }
        Ok(Self::start(config, (etcd, keys, seal), own, state))
    }

    fn start(
        config: EtcdConfig,
        (etcd, keys, seal): (Etcd, Keys, Option<Seal>),
        own: Member,
        state: impl StateMachine,
    ) -> Self {
        let (resign, resigns) = mpsc::channel(4);
        let shared = Arc::new(Shared {
            view: View::new(&own),
            applier: Applier::new(state),
            proposer: Proposer::default(),
            etcd,
            config,
            keys,
            seal,
            own,
            resign,
        });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow::run(shared.clone(), stop.clone()));
        tasks.spawn(lead::run(shared.clone(), resigns, stop.clone()));
        Self {
            shared,
            reads: crate::propose::Reads::default(),
            stop,
            tasks: Arc::new(Mutex::new(tasks)),
        }
    }

    /// Appends an entry; answers with its index once the local state machine has applied it. Leader only.
    ///
    /// # Errors
    /// See [`ProposeError`]; only `OutcomeUnknown` leaves open whether the entry was written.
    pub async fn propose(&self, data: Bytes) -> Result<u64, ProposeError> {
        if data.len() > MAX_ENTRY {
            return Err(ProposeError::TooLarge {
                size: data.len(),
                max: MAX_ENTRY,
            });
        }
        if self.stop.is_cancelled() {
            return Err(ProposeError::ShuttingDown);
        }
        self.shared.propose(&data).await
    }

    /// Returns when the local state machine has everything that was written when this was called.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] when etcd does not answer, [`ReadError::ShuttingDown`].
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if self.stop.is_cancelled() {
            return Err(ReadError::ShuttingDown);
        }
        self.reads.barrier(&self.shared).await
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.view.leadership()
    }

    /// All managers, by id. One is reachable while it holds its lease.
    pub fn members(&self) -> Vec<Member> {
        self.members_watch().borrow().as_ref().clone()
    }

    /// Changes of the managers.
    pub fn members_watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.shared.view.members()
    }

    /// Set once when this manager takes part no more.
    pub fn stopped(&self) -> watch::Receiver<Option<StopReason>> {
        self.shared.view.stopped()
    }

    /// Own id.
    pub fn id(&self) -> u64 {
        self.shared.own.id
    }

    /// Bytes that an entry should not exceed; twice as much is still written.
    pub fn entry_budget(&self) -> usize {
        MAX_ENTRY / 2
    }

    /// Takes a manager out for good: another one while leading, or itself.
    ///
    /// # Errors
    /// See [`MembershipError`]; the last manager can't go.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        let members = self.members();
        let member = members.iter().find(|member| member.id == id);
        let member = member.ok_or(MembershipError::NotFound { id })?;
        if members.len() == 1 {
            return Err(MembershipError::LastVoter { id });
        }
        if id == self.shared.own.id {
            if self.shared.view.reign().is_some() {
                self.transfer_leadership(None).await?;
            }
        } else if self.shared.view.reign().is_none() {
            let leader = self.leadership().borrow().leader.clone();
            return Err(ProposeError::NotLeader { leader }.into());
        }
        let delete = TxnOp::delete(self.shared.keys.member(&member.node_id), None);
        let failed = |reason: String| {
            tracing::warn!(node = member.node_id, reason, "can't take a manager off the list");
            MembershipError::Propose(ProposeError::OutcomeUnknown)
        };
        // Others are the leader's to remove, as long as it leads; anybody may go.
        if let Some(term) = self.shared.view.reign().filter(|_| id != self.shared.own.id) {
            guarded(&self.shared, term, vec![delete]).await.map_err(failed)?;
        } else if id == self.shared.own.id {
            let deleted = self.shared.etcd.kv().txn(Txn::new().and_then([delete])).await;
            deleted.map_err(|error| failed(describe(&error)))?;
        } else {
            return Err(ProposeError::NotLeader { leader: None }.into());
        }
        self.shared.view.remove_member(&member.node_id);
        Ok(())
    }

    /// Deletes all that etcd has of the cluster, when its last manager goes. Only who leads, and is alone, may.
    ///
    /// # Errors
    /// [`MembershipError::Propose`].
    pub async fn erase(&self) -> Result<(), MembershipError> {
        let leader = self.leadership().borrow().leader.clone();
        let not_leader = ProposeError::NotLeader { leader };
        let term = self.shared.view.reign().filter(|_| self.members().len() == 1);
        let term = term.ok_or(MembershipError::Propose(not_leader))?;
        let all = TxnOp::delete(self.shared.keys.root(), Some(DeleteOptions::new().with_prefix()));
        guarded(&self.shared, term, vec![all])
            .await
            .map(drop)
            .map_err(|reason| {
                tracing::warn!(reason, "the cluster's keys stay in etcd");
                MembershipError::Propose(ProposeError::OutcomeUnknown)
            })
    }

    /// Gives leadership up, and returns when another manager has it. Nothing happens on one that does not lead.
    ///
    /// # Errors
    /// [`MembershipError::TransferFailed`] when there is no other manager, or none took over.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError> {
        if self.shared.view.reign().is_none() {
            return Ok(());
        }
        let failed = MembershipError::TransferFailed { to };
        if !self.shared.view.another_is_alive() {
            return Err(failed);
        }
        let (done, answer) = oneshot::channel();
        if self.shared.resign.send(Resign(done)).await.is_err() {
            return Err(failed);
        }
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(failed),
        }
    }

    /// Gives the lease back, so that another manager leads at once, and ends. May be called more than once.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
        self.shared.view.stop(StopReason::Shutdown);
    }
}

async fn connect(config: &EtcdConfig, cluster: &str) -> Result<(Etcd, Keys, Option<Seal>), Error> {
    let seal = Seal::read(&config.seal_key_files)?;
    if seal.is_none() {
        tracing::warn!(
            "the cluster's state, with its secrets and the key of its CA, lies in etcd in clear: protect etcd's disks and \
             backups, or seal it with --store-opt seal-key-file"
        );
    }
    if config.cacert.is_none() {
        tracing::warn!(
            "the connection to etcd is not encrypted: use --store-opt cacert on networks that others share"
        );
    }
    let etcd = Etcd::connect(config, REQUEST_TIMEOUT).await?;
    Ok((etcd, Keys::new(&config.prefix, cluster), seal))
}

/// Refuses what is sealed with a key that this manager does not have, before it counts as one.
async fn readable(etcd: &Etcd, config: &EtcdConfig, keys: &Keys, seal: Option<&Seal>) -> Result<(), Error> {
    let newest = GetOptions::new()
        .with_range(keys.entry(u64::MAX))
        .with_sort(SortTarget::Key, SortOrder::Descend)
        .with_limit(1);
    let get = TxnOp::get(keys.entry(0), Some(newest));
    let answer = etcd.ask(config, Txn::new().and_then([get])).await?;
    for kv in answer.op_responses().into_iter().flat_map(key_values) {
        keys::unframe(&String::from_utf8_lossy(kv.key()), kv.value(), seal)?;
    }
    Ok(())
}

/// The managers of a cluster that must be there.
async fn members(etcd: &Etcd, config: &EtcdConfig, keys: &Keys, cluster: &str) -> Result<Vec<Member>, Error> {
    let txn = Txn::new().and_then([
        TxnOp::get(keys.format(), None),
        TxnOp::get(keys.member(""), Some(GetOptions::new().with_prefix())),
    ]);
    let answer = etcd.ask(config, txn).await?;
    let mut answers = answer.op_responses().into_iter().map(key_values);
    let format = answers.next().unwrap_or_default();
    let members = answers.next().unwrap_or_default();
    match format.first().map(KeyValue::value) {
        None => Err(Error::Missing {
            cluster: cluster.to_owned(),
            prefix: config.prefix.clone(),
        }),
        Some(format) if format != keys::FORMAT.as_bytes() => Err(Error::Format {
            found: String::from_utf8_lossy(format).into_owned(),
            known: keys::FORMAT,
        }),
        Some(_) => members
            .iter()
            .map(|kv| keys::decode_member(kv.key(), kv.value()))
            .collect(),
    }
}

/// The keys that one operation of a transaction found.
pub(crate) fn key_values(answer: TxnOpResponse) -> Vec<KeyValue> {
    match answer {
        TxnOpResponse::Get(mut found) => found.take_kvs(),
        _ => Vec::new(),
    }
}
