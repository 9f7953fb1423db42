//! The scheduler alone, in this process: tasks that have all they need are given nodes, an entry of 1,000 at a time, until so many
//! are placed. Timed apart: the decision (filters, scores, what the node has left), writing it into the transaction, and what else a leader
//! does for an entry (taking in what changed, making the changeset, applying it).
//!
//! Each entry is a service of 1,000 tasks, or 100 services of ten, with reservations, a constraint that a fifth of the nodes does
//! not meet, and a spread over five zones.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pontoon_proto::v1::{
    Annotations, Cluster, ContainerSpec, Node, NodeDescription, NodeSpec, NodeState, NodeStatus, Placement,
    PlacementPreference, Platform, ReplicatedMode, ResourceRequirements, Resources, Service, ServiceSpec,
    Task, TaskSpec, TaskState, TaskStatus, service_spec::Mode,
};
use pontoon_reconcile::{Budget, Env, ReconcileState};
use pontoon_store::{ApplyOutcome, Snapshot, Store, Tx};
use prost::Message as _;
use serde_json::{Value, json};

use crate::report::{Report, Samples, budget, progress, round};

const NODES: [usize; 3] = [100, 1000, 5000];
/// Tasks in one entry.
const ENTRY: usize = 1000;
/// Least decisions a second.
const RATE: f64 = 100_000.0;
/// Least rate at the end as a share of that at the begin: what is flat.
const FLAT: f64 = 0.8;
const NOW: i64 = 1_700_000_000_000_000_000;

/// Runs the figure.
///
/// # Errors
/// When a task is not placed, or not as it should be.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 1, &[])?;
    let tasks = crate::number(arguments, 0, 1_000_000)?;
    let mut report = Report::start()?;
    report.condition("tasks", json!(tasks));
    report.condition("tasks an entry", json!(ENTRY));
    let mut said = Vec::new();
    for nodes in NODES {
        for replicas in [ENTRY, 10] {
            let (first, last) = measure(&mut report, nodes, replicas, tasks)?;
            let what = format!("{nodes} nodes, services of {replicas}");
            said.push(format!("{what}: {} to {}", round(first), round(last)));
            let end = format!("placements/s, {what}, at the end");
            report.budget(budget(&end, RATE, last, false));
            let share = format!("rate at the end as a share of that at the begin, {what}");
            report.budget(budget(&share, FLAT, last / first, false));
        }
    }
    report.summary(format!(
        "placements a second on one core, none to {tasks} tasks placed: {}",
        said.join("; ")
    ));
    Ok(report)
}

/// Time that the parts of an entry took.
#[derive(Default)]
struct Phases {
    /// Taking in the entry's objects.
    sync: Duration,
    /// Deciding which task goes where.
    choose: Duration,
    /// Writing that into the transaction.
    write: Duration,
    /// Comparing with what was before, and encoding.
    changeset: Duration,
    apply: Duration,
    /// The reconciler's next look, which finds nothing to do.
    settle: Duration,
}

impl Phases {
    fn json(&self, tasks: usize) -> Value {
        let each = |time: Duration| json!(round(time.as_nanos() as f64 / tasks.max(1) as f64));
        json!({
            "sync": each(self.sync), "choose": each(self.choose), "write": each(self.write),
            "changeset": each(self.changeset), "apply": each(self.apply), "settle": each(self.settle),
        })
    }

    fn all(&self) -> Duration {
        self.sync + self.choose + self.write + self.changeset + self.apply + self.settle
    }
}

/// Shares of the run at which rates are told: each is that of the twentieth of the run that begins there, or ends with it.
const TOLD: [(usize, &str); 4] = [(0, "0"), (2, "a tenth"), (6, "three tenths"), (19, "all")];
const PARTS: usize = 20;

