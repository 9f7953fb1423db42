//! Threads that own blocking state: the network thread with the [`Core`](crate::core::Core), and the one that removes
//! links. Async callers hand them closures; nothing ever switches namespaces on a tokio worker.
use std::{fmt, sync::mpsc, thread};

use tokio::sync::oneshot;

use crate::{Error, Result};

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread with a state of type `S`. It ends when the handle is dropped.
pub struct Worker<S> {
    jobs: mpsc::Sender<Job<S>>,
}

impl<S> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

impl<S: 'static> Worker<S> {
    /// Starts the thread and makes its state there.
    ///
    /// # Errors
    /// What `make` returns; [`Error::ThreadGone`] if there can't be another thread.
    pub async fn start(name: &str, make: impl FnOnce() -> Result<S> + Send + 'static) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job<S>>();
        let (ready, started) = oneshot::channel();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || match make() {
                Ok(mut state) => {
                    if ready.send(Ok(())).is_ok() {
                        queue.iter().for_each(|job| job(&mut state));
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(|_| Error::ThreadGone)?;
        started.await.map_err(|_| Error::ThreadGone)??;
        Ok(Self { jobs })
    }

    /// Runs `work` on the thread and waits for it without a runtime; for threads. Nothing happens if it is gone.
    pub fn run_blocking(&self, work: impl FnOnce(&mut S) + Send + 'static) {
        let (done, ended) = mpsc::channel::<()>();
        let job = Box::new(move |state: &mut S| {
            work(state);
            drop(done);
        });
        if self.jobs.send(job).is_ok() {
            // An error is the sign: the other end was dropped.
            let _ = ended.recv();
        }
    }

    /// Has the thread run `work` when its turn comes; nobody waits. Nothing happens if the thread is gone.
    pub fn post(&self, work: impl FnOnce(&mut S) + Send + 'static) {
        let _ = self.jobs.send(Box::new(work));
    }

    /// Runs `work` on the thread. A job that was handed over runs even if the caller stops waiting.
    ///
    /// # Errors
    /// [`Error::ThreadGone`] if the thread panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut S) -> T + Send + 'static) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let job = Box::new(move |state: &mut S| drop(answer.send(work(state))));
        self.jobs.send(job).map_err(|_| Error::ThreadGone)?;
        result.await.map_err(|_| Error::ThreadGone)
    }
}
