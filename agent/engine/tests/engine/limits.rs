//! What a container may and sees: user, capabilities, limits, mounts, environment.

use pontoon_proto::v1::{Mount, MountType, Resources, Ulimit};

use crate::bed::{Bed, cases, command, sh, with};

cases![
    environment,
    users,
    limits,
    out_of_memory,
    mounts,
    privileges,
    host_namespaces
];

async fn environment() {
    let bed = Bed::new().await;
    let request = with(
        sh("echo $FROM_IMAGE $A $HOME $HOSTNAME; hostname; pwd; echo $TERM"),
        |config, _| {
            config.env = vec!["A=b".into(), "FROM_IMAGE=changed".into()];
            config.hostname = "box".into();
            config.dir = "/tmp".into();
        },
    );
    let (code, out, err) = bed.run(request).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "changed b /root box\nbox\n/tmp\n\n"),
        "{err}"
    );
    let (_, out, _) = bed
        .run(with(sh("echo ${FROM_IMAGE-unset}"), |c, _| {
            c.env = vec!["FROM_IMAGE".into()]
        }))
        .await;
    assert_eq!(out, "unset\n");
    bed.finish().await;
}

async fn users() {
    let bed = Bed::new().await;
    let ids = "id -u; id -g; id -G; echo $HOME";
    let (_, out, err) = bed
        .run(with(sh(ids), |config, _| config.user = "app".into()))
        .await;
    assert_eq!(out, "1000\n1000\n1000 2000\n/home/app\n", "{err}");
    let request = with(sh(ids), |config, _| {
        config.user = "77:88".into();
        config.groups = vec!["more".into()];
    });
    assert_eq!(bed.run(request).await.1, "77\n88\n88 3000\n/\n");
    // The group itself is among the supplementary ones (CVE-2022-36109); `id` alone would not show that.
    let groups = with(sh("grep Groups /proc/self/status"), |config, _| {
        config.user = "app".into()
    });
    assert_eq!(bed.run(groups).await.1.trim_end(), "Groups:\t1000 2000");
    bed.finish().await;
}

async fn limits() {
    let bed = Bed::new().await;
    let request = with(
        sh("ulimit -n; cat /proc/self/oom_score_adj; grep -c '' /proc/self/cgroup >/dev/null"),
        |config, host| {
            config.ulimits = vec![Ulimit {
                name: "nofile".into(),
                soft: 123,
                hard: 456,
            }];
            host.oom_score_adj = 77;
            host.resources = Some(Resources {
                nano_cpus: 500_000_000,
                memory_bytes: 32 << 20,
                pids: 50,
            });
        },
    );
    assert_eq!(bed.run(request).await.1, "123\n77\n");
    let request = with(
        sh("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait"),
        |_, host| {
            host.resources = Some(Resources {
                pids: 4,
                ..Resources::default()
            });
        },
    );
    let (code, _, err) = bed.run(request).await;
    assert!(code != 0 && err.contains("fork"), "{code} {err}");
    let bad: [fn(&mut pontoon_proto::v1::HostConfig); 3] = [
        |host| {
            host.resources = Some(Resources {
                memory_bytes: 1 << 20,
                ..Resources::default()
            })
        },
        |host| {
            host.resources = Some(Resources {
                nano_cpus: 1 << 50,
                ..Resources::default()
            })
        },
        |host| host.memory_swap = 5,
    ];
    for change in bad {
        assert!(
            bed.engine
                .create(with(command(&["true"]), |_, host| change(host)))
                .await
                .is_err()
        );
    }
    bed.finish().await;
}

async fn out_of_memory() {
    let bed = Bed::new().await;
    let request = with(
        sh("dd if=/dev/zero of=/dev/null bs=64M count=1; exit $?"),
        |_, host| {
            host.resources = Some(Resources {
                memory_bytes: 16 << 20,
                ..Resources::default()
            });
        },
    );
    let id = bed.start(request).await;
    assert_ne!(bed.wait(&id).await, 0);
    assert!(bed.inspect(&id).oom_killed);
    bed.finish().await;
}

