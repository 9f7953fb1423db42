//! One ingest among a pull and the threads that write its layers. Whoever ends drops its share, and the pull waits for that before it
//! commits or tells of an error. Used by `pull` and `download`.

use std::{convert::Infallible, ops::Deref, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::mpsc};

use crate::Ingest;

/// How long writers that have been told to end are waited for. Only one that waits for somebody else's download takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pull's side. What an ingest has unpacked goes with it, which blocks: a pull that is dropped leaves that to a thread.
pub(super) struct Joint {
    ingest: Option<Arc<Ingest>>,
    held: Option<mpsc::Sender<Infallible>>,
    /// Ends with the last share.
    ended: mpsc::Receiver<Infallible>,
}

/// A writer's side.
#[derive(Clone)]
pub(super) struct Share {
    // Dropped in this order: who hears of the end finds the ingest free.
    ingest: Arc<Ingest>,
    _held: mpsc::Sender<Infallible>,
}

impl Joint {
    pub(super) fn new(ingest: Ingest) -> Self {
        let (held, ended) = mpsc::channel(1);
        Joint {
            ingest: Some(Arc::new(ingest)),
            held: Some(held),
            ended,
        }
    }

    /// One more share; `None` after [`Joint::alone`].
    pub(super) fn share(&self) -> Option<Share> {
        Some(Share {
            ingest: self.ingest.clone()?,
            _held: self.held.clone()?,
        })
    }

    /// Waits for the writers' threads, which end when their downloads do, so that nothing is left in staging when the caller hears
    /// of an error. `None` when one of them waits for somebody else's download: it goes with that.
    pub(super) async fn alone(mut self) -> Option<Ingest> {
        self.held = None;
        tokio::time::timeout(PATIENCE, self.ended.recv()).await.ok()?;
        Arc::try_unwrap(self.ingest.take()?)
            .map_err(|shared| self.ingest = Some(shared))
            .ok()
    }
}

impl Deref for Share {
    type Target = Ingest;

    fn deref(&self) -> &Ingest {
        &self.ingest
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        if let (Some(ingest), Ok(runtime)) = (self.ingest.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(ingest));
        }
    }
}
