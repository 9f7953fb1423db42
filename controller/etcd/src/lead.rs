//! The lease and the campaign: who leads, and for how long it may believe so.
//!
//! A manager that runs holds a lease; two keys hang on it: that it is alive, and, for one of them, that it leads. The revision
//! that made the leader's key is the term. By its own clock a leader stops believing when a lease's length has gone since it
//! *sent* the last keep-alive that was answered, which is never later than etcd lets the lease end. What it writes is guarded
//! by the term in any case.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::checkpoint;
use crate::client::describe;
use crate::keys;
use crate::log::Shared;

/// Pause before etcd is asked again after a failure.
const RETRY: Duration = Duration::from_millis(300);

/// Asks the leader to give up; answered with whether another took over.
pub(crate) struct Resign(pub(crate) oneshot::Sender<bool>);

/// How a campaign or a reign ended.
enum End {
    Stop,
    LeaseLost,
    Again,
    Resign(oneshot::Sender<bool>),
}

/// Holds a lease and campaigns until `stop`; then gives the lease back.
pub(crate) async fn run(shared: Arc<Shared>, mut resigns: mpsc::Receiver<Resign>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let lease = tokio::select! {
            () = stop.cancelled() => return,
            lease = Lease::grant(&shared) => lease,
        };
        let lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                debug!(error = describe(&error), "etcd grants no lease");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(RETRY) => continue,
                }
            }
        };
        let id = lease.id;
        let lost = CancellationToken::new();
        let keeping = tokio::spawn(lease.keep(shared.clone(), lost.clone()));
        campaign(&shared, id, &mut resigns, &lost, &stop).await;
        keeping.abort();
        // Ends both keys at once; a lease that is gone already has ended them.
        if timeout(shared.config.lease, shared.etcd.leases().revoke(id))
            .await
            .is_err()
        {
            debug!("etcd did not take the lease back; it ends by itself");
        }
    }
}

struct Lease {
    id: i64,
    ttl: Duration,
    until: Instant,
}

impl Lease {
    /// Takes a lease and shows that this manager is alive.
    async fn grant(shared: &Shared) -> Result<Self, etcd_client::Error> {
        let asked = Instant::now();
        let seconds = i64::try_from(shared.config.lease.as_secs()).unwrap_or(i64::MAX);
        let granted = shared.etcd.leases().grant(seconds, None).await?;
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        let lease = Self {
            id: granted.id(),
            ttl,
            until: asked + ttl,
        };
        let alive = shared.keys.alive(&shared.own.node_id);
        let options = PutOptions::new().with_lease(lease.id);
        shared.etcd.kv().put(alive, "", Some(options)).await?;
        Ok(lease)
    }

    /// Renews until that fails for the lease's length, or etcd says that it is gone; then `lost` fires.
    async fn keep(mut self, shared: Arc<Shared>, lost: CancellationToken) {
        let pace = self.ttl / 3;
        let mut stream = None;
        loop {
            let sent = Instant::now();
            let renewed = tokio::select! {
                () = sleep_until(self.until) => break,
                renewed = timeout(pace, renew(&shared, self.id, stream.take())) => renewed,
            };
            match renewed {
                Ok(Ok(Some((open, 1..)))) => {
                    self.until = sent + self.ttl;
                    stream = Some(open);
                    sleep(pace.saturating_sub(sent.elapsed())).await;
                }
                Ok(Ok(Some((_, _)))) => break,
                Ok(Ok(None)) | Err(_) => sleep(RETRY.min(pace)).await,
                Ok(Err(error)) => {
                    debug!(error = describe(&error), "a lease was not renewed");
                    sleep(RETRY.min(pace)).await;
                }
            }
            if Instant::now() >= self.until {
                break;
            }
        }
        warn!("the lease in etcd is lost; another manager may lead");
        lost.cancel();
    }
}

type Stream = (LeaseKeeper, LeaseKeepAliveStream);

/// One renewal; the stream to go on with and the seconds left. None when etcd ended the stream.
async fn renew(
    shared: &Shared,
    id: i64,
    stream: Option<Stream>,
) -> Result<Option<(Stream, i64)>, etcd_client::Error> {
    let Some((mut keeper, mut answers)) = stream else {
        // Opening sends the first keep-alive and takes its answer; a lease that is gone is an error here.
        return match shared.etcd.leases().keep_alive(id).await {
            Ok(open) => Ok(Some((open, 1))),
            Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(None),
            Err(error) => Err(error),
        };
    };
    keeper.keep_alive().await?;
    let answer = answers.message().await?;
    Ok(answer.map(|answer| ((keeper, answers), answer.ttl())))
}

