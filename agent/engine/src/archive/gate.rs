//! Who may be at a container's files at the same time: any number of copies of a running container; one copy at a time of
//! another one, as it mounts the file system; no copy while it is being started or removed. (Two overlay mounts of one
//! writable layer are undefined behaviour: kernel documentation, filesystems/overlayfs.rst.)

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;

/// How long a start waits for copies before it ends them.
const PATIENCE: Duration = Duration::from_secs(30);

/// One container's gate.
#[derive(Default)]
pub(crate) struct Gate {
    lock: Arc<RwLock<()>>,
    /// Ends the copies that are under way.
    end: Mutex<CancellationToken>,
}

/// Held by a copy.
pub(crate) enum Pass {
    /// Of a running container.
    Shared(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    /// Of one that does not run.
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Gate {
    /// For a copy of a container that runs.
    pub(crate) async fn share(&self) -> Pass {
        Pass::Shared(self.lock.clone().read_owned().await)
    }

    /// For a copy of a container that does not run.
    pub(crate) async fn alone(&self) -> Pass {
        Pass::Alone(self.lock.clone().write_owned().await)
    }

    /// What a copy has to heed: it is cancelled when the copy must end.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.end().clone()
    }

    /// For a start: waits for copies, for so long as is decent, then ends them.
    pub(crate) async fn close(&self) -> OwnedRwLockWriteGuard<()> {
        match tokio::time::timeout(PATIENCE, self.lock.clone().write_owned()).await {
            Ok(guard) => guard,
            Err(_) => self.clear().await,
        }
    }

    /// For a removal: ends all copies at once.
    pub(crate) async fn clear(&self) -> OwnedRwLockWriteGuard<()> {
        self.end_all();
        self.lock.clone().write_owned().await
    }

    /// Ends the copies that are under way.
    pub(crate) fn end_all(&self) {
        std::mem::take(&mut *self.end()).cancel();
    }

    fn end(&self) -> std::sync::MutexGuard<'_, CancellationToken> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
