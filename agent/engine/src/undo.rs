//! The undo stack: every step of a set-up pushes what takes it back, a failure runs them in reverse. A step that can't be
//! taken back is logged and the rest goes on.

use std::future::Future;
use std::pin::Pin;

type Step = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Steps to take back. Dropping it forgets them: call [`Undo::run`] on failure.
#[derive(Default)]
pub(crate) struct Undo {
    steps: Vec<(&'static str, Step)>,
}

impl Undo {
    /// Adds how to take back what was just done.
    pub(crate) fn push<E: std::fmt::Display>(
        &mut self,
        what: &'static str,
        step: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.steps.push((
            what,
            Box::pin(async move { step.await.map_err(|error| error.to_string()) }),
        ));
    }

    /// Takes everything back, newest first.
    pub(crate) async fn run(self, container: &str) {
        for (what, step) in self.steps.into_iter().rev() {
            if let Err(error) = step.await {
                tracing::warn!(
                    container,
                    what,
                    error,
                    "could not undo a step of a failed operation"
                );
            }
        }
    }
}
