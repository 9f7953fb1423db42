//! Why a task, a service or a node is as it is: the chain of causes, worked out from the objects alone. Called by the
//! controller's API for `pontoon explain`; it writes nothing.
//!
//! A line is a statement; deeper lines that follow say more of it. Times are the managers' or, of a task's last status, its agent's.

mod job;
mod room;

use std::sync::Arc;

use pontoon_proto::v1::{
    Availability, ExplainLine, Node, NodeState, Service, ServiceSpec, Task, TaskState, UpdateState,
    service_spec::Mode,
};
use pontoon_store::{Snapshot, task_name};

use crate::orchestrator::created_at;
use crate::state::{is_live, slot_key, state_of};
use crate::versions;

/// Slots, tasks or nodes of which a list shows each one.
const SHOWN: usize = 10;

/// What is said so far.
#[derive(Default)]
struct Text(Vec<ExplainLine>);

impl Text {
    fn say(&mut self, depth: u32, at: i64, text: impl Into<String>) {
        self.0.push(ExplainLine {
            depth,
            at,
            text: text.into(),
        });
    }

    /// Says of some of the items each one, and how many more there are.
    fn each<T>(&mut self, depth: u32, items: &[T], what: &str, mut say: impl FnMut(&mut Self, &T)) {
        items.iter().take(SHOWN).for_each(|item| say(self, item));
        if let Some(more) = items.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            self.say(depth, 0, format!("and {more} more {what}"));
        }
    }
}

/// Why a task is where it is, or is not.
#[must_use]
pub fn task(view: &Snapshot, task: &Task) -> Vec<ExplainLine> {
    let mut text = Text::default();
    let (state, desired) = (state_of(task).name(), task.desired_state().name());
    text.say(
        0,
        0,
        format!("task {} is {state}, and is to be {desired}", task_name(task)),
    );
    let service = view.service(&task.service_id).map(Arc::as_ref);
    match service {
        None => text.say(1, 0, format!("service {} was removed", task.service_name)),
        Some(service) => {
            let newest = if task.spec_version == service.spec_version {
                "the newest".to_owned()
            } else {
                format!("the newest is {}", service.spec_version)
            };
            let version = task.spec_version;
            text.say(
                1,
                0,
                format!("it is of version {version} of its service ({newest})"),
            );
            job::run(&mut text, service, task);
            update(&mut text, 1, service);
            held(&mut text, 1, service);
        }
    }
    whereabouts(&mut text, view, task);
    if is_live(task) && state_of(task) < TaskState::Running {
        waits(&mut text, view, service, task);
    }
    let others = slot_tasks(view, task);
    text.say(1, 0, "what happened in its slot:");
    let skipped = others.len().saturating_sub(SHOWN);
    if skipped > 0 {
        text.say(2, 0, format!("({skipped} older tasks)"));
    }
    for other in others.iter().skip(skipped) {
        life(&mut text, view, 2, other);
    }
    text.0
}

/// Why a service's tasks are as they are.
#[must_use]
pub fn service(view: &Snapshot, service: &Service) -> Vec<ExplainLine> {
    let mut text = Text::default();
    let tasks: Vec<&Arc<Task>> = view.tasks_by_service(&service.id).collect();
    let live: Vec<_> = tasks.iter().copied().filter(|task| is_live(task)).collect();
    match service.iteration() {
        Some(run) => job::progress(&mut text, service, run, &tasks),
        None => replicas(&mut text, service, &live),
    }
    let version = service.spec_version;
    text.say(
        1,
        0,
        format!(
            "its newest version is {version}: {}",
            image(service.spec.as_ref())
        ),
    );
    update(&mut text, 1, service);
    if !service.waits_for.is_empty() {
        text.say(1, 0, service.waits_for.clone());
    }
    if !service.allocation_error.is_empty() {
        text.say(
            1,
            0,
            format!("its addresses or ports: {}", service.allocation_error),
        );
    }
    let waiting: Vec<_> = live
        .iter()
        .copied()
        .filter(|task| state_of(task) < TaskState::Running)
        .collect();
    text.each(1, &waiting, "tasks that do not run yet", |text, task| {
        life(text, view, 1, task);
        waits(text, view, Some(service), task);
    });
    let mut ended: Vec<_> = tasks
        .iter()
        .copied()
        .filter(|task| state_of(task).is_terminal())
        .collect();
    ended.sort_by_key(|task| std::cmp::Reverse((created_at(task), task.id.clone())));
    if !ended.is_empty() {
        text.say(1, 0, "tasks that have ended, newest first:");
    }
    text.each(2, &ended, "ended tasks", |text, task| life(text, view, 2, task));
    text.0
}

/// Why a node has the tasks that it has, and gets no others.
#[must_use]
pub fn node(view: &Snapshot, node: &Node) -> Vec<ExplainLine> {
    let mut text = Text::default();
    condition(&mut text, 0, node);
    let tasks: Vec<&Arc<Task>> = view.tasks_by_node(&node.id).collect();
    let active = tasks.iter().filter(|task| is_live(task)).count();
    let usage = room::usage(view, &node.id);
    let reserved = room::reserved(node, &usage);
    text.say(
        1,
        0,
        format!("{active} tasks are to run here, with reservations of {reserved}"),
    );
    let left: Vec<_> = tasks.iter().copied().filter(|task| !is_live(task)).collect();
    if !left.is_empty() {
        text.say(1, 0, "tasks that left or have ended:");
    }
    text.each(2, &left, "such tasks", |text, task| life(text, view, 2, task));
    room::waiting(&mut text, view, node, &usage);
    text.0
}

