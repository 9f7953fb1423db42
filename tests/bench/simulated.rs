//! Agents that only pretend to run tasks: the process of the agents of [`million`](crate::million). Each is a node with a certificate, a TLS
//! connection and a session of its own; what it is assigned goes through all states, one a batch, and is reported as the real agent does:
//! gathered for 10 ms, and not waiting for what was sent before.
//!
//! It is told what to do by lines on its input: `expect N` answers `running N` once so many tasks are known to the managers to run; `lose N`
//! ends N agents without a word and answers `lost TASKS`. It ends with its input.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pontoon_identity::JoinRequest;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, Assignments, Availability, Heartbeat, NodeDescription, Platform, Register, Resources,
    StatusReport, TaskState, TaskStatus, TaskStatusUpdate, agent_message::Message as Outgoing,
    manager_message::Message as Incoming,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::sessions::{AT_ONCE, enroll};

/// First word of the arguments of the process of the agents.
pub const AGENTS: &str = "simulated-agents";
/// The real agent's: how long statuses are gathered.
const BATCH: Duration = Duration::from_millis(10);

/// The process of the agents.
///
/// # Errors
/// When one can't join or loses its session.
pub fn process(arguments: &[String]) -> Result<()> {
    let [_, count, addr, token, folder] = arguments else {
        bail!("usage: {AGENTS} COUNT ADDRESS TOKEN FOLDER");
    };
    let join = Arc::new(JoinRequest {
        addr: addr.clone(),
        token: token.parse()?,
        availability: Availability::Active,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(agents(count.parse()?, join, Path::new(folder)))
}

/// Tasks that the managers know to run.
#[derive(Default)]
struct Count {
    all: usize,
    by_agent: BTreeMap<usize, usize>,
}

type Running = watch::Sender<Count>;

async fn agents(count: usize, join: Arc<JoinRequest>, folder: &Path) -> Result<()> {
    let running = Arc::new(watch::Sender::new(Count::default()));
    let turn = Arc::new(Semaphore::new(AT_ONCE));
    let (registered, mut told) = mpsc::channel(count.max(1));
    let mut sessions = JoinSet::new();
    let mut handles: BTreeMap<usize, AbortHandle> = BTreeMap::new();
    for number in 0..count {
        let (join, turn, registered) = (join.clone(), turn.clone(), registered.clone());
        let (dir, running) = (folder.join(number.to_string()), running.clone());
        let handle = sessions.spawn(async move {
            let permit = turn.acquire_owned().await?;
            let channel = enroll(&join, &dir).await?;
            let mut agent = Agent::new(number, running);
            let begun = || async move {
                drop(permit);
                registered.send(()).await.context("nobody waits for the agents")
            };
            agent.serve(DispatcherClient::new(channel), begun).await
        });
        handles.insert(number, handle);
    }
    drop(registered);
    for _ in 0..count {
        tokio::select! {
            Some(()) = told.recv() => {}
            Some(ended) = sessions.join_next() => return ended?,
        }
    }
    println!("registered {count}");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            Some(ended) = sessions.join_next() => match ended {
                Err(gone) if gone.is_cancelled() => continue,
                ended => return ended?,
            },
        };
        let Some(line) = line else { return Ok(()) };
        match line.split_once(' ') {
            Some(("expect", number)) => {
                let number: usize = number.parse()?;
                let mut count = running.subscribe();
                tokio::select! {
                    met = count.wait_for(|count| count.all >= number) => drop(met?),
                    Some(Ok(ended)) = sessions.join_next() => return ended,
                }
                println!("running {number}");
            }
            Some(("lose", number)) => {
                let (number, mut tasks): (usize, usize) = (number.parse()?, 0);
                for _ in 0..number {
                    let Some((agent, handle)) = handles.pop_first() else {
                        break;
                    };
                    handle.abort();
                    running.send_modify(|count| {
                        let gone = count.by_agent.remove(&agent).unwrap_or(0);
                        count.all -= gone;
                        tasks += gone;
                    });
                }
                println!("lost {tasks}");
            }
            _ => bail!("{line:?} is not understood"),
        }
    }
}

