//! What a member takes from its machine: files, time of day, random numbers, and what carries its loops.
//!
//! The real machine gives threads and files. A simulation puts a [`Machine`] in its place: the same loops are then tasks
//! of one runtime whose time is paused, on a simulated disk, so that a seed decides everything. The loops are written
//! once, as futures: on a thread of their own they never pend, because [`Inbox`] blocks there.
//! Made by whoever makes the [`crate::Config`]; used by `start`, `node`, `transport`, `service` and the controller.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc as tasks, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::vfs::{RealVfs, Vfs};

/// A loop of a member.
pub type Loop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A simulated machine.
pub trait Machine: Send + Sync + 'static {
    /// Its disk.
    fn disk(&self) -> Arc<dyn Vfs>;
    /// The time of day, which may jump; nanoseconds since the Unix epoch.
    fn now(&self) -> i64;
    /// Random bits.
    fn random(&self) -> u64;
    /// How long the disk takes for the next piece of work.
    fn disk_delay(&self) -> Duration;
    /// Carries a loop until it ends, or the machine does.
    fn carry(&self, name: &'static str, body: Loop);
    /// An entry reaches the state machine.
    fn applied(&self, index: u64, data: &[u8]);
}

/// The machine under a member; by default the real one.
#[derive(Clone, Default)]
pub struct Host(Option<Arc<dyn Machine>>);

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "simulated host"
        } else {
            "host"
        })
    }
}

impl Host {
    /// A simulated one.
    pub fn simulated(machine: Arc<dyn Machine>) -> Self {
        Self(Some(machine))
    }

    /// True for a simulated one: there is no file system besides its disk.
    pub fn is_simulated(&self) -> bool {
        self.0.is_some()
    }

    /// The files.
    pub fn disk(&self) -> Arc<dyn Vfs> {
        match &self.0 {
            Some(machine) => machine.disk(),
            None => Arc::new(RealVfs),
        }
    }

    /// Nanoseconds since the Unix epoch, by a clock that may jump.
    pub fn now(&self) -> i64 {
        if let Some(machine) = &self.0 {
            return machine.now();
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Random bits.
    pub fn random(&self) -> u64 {
        self.0
            .as_ref()
            .map_or_else(rand::random, |machine| machine.random())
    }

    /// What pins the elections of a simulated member: raft draws their times from a generator that can't be seeded.
    pub(crate) fn election_seed(&self) -> Option<u64> {
        self.0.as_ref().map(|machine| machine.random())
    }

    /// Tells a simulation that an entry reaches the state machine.
    pub(crate) fn applied(&self, index: u64, data: &[u8]) {
        if let Some(machine) = &self.0 {
            machine.applied(index, data);
        }
    }

    /// Waits as long as a simulated disk takes; a real one takes its time by itself.
    pub(crate) async fn disk_pause(&self) {
        if let Some(machine) = &self.0 {
            tokio::time::sleep(machine.disk_delay()).await;
        }
    }

    /// Leaves the processor to others for a while; a loop on a thread of its own calls it. Simulated loops are never in each other's way.
    pub(crate) fn rest(&self, time: Duration) {
        if self.0.is_none() {
            std::thread::sleep(time);
        }
    }

    /// Does work on files without holding up the runtime.
    ///
    /// # Errors
    /// When the work panicked or the runtime is going down.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        if self.0.is_some() {
            self.disk_pause().await;
            return Ok(work());
        }
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| error.to_string())
    }

    /// The two ends of a queue that a loop of this host reads.
    pub(crate) fn queue<T>(&self) -> (Outlet<T>, Inbox<T>) {
        if self.0.is_some() {
            let (sender, receiver) = tasks::unbounded_channel();
            (Outlet(To::Task(sender)), Inbox(From::Task(receiver)))
        } else {
            let (sender, receiver) = mpsc::channel();
            (Outlet(To::Thread(sender)), Inbox(From::Thread(receiver)))
        }
    }

    /// Starts a loop: on a thread of its own, whose panic ends the process.
    pub(crate) fn start(
        &self,
        name: &'static str,
        body: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Running, Error> {
        if let Some(machine) = &self.0 {
            let (ended, end) = oneshot::channel();
            let body = async move {
                body.await;
                drop(ended);
            };
            machine.carry(name, Box::pin(body));
            return Ok(Running::Task(end));
        }
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _guard = AbortOnPanic(name);
            let body = std::pin::pin!(body);
            let mut context = Context::from_waker(Waker::noop());
            let Poll::Ready(()) = body.poll(&mut context) else {
                // Its inbox blocks instead.
                unreachable!("a loop on a thread of its own never pends");
            };
        });
        thread
            .map(Running::Thread)
            .map_err(|source| Error::Thread { name, source })
    }
}

