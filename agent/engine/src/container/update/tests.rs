//! Limits that go together, that exclude each other, and what is written of them.

use super::*;

fn host(memory: i64, swap: i64) -> HostConfig {
    HostConfig {
        memory_swap: swap,
        resources: Some(Resources {
            memory_bytes: memory,
            ..Resources::default()
        }),
        ..HostConfig::default()
    }
}

#[test]
fn memory_and_swap_go_together() {
    let to = |memory| UpdateContainerRequest {
        memory_bytes: Some(memory),
        ..UpdateContainerRequest::default()
    };
    // Made with 64 MiB alone: 128 MiB with swap, which stays.
    let after = merged(&host(64 << 20, 0), &to(32 << 20)).unwrap();
    assert_eq!(
        (after.resources.unwrap().memory_bytes, after.memory_swap),
        (32 << 20, 128 << 20)
    );
    assert!(merged(&host(64 << 20, 0), &to(129 << 20)).is_err());
    assert!(
        merged(&host(0, 0), &to(64 << 20))
            .unwrap_err()
            .contains("memoryswap")
    );
    let both = UpdateContainerRequest {
        memory_swap: Some(-1),
        ..to(256 << 20)
    };
    let after = merged(&host(64 << 20, 0), &both).unwrap();
    assert_eq!(after.memory_swap, -1);
    let written = changes(&both, &after).unwrap();
    let memory = written.memory().as_ref().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(256 << 20), Some(-1)));
}

#[test]
fn ways_to_limit_the_processor_exclude_each_other() {
    let with_cpus = HostConfig {
        resources: Some(Resources {
            nano_cpus: 500_000_000,
            ..Resources::default()
        }),
        ..HostConfig::default()
    };
    let quota = UpdateContainerRequest {
        cpu_quota: Some(20_000),
        ..UpdateContainerRequest::default()
    };
    assert_eq!(
        merged(&with_cpus, &quota).unwrap_err(),
        "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
    );
    let with_period = HostConfig {
        cpu_period: 50_000,
        ..HostConfig::default()
    };
    let after = merged(&with_period, &quota).unwrap();
    let written = changes(&quota, &after).unwrap();
    let cpu = written.cpu().as_ref().unwrap();
    assert_eq!((cpu.period(), cpu.quota()), (Some(50_000), Some(20_000)));
}

#[test]
fn nothing_is_written_for_a_restart_policy() {
    let request = UpdateContainerRequest {
        restart_policy: Some(ContainerRestartPolicy {
            name: RestartPolicyName::Always.into(),
            maximum_retry_count: 0,
        }),
        ..UpdateContainerRequest::default()
    };
    assert!(changes(&request, &HostConfig::default()).is_none());
    let removed = HostConfig {
        auto_remove: true,
        ..HostConfig::default()
    };
    assert!(merged(&removed, &request).unwrap_err().contains("AutoRemove"));
}