/// How many tasks run, of how many.
fn replicas(text: &mut Text, service: &Service, live: &[&Arc<Task>]) {
    let runs = |task: &&&Arc<Task>| state_of(task) == TaskState::Running;
    let running = live.iter().filter(runs).count();
    let wanted = match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Replicated(mode)) => format!("{} replicas are wanted", mode.replicas),
        Some(Mode::Global(_)) => "one on each node that suits is wanted".to_owned(),
        _ => "1 replica is wanted".to_owned(),
    };
    let name = versions::name(service);
    text.say(
        0,
        0,
        format!("service {name} has {running} running tasks, {wanted}"),
    );
}

fn image(spec: Option<&ServiceSpec>) -> String {
    let container = spec
        .and_then(|spec| spec.task.as_ref())
        .and_then(|task| task.container.as_ref());
    container.map_or_else(String::new, |container| format!("image {}", container.image))
}

fn hostname(node: &Node) -> &str {
    let name = node
        .description
        .as_ref()
        .map_or("", |description| description.hostname.as_str());
    if name.is_empty() { &node.id } else { name }
}

/// The service's update, unless it is an old story that went well.
fn update(text: &mut Text, depth: u32, service: &Service) {
    let Some(status) = &service.update_status else {
        return;
    };
    let at = status.started_at.max(status.completed_at);
    if !matches!(status.state(), UpdateState::None | UpdateState::Completed) {
        text.say(depth, at, format!("its service: {}", status.message));
    }
}

/// The node's state, and what keeps it from taking tasks.
fn condition(text: &mut Text, depth: u32, node: &Node) {
    let status = node.status.clone().unwrap_or_default();
    let mut said = format!("node {} is {}", hostname(node), status.state().name());
    match node
        .spec
        .as_ref()
        .map_or(Availability::Active, |spec| spec.availability())
    {
        Availability::Active => {}
        Availability::Pause => said.push_str(" and paused: it gets no new tasks"),
        Availability::Drain => said.push_str(" and drained: it has to have no tasks"),
    }
    if status.state() != NodeState::Ready && !status.message.is_empty() {
        said.push_str(&format!(" ({})", status.message));
    }
    text.say(depth, status.since, said);
}

fn whereabouts(text: &mut Text, view: &Snapshot, task: &Task) {
    match view.node(&task.node_id) {
        Some(node) => condition(text, 1, node),
        None if task.node_id.is_empty() => text.say(1, 0, "it is on no node"),
        None => text.say(
            1,
            0,
            format!("its node {} was removed from the cluster", task.node_id),
        ),
    }
}

/// What the service's newest version waits for.
fn held(text: &mut Text, depth: u32, service: &Service) {
    if !service.waits_for.is_empty() {
        text.say(depth, 0, format!("its service {}", service.waits_for));
    }
}

/// What a task that is to run waits for.
fn waits(text: &mut Text, view: &Snapshot, service: Option<&Service>, task: &Task) {
    let state = state_of(task);
    let error = task.status.as_ref().map_or("", |status| status.err.as_str());
    if !error.is_empty() {
        text.say(2, 0, format!("it waits: {error}"));
    }
    if state == TaskState::Pending {
        let spec = versions::spec_of(service, task.spec_version);
        room::refusals(text, view, task, spec);
    }
    if task.desired_state() == TaskState::Ready {
        if task.start_not_before > 0 {
            text.say(
                2,
                task.start_not_before,
                "it starts not before this time: the restart policy's delay",
            );
        }
        let stops =
            |other: &&Arc<Task>| other.id != task.id && !is_live(other) && !state_of(other).is_terminal();
        for other in slot_tasks(view, task).into_iter().filter(stops) {
            text.say(2, 0, format!("it waits until task {} has stopped", other.id));
        }
    }
}

/// The tasks of a task's slot with itself, oldest first.
fn slot_tasks<'a>(view: &'a Snapshot, task: &Task) -> Vec<&'a Arc<Task>> {
    let slot = slot_key(task);
    let in_slot = view.tasks_by_slot(&task.service_id, task.slot);
    let mut tasks: Vec<_> = in_slot.filter(|other| slot_key(other) == slot).collect();
    tasks.sort_by_key(|task| (created_at(task), task.id.clone()));
    tasks
}

/// One task from its making to its end.
fn life(text: &mut Text, view: &Snapshot, depth: u32, task: &Task) {
    let version = task.spec_version;
    text.say(
        depth,
        created_at(task),
        format!("task {} of version {version} was made", task.id),
    );
    // What happened after it ran is told after that.
    let (before, after): (Vec<_>, Vec<_>) = task
        .steps
        .iter()
        .partition(|step| task.running_at == 0 || step.at <= task.running_at);
    for step in before {
        text.say(depth + 1, step.at, step.reason.clone());
    }
    if let Some(node) = view.node(&task.node_id) {
        text.say(
            depth + 1,
            0,
            format!("it was assigned to node {}", hostname(node)),
        );
    }
    if task.running_at != 0 {
        text.say(depth + 1, task.running_at, "it ran");
    }
    for step in after {
        text.say(depth + 1, step.at, step.reason.clone());
    }
    let status = task.status.clone().unwrap_or_default();
    let mut said = status.state().name().to_owned();
    for part in [&status.message, &status.err] {
        if !part.is_empty() && *part != said {
            said.push_str(&format!(": {part}"));
        }
    }
    if let Some(container) = &status.container
        && status.state().is_terminal()
        && container.oom_killed
    {
        said.push_str(" (killed for lack of memory)");
    }
    text.say(depth + 1, status.timestamp, said);
    if !status.output.is_empty() {
        text.say(depth + 1, 0, "it had said last:");
    }
    for line in &status.output {
        text.say(depth + 2, 0, line.clone());
    }
}
