//! What `run`'s flags about isolation and limits do, seen from inside the container; what is refused, and how; namespaces shared
//! between containers.

use pontoon_engine::Error;
use pontoon_proto::v1::{
    BlockDeviceLimit, ContainerSpec, CreateContainerRequest, Device, HostConfig, Resources, Ulimit,
};

use crate::bed::{Bed, IMAGE, cases, command, eventually, is_running, sh, with};

cases!(
    flags,
    cgroup_limits,
    refusals,
    platforms,
    seccomp_profiles,
    privileged,
    pid_namespace_of_another,
    ipc_namespace_of_another,
    inspected_settings,
);

type Change = fn(&mut ContainerSpec, &mut HostConfig);

/// What is set, what the container runs, and what it prints.
type Case = (&'static str, Change, &'static str, &'static str);

fn device(path: &str, inside: &str, permissions: &str) -> Device {
    Device {
        path_on_host: path.to_owned(),
        path_in_container: inside.to_owned(),
        permissions: permissions.to_owned(),
    }
}

async fn check(bed: &Bed, cases: &[Case]) {
    for &(what, change, script, expected) in cases {
        let (code, out, err) = bed.run(with(sh(script), change)).await;
        assert_eq!(out, expected, "{what}: exit {code}, {err}");
    }
}

const FLAGS: &[Case] = &[
    (
        "group-add by name and number",
        |config, _| config.groups = vec!["extra".into(), "4000".into()],
        "id -G",
        "0 2000 4000\n",
    ),
    (
        "a user's own groups",
        |config, _| config.user = "app".into(),
        "id -u; id -G",
        "1000\n1000 2000\n",
    ),
    (
        "an environment variable of the image taken away",
        |config, _| config.env = vec!["FROM_IMAGE".into(), "A=1".into()],
        "echo ${FROM_IMAGE-gone} $A",
        "gone 1\n",
    ),
    (
        "a device under another name, for reading only",
        |_, host| host.devices = vec![device("/dev/loop-control", "/dev/mine", "r")],
        "busybox stat -c %t:%T /dev/mine; (: < /dev/mine) && echo read; (: > /dev/mine) 2>/dev/null || echo refused",
        "a:ed\nread\nrefused\n",
    ),
    (
        "a device that is not given can't be opened even with a node",
        |_, _| {},
        "busybox mknod /tmp/k c 10 237 && (: < /tmp/k) 2>/dev/null || echo refused",
        "refused\n",
    ),
    (
        "device-cgroup-rule",
        |_, host| host.device_cgroup_rules = vec!["c 10:237 r".into()],
        "busybox mknod /tmp/k c 10 237 && (: < /tmp/k) && echo read",
        "read\n",
    ),
    (
        "a folder of devices",
        |_, host| host.devices = vec![device("/dev/net", "/dev/other", "rwm")],
        "busybox stat -c %t:%T /dev/other/tun",
        "a:c8\n",
    ),
    (
        "ulimits, the last of a name holds",
        |config, _| {
            let limit = |soft, hard| Ulimit {
                name: "nofile".into(),
                soft,
                hard,
            };
            config.ulimits = vec![limit(9, 9), limit(100, 200)];
        },
        "ulimit -Sn; ulimit -Hn",
        "100\n200\n",
    ),
    (
        "sysctl of the ipc namespace",
        |config, _| {
            config.sysctls = [("kernel.shmmni".to_owned(), "77".to_owned())].into();
        },
        "cat /proc/sys/kernel/shmmni",
        "77\n",
    ),
    (
        "sysctl of the network namespace, and Docker's defaults",
        |config, _| {
            config.sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
        },
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "1\n0\n",
    ),
    (
        "shm-size",
        |_, host| host.shm_size = 3 << 20,
        "busybox df -k /dev/shm | busybox awk 'END {print $2}'",
        "3072\n",
    ),
    (
        "oom-score-adj",
        |_, host| host.oom_score_adj = 321,
        "cat /proc/self/oom_score_adj",
        "321\n",
    ),
    (
        "hostname and domainname",
        |config, _| config.hostname = "web".into(),
        "hostname; cat /etc/hostname",
        "web\nweb\n",
    ),
    (
        "cap-drop ALL with one added",
        |config, _| {
            config.cap_drop = vec!["ALL".into()];
            config.cap_add = vec!["cap_chown".into()];
        },
        "grep CapEff /proc/self/status; grep CapBnd /proc/self/status",
        "CapEff:\t0000000000000001\nCapBnd:\t0000000000000001\n",
    ),
    (
        "no-new-privileges, also switched off again",
        |_, host| {
            host.security_opt = vec!["no-new-privileges".into(), "no-new-privileges=false".into()];
        },
        "grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t0\n",
    ),
    (
        "masked and read-only paths",
        |_, _| {},
        "(: < /proc/kcore) 2>/dev/null; busybox wc -c < /proc/keys; (echo 1 > /proc/sys/kernel/shmmni) 2>/dev/null || echo refused",
        "0\nrefused\n",
    ),
    (
        "systempaths=unconfined",
        |_, host| host.security_opt = vec!["systempaths=unconfined".into()],
        "mount | grep -c ' on /proc/'",
        "0\n",
    ),
    (
        "ipc none has no /dev/shm",
        |_, host| host.ipc_mode = "none".into(),
        "test -d /dev/shm && mount | grep -c ' /dev/shm ' || echo none",
        "none\n",
    ),
    (
        "init reaps as pid 1",
        |config, _| config.init = true,
        "test $$ -ne 1 && echo child",
        "child\n",
    ),
    (
        "a runtime of the machine is not asked for: the cgroup tree is read-only",
        |_, _| {},
        "for d in /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo $d; done; echo done",
        "done\n",
    ),
    (
        "writable-cgroups",
        |_, host| host.security_opt = vec!["writable-cgroups=true".into()],
        "cd /sys/fs/cgroup; cd pids 2>/dev/null; mkdir x && busybox rmdir x && echo made",
        "made\n",
    ),
];

async fn flags() {
    let bed = Bed::new().await;
    check(&bed, FLAGS).await;
    // A working directory is cleaned, and made.
    let request = with(sh("pwd"), |config, _| config.dir = "/a/../b//c/.".into());
    let (_, out, err) = bed.run(request).await;
    assert_eq!(out, "/b/c\n", "{err}");
    bed.finish().await;
}

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

/// Settings that are no good, and how the error begins.
const REFUSED: &[(&str, Change)] = &[
    ("invalid PID mode: x", |_, host| host.pid_mode = "x".into()),
    ("invalid IPC mode: x", |_, host| host.ipc_mode = "x".into()),
    ("invalid UTS mode: x", |_, host| host.uts_mode = "x".into()),
    ("invalid user namespace mode: x", |_, host| {
        host.userns_mode = "x".into()
    }),
    ("invalid cgroup namespace mode: x", |_, host| {
        host.cgroupns_mode = "x".into();
    }),
    ("No such container: nobody", |_, host| {
        host.pid_mode = "container:nobody".into();
    }),
    ("No such container: nobody", |_, host| {
        host.ipc_mode = "container:nobody".into();
    }),
    (
        "conflicting options: hostname and the UTS mode",
        |config, host| {
            host.uts_mode = "host".into();
            config.hostname = "x".into();
        },
    ),
    (
        "sysctl \"kernel.pid_max\" is not in a separate kernel namespace",
        |config, _| {
            config.sysctls = [("kernel.pid_max".to_owned(), "1".to_owned())].into();
        },
    ),
    (
        "sysctl \"kernel.shmmax\" is not allowed in the hosts ipc namespace",
        |config, host| {
            host.ipc_mode = "host".into();
            config.sysctls = [("kernel.shmmax".to_owned(), "1".to_owned())].into();
        },
    ),
    (
        "sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace",
        |config, host| {
            host.network_mode = "host".into();
            config.sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
        },
    ),
    ("SHM size can not be less than 0", |_, host| host.shm_size = -1),
    (
        "Invalid value 1001, range for oom score adj is [-1000, 1000]",
        |_, host| {
            host.oom_score_adj = 1001;
        },
    ),
    ("invalid CapAdd: unknown capability: \"CAP_FLY\"", |config, _| {
        config.cap_add = vec!["fly".into()];
    }),
    ("invalid CapDrop: unknown capability: \"CAP_FLY\"", |config, _| {
        config.cap_drop = vec!["CAP_FLY".into()];
    }),
    ("invalid ulimit type: files", |config, _| {
        config.ulimits = vec![Ulimit {
            name: "files".into(),
            ..Ulimit::default()
        }];
    }),
    (
        "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        |_, host| {
            host.storage_opt = [("size".to_owned(), "1G".to_owned())].into();
        },
    ),
    ("invalid --security-opt: \"x=y\"", |_, host| {
        host.security_opt = vec!["x=y".into()];
    }),
    ("Decoding seccomp profile failed", |_, host| {
        host.security_opt = vec!["seccomp={".into()];
    }),
    ("invalid device cgroup rule format: 'c 1 r'", |_, host| {
        host.device_cgroup_rules = vec!["c 1 r".into()];
    }),
    ("bad mode specified: x", |_, host| {
        host.devices = vec![device("/dev/null", "/dev/x", "x")];
    }),
    ("relative is not an absolute path", |_, host| {
        host.devices = vec![device("/dev/null", "relative", "r")];
    }),
    ("unknown or invalid runtime name: nothing", |_, host| {
        host.runtime = "nothing".into();
    }),
    ("cgroup-parent \"/a/../..\" must be a path", |_, host| {
        host.cgroup_parent = "/a/../..".into();
    }),
    ("invalid Annotations", |_, host| {
        host.annotations = [(String::new(), "x".to_owned())].into();
    }),
    ("hostname \"xxxxxxxx", |config, _| {
        config.hostname = "x".repeat(65)
    }),
    ("the working directory 'x' is invalid", |config, _| {
        config.dir = "x".into()
    }),
    ("Interval in Healthcheck cannot be less than 1ms", |config, _| {
        config.healthcheck = Some(pontoon_proto::v1::HealthConfig {
            test: vec!["CMD".into(), "true".into()],
            interval: 5,
            ..Default::default()
        });
    }),
    ("Minimum memory limit allowed is 6MB", |_, host| {
        host.resources.get_or_insert_default().memory_bytes = 1 << 20;
    }),
];