/// Places `tasks` on `nodes` in services of `replicas`: decisions a second in the first and in the last part of the run.
fn measure(report: &mut Report, nodes: usize, replicas: usize, tasks: usize) -> Result<(f64, f64)> {
    let mut bench = Bench::new(nodes)?;
    let entries = tasks.div_ceil(ENTRY).max(PARTS);
    let (mut sum, mut parts) = (Phases::default(), vec![Part::default(); PARTS]);
    for entry in 0..entries {
        let (chosen, all) = (sum.choose, sum.all());
        bench.entry(entry, replicas, &mut sum)?;
        let part = &mut parts[entry * PARTS / entries];
        let rate = |time: Duration| ENTRY as f64 / time.as_secs_f64();
        part.chosen.push(rate(sum.choose.saturating_sub(chosen)));
        part.all.push(rate(sum.all().saturating_sub(all)));
    }
    bench.check(entries * ENTRY)?;
    let what = format!("{nodes} nodes, services of {replicas}");
    progress(&format!("{what}: {} tasks placed", entries * ENTRY));
    for (part, placed) in TOLD {
        let Part { chosen, all } = &parts[part];
        report.samples(&format!("placements/s, {what}, {placed} placed"), "/s", chosen);
        report.samples(
            &format!("whole entries, tasks/s, {what}, {placed} placed"),
            "/s",
            all,
        );
    }
    report.result(&format!("ns a task, {what}"), sum.json(entries * ENTRY));
    Ok((parts[0].chosen.median(), parts[PARTS - 1].chosen.median()))
}

/// Rates of the entries of a part of the run.
#[derive(Clone, Default)]
struct Part {
    /// Decisions.
    chosen: Samples,
    /// Everything that is timed.
    all: Samples,
}

/// A leader's state without its log.
struct Bench {
    store: Store,
    state: ReconcileState,
    now: i64,
}

impl Bench {
    fn new(nodes: usize) -> Result<Self> {
        let mut bench = Self {
            store: Store::new(),
            state: ReconcileState::default(),
            now: NOW,
        };
        let mut tx = bench.tx();
        tx.put_cluster(Cluster {
            id: "cluster".to_owned(),
            ..Cluster::default()
        })?;
        for number in 0..nodes {
            tx.put_node(node(number))?;
        }
        bench.store.apply(tx.into_changeset(NOW));
        bench.settle();
        Ok(bench)
    }

    fn tx(&self) -> Tx {
        Tx::new(Snapshot::clone(&self.store.snapshot()))
    }

    fn entry(&mut self, entry: usize, replicas: usize, phases: &mut Phases) -> Result<()> {
        let mut tx = self.tx();
        for number in 0..ENTRY / replicas {
            let service = service(entry * ENTRY + number, replicas);
            for slot in 1..=replicas {
                tx.put_task(task(&service, slot))?;
            }
            tx.put_service(service)?;
        }
        self.now += 1_000_000;
        // The scheduler makes no objects.
        let mut ids = String::new;
        let mut env = Env {
            now: self.now,
            ids: &mut ids,
            budget: Budget::default(),
        };
        let begun = Instant::now();
        self.state.sync(tx.view());
        phases.sync += begun.elapsed();
        let begun = Instant::now();
        let plan = pontoon_reconcile::choose(&mut tx, &mut self.state, &mut env);
        phases.choose += begun.elapsed();
        let begun = Instant::now();
        pontoon_reconcile::write(plan, &mut tx, &mut self.state, &mut env);
        phases.write += begun.elapsed();
        let begun = Instant::now();
        let changeset = tx.into_changeset(self.now);
        let bytes = changeset.encode_to_vec();
        phases.changeset += begun.elapsed();
        drop(bytes);
        let begun = Instant::now();
        let outcome = self.store.apply(changeset);
        phases.apply += begun.elapsed();
        ensure!(
            matches!(outcome, ApplyOutcome::Applied { .. }),
            "the entry was not applied"
        );
        let begun = Instant::now();
        self.settle();
        phases.settle += begun.elapsed();
        Ok(())
    }

    /// Lets the reconciler look until it finds nothing to do.
    fn settle(&mut self) {
        loop {
            let mut tx = self.tx();
            let mut made = 0;
            let mut ids = || {
                made += 1;
                format!("made{made:020}")
            };
            let mut env = Env {
                now: self.now,
                ids: &mut ids,
                budget: Budget::default(),
            };
            let outcome = pontoon_reconcile::reconcile(&mut tx, &mut self.state, &mut env);
            let changeset = tx.into_changeset(self.now);
            if !changeset.changes.is_empty() {
                self.store.apply(changeset);
            }
            if !outcome.more {
                return;
            }
        }
    }

