//! A large state in the log: memory a task, a snapshot while writes go on, and the restart from it. In a process of its own, since its
//! memory is what is measured.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_proto::v1::{Change, Changeset, NetworkAttachment, Task, TaskState, TaskStatus, change};
use pontoon_raft::{
    Config, ConnectError, Connector, DataKey, Keyring, Member, Raft, RaftHandle, SnapshotWriter, StateMachine,
};
use pontoon_store::{Snapshot, Store, codec};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::report::{Report, Samples, progress, round};

/// First word of the arguments of the measured process.
pub const PROCESS: &str = "state-member";
/// Tasks in one entry.
const BATCH: usize = 1000;

/// The store behind the log, as the controller has it.
#[derive(Clone, Default)]
struct State(Arc<Store>);

struct Pinned(Arc<Snapshot>);

impl SnapshotWriter for Pinned {
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()> {
        codec::encode(&self.0, writer)
    }
}

impl StateMachine for State {
    fn apply(&mut self, _index: u64, data: &[u8]) {
        if let Ok(changeset) = Changeset::decode(data) {
            self.0.apply(changeset);
        }
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        Box::new(Pinned(self.0.snapshot()))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        self.0.restore(reader).map_err(io::Error::other)
    }
}

struct Nobody;

#[tonic::async_trait]
impl Connector for Nobody {
    async fn connect(&self, _member: &Member) -> Result<Channel, ConnectError> {
        Err("nobody is there".into())
    }

    async fn probe(&self, _addr: &str) -> Result<(), ConnectError> {
        Err("nobody is there".into())
    }
}

/// Runs the figure.
///
/// # Errors
/// When the process fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &[])?;
    let tasks = crate::number(arguments, 0, 1_000_000)?;
    let rounds = crate::number(arguments, 1, 3)?;
    let mut report = Report::start()?;
    report.condition("tasks", json!(tasks));
    let figures = [
        ("bytes in memory a task", "B"),
        ("log filled", "s"),
        ("snapshot under writes", "s"),
        ("longest write during it", "ms"),
        ("snapshot file", "MB"),
        ("peak above the state during it", "MB"),
        ("restart from it", "s"),
        ("memory after the restart", "MB"),
        ("peak of the restart", "MB"),
    ];
    let mut samples: Vec<Samples> = figures.iter().map(|_| Samples::default()).collect();
    for turn in 1..=rounds {
        let folder = std::env::temp_dir().join(format!("pontoon-state-{}-{turn}", std::process::id()));
        let measured = both(&folder, tasks);
        // Whatever came of it.
        let _ = std::fs::remove_dir_all(&folder);
        let measured = measured?;
        progress(&format!("round {turn} of {rounds}: {measured}"));
        for ((name, _), samples) in figures.iter().zip(&mut samples) {
            samples.push(measured[*name].as_f64().with_context(|| format!("no {name}"))?);
        }
    }
    for ((name, unit), samples) in figures.iter().zip(&samples) {
        report.samples(name, unit, samples);
    }
    let median = |i: usize| round(samples[i].median());
    report.summary(format!(
        "{tasks} tasks: {} B in memory each, snapshot {} s ({} MB), restart {} s",
        median(0),
        median(2),
        median(4),
        median(6),
    ));
    Ok(report)
}

