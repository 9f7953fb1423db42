//! What runs only while this manager leads, and the loop that starts and ends it.
//!
//! Nothing of it outlives a term: a new leader works from the replicated state alone. Sessions end with the leadership;
//! agents then look for the new leader. Called by [`crate::Manager`].

use std::sync::Arc;

use pontoon_raft::Leadership;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::ca::rotation::{self, Orders};
use crate::checks::Checks;
use crate::core::Core;
use crate::dispatcher::{Assigner, Beats, Pace, Sessions, run_beats, run_fanout};
use crate::images::Sources;
use crate::logs::Broker;
use crate::writer::{self, Writer};
use crate::{members, roles};

/// What exists while this manager leads.
pub(crate) struct Leading {
    pub(crate) writer: Writer,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) beats: Arc<Beats>,
    pub(crate) assignments: Assigner,
    pub(crate) pace: Arc<Pace>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) sources: Sources,
    /// Checks of networks that wait for nodes' answers.
    pub(crate) checks: Checks,
    /// Which nodes are to renew their certificates.
    pub(crate) orders: Orders,
    /// Fires when leadership is lost.
    pub(crate) stop: CancellationToken,
}

/// Follows the log's leadership until `stop`.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let mut leadership = core.log.leadership();
    let mut reign: Option<Reign> = None;
    loop {
        let Leadership { term, is_leader, .. } = leadership.borrow_and_update().clone();
        // A term that was lost and won again in between is another reign.
        if let Some(ended) = reign.take_if(|reign| !is_leader || reign.term != term) {
            ended.end(&core).await;
        }
        if is_leader && reign.is_none() {
            reign = Some(Reign::begin(&core, term));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() { break },
        }
    }
    if let Some(ended) = reign {
        ended.end(&core).await;
    }
}

/// One time of leading.
struct Reign {
    term: u64,
    leading: Arc<Leading>,
    tasks: JoinSet<()>,
}

impl Reign {
    fn begin(core: &Arc<Core>, term: u64) -> Self {
        info!(term, "this manager leads");
        let stop = CancellationToken::new();
        let (writer, inbox) = Writer::new();
        let sessions = Arc::new(Sessions::new(core.host.clone()));
        let beats = Arc::new(Beats::new(&core.snapshot(), tokio::time::Instant::now()));
        let broker = Arc::new(Broker::new(sessions.clone()));
        let pace = Arc::new(Pace::new(tokio::time::Instant::now()));
        let leading = Arc::new(Leading {
            writer,
            sessions,
            beats,
            assignments: Assigner::default(),
            pace: pace.clone(),
            broker,
            sources: Sources::new(tokio::time::Instant::now()),
            checks: Checks::default(),
            orders: Orders::default(),
            stop: stop.clone(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(writer::run(core.clone(), inbox, pace, stop.clone()));
        tasks.spawn(run_fanout(core.clone(), leading.clone()));
        tasks.spawn(run_beats(core.clone(), leading.clone()));
        tasks.spawn(members::run(core.clone(), leading.clone()));
        tasks.spawn(roles::run(core.clone(), leading.clone()));
        tasks.spawn(rotation::run(core.clone(), leading.clone()));
        core.set_leading(Some(leading.clone()));
        Self { term, leading, tasks }
    }

    async fn end(mut self, core: &Core) {
        info!(term = self.term, "this manager no longer leads");
        core.set_leading(None);
        self.leading.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