    /// That all are placed, on no node that does not meet the constraint, and evenly.
    fn check(&self, tasks: usize) -> Result<()> {
        let view = self.store.snapshot();
        ensure!(
            view.task_count() == tasks,
            "there are {} tasks",
            view.task_count()
        );
        let waiting = view.tasks().filter(|task| task.node_id.is_empty()).count();
        ensure!(waiting == 0, "{waiting} tasks are not placed");
        let on = |node: &str| view.tasks_by_node(node).count();
        let (mut least, mut most) = (usize::MAX, 0);
        for (number, node) in view.nodes().enumerate() {
            let tasks = on(&node.id);
            if number % 5 == FORBIDDEN {
                ensure!(tasks == 0, "{} has {tasks} tasks that must not be there", node.id);
            } else {
                (least, most) = (least.min(tasks), most.max(tasks));
            }
        }
        ensure!(most - least <= 2, "nodes have from {least} to {most} tasks");
        Ok(())
    }
}

/// Of five nodes in a row the one that does not meet the constraint.
const FORBIDDEN: usize = 4;

fn node(number: usize) -> Node {
    let disk = if number % 5 == FORBIDDEN { "hdd" } else { "ssd" };
    let labels = [
        ("zone".to_owned(), format!("zone{}", number / 5 % 5)),
        ("disk".to_owned(), disk.to_owned()),
    ];
    Node {
        id: format!("node{number:021}"),
        spec: Some(NodeSpec {
            annotations: Some(Annotations {
                labels: labels.into(),
                ..Annotations::default()
            }),
            ..NodeSpec::default()
        }),
        description: Some(NodeDescription {
            hostname: format!("host{number}"),
            platform: Some(Platform {
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
            }),
            // Enough for all, so that it is looked at and never refuses.
            resources: Some(Resources {
                nano_cpus: i64::MAX / 2,
                memory_bytes: i64::MAX / 2,
                ..Resources::default()
            }),
            ..NodeDescription::default()
        }),
        status: Some(NodeStatus {
            state: NodeState::Ready.into(),
            since: NOW,
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

fn service(number: usize, replicas: usize) -> Service {
    let placement = Placement {
        constraints: vec!["node.labels.disk==ssd".to_owned()],
        preferences: vec![PlacementPreference {
            spread_descriptor: "node.labels.zone".to_owned(),
        }],
        ..Placement::default()
    };
    let task = TaskSpec {
        container: Some(ContainerSpec {
            image: "app:1".to_owned(),
            ..ContainerSpec::default()
        }),
        resources: Some(ResourceRequirements {
            reservations: Some(Resources {
                nano_cpus: 10_000_000,
                memory_bytes: 16 << 20,
                ..Resources::default()
            }),
            ..ResourceRequirements::default()
        }),
        placement: Some(placement),
        ..TaskSpec::default()
    };
    Service {
        id: format!("service{number:018}"),
        spec: Some(ServiceSpec {
            annotations: Some(Annotations {
                name: format!("service-{number}"),
                ..Annotations::default()
            }),
            task: Some(task),
            mode: Some(Mode::Replicated(ReplicatedMode {
                replicas: replicas as u64,
            })),
            ..ServiceSpec::default()
        }),
        spec_version: 1,
        ..Service::default()
    }
}

/// As the orchestrator and the allocator leave it.
fn task(service: &Service, slot: usize) -> Task {
    let number = service.id.trim_start_matches("service");
    Task {
        id: format!("t{number}{slot:06}"),
        service_id: service.id.clone(),
        service_name: format!("service-{number}"),
        spec_version: 1,
        slot: slot as u64,
        desired_state: TaskState::Running.into(),
        status: Some(TaskStatus {
            state: TaskState::Pending.into(),
            timestamp: NOW,
            message: "pending task scheduling".to_owned(),
            ..TaskStatus::default()
        }),
        ..Task::default()
    }
}