async fn mounts() {
    let bed = Bed::new().await;
    let source = bed.path().join("shared");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content\n").unwrap();
    let bind = |target: &str, read_only| Mount {
        r#type: MountType::Bind.into(),
        source: source.display().to_string(),
        target: target.into(),
        read_only,
        ..Mount::default()
    };
    let tmpfs = Mount {
        r#type: MountType::Tmpfs.into(),
        target: "/scratch".into(),
        tmpfs_size: 1 << 20,
        ..Mount::default()
    };
    let script = "cat /a/file; echo new > /a/new; echo x > /b/file || echo refused; mount | grep -c scratch; \
                  touch /denied || echo read-only";
    let request = with(sh(script), |config, _| {
        config.mounts = vec![bind("/a", false), bind("/b", true), tmpfs];
        config.read_only = true;
    });
    let (_, out, err) = bed.run(request).await;
    assert_eq!(out, "content\nrefused\n1\nread-only\n", "{err}");
    assert_eq!(std::fs::read_to_string(source.join("new")).unwrap(), "new\n");
    let missing = with(command(&["true"]), |config, _| {
        config.mounts = vec![Mount {
            source: "/does/not/exist".into(),
            ..bind("/a", false)
        }];
    });
    let error = bed.engine.create(missing).await.unwrap_err().to_string();
    assert!(
        error.ends_with("bind source path does not exist: /does/not/exist"),
        "{error}"
    );
    let made = with(sh("echo here > /a/file"), |config, _| {
        config.mounts = vec![Mount {
            source: source.join("x/y").display().to_string(),
            create_source: true,
            ..bind("/a", false)
        }];
    });
    assert_eq!(bed.run(made).await.0, 0);
    assert_eq!(
        std::fs::read_to_string(source.join("x/y/file")).unwrap(),
        "here\n"
    );
    bed.finish().await;
}

async fn privileges() {
    let bed = Bed::new().await;
    let caps = "grep CapEff /proc/self/status; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status";
    let (_, out, _) = bed.run(sh(caps)).await;
    assert_eq!(out, "CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n");
    let request = with(sh(caps), |config, host| {
        config.cap_drop = vec!["ALL".into()];
        config.cap_add = vec!["NET_ADMIN".into()];
        host.security_opt = vec!["no-new-privileges".into(), "seccomp=unconfined".into()];
    });
    assert_eq!(
        bed.run(request).await.1,
        "CapEff:\t0000000000001000\nNoNewPrivs:\t1\nSeccomp:\t0\n"
    );
    let request = with(
        sh(&format!(
            "{caps}; test -e /dev/loop-control -o -e /dev/kmsg && echo devices"
        )),
        |_, host| {
            host.privileged = true;
        },
    );
    let (_, out, err) = bed.run(request).await;
    assert!(
        out.contains("Seccomp:\t0") && out.ends_with("devices\n"),
        "{out}{err}"
    );
    bed.finish().await;
}

async fn host_namespaces() {
    let bed = Bed::new().await;
    let request = with(
        sh(
            "readlink /proc/self/ns/pid /proc/self/ns/uts /proc/self/ns/ipc /proc/self/ns/net || ls -l /proc/self/ns",
        ),
        |_, host| {
            host.pid_mode = "host".into();
            host.uts_mode = "host".into();
            host.ipc_mode = "host".into();
            host.network_mode = "host".into();
        },
    );
    let (_, out, err) = bed.run(request).await;
    for kind in ["pid", "uts", "ipc", "net"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(out.contains(own.to_str().unwrap()), "{kind}: {out}{err}");
    }
    let request = with(sh("ps | grep -c sleep; echo $$"), |config, _| config.init = true);
    let (_, out, err) = bed.run(request).await;
    assert_ne!(out.lines().last().unwrap(), "1", "{out}{err}");
    bed.finish().await;
}
