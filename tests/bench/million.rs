//! `scale --nodes N --tasks M [--every-state]`: a large cluster. Three managers as users run them, with their log on the disk; the agents are simulated, a process of
//! their own ([`simulated`]), each with a certificate and a session. From the first call of `service create` until the managers know
//! all tasks to run; then some nodes are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::{
    Annotations, ContainerSpec, CreateServiceRequest, GetRequest, ListRequest, Placement, ReplicatedMode,
    ResourceRequirements, Resources, Service, ServiceSpec, TaskSpec, UpdateServiceRequest,
    service_spec::Mode,
};
use pontoon_tests::{Fleet, Host};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use crate::agents::Process;
use crate::procs;
use crate::report::{Report, Samples, budget, first_line, progress, round};
use crate::simulated;

const MANAGERS: usize = 3;
/// Tasks of one service at most.
const REPLICAS: usize = 10_000;
/// Tasks on the nodes that are lost.
const WAVE: usize = 5000;
/// Between two calls of the client that goes on meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// A list of services is not small.
const LARGEST_ANSWER: usize = 256 << 20;
/// Changed by the client that goes on meanwhile.
const PROBE: &str = "probe";
/// The design's, at a million tasks on 5,000 nodes.
const BUDGET_SECONDS: f64 = 60.0;
const BUDGET_MIB: f64 = 2048.0;
const BUDGET_P99: f64 = 200.0;

/// Runs the figure.
///
/// # Errors
/// When the cluster or an agent fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &["--nodes", "--tasks", simulated::EVERY_STATE])?;
    let (nodes, tasks) = (
        value(arguments, "--nodes", 5000)?,
        value(arguments, "--tasks", 1_000_000)?,
    );
    let every_state = crate::option(arguments, simulated::EVERY_STATE);
    let mut report = Report::start()?;
    report.condition("nodes", json!(nodes));
    report.condition("tasks", json!(tasks));
    report.condition("every state is reported", json!(every_state));
    let fleet = managers(&mut report)?;
    let leader = fleet.leader(fleet.host(1))?;
    let mut agents = join(&mut report, leader, nodes, every_state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let client = runtime.block_on(connect(leader))?;
    let probe = runtime.block_on(create(client.clone(), PROBE.to_owned(), 0))?;
    let start = Usage::of(leader, &probe)?;
    let idle = agents.cpu();
    let calls = Calls::start(&runtime, client.clone(), probe.clone());

    progress(&format!("{tasks} tasks"));
    let begun = Instant::now();
    runtime.block_on(create_all(&client, tasks))?;
    report.result(
        "s until all services are written",
        json!(round(begun.elapsed().as_secs_f64())),
    );
    agents.ask(&format!("expect {tasks}"))?;
    let seconds = begun.elapsed().as_secs_f64();
    let (reads, writes) = runtime.block_on(calls.end())?;
    let probe = runtime.block_on(touch(&client, &probe, "end"))?;
    let used = Usage::of(leader, &probe)?;
    let running = runtime.block_on(running(&client))?;
    ensure!(
        running == tasks as u64,
        "{running} tasks run in the list of services"
    );
    told(&mut report, "to all running", tasks, seconds, &start, &used);
    report.result(
        "s of the processor that the simulated agents took of the same machine",
        json!(round(agents.cpu() - idle)),
    );
    tell_messages(&mut report, &mut agents)?;
    report.samples("read of a service meanwhile", "ms", &reads);
    report.samples("change of a label meanwhile", "ms", &writes);

    let wave = lose(&mut agents, nodes, tasks)?;
    report.result(
        "s from the loss of nodes to all running",
        json!(round(wave.seconds)),
    );
    report.result("tasks on the lost nodes", json!(wave.tasks));
    let probe = runtime.block_on(touch(&client, &probe, "after"))?;
    let after = Usage::of(leader, &probe)?;
    told(
        &mut report,
        "after the loss",
        wave.tasks,
        wave.seconds,
        &used,
        &after,
    );
    drop(agents);
    judge(&mut report, seconds, used.peak, &reads, &writes);
    report.summary(format!(
        "{tasks} tasks on {nodes} nodes run after {} s; leader {} MiB at most, {} entries; p99 of a call {} ms; {} tasks of lost nodes after {} s",
        round(seconds),
        round(used.peak),
        used.version - start.version,
        round(reads.quantile(0.99).max(writes.quantile(0.99))),
        wave.tasks,
        round(wave.seconds),
    ));
    Ok(report)
}

