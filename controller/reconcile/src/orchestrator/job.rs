//! Jobs: services whose tasks run to their end. A run of a replicated job has a slot for each completion asked for, of which so many
//! are live at a time; a global job has one on each node. A slot whose task has completed, or that used up its restarts, is done with
//! until the next run. Each update of the service begins a new run (`Service.job_status`): what still runs of the one before is asked to
//! leave, and counts until it has.

use std::sync::Arc;

use pontoon_proto::v1::{JobStatus, ReplicatedJobMode, Service, service_spec::Mode};
use pontoon_store::Id;

use super::{replicated, slot};
use crate::defaults;
use crate::pass::Pass;
use crate::state::Standing;
use crate::timers::{SlotKey, Subject};

/// What a replicated job is to run; none for other services.
pub(super) fn of(service: &Service) -> Option<ReplicatedJobMode> {
    match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::ReplicatedJob(mode)) => Some(*mode),
        _ => None,
    }
}

/// Notes the time when a job's run begins.
pub(super) fn begin(pass: &mut Pass<'_, '_>, service: Arc<Service>) -> Arc<Service> {
    let status = service.job_status.unwrap_or_default();
    if service.iteration().is_none() || status.last_execution != 0 {
        return service;
    }
    let mut begun = Service::clone(&service);
    begun.job_status = Some(JobStatus {
        last_execution: pass.now(),
        ..status
    });
    let service = Arc::new(begun.clone());
    pass.put_service(begun);
    service
}

/// Whether the slot is none of the job's present run: fewer completions are asked for than in one before.
pub(super) fn is_beyond(service: &Service, slot: &SlotKey) -> bool {
    of(service).is_some_and(|job| slot.0 > job.total_completions)
}

/// Opens as many slots as may be live beside those that are; false if the budget ended before.
pub(super) fn fill(pass: &mut Pass<'_, '_>, service: &Service, job: ReplicatedJobMode) -> bool {
    let limit = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let state = pass
        .state
        .services
        .entry(Id::from(service.id.as_str()))
        .or_default();
    let live = state.occupied.len().saturating_sub(state.ended.len());
    let free = limit(job.concurrency()).saturating_sub(live);
    #[cfg(feature = "planted-bugs")]
    let free = match pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetLimit) {
        true => usize::MAX,
        false => free,
    };
    let left = limit(job.total_completions).saturating_sub(state.occupied.len());
    replicated::open(pass, service, free.min(left))
}

/// What a slot is that has no task of the present run. One of an earlier run that may still run counts, so that runs together don't
/// exceed what may be live at a time; but not for ever, as a successor in the same slot would not wait for ever either.
pub(super) fn leaving(pass: &mut Pass<'_, '_>, service: &Service, key: &SlotKey) -> Standing {
    if of(service).is_none() {
        return Standing::Free;
    }
    let Some(old) = slot::blocker(pass, &service.id, key, "") else {
        return Standing::Free;
    };
    let since = service.job_status.unwrap_or_default().last_execution;
    let patience = slot::grace_period(service, &old).saturating_add(defaults::OLD_TASK_TIMEOUT);
    let due = since.saturating_add(patience);
    if due <= pass.now() {
        return Standing::Free;
    }
    let subject = Subject::Slot(Id::from(service.id.as_str()), key.clone());
    pass.state.timers.set(due, subject);
    Standing::Live
}
