//! Writing entries and promising reads.
//!
//! An entry is one transaction: it holds only if the leader's key is still the one that this manager made (the fence: a leader
//! that was paused and lost its lease writes nothing more) and the head is still where this manager left it. A request whose
//! answer was lost is sent again as it is: if the first one was done after all, the second fails and finds the entry there.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnResponse};
use pontoon_raft::{ProposeError, ReadError};
use tokio::sync::{Mutex, oneshot};
use tracing::{debug, warn};

use crate::client::{Failure, classify, describe};
use crate::keys;
use crate::log::{Shared, key_values};

/// Pause before a request whose answer was lost is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// Where the leader left the log. One proposal at a time.
#[derive(Default)]
pub(crate) struct Proposer {
    head: Mutex<Head>,
}

/// The last entry, and the revision that wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) index: u64,
    pub(crate) revision: i64,
}

/// What one try came to.
enum Tried {
    Written(Head),
    /// The leader's key is another's, and the entry is not there: it never will be.
    Deposed,
    /// Something else wrote under our term: nothing that this program does.
    Foreign,
}

impl Shared {
    /// The log's head as etcd has it now.
    pub(crate) async fn head(&self) -> Result<Head, etcd_client::Error> {
        let found = self.etcd.kv().get(self.keys.head(), None).await?;
        // A log without a head is read as empty; its first entry then fails its guard.
        Ok(found
            .kvs()
            .first()
            .and_then(|kv| self.head_of(kv))
            .unwrap_or_default())
    }

    fn head_of(&self, kv: &KeyValue) -> Option<Head> {
        Some(Head {
            index: keys::number(&self.keys.head(), kv.value()).ok()?,
            revision: kv.mod_revision(),
        })
    }

    /// Called when a reign begins, with what was read in it.
    pub(crate) async fn set_head(&self, head: Head) {
        *self.proposer.head.lock().await = head;
    }

    /// Returns when no entry is on its way.
    pub(crate) async fn settle(&self) {
        drop(self.proposer.head.lock().await);
    }

