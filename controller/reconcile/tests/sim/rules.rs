//! What must hold of every step from one state to the next, whoever made it: updates keep to their budget and order, nothing happens to a
//! task without a cause, jobs keep their limits, nobody is placed where he may not be. By the plainest means there are: loops over all
//! objects. Shared by the reconciler's own tests (`invariants`) and by the simulation of the whole control plane, which includes this file.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_proto::v1::*;
use pontoon_reconcile::constraint;
use pontoon_store::Snapshot;

/// A task's observed state.
pub fn state(task: &Task) -> TaskState {
    let status = task.status.as_ref();
    status.map_or(TaskState::New, |status| status.state())
}

/// Whether the task is to run.
pub fn is_live(task: &Task) -> bool {
    match task.desired_state() {
        TaskState::Complete => !state(task).is_terminal(),
        desired => desired <= TaskState::Running,
    }
}

/// Whether the task may run on its node.
pub fn on_node(task: &Task) -> bool {
    state(task) >= TaskState::Assigned && !state(task).is_terminal()
}

/// The spec that a task runs.
pub fn spec<'a>(view: &'a Snapshot, task: &Task) -> Option<&'a ServiceSpec> {
    let service = view.service(&task.service_id)?;
    if service.spec_version == task.spec_version {
        return service.spec.as_ref();
    }
    let mut retained = service.retained.iter();
    retained.find(|v| v.version == task.spec_version)?.spec.as_ref()
}

/// Checks a step; tells what is wrong.
pub fn check(before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    one_live_task_a_slot(after)?;
    jobs_keep_their_limits(after)?;
    causes(before, after)?;
    updates(before, after)?;
    placements(before, after)
}

/// What a slot is: its number, or the node of a global service's.
fn place(task: &Task) -> (u64, String) {
    let node = if task.slot == 0 { task.node_id.as_str() } else { "" };
    (task.slot, node.to_owned())
}

fn made_at(task: &Task) -> i64 {
    task.meta.map_or(0, |meta| meta.created_at)
}

fn one_live_task_a_slot(view: &Snapshot) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let live = |task: &&std::sync::Arc<Task>| is_live(task) && !state(task).is_terminal();
    for task in view.tasks().filter(live) {
        let key = (task.service_id.clone(), place(task), task.spec_version);
        if !seen.insert(key.clone()) {
            return Err(format!("two live tasks of one version in {key:?}"));
        }
    }
    Ok(())
}

fn jobs_keep_their_limits(view: &Snapshot) -> Result<(), String> {
    for service in view.services().filter(|service| service.iteration().is_some()) {
        let Some(service_spec::Mode::ReplicatedJob(job)) =
            service.spec.as_ref().and_then(|spec| spec.mode.as_ref())
        else {
            continue;
        };
        let live = view
            .tasks_by_service(&service.id)
            .filter(|task| is_live(task) && !state(task).is_terminal())
            .filter(|task| service.is_of_this_run(task));
        let slots: Vec<u64> = live.map(|task| task.slot).collect();
        let within = slots
            .iter()
            .all(|slot| (1..=job.total_completions).contains(slot));
        if !within || slots.len() as u64 > job.concurrency() {
            return Err(format!(
                "job {} has live tasks in {slots:?}, beyond {job:?}",
                service.id
            ));
        }
    }
    Ok(())
}

/// No task follows another one, or is sent away, without a cause that it keeps.
fn causes(before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    for task in after.tasks() {
        if let Some(old) = before.task(&task.id) {
            let sent_away = is_live(old) && !is_live(task) && !state(task).is_terminal();
            if sent_away && old.steps == task.steps {
                return Err(format!("task {} was sent away without a cause", task.id));
            }
            continue;
        }
        let mut others = before.tasks_by_slot(&task.service_id, task.slot);
        // Where nothing is left of those before, it is the slot's first: it was given up, and is used again.
        let follows = others.any(|other| place(other) == place(task) && after.task(&other.id).is_some());
        if follows && task.steps.is_empty() {
            return Err(format!("task {} was made without a cause", task.id));
        }
    }
    Ok(())
}

/// Whether an update took the task out of service.
fn is_outdated(task: &Task) -> bool {
    let reason = task.steps.last().map_or("", |step| step.reason.as_str());
    !is_live(task) && (reason.starts_with("update to ") || reason.starts_with("rollback to "))
}

