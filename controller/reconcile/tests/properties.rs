//! Random lives of a cluster: whatever users, agents and nodes do, the invariants hold after every commit (`sim`), nobody
//! waits who could be placed, increments lead to the full set, and once the cluster is healed all services run as asked.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_proto::v1::*;
use pontoon_reconcile::assignments::{self, Changes, Records, Told, matters_to_node};
use pontoon_reconcile::{Budget, ReconcileState, attachment, edit};
use pontoon_store::{Object, Snapshot};
use proptest::prelude::*;
use sim::rules::{is_open, reserved, spec, state, suits, units_free, used};
use sim::{SECOND, Sim, containers, words};

#[derive(Debug, Clone)]
enum Op {
    AddNode {
        zone: u8,
        cpus: u8,
    },
    Down(usize),
    Up(usize),
    SetNode(usize, &'static str),
    RemoveNode(usize),
    Create {
        words: Vec<String>,
    },
    Update(usize, String),
    RemoveService(usize),
    Rollback(usize),
    AddNetwork,
    RemoveNetwork(usize),
    /// A node's container in a network, with an address that it wants or any (0).
    Attach(usize, usize, u8, u8),
    Detach(usize, usize, u8),
    /// A node has lost all of its containers.
    Register(usize),
    Step,
    StepNode(usize),
    Fail(usize),
    Complete(usize),
    Unhealthy(usize),
    Wait(i64),
    Break(bool),
    Forget,
}

fn service_words() -> impl Strategy<Value = Vec<String>> {
    let mode = prop_oneof![
        4 => (0..6u8).prop_map(|n| format!("replicas={n}")),
        1 => Just("global".to_owned()),
        2 => (0..6u8, 0..3u8).prop_map(|(n, at_a_time)| format!("job={n}:{at_a_time}")),
        1 => Just("global-job".to_owned()),
    ];
    let optional = |word: &'static str| prop_oneof![Just(None), Just(Some(word.to_owned()))];
    (
        mode,
        optional("reserve-cpu=1"),
        optional("constraint=node.labels.zone==1"),
        optional("spread=node.labels.zone"),
        optional("network=net0"),
        optional("publish=:80"),
        prop_oneof![
            Just(None),
            Just(Some("update-parallelism=0".to_owned())),
            Just(Some("update-parallelism=2".to_owned()))
        ],
        prop_oneof![
            Just(None),
            Just(Some("update-failure-action=rollback".to_owned())),
            Just(Some("update-failure-action=continue".to_owned()))
        ],
        prop_oneof![
            Just(None),
            Just(Some("update-order=start-first".to_owned())),
            Just(Some("generic=gpu:1".to_owned()))
        ],
    )
        .prop_map(|(mode, a, b, c, d, e, f, g, h)| {
            [Some(mode), a, b, c, d, e, f, g, h]
                .into_iter()
                .flatten()
                .collect()
        })
}

fn op() -> impl Strategy<Value = Op> {
    let image = (1..4u8).prop_map(|n| format!("image=app:{n}"));
    let scale = (0..7u8).prop_map(|n| format!("replicas={n}"));
    let ports = prop_oneof![Just("no-ports".to_owned()), Just("publish=:81".to_owned())];
    prop_oneof![
        2 => (0..3u8, 1..5u8).prop_map(|(zone, cpus)| Op::AddNode { zone, cpus }),
        1 => any::<usize>().prop_map(Op::Down),
        1 => any::<usize>().prop_map(Op::Up),
        2 => (any::<usize>(), prop_oneof![
            Just("drain"), Just("pause"), Just("active"), Just("label.zone=1"), Just("label.zone=2"), Just("cpu=1"),
            Just("generic.gpu=1"), Just("generic.gpu=a,b"), Just("generic.gpu=b,c"), Just("generic.gpu=3")
        ]).prop_map(|(node, word)| Op::SetNode(node, word)),
        1 => any::<usize>().prop_map(Op::RemoveNode),
        2 => service_words().prop_map(|words| Op::Create { words }),
        4 => (any::<usize>(), prop_oneof![image, scale, ports]).prop_map(|(at, word)| Op::Update(at, word)),
        1 => any::<usize>().prop_map(Op::RemoveService),
        1 => any::<usize>().prop_map(Op::Rollback),
        1 => Just(Op::AddNetwork),
        1 => any::<usize>().prop_map(Op::RemoveNetwork),
        3 => (any::<usize>(), any::<usize>(), 0..4u8, prop_oneof![2 => Just(0), 1 => 1..6u8])
            .prop_map(|(node, network, container, wish)| Op::Attach(node, network, container, wish)),
        1 => (any::<usize>(), any::<usize>(), 0..4u8).prop_map(|(node, network, container)| Op::Detach(node, network, container)),
        1 => any::<usize>().prop_map(Op::Register),
        6 => Just(Op::Step),
        6 => any::<usize>().prop_map(Op::StepNode),
        2 => any::<usize>().prop_map(Op::Fail),
        1 => any::<usize>().prop_map(Op::Complete),
        1 => any::<usize>().prop_map(Op::Unhealthy),
        3 => (1..20i64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Break),
        1 => Just(Op::Forget),
    ]
}

fn pick<T: Clone>(items: Vec<T>, at: usize) -> Option<T> {
    if items.is_empty() {
        None
    } else {
        Some(items[at % items.len()].clone())
    }
}

fn node(sim: &Sim, at: usize) -> Option<String> {
    pick(sim.view().nodes().map(|node| node.id.clone()).collect(), at)
}

fn service(sim: &Sim, at: usize) -> Option<Arc<Service>> {
    pick(sim.view().services().cloned().collect(), at)
}

fn network_at(sim: &Sim, at: usize) -> Option<Arc<Network>> {
    pick(sim.view().networks().cloned().collect(), at)
}

fn running(sim: &Sim, at: usize) -> Option<Arc<Task>> {
    pick(
        sim.view()
            .tasks()
            .filter(|task| state(task) == TaskState::Running)
            .cloned()
            .collect(),
        at,
    )
}

fn with_words(sim: &Sim, mut spec: ServiceSpec, list: &[String]) -> ServiceSpec {
    let view = sim.view();
    let network = |name: &str| {
        view.network_by_name(name)
            .map_or(name.to_owned(), |n| n.id.clone())
    };
    list.iter()
        .for_each(|word| words::spec(&mut spec, word, &network));
    spec
}

/// A container of one of the nodes joins one of the networks.
fn attach(sim: &mut Sim, (at, network): (usize, usize), container: u8, wish: u8) -> Option<()> {
    let (node, network) = (node(sim, at)?, network_at(sim, network)?);
    let container = format!("{node}-c{container}");
    let wished = network.ipam.first()?.subnet.replace(".0/24", &format!(".{wish}"));
    let mut words = vec![container.as_str(), network.id.as_str()];
    words.extend((wish != 0).then_some(wished.as_str()));
    // Refused when somebody has it.
    drop(containers::attach(sim, &node, &words, &str::to_owned));
    Some(())
}

fn apply(sim: &mut Sim, op: Op) -> Option<()> {
    match op {
        Op::AddNode { zone, cpus } => {
            let name = sim.id("node");
            sim.node(&name, |node| {
                words::node(node, &format!("label.zone={zone}"));
                words::node(node, &format!("cpu={cpus}"));
                words::node(node, ["generic.gpu=2", "generic.gpu=x,y"][usize::from(cpus % 2)]);
            });
        }
        Op::Down(at) => sim.down(&node(sim, at)?),
        Op::Up(at) => sim.up(&node(sim, at)?),
        Op::SetNode(at, word) => sim.edit_node(&node(sim, at)?, |node| words::node(node, word)),
        Op::RemoveNode(at) => {
            let name = node(sim, at)?;
            sim.commit(|tx, _| edit::remove_node(tx, &name)).unwrap();
        }
        Op::Create { words: list } => {
            let id = sim.id("s");
            let spec = with_words(sim, words::service(&id), &list);
            // Refused when the network does not exist.
            drop(sim.commit(|tx, _| edit::create_service(tx, id, spec)));
        }
        Op::Update(at, word) => {
            let service = service(sim, at)?;
            let spec = with_words(sim, service.spec.clone().unwrap(), &[word]);
            drop(sim.commit(|tx, _| edit::update_service(tx, &service.id, 0, spec)));
        }
        Op::RemoveService(at) => {
            let service = service(sim, at)?;
            sim.commit(|tx, _| edit::remove_service(tx, &service.id)).unwrap();
        }
        Op::Rollback(at) => {
            let service = service(sim, at)?;
            drop(sim.commit(|tx, now| edit::rollback_service(tx, &service.id, 0, now)));
        }
        Op::AddNetwork => {
            let id = sim.id("n");
            let name = format!("net{}", sim.view().networks().count() % 3);
            let annotations = Some(Annotations {
                name,
                ..Default::default()
            });
            let spec = NetworkSpec {
                annotations,
                driver: "overlay".to_owned(),
                attachable: true,
                ..Default::default()
            };
            drop(sim.commit(|tx, _| edit::create_network(tx, id, spec)));
        }
        Op::RemoveNetwork(at) => {
            let id = pick(sim.view().networks().map(|n| n.id.clone()).collect(), at)?;
            drop(sim.commit(|tx, _| edit::remove_network(tx, &id)));
        }
        Op::Attach(at, network, container, wish) => attach(sim, (at, network), container, wish)?,
        Op::Detach(at, network, container) => {
            let (node, network) = (node(sim, at)?, network_at(sim, network)?);
            let container = format!("{node}-c{container}");
            sim.commit(|tx, _| attachment::detach(tx, &node, &container, &network.id));
        }
        Op::Register(at) => containers::register(sim, &node(sim, at)?, &[]),
        Op::Step => drop(sim.step()),
        Op::StepNode(at) => drop(sim.step_node(&node(sim, at)?)),
        Op::Fail(at) => sim.report(&*running(sim, at)?, TaskState::Failed),
        Op::Complete(at) => sim.report(&*running(sim, at)?, TaskState::Complete),
        Op::Unhealthy(at) => sim.unhealthy(&*running(sim, at)?),
        Op::Wait(seconds) => sim.wait(seconds * SECOND),
        Op::Break(yes) => {
            if yes {
                sim.broken.insert("app:2".to_owned());
            } else {
                sim.broken.clear();
            }
        }
        Op::Forget => sim.state = ReconcileState::default(),
    }
    Some(())
}

/// Nobody waits for a node who could have one.
fn nobody_waits_in_vain(sim: &Sim) {
    let view = sim.view();
    let waits = |task: &&Arc<Task>| {
        state(task) == TaskState::Pending && task.desired_state() <= TaskState::Complete && task.slot != 0
    };
    for task in view.tasks().filter(waits) {
        let spec = spec(&view, task);
        let placement = spec
            .and_then(|s| s.task.as_ref())
            .and_then(|t| t.placement.as_ref());
        // What a removed service's tasks hold until they have stopped, nobody can tell from the objects any more.
        let removed = |task: &Arc<Task>| view.service(&task.service_id).is_none();
        let (cpus, _) = reserved(spec);
        for node in view
            .nodes()
            .filter(|node| is_open(node) && suits(node, placement))
        {
            let has = node.description.as_ref().unwrap().resources.unwrap().nano_cpus;
            let fits = cpus == 0 || used(&view, &node.id).0 + cpus <= has;
            let resources = spec
                .and_then(|s| s.task.as_ref())
                .and_then(|t| t.resources.as_ref());
            let units = resources.is_none_or(|r| {
                let mut wanted = r.generic_reservations.iter();
                wanted.all(|unit| units_free(&view, node, &unit.kind) >= unit.count)
            });
            let fits = fits && units && !view.tasks_by_node(&node.id).any(removed);
            assert!(
                !fits,
                "{} waits ({}), but {} has room",
                task.id,
                task.status.as_ref().unwrap().err,
                node.id
            );
        }
    }
}

/// What an agent makes of the increments.
fn merge(held: &Assignments, change: Assignments) -> Assignments {
    let mut tasks: BTreeMap<String, _> = held
        .tasks
        .iter()
        .map(|t| (t.task_id.clone(), t.clone()))
        .collect();
    let mut networks: BTreeMap<String, _> = held.networks.iter().map(|n| (n.id.clone(), n.clone())).collect();
    change.removed_tasks.iter().for_each(|id| drop(tasks.remove(id)));
    change
        .removed_networks
        .iter()
        .for_each(|id| drop(networks.remove(id)));
    tasks.extend(change.tasks.into_iter().map(|t| (t.task_id.clone(), t)));
    networks.extend(change.networks.into_iter().map(|n| (n.id.clone(), n)));
    let ingress = change
        .ingress
        .or(held.ingress.clone())
        .filter(|ingress| !ingress.network_id.is_empty());
    Assignments {
        full: true,
        version: change.version,
        tasks: tasks.into_values().collect(),
        networks: networks.into_values().collect(),
        ingress,
        ..Default::default()
    }
}

/// What the dispatcher has told agents, and what they have made of it.
#[derive(Default)]
struct Agents {
    seen: Snapshot,
    told: BTreeMap<String, (Told, Assignments)>,
}

/// What may have changed for nodes between two states; tasks of other nodes are no harm.
fn changes(before: &Snapshot, now: &Snapshot) -> Changes {
    let mut changes = Changes {
        networks: true,
        version: now.version(),
        ..Changes::default()
    };
    for pair in now.diff(before) {
        match pair {
            (Some(Object::Task(old)), Some(Object::Task(new))) if !matters_to_node(&old, &new) => {}
            (_, Some(Object::Task(task))) | (Some(Object::Task(task)), None) => {
                changes.tasks.insert(task.id.clone());
            }
            (_, Some(Object::Service(service))) | (Some(Object::Service(service)), None) => {
                let tasks = now.tasks_by_service(&service.id);
                changes.tasks.extend(tasks.map(|task| task.id.clone()));
            }
            _ => {}
        }
    }
    changes
}

/// Looking only at what has changed leads to what a fresh look would say.
fn agents_know_all(sim: &mut Sim, agents: &mut Agents) {
    let view = sim.view();
    let changes = changes(&agents.seen, &view);
    for node in view.nodes() {
        let full = assignments::for_node(&view, &mut Records::default(), &node.id);
        let (told, held) = agents.told.entry(node.id.clone()).or_default();
        if let Some(change) = told.advance(&view, &mut sim.records, &node.id, &changes) {
            *held = if change.full { change } else { merge(held, change) };
        }
        held.version = full.version;
        assert_eq!(*held, full);
        let networks: std::collections::BTreeSet<&str> =
            full.networks.iter().map(|n| n.id.as_str()).collect();
        assert!(
            told.networks()
                .all(|id| networks.contains(id) || full.ingress.is_some())
        );
        assert_eq!(
            told.advance(&view, &mut sim.records, &node.id, &Changes::default()),
            None
        );
    }
    agents.seen = Snapshot::clone(&view);
}

/// The increments lead to what a fresh look would say.
fn increments_add_up(sim: &mut Sim, held: &mut BTreeMap<String, Assignments>) {
    let view = sim.view();
    for node in view.nodes() {
        let fresh = assignments::for_node(&view, &mut Records::default(), &node.id);
        let full = assignments::for_node(&view, &mut sim.records, &node.id);
        assert_eq!(full, fresh, "cached records differ");
        let before = held.entry(node.id.clone()).or_default();
        match assignments::diff(before, &full) {
            Some(change) => *before = merge(before, change),
            None => before.version = full.version,
        }
        before.full = true;
        assert_eq!(*before, full);
    }
}

fn heal(sim: &mut Sim) {
    sim.broken.clear();
    sim.finishing = true;
    for node in sim.view().nodes().cloned().collect::<Vec<_>>() {
        sim.up(&node.id);
        sim.edit_node(&node.id, |node| words::node(node, "active"));
    }
    for zone in 0..3 {
        sim.node(&format!("healer{zone}"), |node| {
            words::node(node, &format!("label.zone={zone}"));
            words::node(node, "cpu=64");
            words::node(node, "generic.gpu=64");
        });
    }
    for _ in 0..20 {
        sim.wait(30 * SECOND);
    }
}

fn converged(sim: &Sim) {
    let view = sim.view();
    for service in view.services() {
        let spec = service.spec.as_ref().unwrap();
        let task = spec.task.as_ref().unwrap();
        let placement = task.placement.as_ref();
        let units = task
            .resources
            .as_ref()
            .is_some_and(|r| !r.generic_reservations.is_empty());
        let wanted = match spec.mode.as_ref().unwrap() {
            service_spec::Mode::Replicated(mode) => usize::try_from(mode.replicas).unwrap(),
            // A task that does not fit its node waits.
            _ if spec.is_per_node() && (reserved(Some(spec)).0 > 0 || units) => continue,
            service_spec::Mode::ReplicatedJob(job) => {
                assert_eq!(
                    sim.completed(&service.id) as u64,
                    job.total_completions,
                    "{service:#?}"
                );
                assert_eq!(sim.live(&service.id).len(), 0, "{service:#?}");
                continue;
            }
            service_spec::Mode::GlobalJob(_) => {
                let done = |node: &Node| {
                    view.tasks_by_node(&node.id).any(|task| {
                        task.service_id == service.id
                            && service.is_of_this_run(task)
                            && state(task) == TaskState::Complete
                    })
                };
                let late = view.nodes().find(|node| suits(node, placement) && !done(node));
                assert!(late.is_none(), "{service:#?} has not run on {late:#?}");
                continue;
            }
            service_spec::Mode::Global(_) => view.nodes().filter(|node| suits(node, placement)).count(),
        };
        let live = sim.live(&service.id);
        assert_eq!(live.len(), wanted, "{service:#?}\n{live:#?}");
        assert_eq!(sim.running(&service.id), wanted, "{service:#?}\n{live:#?}");
        let slots: std::collections::BTreeSet<_> = live.iter().map(|t| (t.slot, t.slot == 0).0).collect();
        assert!(
            wanted == 0 || slots.len() == wanted || slots.len() == 1,
            "{slots:?}"
        );
        let state = service
            .update_status
            .as_ref()
            .map_or(UpdateState::None, UpdateStatus::state);
        assert!(
            !matches!(state, UpdateState::Updating | UpdateState::RollbackStarted),
            "{service:#?}\n{live:#?}"
        );
    }
    let orphans = view
        .tasks()
        .filter(|task| view.service(&task.service_id).is_none());
    assert_eq!(orphans.count(), 0, "tasks of removed services are left");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_life_keeps_the_invariants_and_converges(
        ops in prop::collection::vec(op(), 1..60),
        changes in prop_oneof![Just(1000usize), 1..20usize],
        forgetful in any::<bool>(),
    ) {
        let mut sim = Sim::default();
        sim.budget = Budget { changes, bytes: 1 << 20 };
        sim.forgetful = forgetful;
        let (mut held, mut agents) = (BTreeMap::new(), Agents::default());
        for op in ops {
            apply(&mut sim, op);
            nobody_waits_in_vain(&sim);
            increments_add_up(&mut sim, &mut held);
            agents_know_all(&mut sim, &mut agents);
        }
        heal(&mut sim);
        converged(&sim);
    }

    #[test]
    fn an_update_never_takes_down_more_than_its_parallelism(
        replicas in 1..7usize,
        parallelism in 1..4usize,
        start_first in any::<bool>(),
        delay in 0..3i64,
        history in 0..2u32,
        changes in prop_oneof![Just(1000usize), 1..4usize],
        turns in prop::collection::vec((0..4usize, any::<bool>()), 200),
    ) {
        let mut sim = Sim::default();
        let mut cluster = Cluster::clone(sim.view().cluster().unwrap());
        cluster.spec.get_or_insert_default().task_history_limit = Some(history);
        sim.commit(|tx, _| tx.put_cluster(cluster).unwrap());
        for at in 0..3 {
            sim.node(&format!("n{at}"), |_| ());
        }
        let order = if start_first { "start-first" } else { "stop-first" };
        let list = [
            format!("replicas={replicas}"),
            format!("update-parallelism={parallelism}"),
            format!("update-delay={delay}s"),
            format!("update-order={order}"),
        ];
        let spec = with_words(&sim, words::service("web"), &list);
        sim.commit(|tx, _| edit::create_service(tx, "web".to_owned(), spec)).unwrap();
        sim.run();
        sim.budget.changes = changes;
        let spec = with_words(&sim, sim.view().service("web").unwrap().spec.clone().unwrap(), &["image=app:2".to_owned()]);
        sim.commit(|tx, _| edit::update_service(tx, "web", 0, spec)).unwrap();
        for (at, tick) in turns {
            sim.step_node(&format!("n{}", at % 3));
            if tick {
                sim.now += SECOND;
                sim.commit(|_, _| ());
            }
            let up = sim.running("web");
            let least = if start_first { replicas } else { replicas.saturating_sub(parallelism) };
            prop_assert!(up >= least, "only {} of {} run", up, replicas);
        }
        sim.wait(120 * SECOND);
        let status = sim.view().service("web").unwrap().update_status.clone().unwrap();
        prop_assert_eq!(status.state(), UpdateState::Completed);
        prop_assert_eq!(sim.running("web"), replicas);
    }
}
