//! How far a job is, and what its slots wait for. Used by the explanations of services and tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_proto::v1::{Service, Task, TaskState, service_spec::Mode};

use super::Text;
use crate::state::{is_live, slot_key, state_of};
use crate::timers::SlotKey;
use crate::versions;

/// What became of a slot (or a node) in a run.
#[derive(Default)]
struct Place {
    completed: bool,
    running: bool,
    live: bool,
}

/// Says how far a job's run is, and why it goes no faster.
pub(super) fn progress(text: &mut Text, service: &Service, run: u64, tasks: &[&Arc<Task>]) {
    let mut places: BTreeMap<SlotKey, Place> = BTreeMap::new();
    let mut leaving = 0;
    for task in tasks {
        let state = state_of(task);
        if !service.is_of_this_run(task) {
            leaving += u64::from(state >= TaskState::Assigned && !state.is_terminal());
            continue;
        }
        let place = places.entry(slot_key(task)).or_default();
        place.completed |= state == TaskState::Complete;
        place.running |= is_live(task) && state == TaskState::Running;
        place.live |= is_live(task);
    }
    let count = |what: fn(&Place) -> bool| places.values().filter(|place| what(place)).count() as u64;
    let (completed, running) = (count(|place| place.completed), count(|place| place.running));
    let given_up = count(|place| !place.completed && !place.live);
    let (name, begun) = (versions::name(service), service.job_status.unwrap_or_default());
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    let (wanted, at_a_time) = match mode {
        Some(Mode::ReplicatedJob(job)) => (
            format!("{} completions", job.total_completions),
            Some((job.total_completions, job.concurrency())),
        ),
        _ => ("one completion on each node that suits".to_owned(), None),
    };
    text.say(
        0,
        begun.last_execution,
        format!("job {name}: of {wanted} {completed} are done and {running} run, in run {run}"),
    );
    if let Some((total, limit)) = at_a_time {
        let turn = total.saturating_sub(places.len() as u64);
        if turn > 0 {
            text.say(
                1,
                0,
                format!("{turn} slots wait for their turn: at most {limit} may run at a time"),
            );
        }
    }
    if leaving > 0 {
        text.say(
            1,
            0,
            format!("{leaving} tasks of runs before have not stopped yet, and count among those at a time"),
        );
    }
    if given_up > 0 {
        text.say(
            1,
            0,
            format!(
                "{given_up} are given up: their tasks failed, and the restart policy has no more tries; \
                 `service update --force {name}` runs the job again"
            ),
        );
    }
}

/// Says which run a job's task is of.
pub(super) fn run(text: &mut Text, service: &Service, task: &Task) {
    let (Some(newest), Some(of)) = (service.iteration(), task.job_iteration) else {
        return;
    };
    let said = if newest == of {
        format!("it is of run {of} of the job (the newest)")
    } else {
        format!("it is of run {of} of the job (the newest is {newest})")
    };
    text.say(1, 0, said);
}
