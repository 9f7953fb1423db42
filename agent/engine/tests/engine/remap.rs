//! Containers whose users are not the host's (`userns-remap`): what they see, what belongs to whom, what is refused. Each case has an
//! `/etc/subuid` and `/etc/subgid` of its own, in its mount namespace.

use std::os::unix::fs::MetadataExt;

use pontoon_proto::v1::{ContainerSpec, HostConfig, Mount, MountType};

use crate::bed::{Bed, cases, command, run, sh, with};

cases!(
    users_of_a_remapped_container,
    files_of_a_remapped_container,
    remapped_in_a_network,
    refused_when_remapped,
    the_hosts_users_by_choice,
    remapped_guest_of_another,
    volumes_of_a_remapped_container,
);

/// Where the container's root is on the host.
pub const ROOT: u32 = 231_072;

/// An engine that remaps users.
pub async fn bed() -> Bed {
    let etc = tempfile::tempdir().unwrap();
    for (file, first) in [("subuid", ROOT), ("subgid", ROOT + 100_000)] {
        let own = etc.path().join(file);
        std::fs::write(&own, format!("pontoon:{first}:65536\n")).unwrap();
        let target = format!("/etc/{file}");
        if !std::path::Path::new(&target).exists() {
            std::fs::write(&target, "").unwrap();
        }
        run("mount", &["--bind", own.to_str().unwrap(), &target]);
    }
    Bed::configured(|config| config.userns_remap = "default".to_owned()).await
}

async fn users_of_a_remapped_container() {
    let bed = bed().await;
    let script = "id -u; busybox awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; \
                  grep CapEff /proc/self/status; busybox nproc >/dev/null; ls / >/dev/null && echo listed";
    let (_, out, err) = bed.run(sh(script)).await;
    let (uid, gid) = (ROOT, ROOT + 100_000);
    assert_eq!(
        out,
        format!("0\n0 {uid} 65536\n0 {gid} 65536\nCapEff:\t00000000a80425fb\nlisted\n"),
        "{err}"
    );
    let id = bed.start(command(&["sleep", "1000"])).await;
    let pid = bed.inspect(&id).pid;
    let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (uid, gid));
    assert_eq!(bed.exec(&id, &["id", "-u"]).await, "0\n");
    let user = with(sh("id -u; id -G"), |config, _| config.user = "app".into());
    let (_, out, err) = bed.run(user).await;
    assert_eq!(out, "1000\n1000 2000\n", "{err}");
    bed.finish().await;
}

async fn files_of_a_remapped_container() {
    let bed = bed().await;
    let source = bed.path().join("bound");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "of the host\n").unwrap();
    let script = "busybox stat -c %u:%g /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname; echo 127.9.9.9 x >> /etc/hosts && echo changed; \
                  echo mine > /new && busybox stat -c %u:%g /new; busybox chown 1000:1000 /new && busybox stat -c %u:%g /new; \
                  cat /bound/file; (echo x > /bound/file) 2>/dev/null || echo refused; \
                  busybox stat -c %u /dev/null /dev/pts; (: < /dev/null) && echo null";
    let request = with(sh(script), |config, _| {
        config.mounts = vec![Mount {
            r#type: MountType::Bind.into(),
            source: source.display().to_string(),
            target: "/bound".into(),
            ..Mount::default()
        }];
    });
    let (_, out, err) = bed.run(request).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[..9],
        [
            "0:0",
            "0:0",
            "0:0",
            "0:0",
            "changed",
            "0:0",
            "1000:1000",
            "of the host",
            "refused",
        ],
        "{out}{err}"
    );
    assert_eq!(lines.last(), Some(&"null"), "{out}{err}");
    let volume = |script: &str| {
        with(sh(script), |config, _| {
            config.mounts = vec![Mount {
                r#type: MountType::Volume.into(),
                source: "data".into(),
                target: "/data".into(),
                ..Mount::default()
            }];
        })
    };
    let script = "echo kept > /data/file && busybox stat -c %u:%g /data /data/file";
    let (_, out, err) = bed.run(volume(script)).await;
    assert_eq!(out, "0:0\n0:0\n", "{err}");
    let plain = with(
        volume("busybox stat -c %u:%g /data/file; cat /data/file"),
        |_, host| {
            host.userns_mode = "host".into();
        },
    );
    // As with Docker, a volume's files belong on the host to the container's users; one with the host's users sees that.
    let (_, out, err) = bed.run(plain).await;
    assert_eq!(out, format!("{ROOT}:{}\nkept\n", ROOT + 100_000), "{err}");
    // On disk the files have the ids that the container sees, so that images, archives and commits need no translation.
    let id = bed
        .start(sh("echo mine > /new; busybox chown 1000:1000 /new; sleep 1000"))
        .await;
    assert_eq!(
        bed.exec(
            &id,
            &[
                "sh",
                "-c",
                "until test -s /new; do :; done; busybox stat -c %u:%g /new"
            ]
        )
        .await,
        "1000:1000\n"
    );
    bed.finish().await;
}

