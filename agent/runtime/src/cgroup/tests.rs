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