/// A task as its agent has it.
struct Held {
    state: TaskState,
    desired: TaskState,
}

struct Agent {
    number: usize,
    tasks: HashMap<String, Held>,
    /// Those that have a step to go.
    moving: Vec<String>,
    sequence: u64,
    /// By report: how many more tasks run than before.
    reports: HashMap<u64, isize>,
    running: Arc<Running>,
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
    fn new(number: usize, running: Arc<Running>) -> Self {
        Self {
            number,
            tasks: HashMap::new(),
            moving: Vec::new(),
            sequence: 0,
            reports: HashMap::new(),
            running,
        }
    }

    /// One session, to its end. `begun` is called when it is registered.
    async fn serve<F: Future<Output = Result<()>>>(
        &mut self,
        mut client: DispatcherClient<Channel>,
        begun: impl FnOnce() -> F,
    ) -> Result<()> {
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
        loop {
            let flush_at = flush.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                message = inbox.message() => {
                    match message?.context("the manager ended the session")?.message {
                        Some(Incoming::Registered(registered)) => {
                            period = Duration::from_nanos(registered.heartbeat_period.unsigned_abs());
                            beat = beat.min(Instant::now() + period);
                            if let Some(begun) = begun.take() {
                                begun().await?;
                            }
                        }
                        Some(Incoming::Assignments(assignments)) => self.assign(assignments),
                        Some(Incoming::StatusAck(ack)) => self.acknowledged(ack.sequence),
                        _ => {}
                    }
                    if flush.is_none() && !self.moving.is_empty() {
                        flush = Some(Instant::now() + BATCH);
                    }
                }
                () = tokio::time::sleep_until(beat) => {
                    send(Outgoing::Heartbeat(Heartbeat {})).await?;
                    beat = Instant::now() + period;
                }
                () = tokio::time::sleep_until(flush_at), if flush.is_some() => {
                    if let Some(report) = self.step() {
                        send(Outgoing::Status(report)).await?;
                    }
                    flush = (!self.moving.is_empty()).then(|| Instant::now() + BATCH);
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

    fn assign(&mut self, assignments: Assignments) {
        for id in &assignments.removed_tasks {
            self.tasks.remove(id);
        }
        for assigned in assignments.tasks {
            let desired = assigned.desired_state();
            let held = self.tasks.entry(assigned.task_id.clone()).or_insert(Held {
                state: TaskState::Assigned,
                desired,
            });
            held.desired = desired;
            self.moving.push(assigned.task_id);
        }
    }

    /// Takes every task that moves one step further.
    fn step(&mut self) -> Option<StatusReport> {
        let mut moving = std::mem::take(&mut self.moving);
        moving.sort();
        moving.dedup();
        let (mut updates, mut more) = (Vec::new(), 0);
        for id in moving {
            let Some(held) = self.tasks.get_mut(&id) else {
                continue;
            };
            let before = held.state;
            held.state = next(before, held.desired);
            if held.state == before {
                continue;
            }
            more += isize::from(held.state == TaskState::Running) - isize::from(before == TaskState::Running);
            updates.push(TaskStatusUpdate {
                task_id: id.clone(),
                status: Some(TaskStatus {
                    state: held.state.into(),
                    message: held.state.name().to_owned(),
                    ..TaskStatus::default()
                }),
            });
            if next(held.state, held.desired) != held.state {
                self.moving.push(id);
            }
        }
        if updates.is_empty() {
            return None;
        }
        self.sequence += 1;
        self.reports.insert(self.sequence, more);
        Some(StatusReport {
            sequence: self.sequence,
            updates,
        })
    }

    fn acknowledged(&mut self, sequence: u64) {
        let more = self.reports.remove(&sequence).unwrap_or(0);
        if more != 0 {
            self.running.send_modify(|count| {
                let own = count.by_agent.entry(self.number).or_default();
                *own = own.saturating_add_signed(more);
                count.all = count.all.saturating_add_signed(more);
            });
        }
    }
}
