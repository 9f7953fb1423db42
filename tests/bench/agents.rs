//! Many agents in a process of their own, for [`sessions`](crate::sessions) and [`simulated`](crate::simulated): each a node with a certificate
//! and a TLS connection. [`Process`] is the bench's end of it, [`Crowd`] the agents' end. They talk by lines: the process says `registered N` once
//! all agents have a session, then answers each line that it is sent; it ends with its input.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use pontoon_identity::{Endpoint, Identity, JoinRequest, connect, request_certificate};
use pontoon_proto::v1::Availability;
use pontoon_tests::{Host, wire};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tonic::transport::Channel;

use crate::procs;

/// Agents that join at the same time.
const AT_ONCE: usize = 32;

/// Agents that have a session, in their process.
pub struct Crowd {
    sessions: JoinSet<Result<()>>,
    handles: BTreeMap<usize, AbortHandle>,
}

/// An agent calls this when it has a session.
pub struct Begun {
    _turn: OwnedSemaphorePermit,
    registered: mpsc::Sender<()>,
}

impl Begun {
    /// Lets the next agent begin.
    ///
    /// # Errors
    /// When nobody waits any more: another agent has failed.
    pub async fn tell(self) -> Result<()> {
        let told = self.registered.send(()).await;
        told.context("nobody waits for the agents")
    }
}

impl Crowd {
    /// Lets all agents join, and says so. `arguments` are the process's; `session` is one agent's, to its end.
    ///
    /// # Errors
    /// When one can't join or loses its session.
    pub async fn join<F>(arguments: &[String], session: impl Fn(usize, Channel, Begun) -> F) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let [name, count, addr, token, folder, ..] = arguments else {
            bail!("a process of agents has the arguments COUNT ADDRESS TOKEN FOLDER, then its options");
        };
        let count: usize = count.parse().with_context(|| format!("{name} {count}"))?;
        let join = Arc::new(JoinRequest {
            addr: addr.clone(),
            token: token.parse()?,
            availability: Availability::Active,
        });
        let turn = Arc::new(Semaphore::new(AT_ONCE));
        let (registered, mut told) = mpsc::channel(count.max(1));
        let mut joining = JoinSet::new();
        let mut crowd = Self {
            sessions: JoinSet::new(),
            handles: BTreeMap::new(),
        };
        for number in 0..count {
            let (join, turn) = (join.clone(), turn.clone());
            let folder = Path::new(folder).join(number.to_string());
            joining.spawn(async move {
                let turn = turn.acquire_owned().await?;
                anyhow::Ok((number, enroll(&join, &folder).await?, turn))
            });
        }
        let mut waits = count;
        while waits > 0 {
            tokio::select! {
                Some(()) = told.recv() => waits -= 1,
                Some(joined) = joining.join_next() => {
                    let (number, channel, turn) = joined??;
                    let begun = Begun { _turn: turn, registered: registered.clone() };
                    let handle = crowd.sessions.spawn(session(number, channel, begun));
                    crowd.handles.insert(number, handle);
                }
                ended = crowd.ended() => return Err(ended),
            }
        }
        println!("registered {count}");
        Ok(crowd)
    }

    /// Ends an agent without a word; its number.
    pub fn lose(&mut self) -> Option<usize> {
        let (number, handle) = self.handles.pop_first()?;
        handle.abort();
        Some(number)
    }

    /// Waits until an agent has lost its session.
    pub async fn ended(&mut self) -> anyhow::Error {
        while let Some(ended) = self.sessions.join_next().await {
            match ended {
                Err(gone) if gone.is_cancelled() => {}
                Err(error) => return error.into(),
                Ok(Err(error)) => return error,
                Ok(Ok(())) => {}
            }
        }
        std::future::pending().await
    }
}

/// Makes a node: a certificate, and a connection by it.
async fn enroll(join: &JoinRequest, dir: &Path) -> Result<Channel> {
    let issued = request_certificate(join).await?;
    std::fs::create_dir_all(dir)?;
    let identity = Identity::install(dir, &issued.credentials)?;
    Ok(connect(&identity, &Endpoint::manager(join.addr.clone())).await?)
}

/// The process of the agents, for the bench; ends with this.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// In the network of `host`, which they join by; returns when all have a session. `name` is what the bench's program is to be, which
    /// knows the `options`.
    ///
    /// # Errors
    /// When the agents fail.
    pub fn start(name: &str, host: &Host, count: usize, options: &[&str]) -> Result<Self> {
        let token = host.ok(&["swarm", "join-token", "--quiet", "worker"])?;
        let inside = wire::enter(&host.netns());
        let mut command = Command::new(inside.get_program());
        command.args(inside.get_args()).arg(std::env::current_exe()?);
        command.arg(name).arg(count.to_string());
        command.arg(format!("{}:2377", host.address())).arg(token);
        command.arg(host.folder().join("agents")).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the agents")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the agents have no output")?;
        let output = BufReader::new(output);
        let mut agents = Self { child, input, output };
        let registered = agents.answer()?;
        ensure!(registered == count, "only {registered} agents have a session");
        Ok(agents)
    }

    /// Seconds of the processor that they have taken.
    pub fn cpu(&self) -> f64 {
        procs::cpu_time(self.child.id().cast_signed())
    }

    /// Sends a line; the number in the answer.
    ///
    /// # Errors
    /// When the agents have ended.
    pub fn ask(&mut self, line: &str) -> Result<usize> {
        let input = self.input.as_mut().context("the agents have no input")?;
        writeln!(input, "{line}").context("the agents have ended")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<usize> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let number = line.split_whitespace().nth(1);
        number
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("the agents have ended: {line:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // They go with their input.
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("cannot wait for the agents: {error}");
        }
    }
}
