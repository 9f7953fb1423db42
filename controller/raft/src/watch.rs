//! A value that is watched: tokio's `watch`, except that those who wait are woken in the order in which they came.
//!
//! tokio wakes them in an order that it draws by chance, from a generator that can't be seeded; in a simulation that
//! would decide who gets to the leader's writer first. The methods are those of `tokio::sync::watch`.
//! Used by the log, the controller, and whoever watches them.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

/// The sender has gone, and nothing new will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watched value changes no more")]
pub struct Gone;

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    closed: AtomicBool,
    senders: AtomicUsize,
    notify: Notify,
}

/// The value, while it is looked at; must not be held for long.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value and its changes.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A value with its first receiver, which has seen it.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for another version than the one that was seen.
    async fn changed(&self, seen: &mut u64) -> Result<(), Gone> {
        loop {
            // Before the look, so that no change is missed in between.
            let mut notified = std::pin::pin!(self.notify.notified());
            notified.as_mut().enable();
            // Before the version: what was sent before the end is still seen.
            let closed = self.closed.load(Ordering::Acquire);
            let version = self.version.load(Ordering::Acquire);
            if version != *seen {
                *seen = version;
                return Ok(());
            }
            if closed {
                return Err(Gone);
            }
            notified.await;
        }
    }
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            senders: AtomicUsize::new(1),
            notify: Notify::new(),
        }))
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            seen: self.0.version.load(Ordering::Acquire),
            shared: self.0.clone(),
        }
    }

    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    /// Replaces the value; the old one.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|old| std::mem::swap(old, &mut value));
        value
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value; receivers are told if it says so.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            if !change(&mut value) {
                return false;
            }
            self.0.version.fetch_add(1, Ordering::Release);
        }
        self.0.notify.notify_waiters();
        true
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closed.store(true, Ordering::Release);
            self.0.notify.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Receiver<T> {
    /// The value; whether it counts as seen stays as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// The value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        // No change can come between, since changes are made under the lock.
        self.seen = self.shared.version.load(Ordering::Acquire);
        Ref(value)
    }

    /// The present value counts as seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.version.load(Ordering::Acquire);
    }

    /// The present value counts as new.
    pub fn mark_changed(&mut self) {
        self.seen = u64::MAX;
    }

    /// Whether there is a value that was not seen.
    ///
    /// # Errors
    /// The sender has gone.
    pub fn has_changed(&self) -> Result<bool, Gone> {
        let changed = self.seen != self.shared.version.load(Ordering::Acquire);
        if !changed && self.shared.closed.load(Ordering::Acquire) {
            return Err(Gone);
        }
        Ok(changed)
    }

    /// Waits for a value that was not seen, and counts it as seen. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// The sender has gone.
    pub async fn changed(&mut self) -> Result<(), Gone> {
        self.shared.changed(&mut self.seen).await
    }

    /// Waits for a value that fits, and counts it as seen.
    ///
    /// # Errors
    /// The sender has gone, and its last value does not fit.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Gone> {
        let Self { shared, seen } = self;
        loop {
            {
                let value = shared.read();
                *seen = shared.version.load(Ordering::Acquire);
                if fits(&value) {
                    return Ok(Ref(value));
                }
            }
            shared.changed(seen).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn changes_are_seen_once_by_each() {
        let (sender, mut first) = channel(1);
        let mut second = sender.subscribe();
        assert_eq!(first.has_changed(), Ok(false));
        assert_eq!(sender.send_replace(2), 1);
        assert!(!sender.send_if_modified(|value| {
            *value = 3;
            false
        }));
        for receiver in [&mut first, &mut second] {
            assert_eq!(receiver.changed().await, Ok(()));
            assert_eq!((*receiver.borrow(), receiver.has_changed()), (3, Ok(false)));
        }
        let mut third = first.clone();
        third.mark_changed();
        assert_eq!(third.changed().await, Ok(()));
        sender.send_modify(|value| *value = 4);
        first.mark_unchanged();
        drop(sender);
        assert_eq!(first.changed().await, Err(Gone));
        assert_eq!(second.changed().await, Ok(()));
        assert_eq!(*second.borrow_and_update(), 4);
        assert_eq!(second.changed().await, Err(Gone));
        assert_eq!(*second.wait_for(|value| *value == 4).await.unwrap(), 4);
        assert!(second.wait_for(|value| *value == 5).await.is_err());
    }

    #[tokio::test]
    async fn those_who_wait_are_woken_in_order() {
        let (sender, receiver) = channel(0);
        let (woken, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..20 {
            let (mut receiver, woken) = (receiver.clone(), woken.clone());
            tokio::spawn(async move {
                receiver.changed().await.unwrap();
                woken.send(number).unwrap();
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        sender.send_replace(1);
        for number in 0..20 {
            assert_eq!(order.recv().await, Some(number));
        }
    }
}
