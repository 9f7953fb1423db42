//! Settings that are no good, and the error that names them: at creation, at the start, for another platform.

use pontoon_proto::v1::{BlockDeviceLimit, CreateContainerRequest, Ulimit};

use super::{Change, device};
use crate::bed::{Bed, IMAGE, cases, command, with};

cases![refusals, platforms,];

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
        let error = bed.refused(with(command(&["true"]), change)).await;
        assert!(error.starts_with(text), "{error} instead of {text}");
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