/// Whether the slot is down for an update's sake: nothing failed there since, nor was lost with its node. Oldest tasks first.
fn is_down(tasks: &[&Task]) -> bool {
    let fresh = |task: &&Task| is_live(task) && task.running_at == 0 && !state(task).is_terminal();
    let ran = |task: &&Task| is_outdated(task) && task.running_at != 0;
    let newer = tasks.iter().rposition(ran).map(|at| &tasks[at + 1..]);
    newer.is_some_and(|newer| !newer.is_empty() && newer.iter().all(fresh))
}

/// Updates keep to their order, and to the number of slots at a time.
fn updates(before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    for service in after.services() {
        let status = service.update_status.as_ref();
        let config = match status.map_or(UpdateState::None, |status| status.state()) {
            UpdateState::Updating => service.spec.as_ref().and_then(|spec| spec.update),
            UpdateState::RollbackStarted => service.spec.as_ref().and_then(|spec| spec.rollback),
            _ => continue,
        };
        let mut slots: BTreeMap<(u64, String), Vec<&Task>> = BTreeMap::new();
        for task in after.tasks_by_service(&service.id) {
            slots.entry(place(task)).or_default().push(task);
        }
        for tasks in slots.values_mut() {
            tasks.sort_by_key(|task| (made_at(task), task.id.clone()));
        }
        let runs = |task: &Task| is_live(task) && state(task) == TaskState::Running;
        let taken = |task: &&&Task| is_outdated(task) && before.task(&task.id).is_some_and(|old| runs(old));
        let start_first = config.is_some_and(|config| config.order() == UpdateOrder::StartFirst);
        let mut any = false;
        for tasks in slots.values() {
            let Some(task) = tasks.iter().find(taken) else {
                continue;
            };
            any = true;
            // A program that has done what it was to do ran.
            let at = tasks.iter().position(|other| other.id == task.id).unwrap_or(0);
            let finished = tasks[at..].iter().any(|task| state(task) == TaskState::Complete);
            if start_first && !finished && !tasks.iter().any(|task| runs(task)) {
                return Err(format!("task {} left before its successor ran", task.id));
            }
        }
        // What an update with a higher parallelism took before this one is no matter.
        let down = slots.values().filter(|tasks| is_down(tasks)).count() as u64;
        let parallelism = config.map_or(1, |config| config.parallelism);
        if any && parallelism > 0 && down > parallelism {
            return Err(format!(
                "{down} slots of service {} are down for its update, not {parallelism}: {slots:#?}",
                service.id
            ));
        }
    }
    Ok(())
}

/// Whether the node's nature suits the task.
pub fn suits(node: &Node, placement: Option<&Placement>) -> bool {
    let Some(placement) = placement else { return true };
    let constraints = &placement.constraints;
    constraints
        .iter()
        .all(|text| constraint::parse(text).is_ok_and(|constraint| constraint.matches(node)))
}

/// Whether the node takes tasks.
pub fn is_open(node: &Node) -> bool {
    let ready = node
        .status
        .as_ref()
        .is_some_and(|status| status.state() == NodeState::Ready);
    let spec = node.spec.as_ref();
    ready && spec.is_none_or(|spec| spec.availability() == Availability::Active)
}

/// (nano CPUs, memory) that a task of this spec reserves.
pub fn reserved(spec: Option<&ServiceSpec>) -> (i64, i64) {
    let resources = spec
        .and_then(|s| s.task.as_ref())
        .and_then(|t| t.resources.as_ref());
    resources
        .and_then(|r| r.reservations)
        .map_or((0, 0), |r| (r.nano_cpus, r.memory_bytes))
}

/// (nano CPUs, memory) reserved on a node.
pub fn used(view: &Snapshot, node: &str) -> (i64, i64) {
    let tasks = view.tasks_by_node(node).filter(|task| on_node(task));
    tasks
        .map(|task| reserved(spec(view, task)))
        .fold((0, 0), |sum, r| (sum.0 + r.0, sum.1 + r.1))
}

/// What a node offers.
fn offered(node: &Node) -> &[GenericResource] {
    let description = node.description.as_ref();
    description.map_or(&[], |description| &description.generic_resources)
}