/// What is looked up at the start is refused there, and nothing stays.
const REFUSED_AT_START: &[(&str, Change)] = &[
    (
        "error gathering device information while adding custom device \"/dev/nope\"",
        |_, host| {
            host.devices = vec![device("/dev/nope", "/dev/nope", "rwm")];
        },
    ),
    ("stat /dev/nope: ", |_, host| {
        host.device_read_bps = vec![BlockDeviceLimit {
            path: "/dev/nope".into(),
            value: 1,
        }];
    }),
];

async fn refusals() {
    let bed = Bed::new().await;
    for (text, change) in REFUSED {
        let error = bed
            .engine
            .create(with(command(&["true"]), change))
            .await
            .expect_err(text);
        assert!(error.to_string().starts_with(text), "{error}");
    }
    for (text, change) in REFUSED_AT_START {
        let id = bed.create(with(command(&["true"]), change)).await;
        let error = bed.engine.start(&id).await.unwrap_err();
        assert!(error.chain().starts_with(text), "{}", error.chain());
        bed.engine.remove(&id, true).await.unwrap();
    }
    bed.finish().await;
}

async fn platforms() {
    let bed = Bed::new().await;
    let request = |platform: &str| CreateContainerRequest {
        platform: platform.to_owned(),
        ..command(&["true"])
    };
    let own = format!("linux/{}", pontoon_engine::system::architecture());
    assert_eq!(bed.run(request(&own)).await.0, 0);
    let error = bed.engine.create(request("linux/s390x")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "image with reference {IMAGE} was found but its platform ({own}) does not match the specified platform (linux/s390x)"
        )
    );
    let error = bed.engine.create(request("nonsense")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unknown operating system or architecture"),
        "{error}"
    );
    bed.finish().await;
}

