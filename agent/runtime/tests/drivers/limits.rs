//! The container's control group: limits at the start and later, the end by memory, freezing.

use pontoon_runtime::Error;
use serde_json::json;

use crate::support::{Bed, within};

pub async fn cgroup_limits(mut bed: Bed) {
    bed.spec["linux"]["resources"]["memory"] =
        json!({"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432});
    bed.spec["linux"]["resources"]["pids"] = json!({"limit": 20});
    bed.spec["linux"]["resources"]["cpu"] =
        json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"});
    let client = bed.up().await;
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("pids", "pids.max", "20"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpuset", "cpuset.cpus", "0"),
    ] {
        if let Some(path) = bed.cgroup_file(controller, file) {
            assert_eq!(std::fs::read_to_string(path).unwrap().trim(), value, "{file}");
        }
    }
    let (code, _, err) = bed
        .exec(
            &client,
            "bomb",
            "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done",
        )
        .await;
    assert!(code != 0 && err.contains("fork"), "{code} {err}");
}

pub async fn oom_kill(mut bed: Bed) {
    bed.spec["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
    let done = bed.run("x=a; while :; do x=$x$x; done").await;
    assert_eq!(done.record.code, 137, "{}", done.stderr);
    assert!(done.record.oom_killed);
}

pub async fn pause(mut bed: Bed) {
    let client = bed.up().await;
    within(client.pause()).await.unwrap();
    assert_eq!(client.state().await.unwrap().status, "paused");
    if let Some(path) = bed.cgroup_file("freezer", "freezer.state") {
        assert_eq!(std::fs::read_to_string(path).unwrap(), "FROZEN\n");
    }
    assert!(matches!(client.pause().await, Err(Error::State { .. })));
    within(client.resume()).await.unwrap();
    assert_eq!(bed.exec(&client, "e", "exit 3").await.0, 3);
    within(client.pause()).await.unwrap();
    within(client.kill(9, true)).await.unwrap();
    assert_eq!(within(client.wait()).await.unwrap().code, 137);
    bed.assert_nothing_left();
}

pub async fn update_limits(mut bed: Bed) {
    bed.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "swap": 67_108_864});
    let client = bed.up().await;
    let resources = serde_json::from_value(
        json!({"memory": {"limit": 134_217_728, "swap": 134_217_728}, "pids": {"limit": 9}}),
    )
    .unwrap();
    within(client.update(&resources)).await.unwrap();
    if let Some(path) = bed.cgroup_file("memory", "memory.limit_in_bytes") {
        assert_eq!(std::fs::read_to_string(path).unwrap(), "134217728\n");
    }
}