/// Campaigns and leads, again and again, until the lease is lost or `stop`.
async fn campaign(
    shared: &Arc<Shared>,
    lease: i64,
    resigns: &mut mpsc::Receiver<Resign>,
    lost: &CancellationToken,
    stop: &CancellationToken,
) {
    loop {
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => End::Stop,
            () = lost.cancelled() => End::LeaseLost,
            end = one_round(shared, lease, resigns) => end,
        };
        shared.view.end_reign();
        match end {
            End::Stop | End::LeaseLost => return,
            End::Again => {}
            End::Resign(answer) => {
                // The others had the leader's key deleted before their eyes; who resigns waits for one of them.
                let mut leadership = shared.view.leadership();
                let another =
                    leadership.wait_for(|now| now.leader.as_ref().is_some_and(|l| l.id != shared.own.id));
                let taken = timeout(shared.config.lease, another).await;
                // Who asked may have gone away.
                let _ = answer.send(matches!(taken, Ok(Ok(_))));
            }
        }
    }
}

/// Waits until nobody leads, tries, and leads if it was first.
async fn one_round(shared: &Arc<Shared>, lease: i64, resigns: &mut mpsc::Receiver<Resign>) -> End {
    let mut leadership = shared.view.leadership();
    let own = shared.own.node_id.as_str();
    let free =
        |now: &pontoon_raft::Leadership| now.leader.as_ref().is_none_or(|leader| leader.node_id == own);
    if leadership.wait_for(free).await.is_err() {
        return End::Stop;
    }
    let term = match claim(shared, lease).await {
        Ok(Some(term)) => term,
        Ok(None) => {
            // Another was faster; the watch will show it.
            let _ = timeout(RETRY, leadership.changed()).await;
            return End::Again;
        }
        Err(error) => {
            debug!(error = describe(&error), "can't campaign");
            sleep(RETRY).await;
            return End::Again;
        }
    };
    // What former leaders wrote comes before anything of ours.
    let head = loop {
        match shared.head().await {
            Ok(head) => break head,
            Err(_) => sleep(RETRY).await,
        }
    };
    shared.applier.wait(head.index).await;
    shared.set_head(head).await;
    info!(term, "leads, by a lease in etcd");
    shared.view.begin_reign(&shared.own, term);
    // Ends with this round, also when the round itself is given up.
    let mut checkpoints = JoinSet::new();
    checkpoints.spawn(checkpoint::run(shared.clone(), term));
    let deposed = async {
        // The sender lives in `shared`.
        let _ = leadership.wait_for(|now| !now.is_leader).await;
    };
    tokio::select! {
        () = deposed => End::Again,
        Some(Resign(answer)) = resigns.recv() => {
            // What asked for this may be the entry on its way: its caller is answered first.
            shared.settle().await;
            give_up(shared, term).await;
            shared.view.end_reign();
            End::Resign(answer)
        }
    }
}

/// Makes the leader's key if there is none; the term. A key of an earlier life of this manager is taken over: the lock on its
/// data folder says that that one is dead.
async fn claim(shared: &Shared, lease: i64) -> Result<Option<i64>, etcd_client::Error> {
    let key = shared.keys.leader();
    let value = keys::encode_member(&shared.own);
    let put = TxnOp::put(key.clone(), value, Some(PutOptions::new().with_lease(lease)));
    let txn = Txn::new()
        .when([
            Compare::create_revision(key.clone(), CompareOp::Equal, 0),
            // A manager that was taken off the list does not lead.
            Compare::create_revision(shared.keys.member(&shared.own.node_id), CompareOp::Greater, 0),
        ])
        .and_then([put])
        .or_else([TxnOp::get(key.clone(), None)]);
    let answer = shared.etcd.kv().txn(txn).await?;
    if answer.succeeded() {
        return Ok(answer.header().map(etcd_client::ResponseHeader::revision));
    }
    let found: Vec<_> = answer
        .op_responses()
        .into_iter()
        .flat_map(crate::log::key_values)
        .collect();
    let Some(holder) = found.first() else {
        return Ok(None);
    };
    let is_ours =
        keys::decode_member(holder.key(), holder.value()).is_ok_and(|m| m.node_id == shared.own.node_id);
    if !is_ours {
        return Ok(None);
    }
    if holder.lease() == lease {
        // Our own claim, whose answer was lost.
        return Ok(Some(holder.create_revision()));
    }
    give_up(shared, holder.create_revision()).await;
    Ok(None)
}

/// Deletes the leader's key of one term.
async fn give_up(shared: &Shared, term: i64) {
    let key = shared.keys.leader();
    let txn = Txn::new()
        .when([Compare::create_revision(key.clone(), CompareOp::Equal, term)])
        .and_then([TxnOp::delete(key, None)]);
    if let Err(error) = shared.etcd.kv().txn(txn).await {
        debug!(
            error = describe(&error),
            "the leader's key stays until its lease ends"
        );
    }
}