async fn seccomp_profiles() {
    let bed = Bed::new().await;
    let profile = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13,"excludes":{"caps":["CAP_NET_ADMIN"]}},
        {"names":["sethostname"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"200.0"}}]}"#;
    let script = "mkdir /x 2>/dev/null && echo made || echo refused; grep Seccomp: /proc/self/status";
    let with_profile = |request: CreateContainerRequest| {
        with(request, |_, host| host.security_opt = vec![profile.to_owned()])
    };
    let (_, out, err) = bed.run(with_profile(sh(script))).await;
    assert_eq!(out, "refused\nSeccomp:\t2\n", "{err}");
    let request = with(with_profile(sh(script)), |config, _| {
        config.cap_add = vec!["NET_ADMIN".into()];
    });
    let (_, out, err) = bed.run(request).await;
    assert_eq!(out, "made\nSeccomp:\t2\n", "{err}");
    let request = with(sh("grep Seccomp: /proc/self/status"), |_, host| {
        host.privileged = true;
        host.security_opt = vec!["seccomp=builtin".into()];
    });
    assert_eq!(bed.run(request).await.1, "Seccomp:\t2\n");
    bed.finish().await;
}

async fn privileged() {
    let bed = Bed::new().await;
    let request = with(
        sh(
            "mount | grep -c ' on /proc/'; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; \
            mount | grep ' /sys ' | grep -c 'rw,'; test -c /dev/kmsg && (: < /dev/kmsg) && echo device",
        ),
        |_, host| host.privileged = true,
    );
    let created = bed.engine.create(request.clone()).await.unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:\t"))
        .unwrap();
    let lacks = bounding != "000001ffffffffff";
    assert_eq!(
        created
            .warnings
            .iter()
            .any(|w| w.contains("the privileged container does not have it")),
        lacks,
        "{:?}",
        created.warnings
    );
    let view = bed.inspect(&created.id).host.unwrap();
    assert_eq!(view.security_opt, ["label=disable"]);
    assert!(view.masked_paths.is_empty());
    let (_, out, err) = bed.run(request).await;
    assert_eq!(
        out,
        format!("0\nCapEff:\t{bounding}\nSeccomp:\t0\n1\ndevice\n"),
        "{err}"
    );
    if lacks {
        let request = with(command(&["true"]), |config, _| {
            config.cap_add = vec!["SYS_RESOURCE".into()];
        });
        let error = bed.engine.create(request).await.unwrap_err().to_string();
        assert!(
            error.contains("not available in the current environment"),
            "{error}"
        );
    }
    bed.finish().await;
}