    /// Writes one entry and applies it.
    pub(crate) async fn propose(&self, data: &[u8]) -> Result<u64, ProposeError> {
        let mut head = self.proposer.head.lock().await;
        let leader = || self.view.leadership().borrow().leader.clone();
        let term = self
            .view
            .reign()
            .ok_or_else(|| ProposeError::NotLeader { leader: leader() })?;
        let entry = self.keys.entry(head.index + 1);
        let framed = keys::frame(&entry, term, data, self.seal.as_ref());
        let mut asked_before = false;
        loop {
            match self.try_entry(term, *head, &framed).await {
                Ok(Tried::Written(written)) => {
                    *head = written;
                    self.applier.apply(written.index, data);
                    if !self.has_applied(written.index).await {
                        return Err(ProposeError::OutcomeUnknown);
                    }
                    return Ok(written.index);
                }
                Ok(Tried::Deposed) => return Err(ProposeError::NotLeader { leader: leader() }),
                Ok(Tried::Foreign) => {
                    warn!(
                        index = head.index,
                        "another program writes to this cluster's keys in etcd"
                    );
                    return Err(ProposeError::OutcomeUnknown);
                }
                Err(error) => match classify(&error) {
                    // An answer that says so is the first one's too: nothing of this size was ever written.
                    Failure::TooLarge => {
                        return Err(ProposeError::TooLarge {
                            size: data.len(),
                            max: data.len().saturating_sub(1),
                        });
                    }
                    Failure::Full if !asked_before => {
                        return Err(ProposeError::Refused {
                            reason: "etcd's database has reached its quota; compact and defragment it, or raise the quota".to_owned(),
                        });
                    }
                    Failure::Refused(reason) if !asked_before => {
                        return Err(ProposeError::Refused { reason });
                    }
                    Failure::Full | Failure::Refused(_) | Failure::Unclear(_) => {
                        debug!(
                            index = head.index + 1,
                            error = describe(&error),
                            "an entry is sent again"
                        );
                    }
                },
            }
            asked_before = true;
            if self.view.reign() != Some(term) {
                return Err(ProposeError::OutcomeUnknown);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until an entry is applied here; false when this manager ends before.
    async fn has_applied(&self, index: u64) -> bool {
        let mut stopped = self.view.stopped();
        tokio::select! {
            () = self.applier.wait(index) => true,
            _ = stopped.wait_for(Option::is_some) => false,
        }
    }

    async fn try_entry(&self, term: i64, head: Head, framed: &[u8]) -> Result<Tried, etcd_client::Error> {
        let keys = &self.keys;
        let index = head.index + 1;
        let txn = Txn::new()
            .when([
                Compare::create_revision(keys.leader(), CompareOp::Equal, term),
                Compare::mod_revision(keys.head(), CompareOp::Equal, head.revision),
            ])
            .and_then([
                TxnOp::put(keys.entry(index), framed, None),
                TxnOp::put(keys.head(), index.to_string(), None),
            ])
            .or_else([
                TxnOp::get(keys.entry(index), None),
                TxnOp::get(keys.leader(), None),
            ]);
        let answer = self.etcd.kv().txn(txn).await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            return Ok(Tried::Written(Head { index, revision }));
        }
        Ok(refused(&answer, index, term, framed))
    }
}

/// Why a guard failed: an earlier try of the same entry was done, or we lead no more.
fn refused(answer: &TxnResponse, index: u64, term: i64, framed: &[u8]) -> Tried {
    let mut found = answer.op_responses().into_iter().map(key_values);
    let entry = found.next().unwrap_or_default();
    let leader = found.next().unwrap_or_default();
    if let Some(entry) = entry.first().filter(|entry| entry.value() == framed) {
        // Only we write entries of our term, and one at a time.
        return Tried::Written(Head {
            index,
            revision: entry.mod_revision(),
        });
    }
    match leader.first() {
        Some(leader) if leader.create_revision() == term => Tried::Foreign,
        _ => Tried::Deposed,
    }
}

/// Reads that wait share one question to etcd.
#[derive(Clone, Default)]
pub(crate) struct Reads(Arc<StdMutex<Waiting>>);

type Answer = oneshot::Sender<Result<(), ReadError>>;

#[derive(Default)]
struct Waiting {
    asking: bool,
    next: Vec<Answer>,
}

impl Reads {
    /// Returns when everything that was written before this call is applied here.
    pub(crate) async fn barrier(&self, shared: &Arc<Shared>) -> Result<(), ReadError> {
        let (answer, result) = oneshot::channel();
        let begin = {
            let mut waiting = self.lock();
            waiting.next.push(answer);
            !std::mem::replace(&mut waiting.asking, true)
        };
        if begin {
            tokio::spawn(self.clone().ask(shared.clone()));
        }
        result.await.unwrap_or(Err(ReadError::NoLeader))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks as long as somebody waits. Those who come while a question is on its way need the next one.
    async fn ask(self, shared: Arc<Shared>) {
        loop {
            let batch = {
                let mut waiting = self.lock();
                if waiting.next.is_empty() {
                    waiting.asking = false;
                    return;
                }
                std::mem::take(&mut waiting.next)
            };
            match shared.head().await {
                Ok(head) => {
                    let shared = shared.clone();
                    // The entries may come later than the next batch's question.
                    tokio::spawn(async move {
                        let applied = shared.has_applied(head.index).await;
                        let result = if applied {
                            Ok(())
                        } else {
                            Err(ReadError::ShuttingDown)
                        };
                        answer(batch, &result);
                    });
                }
                Err(error) => {
                    debug!(error = describe(&error), "etcd did not confirm a read");
                    answer(batch, &Err(ReadError::NoLeader));
                }
            }
        }
    }
}

fn answer(batch: Vec<Answer>, result: &Result<(), ReadError>) {
    for waiting in batch {
        // A reader that went away needs no answer.
        let _ = waiting.send(result.clone());
    }
}