/// Managers that run no tasks.
fn managers(report: &mut Report) -> Result<Fleet> {
    let fleet = Fleet::new(MANAGERS)?;
    let folder = fleet.folder().display().to_string();
    report.condition("managers", json!(MANAGERS));
    report.condition(
        "file system",
        json!(first_line("stat", &["-f", "-c", "%T", &folder])),
    );
    fleet.form_cluster(MANAGERS)?;
    for host in fleet.hosts() {
        host.ok(&["node", "update", "--availability", "drain", &host.name()])?;
    }
    Ok(fleet)
}

/// Has all agents join.
fn join(report: &mut Report, leader: &Host, nodes: usize, every_state: bool) -> Result<Process> {
    progress(&format!("{nodes} agents join"));
    let begun = Instant::now();
    let options: &[&str] = if every_state {
        &[simulated::EVERY_STATE]
    } else {
        &[]
    };
    let agents = Process::start(simulated::AGENTS, leader, nodes, options)?;
    report.result(
        "s for all agents to join",
        json!(round(begun.elapsed().as_secs_f64())),
    );
    Ok(agents)
}

/// How many messages it took, as the agents count them.
fn tell_messages(report: &mut Report, agents: &mut Process) -> Result<()> {
    for (what, question) in [
        ("messages of status reports", "reports"),
        ("statuses of tasks in them", "statuses"),
        ("messages of assignments", "assignments"),
    ] {
        report.result(what, json!(agents.ask(question)?));
    }
    Ok(())
}

fn judge(report: &mut Report, seconds: f64, peak: f64, reads: &Samples, writes: &Samples) {
    report.budget(budget("s to all running", BUDGET_SECONDS, seconds, true));
    report.budget(budget("MiB of the leader at most", BUDGET_MIB, peak, true));
    for (what, samples) in [("read", reads), ("change", writes)] {
        let p99 = samples.quantile(0.99);
        report.budget(budget(&format!("p99 of a {what} in ms"), BUDGET_P99, p99, true));
    }
}

/// The number that follows an option.
fn value(arguments: &[String], option: &str, default: usize) -> Result<usize> {
    let Some(at) = arguments.iter().position(|argument| argument == option) else {
        return Ok(default);
    };
    let text = arguments.get(at + 1).map_or("", String::as_str);
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{option} needs a number: {text:?} is none"),
    }
}

/// What the leader has used up.
struct Usage {
    /// The version of the state: the number of entries that changed it.
    version: u64,
    /// Bytes that went to the disk.
    written: u64,
    cpu: f64,
    /// MiB at most, ever.
    peak: f64,
}

impl Usage {
    /// `probe` was written just now.
    fn of(leader: &Host, probe: &Service) -> Result<Self> {
        let pid = procs::of_kind(leader, "daemon")?;
        let pid = *pid.first().context("the leader has no daemon")?;
        let field = |file: &str, name: &str| -> Result<u64> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            let line = text.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number
                .and_then(|number| number.parse().ok())
                .with_context(|| format!("no {name} in {file}"))
        };
        Ok(Self {
            version: probe.meta.unwrap_or_default().version,
            written: field("io", "write_bytes:")?,
            cpu: procs::cpu_time(pid),
            peak: field("status", "VmHWM:")? as f64 / 1024.0,
        })
    }
}

fn told(report: &mut Report, what: &str, tasks: usize, seconds: f64, before: &Usage, after: &Usage) {
    let value = json!({
        "s": round(seconds),
        "tasks/s": round(tasks as f64 / seconds),
        "entries": after.version - before.version,
        "MB written by the leader": round((after.written - before.written) as f64 / 1e6),
        "s of the leader's processor": round(after.cpu - before.cpu),
        "MiB of the leader at most": round(after.peak),
    });
    progress(&format!("{what}: {value}"));
    report.result(what, value);
}

