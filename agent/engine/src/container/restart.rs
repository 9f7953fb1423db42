//! Restart policies: whether and when an ended container is started again (moby `restartmanager`). Pure.

use std::time::Duration;

use pontoon_proto::v1::{ContainerRestartPolicy, RestartPolicyName};

/// First delay; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay.
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length makes the next delay the first again.
const SETTLED: Duration = Duration::from_secs(10);

/// Delay between restarts.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The delay after a run of that length.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        let delay = match self.last {
            Some(last) if ran < SETTLED => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(delay);
        delay
    }
}

/// Whether a container that has ended is started again.
pub(crate) fn wanted(
    policy: ContainerRestartPolicy,
    stopped_by_user: bool,
    exit_code: i32,
    restart_count: u32,
) -> bool {
    if stopped_by_user {
        return false;
    }
    match policy.name() {
        RestartPolicyName::No => false,
        RestartPolicyName::Always | RestartPolicyName::UnlessStopped => true,
        RestartPolicyName::OnFailure => {
            let limit = policy.maximum_retry_count;
            exit_code != 0 && (limit == 0 || restart_count < limit)
        }
    }
}

/// Whether a container that has ended before is started when the daemon starts. Unlike [`wanted`], `always` means it
/// even for one that the user stopped.
pub(crate) fn wanted_at_boot(
    policy: ContainerRestartPolicy,
    stopped_by_user: bool,
    exit_code: i32,
    restart_count: u32,
) -> bool {
    policy.name() == RestartPolicyName::Always || wanted(policy, stopped_by_user, exit_code, restart_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: RestartPolicyName, maximum_retry_count: u32) -> ContainerRestartPolicy {
        ContainerRestartPolicy {
            name: name.into(),
            maximum_retry_count,
        }
    }

    #[test]
    fn delays_double_until_a_long_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let delays: Vec<u128> = (0..4).map(|_| backoff.next(short).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800]);
        assert_eq!(backoff.next(SETTLED).as_millis(), 100);
        for _ in 0..20 {
            backoff.next(short);
        }
        assert_eq!(backoff.next(short), LONGEST);
    }

    #[test]
    fn policies() {
        use RestartPolicyName::{Always, No, OnFailure, UnlessStopped};
        assert!(!wanted(policy(No, 0), false, 1, 0));
        assert!(wanted(policy(Always, 0), false, 0, 9));
        assert!(!wanted(policy(Always, 0), true, 0, 0));
        assert!(wanted_at_boot(policy(Always, 0), true, 0, 0));
        assert!(!wanted_at_boot(policy(UnlessStopped, 0), true, 0, 0));
        assert!(!wanted(policy(OnFailure, 0), false, 0, 0));
        assert!(wanted(policy(OnFailure, 2), false, 1, 1));
        assert!(!wanted(policy(OnFailure, 2), false, 1, 2));
    }
}
