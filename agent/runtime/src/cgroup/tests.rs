//! Cgroup tests on directories that look like cgroup file systems, and of the device program's logic.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

use super::*;

const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 30 0:28 / /mnt/memory rw - cgroup cgroup rw,memory
";

#[test]
fn finds_hierarchies_of_a_hybrid_host() {
    let found = Hierarchies::from_mountinfo(HYBRID);
    assert_eq!(found.version, Version::V1);
    let names: Vec<_> = found.mounts.iter().map(Hierarchy::name).collect();
    assert_eq!(names, ["cpu,cpuacct", "memory", "systemd", "unified"]);
    assert!(found.mounts[2].is_named());
}

#[test]
fn finds_the_unified_hierarchy_alone() {
    let found = Hierarchies::from_mountinfo("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    assert_eq!(found.version, Version::V2);
    assert_eq!(found, Hierarchies::unified(Path::new("/sys/fs/cgroup")));
}

#[test]
fn refuses_paths_that_climb() {
    let host = Hierarchies::unified(Path::new("/x"));
    for path in ["/", "", "/a/../b"] {
        assert!(Cgroup::find(&host, Path::new(path)).is_err(), "{path}");
    }
}

#[test]
fn fills_the_cpusets_above_that_somebody_left_empty() {
    let root = tempfile::tempdir().unwrap();
    let hierarchy = Hierarchy {
        mount: root.path().to_owned(),
        controllers: vec!["cpuset".to_owned()],
        unified: false,
    };
    let directories = ["", "above", "above/parent", "above/parent/c1"].map(|name| root.path().join(name));
    for (depth, directory) in directories.iter().enumerate() {
        fs::create_dir_all(directory).unwrap();
        let of_root = |value| if depth == 0 { value } else { "\n" };
        fs::write(directory.join("cpuset.cpus"), of_root("0-1\n")).unwrap();
        fs::write(directory.join("cpuset.mems"), of_root("0\n")).unwrap();
    }
    fs::write(directories[2].join("cpuset.cpus"), "1\n").unwrap();
    v1::inherit_cpuset(&hierarchy, &directories[3]).unwrap();
    let read = |depth: usize, file: &str| {
        let text: String = fs::read_to_string(directories[depth].join(file)).unwrap();
        text.trim().to_owned()
    };
    assert_eq!(read(3, "cpuset.cpus"), "1");
    // What is set stays, and nothing above it is looked at.
    assert_eq!(
        (read(2, "cpuset.cpus"), read(1, "cpuset.cpus")),
        ("1".into(), "".into())
    );
    for depth in [1, 2, 3] {
        assert_eq!(read(depth, "cpuset.mems"), "0", "at {depth}");
    }
}

#[test]
fn writes_v2_limits() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("pontoon/c1");
    fs::create_dir_all(&directory).unwrap();
    for file in [
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
    ] {
        fs::write(directory.join(file), "").unwrap();
    }
    let cgroup = Cgroup::find(&Hierarchies::unified(root.path()), Path::new("/pontoon/c1")).unwrap();
    let memory = LinuxMemoryBuilder::default()
        .limit(100)
        .swap(150)
        .reservation(50)
        .build()
        .unwrap();
    let cpu = LinuxCpuBuilder::default()
        .shares(1024_u64)
        .quota(50_000)
        .cpus("0")
        .build()
        .unwrap();
    let resources = LinuxResourcesBuilder::default()
        .memory(memory)
        .cpu(cpu)
        .pids(LinuxPidsBuilder::default().limit(7).build().unwrap())
        .build()
        .unwrap();
    let resources = {
        let mut resources = resources;
        resources.set_devices(None);
        resources
    };
    let mut warnings = Vec::new();
    cgroup.apply(&resources, &mut warnings).unwrap();
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    assert_eq!(read("memory.max"), "100");
    assert_eq!(read("memory.swap.max"), "50");
    assert_eq!(read("memory.low"), "50");
    assert_eq!(read("cpu.weight"), "39");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(read("cpuset.cpus"), "0");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("pids.max = 7"), "{warnings:?}");
}

#[test]
fn converts_weights_at_their_ends() {
    assert_eq!(
        (v2::weight_of_shares(2), v2::weight_of_shares(262_144)),
        (1, 10_000)
    );
    assert_eq!((v2::io_weight(10), v2::io_weight(1000)), (1, 10_000));
}

#[test]
fn reads_v2_statistics() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("c");
    fs::create_dir(&directory).unwrap();
    fs::write(
        directory.join("cpu.stat"),
        "usage_usec 5\nuser_usec 3\nsystem_usec 2\n",
    )
    .unwrap();
    fs::write(directory.join("memory.current"), "4096\n").unwrap();
    fs::write(directory.join("memory.max"), "max\n").unwrap();
    fs::write(directory.join("memory.events"), "max 3\noom_kill 1\n").unwrap();
    fs::write(
        directory.join("io.stat"),
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n",
    )
    .unwrap();
    let stats = Cgroup::find(&Hierarchies::unified(root.path()), Path::new("/c"))
        .unwrap()
        .stats()
        .unwrap();
    assert_eq!(stats.cpu.usage_ns, 5000);
    assert_eq!(
        (stats.memory.usage, stats.memory.limit, stats.memory.oom_kills),
        (4096, u64::MAX, 1)
    );
    assert_eq!(stats.blkio[0].writes, 4);
}

