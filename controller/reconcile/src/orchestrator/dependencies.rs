//! What a service waits for before tasks of a new version of it start: other services that are started, healthy or completed, wherever
//! in the cluster they run (Compose's `depends_on`).
//!
//! Its tasks are made and prepared meanwhile, but stay READY; an update does not begin, and tasks that are lost before are replaced by such of
//! the version that ran. Once all is met the version is released
//! for good: tasks that are restarted or moved later do not wait again. A version that ran before is released already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::{
    Dependency, Service, ServiceSpec, Task, TaskState, dependency::Condition, service_spec::Mode,
};
use pontoon_store::Snapshot;

use super::{created_at, restart::ended_itself};
use crate::pass::Pass;
use crate::state::{is_live, slot_key, state_of};

/// What the spec waits for.
pub(crate) fn of(spec: Option<&ServiceSpec>) -> &[Dependency] {
    spec.map_or(&[][..], |spec| spec.depends_on.as_slice())
}

/// Whether tasks of the service's newest version may start.
pub(crate) fn is_released(service: &Service) -> bool {
    of(service.spec.as_ref()).is_empty() || service.released_version >= service.spec_version
}

/// A chain of services that leads from one back to it, if there is any; `next` tells on whom one depends.
pub fn circle<'a>(start: &'a str, next: &dyn Fn(&str) -> Vec<&'a str>) -> Option<Vec<&'a str>> {
    let mut chains = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while let Some(chain) = chains.pop() {
        for name in next(chain.last().copied().unwrap_or(start)) {
            let mut longer = chain.clone();
            longer.push(name);
            if name == start {
                return Some(longer);
            }
            if seen.insert(name) {
                chains.push(longer);
            }
        }
    }
    None
}

/// Looks whether the service still waits, writes down for what, and releases it when all is met; returns it as it is then.
pub(super) fn review(pass: &mut Pass<'_, '_>, service: Arc<Service>) -> Arc<Service> {
    let released = is_released(&service);
    if released && service.waits_for.is_empty() {
        return service;
    }
    let unmet = if released {
        None
    } else {
        unmet(pass.tx.view(), &service)
    };
    if unmet.as_ref() == Some(&service.waits_for) {
        return service;
    }
    let mut changed = Service::clone(&service);
    if unmet.is_none() {
        changed.released_version = changed.released_version.max(changed.spec_version);
    }
    changed.waits_for = unmet.unwrap_or_default();
    pass.put_service(changed);
    pass.tx.service(&service.id).cloned().unwrap_or(service)
}

/// The first dependency that is not met, in words.
fn unmet(view: &Snapshot, service: &Service) -> Option<String> {
    of(service.spec.as_ref()).iter().find_map(|dependency| {
        let name = &dependency.service;
        let Some(other) = view.service_by_name(name) else {
            return (!dependency.optional).then(|| format!("waits for service {name}: it does not exist"));
        };
        let (met, wanted) = progress(view, other, dependency.condition());
        let what = match dependency.condition() {
            Condition::Started => "have been started",
            Condition::Healthy => "are healthy",
            Condition::Completed => "have completed",
        };
        (met < wanted).then(|| format!("waits for service {name}: {met} of {wanted} tasks {what}"))
    })
}

/// How many slots of a service meet the condition with its newest version (a job: in its present run), and how many have to.
fn progress(view: &Snapshot, service: &Service, condition: Condition) -> (u64, u64) {
    let (mut met, mut newest) = (BTreeSet::new(), BTreeMap::new());
    for task in view.tasks_by_service(&service.id) {
        if task.desired_state() >= TaskState::Remove || !service.is_of_this_run(task) {
            continue;
        }
        let last = newest.entry(slot_key(task)).or_insert(task);
        if (created_at(last), &last.id) < (created_at(task), &task.id) {
            *last = task;
        }
        if task.spec_version == service.spec_version && meets(task, condition, service.iteration().is_some())
        {
            met.insert(slot_key(task));
        }
    }
    let wanted = match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Replicated(mode)) => mode.replicas,
        Some(Mode::ReplicatedJob(job)) if condition == Condition::Completed => job.total_completions,
        // The others follow when these have completed.
        Some(Mode::ReplicatedJob(job)) => job.concurrency().min(job.total_completions),
        // Those of a global service that was just made come in the next round: none at all is not all.
        // A node whose task was sent away without a successor is to have none any more.
        _ => {
            let counts = |task: &&Arc<Task>| is_live(task) || ended_itself(task);
            newest.into_values().filter(counts).count().max(1) as u64
        }
    };
    (met.len() as u64, wanted)
}

fn meets(task: &Task, condition: Condition, job: bool) -> bool {
    let state = state_of(task);
    match condition {
        Condition::Started => state == TaskState::Complete || (is_live(task) && is_begun(state)),
        // RUNNING is reported only when the health check passes; a job's task that has completed passed it before.
        Condition::Healthy if job && state == TaskState::Complete => true,
        Condition::Healthy => is_live(task) && state == TaskState::Running,
        Condition::Completed => state == TaskState::Complete,
    }
}

fn is_begun(state: TaskState) -> bool {
    (TaskState::Starting..=TaskState::Running).contains(&state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found() {
        let next = |name: &str| match name {
            "a" => vec!["b", "c"],
            "b" => vec!["d"],
            "c" => vec!["b", "a"],
            "d" => vec!["b"],
            _ => Vec::new(),
        };
        assert_eq!(circle("a", &next), Some(vec!["a", "c", "a"]));
        assert_eq!(circle("b", &next), Some(vec!["b", "d", "b"]));
        assert_eq!(circle("e", &next), None);
    }
}