async fn pid_namespace_of_another() {
    let bed = Bed::new().await;
    let donor = bed.create(command(&["sleep", "1000"])).await;
    let name = bed.inspect(&donor).name;
    let join = |script: &str| with(sh(script), |_, host| host.pid_mode = format!("container:{name}"));
    let guest = bed.create(join("ps | grep -c '[s]leep 1000'; sleep 500")).await;
    assert_eq!(
        bed.inspect(&guest).host.unwrap().pid_mode,
        format!("container:{donor}")
    );
    let error = bed.engine.start(&guest).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(
        error.to_string(),
        format!("failed to join PID namespace: container {donor} is not running")
    );
    bed.engine.start(&donor).await.unwrap();
    bed.engine.start(&guest).await.unwrap();
    eventually("the guest sees the donor's program", || async {
        (bed.log(&guest).await == "1\n").then_some(())
    })
    .await;
    // A namespace of pids ends with its first process, and everything in it with that.
    bed.engine.kill(&donor, "KILL").await.unwrap();
    assert_eq!(bed.wait(&guest).await, 137);
    bed.until(&guest, "the guest has ended", |view| !is_running(view))
        .await;
    bed.finish().await;
}

async fn ipc_namespace_of_another() {
    let bed = Bed::new().await;
    let shareable = with(sh("echo shared > /dev/shm/file; sleep 1000"), |_, host| {
        host.ipc_mode = "shareable".into();
        host.shm_size = 1 << 20;
    });
    let donor = bed.start(shareable).await;
    let private = bed.start(command(&["sleep", "1000"])).await;
    let join = |target: &str, script: &str| {
        let mode = format!("container:{target}");
        with(sh(script), move |_, host| host.ipc_mode = mode)
    };
    let script = "until cat /dev/shm/file 2>/dev/null; do busybox usleep 10000; done; readlink /proc/self/ns/ipc || busybox readlink /proc/self/ns/ipc";
    let (_, out, err) = bed.run(join(&donor, script)).await;
    let pid = bed.inspect(&donor).pid;
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap();
    assert_eq!(out, format!("shared\n{}\n", namespace.display()), "{err}");
    let guest = bed.create(join(&private, "true")).await;
    let error = bed.engine.start(&guest).await.unwrap_err().to_string();
    assert!(
        error.ends_with("non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
        "{error}"
    );
    // The memory stays for the guest when the donor has gone, and its mount leaves the host.
    let guest = bed
        .start(join(
            &donor,
            "sleep 1; until test -e /dev/shm/go; do busybox usleep 10000; done; cat /dev/shm/file",
        ))
        .await;
    bed.engine.remove(&donor, true).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/shm/{donor}")), "{mounts}");
    let exec = pontoon_proto::v1::ExecStart {
        target: guest.clone(),
        command: vec!["touch".into(), "/dev/shm/go".into()],
        ..Default::default()
    };
    let session = bed.engine.exec(exec).await.unwrap();
    crate::bed::collect(session).await;
    assert_eq!(bed.wait(&guest).await, 0);
    assert_eq!(bed.log(&guest).await, "shared\n");
    bed.finish().await;
}

async fn inspected_settings() {
    let bed = Bed::new().await;
    let request = with(command(&["true"]), |_, host| {
        host.resources.get_or_insert_default().memory_bytes = 32 << 20;
        host.annotations = [("a".to_owned(), "b".to_owned())].into();
        host.devices = vec![device("/dev/null", "/dev/x", "r")];
    });
    let id = bed.create(request).await;
    let host = bed.inspect(&id).host.unwrap();
    assert_eq!(host.memory_swap, 64 << 20);
    assert_eq!(host.shm_size, 64 << 20);
    assert_eq!(host.ipc_mode, "private");
    assert!(matches!(host.cgroupns_mode.as_str(), "host" | "private"));
    assert_eq!(host.devices.len(), 1);
    assert_eq!(host.annotations["a"], "b");
    assert!(host.masked_paths.iter().any(|path| path == "/proc/kcore"));
    assert!(host.readonly_paths.iter().any(|path| path == "/proc/sys"));
    bed.finish().await;
}