async fn remapped_in_a_network() {
    let bed = bed().await;
    let request = with(
        sh(
            "hostname; (echo hello | nc -l -p 80 &) ; until nc 127.0.0.1 80; do :; done; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
            ls /sys/class/net | grep -c eth",
        ),
        |config, host| {
            host.network_mode = String::new();
            config.hostname = "web".into();
            config.user = "app".into();
        },
    );
    let (_, out, err) = bed.run(request).await;
    assert_eq!(out, "web\nhello\n0\n1\n", "{err}");
    bed.finish().await;
}

async fn refused_when_remapped() {
    type Change = fn(&mut ContainerSpec, &mut HostConfig);
    let bed = bed().await;
    let cases: &[(&str, Change)] = &[
        (
            "privileged mode is incompatible with user namespaces.",
            |_, host| {
                host.privileged = true;
            },
        ),
        (
            "cannot share the host's network namespace when user namespaces are enabled",
            |_, host| {
                host.network_mode = "host".into();
            },
        ),
        (
            "cannot share the host PID namespace when user namespaces are enabled",
            |_, host| {
                host.pid_mode = "host".into();
            },
        ),
        ("option WritableCgroups conflicts", |_, host| {
            host.security_opt = vec!["writable-cgroups".into()];
        }),
    ];
    for (text, change) in cases {
        let error = bed.refused(with(command(&["true"]), change)).await;
        assert!(error.starts_with(text), "{error} instead of {text}");
    }
    let info = bed.engine.info().await.unwrap();
    assert!(
        info.security_options.iter().any(|option| option == "name=userns"),
        "{:?}",
        info.security_options
    );
    bed.finish().await;
}

async fn the_hosts_users_by_choice() {
    let bed = bed().await;
    let request = with(
        sh("busybox awk '{print $2}' /proc/self/uid_map; echo x > /x && echo written"),
        |_, host| {
            host.userns_mode = "host".into();
            host.privileged = true;
        },
    );
    let (_, out, err) = bed.run(request).await;
    assert_eq!(out, "0\nwritten\n", "{err}");
    bed.finish().await;
}

async fn remapped_guest_of_another() {
    let bed = bed().await;
    let donor = bed
        .start(with(command(&["sleep", "1000"]), |_, host| {
            host.ipc_mode = "shareable".into();
        }))
        .await;
    let (mode, own) = (format!("container:{donor}"), donor.clone());
    let request = with(
        sh(
            "ps | grep -c '[s]leep 1000'; echo x > /dev/shm/x && echo shared; busybox readlink /proc/self/ns/user",
        ),
        move |_, host| {
            host.pid_mode = mode.clone();
            host.ipc_mode = mode;
        },
    );
    let (_, out, err) = bed.run(request).await;
    let pid = bed.inspect(&own).pid;
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(out, format!("1\nshared\n{}\n", namespace.display()), "{err}");
    bed.finish().await;
}

async fn volumes_of_a_remapped_container() {
    let bed = bed().await;
    let image = crate::bed::image()
        .dir("/data", 0o700)
        .file("/data/file", 0o600, "from image\n");
    bed.load_image(image, "withdata:latest").await;
    let at = |kind: MountType, source: &str, target: &str| Mount {
        r#type: kind.into(),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    };
    let script = "cat /data/file /i/data/file && echo more >/data/more && echo new >/new/file; \
                  busybox stat -c %u:%g /data /data/file /new /new/file /i/data/file";
    let request = with(sh(script), |config, _| {
        config.image = "withdata".into();
        config.mounts = vec![
            at(MountType::Volume, "filled", "/data"),
            at(MountType::Volume, "fresh", "/new"),
            at(MountType::Image, "withdata", "/i"),
        ];
    });
    let (_, out, err) = bed.run(request).await;
    assert_eq!(
        out,
        format!("from image\nfrom image\n{}", "0:0\n".repeat(5)),
        "{err}"
    );
    // On the host they are the container's root's.
    for path in [
        "filled/_data",
        "filled/_data/file",
        "filled/_data/more",
        "fresh/_data",
        "fresh/_data/file",
    ] {
        let owner = std::fs::metadata(bed.path().join("data/volumes").join(path)).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (ROOT, ROOT + 100_000), "{path}");
    }
    bed.finish().await;
}
