//! How much a container may: seccomp profiles, privileged ones, and how `inspect` shows it.

use pontoon_proto::v1::CreateContainerRequest;

use super::device;
use crate::bed::{Bed, cases, command, sh, with};

cases![seccomp_profiles, privileged, inspected_settings,];

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
