//! Limits as the container and the host's control groups show them, on both versions.

use pontoon_proto::v1::{BlockDeviceLimit, Resources};

use super::{Case, check};
use crate::bed::{Bed, cases, sh, with};

cases![cgroup_limits,];

fn device_limit(value: u64) -> Vec<BlockDeviceLimit> {
    vec![BlockDeviceLimit {
        path: block_device(),
        value,
    }]
}

/// Some block device of this machine.
fn block_device() -> String {
    ["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .unwrap()
        .to_owned()
}

/// Files of one controller as the container sees them, on both versions.
const LIMITS: &[Case] = &[
    (
        "memory, with twice as much swap, and its reservation",
        |_, host| {
            host.resources = Some(Resources {
                memory_bytes: 64 << 20,
                ..Resources::default()
            });
            host.memory_reservation = 32 << 20;
        },
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
         2>/dev/null || echo $(($(cat memory.max))) $(($(cat memory.max) + $(cat memory.swap.max))) $(($(cat memory.low))) | busybox tr ' ' '\\n'",
        "67108864\n134217728\n33554432\n",
    ),
    (
        "cpus and shares",
        |_, host| {
            host.resources = Some(Resources {
                nano_cpus: 500_000_000,
                ..Resources::default()
            });
        },
        "cd /sys/fs/cgroup; cat cpu*/cpu.cfs_quota_us 2>/dev/null | head -1 || busybox awk '{print $1}' cpu.max",
        "50000\n",
    ),
    (
        "cpuset",
        |_, host| {
            host.cpuset_cpus = "0".into();
            host.cpuset_mems = "0".into();
        },
        "grep Cpus_allowed_list /proc/self/status; grep Mems_allowed_list /proc/self/status",
        "Cpus_allowed_list:\t0\nMems_allowed_list:\t0\n",
    ),
    (
        "pids",
        |_, host| {
            host.resources = Some(Resources {
                pids: 33,
                ..Resources::default()
            });
        },
        "cd /sys/fs/cgroup; cat pids/pids.max 2>/dev/null || cat pids.max",
        "33\n",
    ),
];

/// Files that only version 1 has.
const LIMITS_VERSION_1: &[Case] = &[
    (
        "shares, period and quota",
        |_, host| {
            host.cpu_shares = 512;
            host.cpu_period = 50_000;
            host.cpu_quota = 20_000;
        },
        "cd /sys/fs/cgroup/cpu; cat cpu.shares cpu.cfs_period_us cpu.cfs_quota_us",
        "512\n50000\n20000\n",
    ),
    (
        "swappiness and the OOM killer",
        |_, host| {
            host.memory_swappiness = Some(7);
            host.oom_kill_disable = true;
        },
        "cd /sys/fs/cgroup/memory; cat memory.swappiness; grep oom_kill_disable memory.oom_control",
        "7\noom_kill_disable 1\n",
    ),
    (
        "rates of block devices",
        |_, host| {
            host.device_read_bps = device_limit(1 << 20);
            host.device_write_bps = device_limit(2 << 20);
            host.device_read_iops = device_limit(100);
            host.device_write_iops = device_limit(200);
        },
        "cd /sys/fs/cgroup/blkio; for f in read_bps write_bps read_iops write_iops; do \
         busybox awk '{print $2}' blkio.throttle.${f}_device; done",
        "1048576\n2097152\n100\n200\n",
    ),
];

async fn cgroup_limits() {
    let bed = Bed::new().await;
    check(&bed, LIMITS).await;
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("skipped: limits of cgroup version 1, this host has version 2");
    } else {
        check(&bed, LIMITS_VERSION_1).await;
    }
    // A parent of its own, and the daemon's for those that name none.
    let parent = format!("{}-other", bed.engine.config().cgroup_parent);
    let request = with(sh("cat /proc/self/cgroup"), |_, host| {
        host.cgroup_parent = parent.clone();
        host.cgroupns_mode = "host".to_owned();
    });
    let (_, out, err) = bed.run(request).await;
    assert!(out.contains(&format!("{parent}/")), "{out}{err}");
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        std::fs::remove_dir(entry.path().join(parent.trim_start_matches('/'))).ok();
    }
    let request = with(sh("cat /proc/self/cgroup"), |_, host| {
        host.cgroupns_mode = "private".to_owned();
    });
    let (_, out, err) = bed.run(request).await;
    assert!(
        !out.is_empty() && out.lines().all(|line| line.ends_with(":/")),
        "{out}{err}"
    );
    bed.finish().await;
}