/// Ends the process when its thread panics: a member whose raft is dead must not go on answering.
struct AbortOnPanic(&'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                thread = self.0,
                "the thread panicked; the process ends, because a member without it would mislead the cluster"
            );
            std::process::abort();
        }
    }
}

/// A loop that was started.
pub(crate) enum Running {
    Thread(JoinHandle<()>),
    Task(oneshot::Receiver<()>),
}

impl Running {
    /// Waits for its end; on a thread this blocks.
    pub(crate) async fn ended(self) {
        match self {
            // A panic there has ended the process.
            Running::Thread(thread) => drop(thread.join()),
            Running::Task(end) => drop(end.await),
        }
    }

    /// Waits for the end of a thread; a task ends by itself.
    pub(crate) fn join(self) {
        if let Running::Thread(thread) = self {
            let _ = thread.join();
        }
    }
}

/// The reader of a queue has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

enum To<T> {
    Thread(mpsc::Sender<T>),
    Task(tasks::UnboundedSender<T>),
}

/// The writing end of a loop's queue; never blocks.
pub(crate) struct Outlet<T>(To<T>);

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            To::Thread(sender) => To::Thread(sender.clone()),
            To::Task(sender) => To::Task(sender.clone()),
        })
    }
}

impl<T> Outlet<T> {
    /// Queues.
    pub(crate) fn send(&self, value: T) -> Result<(), Closed> {
        match &self.0 {
            To::Thread(sender) => sender.send(value).map_err(|_| Closed),
            To::Task(sender) => sender.send(value).map_err(|_| Closed),
        }
    }
}

enum From<T> {
    Thread(mpsc::Receiver<T>),
    Task(tasks::UnboundedReceiver<T>),
}

/// What a loop waits for.
pub(crate) enum Next<T> {
    Value(T),
    Timeout,
    Closed,
}

/// The reading end of a loop's queue.
pub(crate) struct Inbox<T>(From<T>);

impl<T> Inbox<T> {
    /// The next value; `None` when all writers have gone.
    pub(crate) async fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            From::Thread(receiver) => receiver.recv().ok(),
            From::Task(receiver) => receiver.recv().await,
        }
    }

    /// The next value, if one comes in time.
    pub(crate) async fn next_until(&mut self, deadline: Instant) -> Next<T> {
        match &mut self.0 {
            From::Thread(receiver) => {
                match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(value) => Next::Value(value),
                    Err(RecvTimeoutError::Timeout) => Next::Timeout,
                    Err(RecvTimeoutError::Disconnected) => Next::Closed,
                }
            }
            From::Task(receiver) => match tokio::time::timeout_at(deadline, receiver.recv()).await {
                Ok(Some(value)) => Next::Value(value),
                Ok(None) => Next::Closed,
                Err(_) => Next::Timeout,
            },
        }
    }

    /// A value that is there already.
    pub(crate) fn try_next(&mut self) -> Option<T> {
        match &mut self.0 {
            From::Thread(receiver) => receiver.try_recv().ok(),
            From::Task(receiver) => receiver.try_recv().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_on_a_thread_blocks_on_its_inbox() {
        let host = Host::default();
        let (outlet, mut inbox) = host.queue();
        let (sum, total) = mpsc::channel();
        let running = host.start("adder", async move {
            let mut all = 0;
            while let Some(value) = inbox.next().await {
                all += value;
            }
            sum.send(all).expect("the test waits");
        });
        for value in 1..=10 {
            outlet.send(value).expect("the loop runs");
        }
        drop(outlet);
        assert_eq!(total.recv(), Ok(55));
        running.expect("it started").join();
    }
}
