//! Agents that only pretend to run tasks: the process of the agents of [`million`](crate::million). Each is a node with a certificate, a TLS
//! connection and a session of its own; what it is assigned goes through all states, one in 10 ms, and is reported as the real agent does:
//! gathered for 10 ms, the newest status of each task, one report on its way at a time. With [`EVERY_STATE`] such a report has all states that
//! its tasks have come through since the one before, in their order.
//!
//! It is told what to do by lines on its input: `expect N` answers `running N` once so many tasks are known to the managers to run; `lose N`
//! ends N agents without a word and answers `lost TASKS`; `reports`, `statuses` and `assignments` are answered by how many there were.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, Assignments, Heartbeat, NodeDescription, Platform, Register, Resources, StatusReport,
    TaskState, TaskStatus, TaskStatusUpdate, agent_message::Message as Outgoing,
    manager_message::Message as Incoming,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::agents::{Begun, Crowd};

/// First word of the arguments of the process of the agents.
pub const AGENTS: &str = "simulated-agents";
/// Option of the process: no state goes untold.
pub const EVERY_STATE: &str = "--every-state";
/// The real agent's: how long statuses are gathered. So long a task stays in a state, too.
const BATCH: Duration = Duration::from_millis(10);

/// The process of the agents.
///
/// # Errors
/// When one can't join or loses its session.
pub fn process(arguments: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(agents(arguments))
}

/// What the managers were told, and what they know.
#[derive(Default)]
struct Totals {
    running: watch::Sender<Count>,
    reports: AtomicUsize,
    statuses: AtomicUsize,
    assignments: AtomicUsize,
}

/// Tasks that the managers know to run.
#[derive(Default)]
struct Count {
    all: usize,
    by_agent: BTreeMap<usize, usize>,
    /// Somebody waits for so many.
    expected: usize,
}

async fn agents(arguments: &[String]) -> Result<()> {
    let totals = Arc::new(Totals::default());
    let every_state = crate::option(arguments, EVERY_STATE);
    let agent = |number: usize, channel: Channel, begun| {
        let mut agent = Agent::new(number, every_state, totals.clone());
        async move { agent.serve(DispatcherClient::new(channel), begun).await }
    };
    let mut crowd = Crowd::join(arguments, agent).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            ended = crowd.ended() => return Err(ended),
        };
        let Some(line) = line else { return Ok(()) };
        let number = |text: &str| text.parse::<usize>().with_context(|| format!("{line:?}"));
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("expect", text) => {
                let number = number(text)?;
                let mut count = totals.running.subscribe();
                totals.running.send_modify(|count| count.expected = number);
                tokio::select! {
                    met = count.wait_for(|count| count.all >= number) => drop(met?),
                    ended = crowd.ended() => return Err(ended),
                }
                println!("running {number}");
            }
            ("lose", text) => {
                let mut tasks = 0;
                for agent in (0..number(text)?).map_while(|_| crowd.lose()) {
                    totals.running.send_modify(|count| {
                        let gone = count.by_agent.remove(&agent).unwrap_or(0);
                        count.all -= gone;
                        tasks += gone;
                    });
                }
                println!("lost {tasks}");
            }
            ("reports", _) => println!("reports {}", totals.reports.load(Ordering::Relaxed)),
            ("statuses", _) => println!("statuses {}", totals.statuses.load(Ordering::Relaxed)),
            ("assignments", _) => println!("assignments {}", totals.assignments.load(Ordering::Relaxed)),
            _ => bail!("{line:?} is not understood"),
        }
    }
}

/// A task as its agent has it.
struct Held {
    state: TaskState,
    /// When it came into that state, or could go on from it.
    since: Instant,
    /// The last state that was reported.
    reported: TaskState,
    /// Those that it has come through since.
    untold: Vec<TaskState>,
    desired: TaskState,
}

impl Held {
    /// Goes as far as it has come by now; true while there is a step to go.
    fn advance(&mut self, now: Instant) -> bool {
        loop {
            let further = next(self.state, self.desired);
            if further == self.state {
                return false;
            }
            if self.since + BATCH > now {
                return true;
            }
            self.since += BATCH;
            self.state = further;
            self.untold.push(further);
        }
    }
}

/// A report on its way.
struct Sent {
    sequence: u64,
    /// How many more tasks run than before.
    more: isize,
}

struct Agent {
    number: usize,
    /// Every state is reported, not the newest alone.
    every_state: bool,
    tasks: HashMap<String, Held>,
    /// Those that have a step to go, or one to report.
    moving: Vec<String>,
    sequence: u64,
    sent: Option<Sent>,
    totals: Arc<Totals>,
}

/// The state after the next step; the same one: it stays there.
fn next(state: TaskState, desired: TaskState) -> TaskState {
    match state {
        ended if ended.is_terminal() => ended,
        _ if desired > TaskState::Running => TaskState::Shutdown,
        TaskState::Assigned => TaskState::Accepted,
        TaskState::Accepted => TaskState::Preparing,
        TaskState::Preparing => TaskState::Ready,
        TaskState::Ready if desired == TaskState::Running => TaskState::Starting,
        TaskState::Starting => TaskState::Running,
        stays => stays,
    }
}

