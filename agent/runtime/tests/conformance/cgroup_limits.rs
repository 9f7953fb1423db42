//! config-linux.md: every limit, as the kernel has it afterwards, and what it does to a container.

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::case::{Case, code, skip};

/// Brings a container up with resources and compares files of its cgroup (v1) with what they must hold.
fn check(bed: &mut Bed, resources: &[(&str, Value)], files: &[(&str, &str, &str)]) {
    for (name, value) in resources {
        bed.spec["linux"]["resources"][*name] = value.clone();
    }
    bed.up();
    let mut seen = 0;
    for (controller, file, value) in files {
        if let Some(found) = bed.cgroup_file(controller, file) {
            assert_eq!(found, *value, "{file}");
            seen += 1;
        }
    }
    if seen == 0 {
        skip("this host has none of the files of cgroup v1");
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = memory();
    cases.extend(processor());
    cases.extend(others());
    cases
}

fn memory() -> Vec<Case> {
    vec![
        code("memory_limit", "memory.limit", |bed| {
            check(
                bed,
                &[("memory", json!({"limit": 67_108_864}))],
                &[
                    ("memory", "memory.limit_in_bytes", "67108864"),
                    ("", "memory.max", "67108864"),
                ],
            );
        }),
        code("memory_swap", "memory.swap: memory and swap together", |bed| {
            check(
                bed,
                &[("memory", json!({"limit": 67_108_864, "swap": 134_217_728}))],
                &[
                    ("memory", "memory.memsw.limit_in_bytes", "134217728"),
                    ("", "memory.swap.max", "67108864"),
                ],
            );
        }),
        code("memory_swap_unlimited", "-1 is no limit", |bed| {
            check(
                bed,
                &[("memory", json!({"limit": 67_108_864, "swap": -1}))],
                &[
                    ("memory", "memory.limit_in_bytes", "67108864"),
                    ("memory", "memory.memsw.limit_in_bytes", "9223372036854771712"),
                ],
            );
        }),
        code(
            "memory_reservation",
            "memory.reservation: the soft limit",
            |bed| {
                check(
                    bed,
                    &[("memory", json!({"reservation": 33_554_432}))],
                    &[
                        ("memory", "memory.soft_limit_in_bytes", "33554432"),
                        ("", "memory.low", "33554432"),
                    ],
                );
            },
        ),
        code("memory_swappiness", "memory.swappiness", |bed| {
            check(
                bed,
                &[("memory", json!({"swappiness": 33}))],
                &[("memory", "memory.swappiness", "33")],
            );
        }),
        code("memory_kernel_tcp", "memory.kernelTCP", |bed| {
            check(
                bed,
                &[("memory", json!({"kernelTCP": 33_554_432}))],
                &[("memory", "memory.kmem.tcp.limit_in_bytes", "33554432")],
            );
        }),
        code("memory_disable_oom_killer", "memory.disableOOMKiller", |bed| {
            bed.spec["linux"]["resources"]["memory"] = json!({"disableOOMKiller": true});
            bed.up();
            let Some(text) = bed.cgroup_file("memory", "memory.oom_control") else {
                skip("no cgroup v1")
            };
            assert!(text.contains("oom_kill_disable 1"), "{text}");
        }),
        code("memory_use_hierarchy", "memory.useHierarchy is accepted", |bed| {
            check(
                bed,
                &[("memory", json!({"useHierarchy": true}))],
                &[("memory", "memory.use_hierarchy", "1")],
            );
        }),
        code(
            "memory_limit_is_enforced",
            "a process that needs more is killed",
            |bed| {
                bed.need("memory");
                bed.spec["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
                assert_eq!(bed.run("x=a; while :; do x=$x$x; done").code, 137);
            },
        ),
        code(
            "memory_check_before_update",
            "checkBeforeUpdate: a limit below the use is refused",
            |bed| {
                bed.need("memory");
                bed.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
                bed.up();
                let file = bed.path("update.json");
                std::fs::write(
                    &file,
                    json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string(),
                )
                .unwrap();
                let output = bed.call(&["update", "--resources", file.to_str().unwrap(), &bed.id]);
                assert!(!output.status.success());
                assert_eq!(bed.status(), "running");
            },
        ),
    ]
}

fn processor() -> Vec<Case> {
    vec![
        code("cpu_shares", "cpu.shares", |bed| {
            check(
                bed,
                &[("cpu", json!({"shares": 512}))],
                &[("cpu", "cpu.shares", "512")],
            )
        }),
        code("cpu_quota", "cpu.quota and cpu.period", |bed| {
            check(
                bed,
                &[("cpu", json!({"quota": 50_000, "period": 200_000}))],
                &[
                    ("cpu", "cpu.cfs_quota_us", "50000"),
                    ("cpu", "cpu.cfs_period_us", "200000"),
                ],
            );
        }),
        code("cpu_quota_unlimited", "a negative quota is no limit", |bed| {
            check(
                bed,
                &[("cpu", json!({"quota": -1}))],
                &[("cpu", "cpu.cfs_quota_us", "-1")],
            )
        }),
        code("cpu_burst", "cpu.burst", |bed| {
            check(
                bed,
                &[(
                    "cpu",
                    json!({"quota": 50_000, "period": 100_000, "burst": 20_000}),
                )],
                &[("cpu", "cpu.cfs_burst_us", "20000")],
            );
        }),
        code("cpu_idle", "cpu.idle", |bed| {
            check(bed, &[("cpu", json!({"idle": 1}))], &[("cpu", "cpu.idle", "1")])
        }),
        code("cpu_set", "cpu.cpus and cpu.mems", |bed| {
            check(
                bed,
                &[("cpu", json!({"cpus": "0", "mems": "0"}))],
                &[("cpuset", "cpuset.cpus", "0"), ("cpuset", "cpuset.mems", "0")],
            );
            assert_eq!(
                bed.exec("grep Cpus_allowed_list /proc/self/status").stdout,
                "Cpus_allowed_list:\t0\n"
            );
        }),
        code(
            "cpu_set_impossible",
            "a processor that does not exist is an error",
            |bed| {
                bed.need("cpuset");
                bed.spec["linux"]["resources"]["cpu"] = json!({"cpus": "4095"});
                bed.refusal();
            },
        ),
        code(
            "cpu_realtime",
            "cpu.realtimePeriod and cpu.realtimeRuntime, as far as the parent has a budget",
            |bed| {
                bed.spec["linux"]["resources"]["cpu"] = json!({"realtimePeriod": 500_000});
                bed.up();
                let Some(value) = bed.cgroup_file("cpu", "cpu.rt_period_us") else {
                    skip("no real-time groups")
                };
                assert_eq!(value, "500000");
            },
        ),
    ]
}

/// A block device of this machine, for throttling.
fn disk() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/partitions").unwrap();
    text.lines()
        .filter_map(|l| {
            let fields: Vec<&str> = l.split_whitespace().collect();
            let &[major, minor, _, name] = fields.as_slice() else {
                return None;
            };
            let whole = std::path::Path::new("/sys/block").join(name).exists();
            (whole && !name.starts_with("ram") && !name.starts_with("zram"))
                .then(|| (major.parse().unwrap(), minor.parse().unwrap()))
        })
        .next()
        .unwrap_or_else(|| skip("no block device"))
}

fn others() -> Vec<Case> {
    vec![
        code("pids_limit", "pids.limit", |bed| {
            check(
                bed,
                &[("pids", json!({"limit": 20}))],
                &[("pids", "pids.max", "20")],
            );
            let done = bed.exec("i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done");
            assert!(done.code != 0 && done.stderr.contains("fork"), "{}", done.stderr);
        }),
        code("pids_unlimited", "-1 is no limit", |bed| {
            check(
                bed,
                &[("pids", json!({"limit": -1}))],
                &[("pids", "pids.max", "max")],
            )
        }),
        code(
            "block_io_throttle",
            "blockIO.throttle*: rates per device",
            |bed| {
                let (major, minor) = disk();
                let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
                bed.spec["linux"]["resources"]["blockIO"] = json!({
                    "throttleReadBpsDevice": rate(1_000_001), "throttleWriteBpsDevice": rate(1_000_002),
                    "throttleReadIOPSDevice": rate(1003), "throttleWriteIOPSDevice": rate(1004)
                });
                bed.up();
                for (file, value) in [
                    ("read_bps", 1_000_001),
                    ("write_bps", 1_000_002),
                    ("read_iops", 1003),
                    ("write_iops", 1004),
                ] {
                    let Some(text) = bed.cgroup_file("blkio", &format!("blkio.throttle.{file}_device"))
                    else {
                        skip("no blkio controller")
                    };
                    assert_eq!(text, format!("{major}:{minor} {value}"), "{file}");
                }
            },
        ),
        code(
            "block_io_weight",
            "blockIO.weight, where the host has it",
            |bed| {
                if !["blkio.weight", "blkio.bfq.weight"].iter().any(|f| {
                    std::path::Path::new("/sys/fs/cgroup/blkio")
                        .join(&bed.id)
                        .join(f)
                        .exists()
                }) {
                    let probe =
                        std::path::Path::new("/sys/fs/cgroup/blkio").join(format!("{}-probe", bed.id));
                    std::fs::create_dir(&probe).unwrap_or_else(|_| skip("no blkio controller"));
                    let has = probe.join("blkio.bfq.weight").exists() || probe.join("blkio.weight").exists();
                    std::fs::remove_dir(&probe).unwrap();
                    if !has {
                        skip("no I/O scheduler with weights");
                    }
                }
                check(
                    bed,
                    &[("blockIO", json!({"weight": 200}))],
                    &[
                        ("blkio", "blkio.weight", "200"),
                        ("blkio", "blkio.bfq.weight", "200"),
                    ],
                );
            },
        ),
        code(
            "block_io_device_missing",
            "a device that does not exist is an error",
            |bed| {
                bed.need("blkio");
                bed.spec["linux"]["resources"]["blockIO"] =
                    json!({"throttleReadBpsDevice": [{"major": 250, "minor": 250, "rate": 1}]});
                bed.refusal();
            },
        ),
        code(
            "missing_controller",
            "a limit whose controller the host lacks is an error or a warning, not silence",
            |bed| {
                if std::path::Path::new("/sys/fs/cgroup/rdma").exists() || !bed.ours() {
                    skip("about our own warnings, on a host without an rdma controller");
                }
                bed.spec["linux"]["resources"]["rdma"] = json!({"mlx5_0": {"hcaHandles": 3}});
                bed.up();
                assert!(bed.read("log").contains("rdma"), "{}", bed.read("log"));
            },
        ),
    ]
}
