//! Watch: ordered changes from a version on; all objects first when none is asked for, or when it is too old (or then an error,
//! for those who ask for that).

use std::collections::HashSet;
use std::sync::Arc;

use pontoon_proto::v1::{WatchRequest, WatchResponse};
use pontoon_store::{Kind, Resync, Snapshot};
use tokio::sync::mpsc;
use tonic::Status;

use super::view;
use crate::core::Core;

/// Messages to one watcher that may wait.
const BUFFER: usize = 64;
/// Objects in one message of a full listing.
const CHUNK: usize = 500;

/// Starts a watch; it runs until the client goes.
pub(super) async fn start(
    core: &Arc<Core>,
    request: WatchRequest,
) -> Result<mpsc::Receiver<Result<WatchResponse, Status>>, Status> {
    let kinds = kinds(&request.kinds)?;
    let snapshot = core.read().await?;
    let (out, receiver) = mpsc::channel(BUFFER);
    if request.exact && request.since != 0 {
        core.replica
            .store()
            .changes_since(request.since)
            .map_err(compacted)?;
    }
    let watcher = Watcher {
        core: core.clone(),
        kinds,
        exact: request.exact,
        out,
    };
    tokio::spawn(async move {
        // Ends when the client is gone.
        let _ = watcher.run(&snapshot, request.since).await;
    });
    Ok(receiver)
}

fn compacted(error: Resync) -> Status {
    Status::out_of_range(error.to_string())
}

fn kinds(names: &[String]) -> Result<HashSet<Kind>, Status> {
    let all = [
        Kind::Cluster,
        Kind::Node,
        Kind::Network,
        Kind::Service,
        Kind::Task,
    ];
    if names.is_empty() {
        return Ok(all.into());
    }
    let kind = |name: &String| {
        let unknown = || Status::invalid_argument(format!("there are no objects of kind {name:?}"));
        all.into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(unknown)
    };
    names.iter().map(kind).collect()
}

/// The client is gone, or was told why its watch ends.
struct Gone;

struct Watcher {
    core: Arc<Core>,
    kinds: HashSet<Kind>,
    exact: bool,
    out: mpsc::Sender<Result<WatchResponse, Status>>,
}

impl Watcher {
    async fn run(self, snapshot: &Snapshot, since: u64) -> Result<(), Gone> {
        let mut versions = self.core.replica.versions();
        let mut at = if since == 0 {
            self.list(snapshot, false).await?
        } else {
            since
        };
        loop {
            versions.borrow_and_update();
            at = self.follow(at).await?;
            tokio::select! {
                biased;
                () = self.out.closed() => return Err(Gone),
                changed = versions.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Sends what happened after `at`, or everything if that is no longer known; the version reached.
    async fn follow(&self, at: u64) -> Result<u64, Gone> {
        let applied = match self.core.replica.store().changes_since(at) {
            Ok(applied) => applied,
            Err(gone) if self.exact => {
                // It has seen all up to `at`: there it may begin anew.
                let _ = self.out.send(Err(compacted(gone))).await;
                return Err(Gone);
            }
            Err(_) => return self.list(&self.core.snapshot(), true).await,
        };
        let mut reached = at;
        for applied in applied {
            reached = applied.version;
            let managers = view::Managers::new(&self.core);
            let wanted = applied
                .events
                .iter()
                .filter(|event| self.kinds.contains(&event.object().kind()));
            let changes: Vec<_> = wanted.map(|event| view::event(event, &managers)).collect();
            if !changes.is_empty() {
                self.send(WatchResponse {
                    version: applied.version,
                    changes,
                    resync: false,
                })
                .await?;
            }
        }
        Ok(reached)
    }

    /// Sends all objects. The version stands in each message, but only the last makes it whole: a client that resumes
    /// from it may have been cut off before, so all but the last say 0.
    async fn list(&self, snapshot: &Snapshot, resync: bool) -> Result<u64, Gone> {
        let managers = view::Managers::new(&self.core);
        let mut objects = snapshot
            .objects()
            .filter(|object| self.kinds.contains(&object.kind()))
            .peekable();
        let mut is_first = true;
        loop {
            let changes: Vec<_> = objects
                .by_ref()
                .take(CHUNK)
                .map(|object| view::put(&object, &managers))
                .collect();
            let is_last = objects.peek().is_none();
            let version = if is_last { snapshot.version() } else { 0 };
            self.send(WatchResponse {
                version,
                changes,
                resync: resync && is_first,
            })
            .await?;
            if is_last {
                return Ok(snapshot.version());
            }
            is_first = false;
        }
    }

    async fn send(&self, response: WatchResponse) -> Result<(), Gone> {
        self.out.send(Ok(response)).await.map_err(|_| Gone)
    }
}