impl Agent {
    fn new(number: usize, every_state: bool, totals: Arc<Totals>) -> Self {
        Self {
            number,
            every_state,
            tasks: HashMap::new(),
            moving: Vec::new(),
            sequence: 0,
            sent: None,
            totals,
        }
    }

    /// One session, to its end.
    async fn serve(&mut self, mut client: DispatcherClient<Channel>, begun: Begun) -> Result<()> {
        let (outbox, messages) = mpsc::channel(4);
        let send = async |message| {
            let message = AgentMessage {
                message: Some(message),
            };
            outbox.send(message).await.context("the session is over")
        };
        let register = Register {
            description: Some(self.description()),
            ..Register::default()
        };
        send(Outgoing::Register(register)).await?;
        let mut inbox = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut begun = Some(begun);
        let mut period = Duration::from_secs(1);
        let mut beat = Instant::now() + period;
        let mut flush = None;
        let timer = tokio::time::sleep_until(beat);
        tokio::pin!(timer);
        loop {
            let due = flush.map_or(beat, |flush: Instant| flush.min(beat));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                message = inbox.message() => {
                    let now = Instant::now();
                    match message?.context("the manager ended the session")?.message {
                        Some(Incoming::Registered(registered)) => {
                            period = Duration::from_nanos(registered.heartbeat_period.unsigned_abs());
                            beat = beat.min(now + period);
                            if let Some(begun) = begun.take() {
                                begun.tell().await?;
                            }
                        }
                        Some(Incoming::Assignments(assignments)) => self.assign(assignments, now),
                        Some(Incoming::StatusAck(ack)) => {
                            self.acknowledged(ack.sequence);
                            // What gathered meanwhile goes at once.
                            flush = Some(now);
                        }
                        _ => {}
                    }
                    if flush.is_none() && !self.moving.is_empty() {
                        flush = Some(now + BATCH);
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    if flush.is_some_and(|flush| flush <= now) {
                        flush = None;
                        if let Some(report) = self.report(now) {
                            send(Outgoing::Status(report)).await?;
                            beat = now + period;
                        } else if self.sent.is_none() && !self.moving.is_empty() {
                            flush = Some(now + BATCH);
                        }
                    }
                    if beat <= now {
                        send(Outgoing::Heartbeat(Heartbeat {})).await?;
                        beat = now + period;
                    }
                }
            }
        }
    }

    fn description(&self) -> NodeDescription {
        NodeDescription {
            hostname: format!("agent{}", self.number),
            platform: Some(Platform {
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
            }),
            resources: Some(Resources {
                nano_cpus: 64_000_000_000,
                memory_bytes: 256 << 30,
                ..Resources::default()
            }),
            ..NodeDescription::default()
        }
    }

    fn assign(&mut self, assignments: Assignments, now: Instant) {
        self.totals.assignments.fetch_add(1, Ordering::Relaxed);
        for id in &assignments.removed_tasks {
            self.tasks.remove(id);
        }
        for assigned in assignments.tasks {
            let desired = assigned.desired_state();
            let held = self.tasks.entry(assigned.task_id.clone()).or_insert(Held {
                state: TaskState::Assigned,
                since: now,
                reported: TaskState::Assigned,
                untold: Vec::new(),
                desired,
            });
            if !held.advance(now) {
                held.since = now;
            }
            held.desired = desired;
            self.moving.push(assigned.task_id);
        }
    }

    /// Of every task that has moved since it was last reported the newest state, or each; none while another report is on its way.
    fn report(&mut self, now: Instant) -> Option<StatusReport> {
        if self.sent.is_some() {
            return None;
        }
        let mut moving = std::mem::take(&mut self.moving);
        moving.sort();
        moving.dedup();
        let (mut updates, mut more) = (Vec::new(), 0);
        for id in moving {
            let Some(held) = self.tasks.get_mut(&id) else {
                continue;
            };
            let moves = held.advance(now);
            let runs = |state| isize::from(state == TaskState::Running);
            more += runs(held.state) - runs(held.reported);
            held.reported = held.state;
            let unsaid = if self.every_state {
                0
            } else {
                held.untold.len().saturating_sub(1)
            };
            updates.extend(held.untold.drain(..).skip(unsaid).map(|state| TaskStatusUpdate {
                task_id: id.clone(),
                status: Some(TaskStatus {
                    state: state.into(),
                    message: state.name().to_owned(),
                    ..TaskStatus::default()
                }),
            }));
            if moves {
                self.moving.push(id);
            }
        }
        if updates.is_empty() {
            return None;
        }
        self.totals.reports.fetch_add(1, Ordering::Relaxed);
        self.totals.statuses.fetch_add(updates.len(), Ordering::Relaxed);
        self.sequence += 1;
        self.sent = Some(Sent {
            sequence: self.sequence,
            more,
        });
        Some(StatusReport {
            sequence: self.sequence,
            updates,
        })
    }

    fn acknowledged(&mut self, sequence: u64) {
        let sent = self.sent.take_if(|sent| sent.sequence <= sequence);
        let more = sent.map_or(0, |sent| sent.more);
        if more != 0 {
            self.totals.running.send_if_modified(|count| {
                let own = count.by_agent.entry(self.number).or_default();
                *own = own.saturating_add_signed(more);
                count.all = count.all.saturating_add_signed(more);
                count.all >= count.expected
            });
        }
    }
}