/// Fills and restarts, each in a process of its own.
fn both(folder: &Path, tasks: usize) -> Result<Value> {
    std::fs::create_dir_all(folder)?;
    let mut all = json!({});
    for step in ["fill", "restart"] {
        let output = Command::new(std::env::current_exe()?)
            .args([PROCESS, step, &folder.display().to_string(), &tasks.to_string()])
            .stderr(std::process::Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{step} failed: {}", output.status);
        let found: Value = serde_json::from_slice(&output.stdout)?;
        if let (Some(all), Value::Object(found)) = (all.as_object_mut(), found) {
            all.extend(found);
        }
    }
    Ok(all)
}

/// The measured process: `state-member fill|restart FOLDER TASKS`; its figures as JSON.
pub fn process(arguments: &[String]) -> Result<()> {
    let [_, step, folder, tasks] = arguments else {
        bail!("usage: {PROCESS} fill|restart FOLDER TASKS");
    };
    let tasks = tasks.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = match step.as_str() {
        "fill" => runtime.block_on(fill(Path::new(folder), tasks))?,
        _ => runtime.block_on(restart(Path::new(folder), tasks))?,
    };
    println!("{figures}");
    Ok(())
}

/// The key is the same in both processes; what is at rest here is worth nothing.
fn config(folder: &Path) -> Config {
    let mut config = Config::new(7, "bench", "node", folder.join("raft"));
    config.keys = Some(Keyring::new(
        DataKey::new(pontoon_raft::KeyId([1; 16]), [2; 32].into()),
        [],
    ));
    // Only the snapshot that is measured.
    config.snapshot_every = u64::MAX;
    config.snapshot_bytes = u64::MAX;
    config
}

fn task(i: usize) -> Task {
    let name = |kind: &str, n: usize| format!("{kind}{n:0width$}", width = 25 - kind.len());
    let attachment = NetworkAttachment {
        network_id: name("net", i % 50),
        addr: format!("10.{}.{}.{}/16", i % 50, (i / 250) % 256, i % 250),
        ..NetworkAttachment::default()
    };
    let status = TaskStatus {
        state: TaskState::Running.into(),
        timestamp: 1_700_000_000_000_000_000 + i as i64,
        message: "started".to_owned(),
        ..TaskStatus::default()
    };
    Task {
        id: name("task", i),
        service_id: name("service", i % 1000),
        service_name: format!("service-{}", i % 1000),
        spec_version: 1,
        slot: (i / 1000) as u64 + 1,
        node_id: name("node", i % 5000),
        desired_state: TaskState::Running.into(),
        status: Some(status),
        networks: vec![attachment],
        ..Task::default()
    }
}

fn entry(base_version: u64, tasks: impl Iterator<Item = Task>) -> bytes::Bytes {
    let changes = tasks.map(|task| Change {
        change: Some(change::Change::PutTask(task)),
    });
    let changeset = Changeset {
        base_version,
        changes: changes.collect(),
        at: 1,
        ..Changeset::default()
    };
    changeset.encode_to_vec().into()
}

/// Resident bytes now, and the most there ever were.
fn memory() -> Result<(f64, f64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|number| number.parse::<f64>().ok())
            .context("no such line")
    };
    Ok((kib("VmRSS:")? * 1024.0, kib("VmHWM:")? * 1024.0))
}

async fn lead(handle: &RaftHandle) -> Result<()> {
    let mut leadership = handle.leadership();
    leadership.wait_for(|leadership| leadership.is_leader).await?;
    Ok(())
}

async fn snapshot_index(handle: &RaftHandle) -> Result<u64> {
    Ok(handle
        .status()
        .await
        .context("the log has stopped")?
        .snapshot_index)
}

async fn fill(folder: &Path, tasks: usize) -> Result<Value> {
    let state = State::default();
    let handle = Raft::bootstrap(config(folder), state.clone(), Arc::new(Nobody)).await?;
    lead(&handle).await?;
    let begun = Instant::now();
    for (version, first) in (0..tasks).step_by(BATCH).enumerate() {
        let batch = (first..tasks.min(first + BATCH)).map(task);
        handle.propose(entry(version as u64, batch)).await?;
    }
    let filled = begun.elapsed();
    let stored = state.0.snapshot().tasks().count();
    ensure!(stored == tasks, "{stored} tasks of {tasks} are there");
    // The log's entries are in memory too, until the snapshot: that is measured at the restart.
    let (before, _) = memory()?;
    let index = snapshot_index(&handle).await?;
    let begun = Instant::now();
    handle.key_changed();
    let mut longest = Duration::ZERO;
    let mut version = state.0.snapshot().version();
    while snapshot_index(&handle).await? == index {
        let asked = Instant::now();
        handle.propose(entry(version, [task(0)].into_iter())).await?;
        longest = longest.max(asked.elapsed());
        version = state.0.snapshot().version();
    }
    let taken = begun.elapsed();
    let (_, peak) = memory()?;
    handle.shutdown().await;
    let mut size = 0;
    for file in std::fs::read_dir(folder.join("raft"))? {
        let file = file?;
        if file.file_name().to_string_lossy().ends_with(".snap") {
            size = size.max(file.metadata()?.len());
        }
    }
    Ok(json!({
        "log filled": filled.as_secs_f64(),
        "snapshot under writes": taken.as_secs_f64(),
        "longest write during it": longest.as_secs_f64() * 1000.0,
        "snapshot file": size as f64 / 1e6,
        "peak above the state during it": (peak - before).max(0.0) / 1e6,
    }))
}

async fn restart(folder: &Path, tasks: usize) -> Result<Value> {
    let (empty, _) = memory()?;
    let state = State::default();
    let begun = Instant::now();
    let handle = Raft::open(config(folder), state.clone(), Arc::new(Nobody)).await?;
    lead(&handle).await?;
    let restored = begun.elapsed();
    let stored = state.0.snapshot().tasks().count();
    ensure!(stored == tasks, "{stored} tasks of {tasks} came back");
    let (now, peak) = memory()?;
    handle.shutdown().await;
    Ok(json!({
        "restart from it": restored.as_secs_f64(),
        "memory after the restart": now / 1e6,
        "peak of the restart": peak / 1e6,
        "bytes in memory a task": (now - empty) / tasks as f64,
    }))
}