/// Units of a kind that a node offers and no task on it holds.
pub fn units_free(view: &Snapshot, node: &Node, kind: &str) -> i64 {
    let offered: Vec<_> = offered(node).iter().filter(|unit| unit.kind == kind).collect();
    let tasks: Vec<_> = view.tasks_by_node(&node.id).filter(|t| on_node(t)).collect();
    let held = tasks.iter().flat_map(|task| &task.generic_resources);
    let held: Vec<_> = held.filter(|unit| unit.kind == kind).collect();
    let nameless: i64 = held.iter().map(|unit| unit.count).sum();
    let named = |name: &str| held.iter().filter(|unit| unit.name == name).count();
    if let [GenericResource { count: 1.., .. }] = offered.as_slice() {
        let with_name = held.iter().filter(|unit| !unit.name.is_empty()).count();
        return offered[0].count - nameless - i64::try_from(with_name).unwrap_or(i64::MAX);
    }
    let free = offered.iter().filter(|unit| named(&unit.name) == 0).count();
    i64::try_from(free).unwrap_or(i64::MAX) - nameless
}

/// What was just placed holds what it asked for, which its node offers, and no unit is held twice.
fn units(view: &Snapshot, task: &Task, node: &Node) -> Result<(), String> {
    let resources = spec(view, task)
        .and_then(|s| s.task.as_ref())
        .and_then(|t| t.resources.as_ref());
    let wanted = resources.map_or(&[][..], |resources| &resources.generic_reservations);
    for want in wanted {
        let held: Vec<_> = task
            .generic_resources
            .iter()
            .filter(|u| u.kind == want.kind)
            .collect();
        let count: i64 = held
            .iter()
            .map(|unit| unit.count + i64::from(!unit.name.is_empty()))
            .sum();
        let named = want.name.is_empty() || held.iter().any(|unit| unit.name == want.name);
        if count < want.count || !named {
            return Err(format!("task {} holds {held:?}, but asked for {want:?}", task.id));
        }
        if units_free(view, node, &want.kind) < 0 {
            return Err(format!("{} of node {} are given twice", want.kind, node.id));
        }
    }
    for unit in task.generic_resources.iter().filter(|unit| !unit.name.is_empty()) {
        if !offered(node).contains(unit) {
            return Err(format!("{unit:?} is not offered by node {}", node.id));
        }
        let holders = view.tasks_by_node(&node.id).filter(|t| on_node(t));
        if holders.filter(|t| t.generic_resources.contains(unit)).count() != 1 {
            return Err(format!("{unit:?} of node {} is given twice", node.id));
        }
    }
    Ok(())
}

/// Whoever was just placed may be where he is.
fn placements(before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    for task in after.tasks() {
        if !on_node(task) || before.task(&task.id).is_some_and(|old| on_node(old)) {
            continue;
        }
        let Some(node) = after.node(&task.node_id) else {
            return Err(format!(
                "task {} was placed on a node that does not exist",
                task.id
            ));
        };
        let spec = spec(after, task);
        let placement = spec
            .and_then(|s| s.task.as_ref())
            .and_then(|t| t.placement.as_ref());
        let what = format!("task {} was placed on node {}", task.id, node.id);
        if !is_open(node) {
            return Err(format!("{what}, which takes no tasks"));
        }
        if !suits(node, placement) {
            return Err(format!("{what} against its constraints"));
        }
        let (cpus, memory) = used(after, &node.id);
        let has = node
            .description
            .as_ref()
            .and_then(|d| d.resources)
            .unwrap_or_default();
        let (needs_cpus, needs_memory) = reserved(spec);
        if (needs_cpus > 0 && cpus > has.nano_cpus) || (needs_memory > 0 && memory > has.memory_bytes) {
            return Err(format!("{what}, which is overbooked"));
        }
        units(after, task, node)?;
        let limit = placement.map_or(0, |placement| placement.max_replicas);
        let same = after
            .tasks_by_node(&node.id)
            .filter(|t| t.service_id == task.service_id);
        if limit > 0 && same.filter(|t| on_node(t) && is_live(t)).count() as u64 > limit {
            return Err(format!("{what}, which has too many replicas already"));
        }
    }
    Ok(())
}
