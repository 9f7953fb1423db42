//! Idle agents: what a manager needs for each of them, memory and time of its processor. The agents are a process of their own, each with a
//! certificate, a TLS connection and a session, beating as told; the manager is a daemon as users run it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_identity::{Endpoint, Identity, JoinRequest, connect, request_certificate};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, Availability, Heartbeat, NodeDescription, Register, agent_message::Message as Outgoing,
    manager_message::Message as Incoming,
};
use pontoon_tests::{Fleet, Host, wire};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::procs::{self, Memory};
use crate::report::{Report, progress, round};

/// First word of the arguments of the process of the agents.
pub const AGENTS: &str = "session-agents";
/// Agents that join at the same time.
pub const AT_ONCE: usize = 32;
/// Until the daemon has done what the joining made for it to do.
const SETTLE: Duration = Duration::from_secs(10);

/// The process of the agents: it says when all have a session, and keeps them until its input ends.
///
/// # Errors
/// When one can't join or loses its session.
pub fn process(arguments: &[String]) -> Result<()> {
    let [_, count, addr, token, folder] = arguments else {
        bail!("usage: {AGENTS} COUNT ADDRESS TOKEN FOLDER");
    };
    let (count, token) = (count.parse::<usize>()?, token.parse()?);
    let join = Arc::new(JoinRequest {
        addr: addr.clone(),
        token,
        availability: Availability::Active,
    });
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut sessions = tokio::task::JoinSet::new();
        let turn = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let (registered, mut told) = mpsc::channel(count.max(1));
        for number in 0..count {
            let (join, turn, registered) = (join.clone(), turn.clone(), registered.clone());
            let dir = Path::new(folder).join(number.to_string());
            sessions.spawn(async move {
                let permit = turn.acquire_owned().await?;
                let channel = enroll(&join, &dir).await?;
                let begun = || async move {
                    drop(permit);
                    registered.send(()).await
                };
                session(DispatcherClient::new(channel), &format!("agent{number}"), begun).await
            });
        }
        drop(registered);
        let mut all = 0;
        while all < count {
            tokio::select! {
                Some(()) = told.recv() => all += 1,
                Some(ended) = sessions.join_next() => return ended?,
            }
        }
        println!("{all}");
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1]));
        tokio::select! {
            _ = end => Ok(()),
            Some(ended) = sessions.join_next() => ended?,
        }
    })
}

/// Makes a node: a certificate, and a connection by it.
///
/// # Errors
/// When it is refused.
pub async fn enroll(join: &JoinRequest, dir: &Path) -> Result<Channel> {
    let issued = request_certificate(join).await?;
    std::fs::create_dir_all(dir)?;
    let identity = Identity::install(dir, &issued.credentials)?;
    Ok(connect(&identity, &Endpoint::manager(join.addr.clone())).await?)
}

/// One agent's session, to its end.
async fn session<F, S>(
    mut client: DispatcherClient<Channel>,
    hostname: &str,
    begun: impl FnOnce() -> F,
) -> Result<()>
where
    F: Future<Output = Result<(), S>>,
{
    let (outbox, messages) = mpsc::channel(4);
    let send = async |message| {
        let message = AgentMessage {
            message: Some(message),
        };
        outbox.send(message).await.context("the session is over")
    };
    let description = NodeDescription {
        hostname: hostname.to_owned(),
        ..NodeDescription::default()
    };
    send(Outgoing::Register(Register {
        description: Some(description),
        ..Register::default()
    }))
    .await?;
    let mut inbox = client.session(ReceiverStream::new(messages)).await?.into_inner();
    let mut begun = Some(begun);
    let mut period = Duration::from_secs(1);
    loop {
        match tokio::time::timeout(period, inbox.message()).await {
            Err(_) => send(Outgoing::Heartbeat(Heartbeat {})).await?,
            Ok(message) => {
                let message = message?.context("the manager ended the session")?;
                if let Some(Incoming::Registered(registered)) = message.message {
                    period = Duration::from_nanos(registered.heartbeat_period.unsigned_abs());
                    if let Some(begun) = begun.take() {
                        // Nobody waits any more when another agent has failed.
                        let _ = begun().await;
                    }
                }
            }
        }
    }
}

/// Runs the figure.
///
/// # Errors
/// When the cluster or an agent fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &[])?;
    let count = crate::number(arguments, 0, 1000)?;
    let seconds = crate::number(arguments, 1, 20)?;
    let mut report = Report::start()?;
    let fleet = Fleet::new(1)?;
    let host = fleet.host(1);
    host.ok(&["swarm", "init", "--advertise-addr", &host.address()])?;
    let pid = procs::of_kind(host, "daemon")?;
    let pid = *pid.first().context("the host has no daemon")?;
    let mut measure = |what: &str| -> Result<(Memory, f64)> {
        progress(&format!("{what}: CPU over {seconds} s"));
        sleep(SETTLE);
        let before = procs::cpu_time(pid);
        sleep(Duration::from_secs(seconds as u64));
        let cpu = 100.0 * (procs::cpu_time(pid) - before) / seconds as f64;
        let memory = Memory::of(pid)?;
        let mut value = memory.json();
        value["cpu_percent"] = json!(round(cpu));
        report.result(what, value);
        Ok((memory, cpu))
    };
    let (without, idle) = measure("manager without agents")?;
    let agents = Agents::start(host, count)?;
    let (with, busy) = measure(&format!("manager with {count} agents"))?;
    drop(agents);
    let each = |with: u64, without: u64| round(with.saturating_sub(without) as f64 / count.max(1) as f64);
    let (rss, private) = (
        each(with.rss, without.rss),
        each(with.private_dirty, without.private_dirty),
    );
    let cpu = (busy - idle).max(0.0) * 10_000.0 / count.max(1) as f64;
    report.result("KiB of resident memory per agent", json!(rss));
    report.result("KiB of private memory per agent", json!(private));
    report.result(
        "microseconds of processor per agent and second",
        json!(round(cpu)),
    );
    report.summary(format!(
        "an idle agent costs its manager {rss} KiB resident ({private} private) and {} µs of processor a second (n={count})",
        round(cpu)
    ));
    Ok(report)
}

/// The process of the agents; ends with this.
struct Agents(Child);

impl Agents {
    fn start(host: &Host, count: usize) -> Result<Self> {
        let token = host.ok(&["swarm", "join-token", "--quiet", "worker"])?;
        let inside = wire::enter(&host.netns());
        let mut command = Command::new(inside.get_program());
        command.args(inside.get_args()).arg(std::env::current_exe()?);
        command.arg(AGENTS).arg(count.to_string());
        command.arg(format!("{}:2377", host.address())).arg(token);
        command.arg(host.folder().join("agents"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut agents = Self(command.spawn().context("cannot start the agents")?);
        let output = agents.0.stdout.take().context("the agents have no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(
            line.trim() == count.to_string(),
            "the agents did not all begin: {line:?}"
        );
        Ok(agents)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // They go with their input.
        drop(self.0.stdin.take());
        if let Err(error) = self.0.wait() {
            eprintln!("cannot wait for the agents: {error}");
        }
    }
}
