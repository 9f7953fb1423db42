//! What a service's mode comes to: whether it is a job, whether it has a task a node, how many tasks it runs in all and at a time, whether a
//! task has done what it was to. For
//! the managers, who act on it, and for clients, who show it.

use crate::v1::{
    ReplicatedJobMode, RestartCondition, Service, ServiceSpec, Task, TaskState, service_spec::Mode,
};

impl ServiceSpec {
    /// Whether its tasks are to run to their end.
    #[must_use]
    pub fn is_job(&self) -> bool {
        matches!(self.mode, Some(Mode::ReplicatedJob(_) | Mode::GlobalJob(_)))
    }

    /// Whether it has a task on each node that suits.
    #[must_use]
    pub fn is_per_node(&self) -> bool {
        matches!(self.mode, Some(Mode::Global(_) | Mode::GlobalJob(_)))
    }

    /// The mode as flags and filters name it. A spec without one is replicated.
    #[must_use]
    pub fn mode_name(&self) -> &'static str {
        match self.mode {
            Some(Mode::Global(_)) => "global",
            Some(Mode::ReplicatedJob(_)) => "replicated-job",
            Some(Mode::GlobalJob(_)) => "global-job",
            Some(Mode::Replicated(_)) | None => "replicated",
        }
    }
}

impl ReplicatedJobMode {
    /// How many tasks may run at a time.
    #[must_use]
    pub fn concurrency(&self) -> u64 {
        if self.max_concurrent == 0 {
            self.total_completions
        } else {
            self.max_concurrent
        }
    }
}

impl Service {
    /// The run that a job's tasks of now belong to; none for what is no job.
    #[must_use]
    pub fn iteration(&self) -> Option<u64> {
        let is_job = self.spec.as_ref().is_some_and(ServiceSpec::is_job);
        is_job.then(|| self.job_status.unwrap_or_default().iteration)
    }

    /// Whether a task of the service is of its present run; always, if it is no job.
    #[must_use]
    pub fn is_of_this_run(&self, task: &Task) -> bool {
        let iteration = self.iteration();
        iteration.is_none() || iteration == task.job_iteration
    }

    /// Whether a task has ended as it was to: its program succeeded, and the restart policy does not have it run again.
    #[must_use]
    pub fn has_finished(&self, task: &Task) -> bool {
        let complete = task.status.as_ref().map(|status| status.state()) == Some(TaskState::Complete);
        let spec = self.spec.as_ref().and_then(|spec| spec.task.as_ref());
        let policy = spec.and_then(|task| task.restart.as_ref());
        let again = policy.is_none_or(|policy| policy.condition() == RestartCondition::Any);
        complete && (self.iteration().is_some() || !again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{GlobalJobMode, JobStatus, ReplicatedMode, TaskStatus};

    #[test]
    fn a_job_knows_its_run() {
        let job = Service {
            spec: Some(ServiceSpec {
                mode: Some(Mode::GlobalJob(GlobalJobMode {})),
                ..ServiceSpec::default()
            }),
            job_status: Some(JobStatus {
                iteration: 2,
                ..JobStatus::default()
            }),
            ..Service::default()
        };
        let task = |job_iteration| Task {
            job_iteration,
            ..Task::default()
        };
        assert_eq!(job.iteration(), Some(2));
        assert!(job.is_of_this_run(&task(Some(2))) && !job.is_of_this_run(&task(Some(1))));
        assert!(!job.is_of_this_run(&task(None)));
        let web = Service {
            spec: Some(ServiceSpec {
                mode: Some(Mode::Replicated(ReplicatedMode { replicas: 1 })),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        assert!(web.iteration().is_none() && web.is_of_this_run(&task(None)));
    }

    #[test]
    fn success_is_an_end_where_nothing_starts_again() {
        let service = |condition: RestartCondition| {
            let mut spec = ServiceSpec::default();
            spec.task
                .get_or_insert_default()
                .restart
                .get_or_insert_default()
                .set_condition(condition);
            Service {
                spec: Some(spec),
                ..Service::default()
            }
        };
        let task = |state: TaskState| Task {
            status: Some(TaskStatus {
                state: state.into(),
                ..TaskStatus::default()
            }),
            ..Task::default()
        };
        let complete = task(TaskState::Complete);
        assert!(service(RestartCondition::None).has_finished(&complete));
        assert!(service(RestartCondition::OnFailure).has_finished(&complete));
        assert!(!service(RestartCondition::Any).has_finished(&complete));
        assert!(!Service::default().has_finished(&complete));
        assert!(!service(RestartCondition::None).has_finished(&task(TaskState::Failed)));
    }

    #[test]
    fn all_at_a_time_unless_told_otherwise() {
        let job = |max_concurrent| ReplicatedJobMode {
            max_concurrent,
            total_completions: 7,
        };
        assert_eq!((job(0).concurrency(), job(3).concurrency()), (7, 3));
    }
}
