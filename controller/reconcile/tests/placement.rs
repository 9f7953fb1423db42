//! Placement against a naive scheduler (`naive`): after every commit, what was placed is placed anew and must come out the same, down to
//! the reason of those who found no node. Many services that ask for the same or not, small and large, between changes of nodes:
//! the scheduler's indexes live on from commit to commit, and must come to what a look at all objects comes to.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

mod naive;
mod sim;

use naive::{Failed, check, on_node};
use pontoon_proto::v1::*;
use pontoon_reconcile::{ReconcileState, edit, observe};
use proptest::prelude::*;
use sim::rules::state;
use sim::{Sim, words};

fn node_words() -> impl Strategy<Value = Vec<String>> {
    let maybe = |words: &'static [&'static str]| prop_oneof![2 => Just(None), 3 => prop::sample::select(words).prop_map(Some)];
    (
        (1..5u8).prop_map(|cpus| format!("cpu={cpus}")),
        maybe(&["label.zone=a", "label.zone=b"]),
        maybe(&["label.rack=1", "label.rack=2", "label.rack=3"]),
        maybe(&["generic.gpu=2", "generic.gpu=x,y", "generic.gpu=z"]),
        maybe(&["arch=arm64", "mem=1G", "mem=2G", "manager", "plugin=Log/local"]),
        prop::sample::select(vec!["active", "active", "active", "active", "pause"]),
    )
        .prop_map(|(cpus, a, b, c, d, e)| {
            let some = [a, b, c, d].into_iter().flatten().chain([e]);
            std::iter::once(cpus).chain(some.map(str::to_owned)).collect()
        })
}

fn service_words() -> impl Strategy<Value = Vec<&'static str>> {
    let maybe = |words: &'static [&'static str]| prop_oneof![3 => Just(None), 2 => prop::sample::select(words).prop_map(Some)];
    (
        prop::sample::select(vec!["replicas=1", "replicas=3", "replicas=8", "global"]),
        maybe(&["reserve-cpu=1", "reserve-cpu=0.5", "reserve-mem=1G"]),
        maybe(&["constraint=node.labels.zone==a", "constraint=node.role!=manager"]),
        maybe(&["spread=node.labels.zone", "spread=node.labels.rack"]),
        maybe(&["spread=node.labels.rack", "platform=linux/amd64", "log=json-file"]),
        maybe(&["generic=gpu:1", "generic=gpu:2", "generic=gpu:x"]),
        maybe(&["publish=80:80@host", "publish=81:81@host"]),
        maybe(&["max-per-node=1", "max-per-node=2"]),
    )
        .prop_map(|(mode, a, b, c, d, e, f, g)| {
            // Replicas per node mean nothing to a global service.
            let g = g.filter(|_| mode != "global");
            std::iter::once(mode)
                .chain([a, b, c, d, e, f, g].into_iter().flatten())
                .collect()
        })
}

