//! [`Credentials`]: what a task logs in to its image's registry with. It comes with the assignment and is kept in memory only; a
//! daemon that has restarted waits for the managers to send it again before it asks a registry. Made by the task's walk, used by
//! `images`.

use pontoon_proto::v1::{RegistryAuth, TaskAssignment};
use tokio::sync::watch;

/// A task's credentials, which may not be known yet.
#[derive(Clone, Debug)]
pub struct Credentials(watch::Receiver<TaskAssignment>);

impl Credentials {
    /// Of the task that is assigned there.
    pub(crate) fn new(assignment: watch::Receiver<TaskAssignment>) -> Self {
        Self(assignment)
    }

    /// What is known now; none while the managers have to send it again.
    pub(crate) fn now(&self) -> Option<RegistryAuth> {
        known(&self.0.borrow())
    }

    /// Waits until they are known.
    pub(crate) async fn get(&self) -> RegistryAuth {
        let mut assignment = self.0.clone();
        if let Ok(assignment) = assignment.wait_for(|task| known(task).is_some()).await {
            return known(&assignment).unwrap_or_default();
        }
        // The worker is gone, and with it all that waits here.
        std::future::pending().await
    }
}

/// On disk empty credentials stand for those that were not written (`storage`); managers send none instead.
fn known(task: &TaskAssignment) -> Option<RegistryAuth> {
    match task.spec.as_ref().and_then(|spec| spec.registry_auth.as_ref()) {
        None => Some(RegistryAuth::default()),
        Some(withheld) if *withheld == RegistryAuth::default() => None,
        Some(auth) => Some(auth.clone()),
    }
}

/// Takes empty credentials off an assignment that managers have sent.
pub(crate) fn tidy(task: &mut TaskAssignment) {
    if let Some(spec) = &mut task.spec
        && spec.registry_auth == Some(RegistryAuth::default())
    {
        spec.registry_auth = None;
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::TaskSpec;

    use super::*;

    fn task(auth: Option<RegistryAuth>) -> TaskAssignment {
        TaskAssignment {
            spec: Some(TaskSpec {
                registry_auth: auth,
                ..TaskSpec::default()
            }),
            ..TaskAssignment::default()
        }
    }

    #[tokio::test]
    async fn what_was_not_written_is_waited_for() {
        let auth = RegistryAuth {
            username: "u".into(),
            ..RegistryAuth::default()
        };
        let (sender, assignment) = watch::channel(task(Some(RegistryAuth::default())));
        let credentials = Credentials::new(assignment);
        assert_eq!(credentials.now(), None);
        let waiting = tokio::spawn({
            let credentials = credentials.clone();
            async move { credentials.get().await }
        });
        sender.send_replace(task(Some(auth.clone())));
        assert_eq!(waiting.await.unwrap(), auth);
        assert_eq!(credentials.now(), Some(auth));
        let mut sent = task(Some(RegistryAuth::default()));
        tidy(&mut sent);
        sender.send_replace(sent);
        assert_eq!(credentials.get().await, RegistryAuth::default());
    }
}
