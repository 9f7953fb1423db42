//! What a client is told of a build: steps with their numbers, output, progress. Numbers are given in the order in which steps begin.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pontoon_proto::v1::{
    BuildData, BuildLog, BuildNeed, BuildResponse, BuildStatus, BuildStep, BuildWarning,
    build_response::Event,
};
use tokio::sync::mpsc;

use crate::id;

/// Bytes of a step's last output that a failure shows.
const TAIL: usize = 64 << 10;

/// The way to the client. A client that has gone is told nothing.
#[derive(Clone)]
pub(super) struct Reporter {
    events: mpsc::Sender<BuildResponse>,
    steps: Arc<AtomicU32>,
}

impl Reporter {
    pub(super) fn new(events: mpsc::Sender<BuildResponse>) -> Self {
        Self {
            events,
            steps: Arc::default(),
        }
    }

    pub(super) async fn send(&self, event: Event) {
        self.events.send(BuildResponse { event: Some(event) }).await.ok();
    }

    /// Returns when the client has gone.
    pub(super) async fn gone(&self) {
        self.events.closed().await;
    }

    /// Begins a step.
    pub(super) async fn begin(&self, name: &str) -> Begun {
        let begun = Begun {
            number: self.steps.fetch_add(1, Ordering::Relaxed) + 1,
            name: name.to_owned(),
            started_at: id::now(),
            reporter: self.clone(),
            tail: Arc::default(),
        };
        self.send(Event::Step(begun.event())).await;
        begun
    }

    pub(super) async fn need(&self, name: String, paths: Vec<String>) {
        self.send(Event::Need(BuildNeed { name, paths })).await;
    }

    pub(super) async fn ssh(&self, data: BuildData) {
        self.send(Event::Ssh(data)).await;
    }

    pub(super) async fn output(&self, connection: u32, data: Bytes, end: bool) {
        let data = BuildData {
            connection,
            data,
            end,
            ..BuildData::default()
        };
        self.send(Event::Output(data)).await;
    }

    pub(super) async fn warn(&self, message: String, lines: pontoon_build::Lines) {
        let number = |line: usize| u32::try_from(line).unwrap_or_default();
        let warning = BuildWarning {
            message,
            first_line: number(lines.first),
            last_line: number(lines.last),
        };
        self.send(Event::Warning(warning)).await;
    }
}

/// A step that has begun.
#[derive(Clone)]
pub(super) struct Begun {
    pub(super) number: u32,
    pub(super) name: String,
    started_at: i64,
    reporter: Reporter,
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl Begun {
    fn event(&self) -> BuildStep {
        BuildStep {
            number: self.number,
            name: self.name.clone(),
            started_at: self.started_at,
            ..BuildStep::default()
        }
    }

    pub(super) async fn done(&self) {
        self.end(false, String::new()).await;
    }

    pub(super) async fn cached(&self) {
        self.end(true, String::new()).await;
    }

    pub(super) async fn failed(&self, error: String) {
        self.end(false, error).await;
    }

    async fn end(&self, cached: bool, error: String) {
        let step = BuildStep {
            completed_at: id::now(),
            cached,
            error,
            ..self.event()
        };
        self.reporter.send(Event::Step(step)).await;
    }

    /// Passes output on, and remembers the end of it.
    pub(super) async fn log(&self, stream: u32, data: Bytes) {
        {
            let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(data.iter());
            let over = tail.len().saturating_sub(TAIL);
            tail.drain(..over);
        }
        let log = BuildLog {
            number: self.number,
            stream,
            data,
            time: id::now(),
        };
        self.reporter.send(Event::Log(log)).await;
    }

    pub(super) fn tail(&self) -> Bytes {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().copied().collect::<Vec<u8>>().into()
    }

    pub(super) async fn status(&self, id: &str, current: u64, done: bool) {
        let status = BuildStatus {
            number: self.number,
            id: id.to_owned(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            total: 0,
            done,
        };
        self.reporter.send(Event::Status(status)).await;
    }
}