#[derive(Debug, Clone)]
enum Op {
    Create(Vec<&'static str>),
    /// Small services, all in one commit.
    Several(Vec<Vec<&'static str>>),
    End(usize, TaskState),
    Down(usize),
    Up(usize),
    RemoveNode(usize),
    Scale(usize, &'static str),
    Remove(usize),
    Step(usize),
    Node(Vec<String>),
    SetNode(usize, &'static str),
    Forget,
}

fn op() -> impl Strategy<Value = Op> {
    let words = vec![
        "active",
        "pause",
        "drain",
        "label.zone=a",
        "label.rack=9",
        "cpu=2",
        "generic.gpu=y",
    ];
    prop_oneof![
        4 => service_words().prop_map(Op::Create),
        4 => prop::collection::vec(service_words(), 2..12).prop_map(Op::Several),
        3 => (any::<usize>(), prop::sample::select(vec![TaskState::Failed, TaskState::Complete]))
            .prop_map(|(at, state)| Op::End(at, state)),
        1 => any::<usize>().prop_map(Op::Down),
        1 => any::<usize>().prop_map(Op::Up),
        1 => any::<usize>().prop_map(Op::RemoveNode),
        2 => (any::<usize>(), prop::sample::select(vec!["replicas=2", "replicas=9"]))
            .prop_map(|(at, word)| Op::Scale(at, word)),
        1 => any::<usize>().prop_map(Op::Remove),
        4 => any::<usize>().prop_map(Op::Step),
        2 => node_words().prop_map(Op::Node),
        2 => (any::<usize>(), prop::sample::select(words)).prop_map(|(at, word)| Op::SetNode(at, word)),
        1 => Just(Op::Forget),
    ]
}

fn nth<T>(items: impl Iterator<Item = T>, at: usize) -> Option<T> {
    let items: Vec<T> = items.collect();
    let count = items.len().max(1);
    items.into_iter().nth(at % count)
}

/// The cluster, and what the model can't tell from its objects.
#[derive(Default)]
struct World {
    sim: Sim,
    failed: Vec<Failed>,
}

fn wish(id: &str, list: &[&str]) -> ServiceSpec {
    let mut spec = words::service(id);
    list.iter()
        .for_each(|word| words::spec(&mut spec, word, &str::to_owned));
    spec
}

fn failure(task: &Task) -> Failed {
    (task.node_id.clone(), task.service_id.clone(), task.spec_version)
}

/// Ends a service's tasks on a node, all at once.
fn end(world: &mut World, at: usize, end: TaskState) -> Option<()> {
    let view = world.sim.view();
    let chosen = nth(view.tasks().filter(|task| on_node(task)), at)?;
    let beside = view.tasks_by_node(&chosen.node_id);
    let beside = beside.filter(|task| on_node(task) && task.service_id == chosen.service_id);
    let mut updates = Vec::new();
    for task in beside {
        if end == TaskState::Failed {
            world.failed.push(failure(task));
        }
        updates.push(TaskStatusUpdate {
            task_id: task.id.clone(),
            status: Some(TaskStatus {
                state: end.into(),
                timestamp: world.sim.now,
                ..TaskStatus::default()
            }),
        });
    }
    let node = &chosen.node_id;
    world
        .sim
        .commit(|tx, now| observe::task_status(tx, node, &updates, now));
    Some(())
}

fn apply(world: &mut World, op: Op) -> Option<()> {
    let sim = &mut world.sim;
    let view = sim.view();
    let node = |at| nth(view.nodes(), at).map(|node| node.id.clone());
    match op {
        Op::Create(list) => {
            let id = sim.id("s");
            let spec = wish(&id, &list);
            sim.commit(|tx, _| edit::create_service(tx, id, spec)).unwrap();
        }
        Op::Several(lists) => {
            let specs: Vec<_> = lists
                .into_iter()
                .map(|list| {
                    let id = sim.id("s");
                    (id.clone(), wish(&id, &list))
                })
                .collect();
            sim.commit(|tx, _| {
                for (id, spec) in specs {
                    edit::create_service(tx, id, spec).unwrap();
                }
            });
        }
        Op::Scale(at, word) => {
            let service = nth(view.services(), at)?;
            let mut spec = service.spec.clone().unwrap();
            if let Some(service_spec::Mode::Replicated(_)) = spec.mode {
                words::spec(&mut spec, word, &str::to_owned);
                sim.commit(|tx, _| edit::update_service(tx, &service.id, 0, spec))
                    .unwrap();
            }
        }
        Op::Remove(at) => {
            // What its tasks hold nobody can tell from the objects any more: they stop at once.
            if !sim.silent.is_empty() {
                return None;
            }
            let service = nth(view.services(), at)?;
            sim.commit(|tx, _| edit::remove_service(tx, &service.id)).unwrap();
            sim.run();
            world.failed.retain(|(_, of, _)| *of != service.id);
        }
        Op::Step(at) => drop(sim.step_node(&node(at)?)),
        Op::End(at, state) => end(world, at, state)?,
        Op::Node(list) => {
            let name = sim.id("node");
            sim.node(&name, |node| list.iter().for_each(|word| words::node(node, word)));
        }
        Op::SetNode(at, word) => sim.edit_node(&node(at)?, |node| words::node(node, word)),
        Op::Down(at) => sim.down(&node(at)?),
        Op::Up(at) => sim.up(&node(at)?),
        Op::RemoveNode(at) => {
            let name = node(at)?;
            sim.silent.remove(&name);
            sim.commit(|tx, _| edit::remove_node(tx, &name)).unwrap();
        }
        Op::Forget => {
            sim.state = ReconcileState::default();
            let failed = view.tasks().filter(|task| state(task) == TaskState::Failed);
            world.failed = failed.map(|task| failure(task)).collect();
        }
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_naive_scheduler_places_the_same(
        nodes in prop::collection::vec(node_words(), 0..8),
        ops in prop::collection::vec(op(), 1..16),
    ) {
        let mut world = World::default();
        for list in nodes {
            let name = world.sim.id("node");
            world.sim.node(&name, |node| list.iter().for_each(|word| words::node(node, word)));
        }
        for op in ops {
            let removes = matches!(op, Op::Remove(_));
            let before = world.sim.view();
            apply(&mut world, op);
            // That of a service is several commits.
            if !removes {
                check(&before, &world.sim.view(), &world.failed);
            }
        }
    }
}
