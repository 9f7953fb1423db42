//! Idle agents: what a manager needs for each of them, memory and time of its processor. The agents are a process of their own, each with a
//! certificate, a TLS connection and a session, beating as told; the manager is a daemon as users run it.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, Heartbeat, NodeDescription, Register, agent_message::Message as Outgoing,
    manager_message::Message as Incoming,
};
use pontoon_tests::Fleet;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::agents::{Begun, Crowd, Process};
use crate::procs::{self, Memory};
use crate::report::{Report, progress, round};

/// First word of the arguments of the process of the agents.
pub const AGENTS: &str = "session-agents";
/// Until the daemon has done what the joining made for it to do.
const SETTLE: Duration = Duration::from_secs(10);

/// The process of the agents: it keeps their sessions until its input ends.
///
/// # Errors
/// When one can't join or loses its session.
pub fn process(arguments: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let agent = |number: usize, channel, begun| {
            let hostname = format!("agent{number}");
            session(DispatcherClient::new(channel), hostname, begun)
        };
        let mut crowd = Crowd::join(arguments, agent).await?;
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1]));
        tokio::select! {
            _ = end => Ok(()),
            ended = crowd.ended() => Err(ended),
        }
    })
}

/// One agent's session, to its end.
async fn session(mut client: DispatcherClient<Channel>, hostname: String, begun: Begun) -> Result<()> {
    let (outbox, messages) = mpsc::channel(4);
    let send = async |message| {
        let message = AgentMessage {
            message: Some(message),
        };
        outbox.send(message).await.context("the session is over")
    };
    let description = NodeDescription {
        hostname,
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
                        begun.tell().await?;
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
    let agents = Process::start(AGENTS, host, count, &[])?;
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
