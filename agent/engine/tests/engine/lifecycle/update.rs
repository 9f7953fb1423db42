//! `update`: limits and policies of a container that runs, and what is refused.

use pontoon_proto::v1::{ContainerRestartPolicy, Resources, RestartPolicyName, UpdateContainerRequest};

use crate::bed::{Bed, cases, command, with};

cases![update_changes_limits_and_policy, update_is_refused,];

/// A control file of a container's cgroup, by its names in both versions; empty if the host has neither.
fn limit(bed: &Bed, id: &str, v1: &str, v2: &str) -> String {
    let parent = bed.engine.config().cgroup_parent.clone();
    let (controller, file) = v1.split_once('/').unwrap();
    let paths = [
        format!("/sys/fs/cgroup/{controller}{parent}/{id}/{file}"),
        format!("/sys/fs/cgroup{parent}/{id}/{v2}"),
    ];
    let read = paths.iter().find_map(|path| std::fs::read_to_string(path).ok());
    read.unwrap_or_default().trim().to_owned()
}

async fn update_changes_limits_and_policy() {
    let bed = Bed::new().await;
    let limited = |request| {
        with(request, |_, host| {
            host.resources = Some(Resources {
                memory_bytes: 64 << 20,
                ..Resources::default()
            });
        })
    };
    let id = bed.start(limited(command(&["sleep", "1000"]))).await;
    let to = |change: fn(&mut UpdateContainerRequest)| {
        let mut request = UpdateContainerRequest {
            target: id.clone(),
            ..Default::default()
        };
        change(&mut request);
        request
    };
    // Up and down again, with and without swap: the kernel refuses a limit above memory and swap together.
    for (memory, swap) in [
        (32 << 20, 0),
        (256 << 20, 300 << 20),
        (16 << 20, 20 << 20),
        (64 << 20, -1),
    ] {
        let mut request = to(|_| {});
        request.memory_bytes = Some(memory);
        request.memory_swap = (swap != 0).then_some(swap);
        bed.engine.update(request).await.map_err(|e| e.chain()).unwrap();
        assert_eq!(
            limit(&bed, &id, "memory/memory.limit_in_bytes", "memory.max"),
            memory.to_string()
        );
        let host = bed.inspect(&id).host.unwrap();
        assert_eq!(host.resources.unwrap().memory_bytes, memory);
        assert_eq!(host.memory_swap, if swap == 0 { 128 << 20 } else { swap });
    }
    let request = to(|r| {
        r.nano_cpus = Some(500_000_000);
        r.pids_limit = Some(17);
        r.restart_policy = Some(ContainerRestartPolicy {
            name: RestartPolicyName::OnFailure.into(),
            maximum_retry_count: 3,
        });
    });
    bed.engine.update(request).await.map_err(|e| e.chain()).unwrap();
    assert_eq!(limit(&bed, &id, "pids/pids.max", "pids.max"), "17");
    let quota = limit(&bed, &id, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let policy = bed.inspect(&id).host.unwrap().restart_policy.unwrap();
    assert_eq!(
        (policy.name(), policy.maximum_retry_count),
        (RestartPolicyName::OnFailure, 3)
    );
    // 0 takes the limit on processes away.
    bed.engine.update(to(|r| r.pids_limit = Some(0))).await.unwrap();
    assert_eq!(limit(&bed, &id, "pids/pids.max", "pids.max"), "max");
    // One that does not run has its new limits from its next start on.
    let rests = bed.create(limited(command(&["sleep", "1000"]))).await;
    let mut request = to(|r| r.memory_bytes = Some(32 << 20));
    request.target.clone_from(&rests);
    bed.engine.update(request).await.unwrap();
    bed.engine.start(&rests).await.unwrap();
    assert_eq!(
        limit(&bed, &rests, "memory/memory.limit_in_bytes", "memory.max"),
        (32 << 20).to_string()
    );
    bed.finish().await;
}

async fn update_is_refused() {
    let bed = Bed::new().await;
    let id = bed
        .start(with(command(&["sleep", "1000"]), |_, host| {
            host.auto_remove = true
        }))
        .await;
    let before = bed.inspect(&id).host;
    let refused = async |change: fn(&mut UpdateContainerRequest)| {
        let mut request = UpdateContainerRequest {
            target: id.clone(),
            ..Default::default()
        };
        change(&mut request);
        bed.engine.update(request).await.unwrap_err().chain()
    };
    let policy = ContainerRestartPolicy {
        name: RestartPolicyName::Always.into(),
        maximum_retry_count: 0,
    };
    let said = {
        let mut request = UpdateContainerRequest {
            target: id.clone(),
            restart_policy: Some(policy),
            ..Default::default()
        };
        let said = bed.engine.update(request.clone()).await.unwrap_err().chain();
        request.target = "nobody".to_owned();
        assert_eq!(
            bed.engine.update(request).await.unwrap_err().chain(),
            "No such container: nobody"
        );
        said
    };
    assert_eq!(
        said,
        format!(
            "Cannot update container {id}: Restart policy cannot be updated because AutoRemove is enabled for the \
             container"
        )
    );
    assert_eq!(
        refused(|r| r.memory_bytes = Some(1 << 20)).await,
        "Minimum memory limit allowed is 6MB"
    );
    assert!(
        refused(|r| r.memory_bytes = Some(64 << 20))
            .await
            .contains("memoryswap")
    );
    assert!(
        refused(|r| r.cpuset_cpus = Some("9999".into()))
            .await
            .contains("Requested CPUs are not available")
    );
    assert!(refused(|r| r.blkio_weight = Some(5)).await.contains("lkio"));
    assert_eq!(bed.inspect(&id).host, before);
    bed.finish().await;
}