/// Runs the few instructions of a device program.
fn decide(program: &bpf::Program, kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [kind | (access << 16), major, minor];
    let mut registers = [0_u64; 11];
    let mut pc: i64 = 0;
    loop {
        let [code, regs, o0, o1, i0, i1, i2, i3] = program.0[pc as usize].bytes();
        let (d, s) = ((regs & 15) as usize, (regs >> 4) as usize);
        let offset = i64::from(i16::from_ne_bytes([o0, o1]));
        let imm = u64::from(i32::from_ne_bytes([i0, i1, i2, i3]) as u32);
        pc += 1;
        match code {
            0x61 => registers[d] = u64::from(context[offset as usize / 4]),
            0x54 => registers[d] &= imm,
            0x74 => registers[d] >>= imm,
            0xbc => registers[d] = registers[s],
            0xb7 => registers[d] = imm,
            0x15 if registers[d] == imm => pc += offset,
            0x55 if registers[d] != imm => pc += offset,
            0x5d if registers[d] != registers[s] => pc += offset,
            0x15 | 0x55 | 0x5d => {}
            0x95 => return registers[0] == 1,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn device_program_follows_the_rules() {
    let program = devices::program_v2(&crate::defaults::device_rules()).unwrap();
    let (mknod, read, write) = (1, 2, 4);
    let (block, char) = (1, 2);
    assert!(decide(&program, char, read | write, 1, 3), "/dev/null");
    assert!(decide(&program, char, read, 136, 77), "a pseudo terminal");
    assert!(decide(&program, block, mknod, 8, 0), "mknod of a disk");
    assert!(!decide(&program, block, read, 8, 0), "reading a disk");
    assert!(!decide(&program, char, mknod | read, 1, 1), "/dev/mem");
}

/// A directory that looks like a cgroup with the given files, and that cgroup.
fn lookalike(files: &[&str]) -> (tempfile::TempDir, Cgroup) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("c")).unwrap();
    for file in files {
        fs::write(root.path().join("c").join(file), "").unwrap();
    }
    let cgroup = Cgroup::find(&Hierarchies::unified(root.path()), Path::new("/c")).unwrap();
    (root, cgroup)
}

fn resources(value: serde_json::Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

#[test]
fn writes_the_rarer_v2_limits() {
    let files = [
        "cpu.idle",
        "cpu.max",
        "cpu.max.burst",
        "io.weight",
        "io.max",
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
        "rdma.max",
        "memory.high",
        "pids.max",
    ];
    let (root, cgroup) = lookalike(&files);
    let wanted = resources(serde_json::json!({
        "cpu": {"idle": 1, "quota": 1000, "period": 2000, "burst": 500},
        "blockIO": {
            "weight": 500,
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
        "rdma": {"mlx5": {"hcaHandles": 3}},
        "pids": {"limit": -1},
        "unified": {"memory.high": "12345"}
    }));
    let mut warnings = Vec::new();
    cgroup.apply(&wanted, &mut warnings).unwrap();
    let read = |file: &str| fs::read_to_string(root.path().join("c").join(file)).unwrap();
    assert_eq!(read("cpu.idle"), "1");
    assert_eq!(read("cpu.max"), "1000 2000");
    assert_eq!(read("cpu.max.burst"), "500");
    assert_eq!(read("io.weight"), v2::io_weight(500).to_string());
    assert_eq!(read("io.max"), "8:0 wiops=7");
    assert_eq!(read("hugetlb.2MB.max"), "4096");
    assert_eq!(read("hugetlb.2MB.rsvd.max"), "4096");
    assert_eq!(read("rdma.max"), "mlx5 hca_handle=3 hca_object=max");
    assert_eq!(read("memory.high"), "12345");
    assert_eq!(read("pids.max"), "max");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn refuses_a_limit_below_the_use_if_asked_to_look() {
    let (root, cgroup) = lookalike(&["memory.max"]);
    fs::write(root.path().join("c/memory.current"), "1000\n").unwrap();
    let mut warnings = Vec::new();
    let low = resources(serde_json::json!({"memory": {"limit": 999, "checkBeforeUpdate": true}}));
    assert!(cgroup.apply(&low, &mut warnings).is_err());
    let unchecked = resources(serde_json::json!({"memory": {"limit": 999}}));
    cgroup.apply(&unchecked, &mut warnings).unwrap();
    let enough = resources(serde_json::json!({"memory": {"limit": 1000, "checkBeforeUpdate": true}}));
    cgroup.apply(&enough, &mut warnings).unwrap();
    assert_eq!(
        fs::read_to_string(root.path().join("c/memory.max")).unwrap(),
        "1000"
    );
}

#[test]
fn tells_what_v2_can_not_do() {
    let (_root, cgroup) = lookalike(&[]);
    let wanted = resources(serde_json::json!({
        "memory": {"swappiness": 3, "kernelTCP": 5, "disableOOMKiller": true},
        "cpu": {"realtimeRuntime": 5},
        "network": {"classID": 7},
        "pids": {"limit": 3}
    }));
    let mut warnings = Vec::new();
    cgroup.apply(&wanted, &mut warnings).unwrap();
    assert_eq!(warnings.len(), 6, "{warnings:?}");
}