async fn connect(leader: &Host) -> Result<ControlClient<Channel>> {
    let channel = Endpoint::from_shared(leader.socket())?.connect().await?;
    Ok(ControlClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

fn spec(name: String, replicas: usize) -> ServiceSpec {
    let reservations = Resources {
        nano_cpus: 1_000_000,
        memory_bytes: 4 << 20,
        ..Resources::default()
    };
    ServiceSpec {
        annotations: Some(Annotations {
            name,
            ..Annotations::default()
        }),
        task: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: "app:1".to_owned(),
                ..ContainerSpec::default()
            }),
            resources: Some(ResourceRequirements {
                reservations: Some(reservations),
                ..ResourceRequirements::default()
            }),
            placement: Some(Placement {
                constraints: vec!["node.role==worker".to_owned()],
                ..Placement::default()
            }),
            ..TaskSpec::default()
        }),
        mode: Some(Mode::Replicated(ReplicatedMode {
            replicas: replicas as u64,
        })),
        ..ServiceSpec::default()
    }
}

async fn create(mut client: ControlClient<Channel>, name: String, replicas: usize) -> Result<Service> {
    let request = CreateServiceRequest {
        spec: Some(spec(name, replicas)),
        resolve_image: false,
    };
    Ok(client.create_service(request).await?.into_inner())
}

/// Services with so many tasks altogether, side by side.
async fn create_all(client: &ControlClient<Channel>, tasks: usize) -> Result<()> {
    let mut calls = tokio::task::JoinSet::new();
    for (number, first) in (0..tasks).step_by(REPLICAS).enumerate() {
        let replicas = REPLICAS.min(tasks - first);
        calls.spawn(create(client.clone(), format!("service-{number}"), replicas));
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(())
}

async fn get(client: &ControlClient<Channel>, name: &str) -> Result<Service> {
    let request = GetRequest {
        target: name.to_owned(),
    };
    Ok(client.clone().get_service(request).await?.into_inner())
}

/// Changes a label of the service: the version that it then has is that of the newest entry.
async fn touch(client: &ControlClient<Channel>, service: &Service, turn: &str) -> Result<Service> {
    let mut spec = service.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.get_or_insert_default();
    annotations.labels.insert("turn".to_owned(), turn.to_owned());
    let request = UpdateServiceRequest {
        target: service.id.clone(),
        spec: Some(spec),
        ..UpdateServiceRequest::default()
    };
    Ok(client.clone().update_service(request).await?.into_inner())
}

/// Tasks that run, by the list of services.
async fn running(client: &ControlClient<Channel>) -> Result<u64> {
    let services = client.clone().list_services(ListRequest::default()).await?;
    let services = services.into_inner().services;
    Ok(services.iter().map(|service| service.running_tasks).sum())
}

/// A client that goes on while the cluster works: it reads a service, then changes one.
struct Calls {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<(Samples, Samples)>>,
}

impl Calls {
    fn start(runtime: &tokio::runtime::Runtime, client: ControlClient<Channel>, probe: Service) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = runtime.spawn(async move {
            let (mut reads, mut writes) = (Samples::default(), Samples::default());
            for turn in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                get(&client, PROBE).await?;
                reads.push(begun.elapsed().as_secs_f64() * 1000.0);
                let begun = Instant::now();
                touch(&client, &probe, &turn.to_string()).await?;
                writes.push(begun.elapsed().as_secs_f64() * 1000.0);
                tokio::time::sleep(PAUSE).await;
            }
            Ok((reads, writes))
        });
        Self { stop, task }
    }

    /// Milliseconds of its reads and of its writes.
    async fn end(self) -> Result<(Samples, Samples)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

struct Wave {
    tasks: usize,
    seconds: f64,
}

/// Ends agents that have about [`WAVE`] tasks, and waits until all run elsewhere.
fn lose(agents: &mut Process, nodes: usize, tasks: usize) -> Result<Wave> {
    let wanted = (WAVE.min(tasks / 10) * nodes).div_ceil(tasks).max(1);
    progress(&format!("{wanted} nodes are lost"));
    let begun = Instant::now();
    let lost = agents.ask(&format!("lose {wanted}"))?;
    agents.ask(&format!("expect {tasks}"))?;
    Ok(Wave {
        tasks: lost,
        seconds: begun.elapsed().as_secs_f64(),
    })
}
