//! Volumes and mounts: names, life, content, drivers, what is mounted where, and what attackers try.

use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use pontoon_engine::Error;
use pontoon_image::ContainerConfig;
use pontoon_proto::v1::{
    CreateContainerRequest, CreateVolumeRequest, EventsRequest, FilterValues, Mount, MountSyntax, MountType,
    RemoveVolumeRequest, Volume, VolumeOptions,
};

use crate::bed::{self, Bed, cases, command, eventually, sh, with};

cases![
    named_volumes,
    listing_and_pruning_volumes,
    image_volumes,
    copying_content,
    volumes_from,
    nested_and_readonly_mounts,
    propagation,
    subpaths,
    image_mounts,
    tmpfs_mounts,
    local_driver,
    driver_mounts_survive_daemons,
    volume_events,
    volume_faults,
    cut_short_creations,
    mount_attacks,
];

fn mount(kind: MountType, source: &str, target: &str) -> Mount {
    Mount {
        r#type: kind.into(),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    }
}

fn volume(source: &str, target: &str) -> Mount {
    mount(MountType::Volume, source, target)
}

/// `-v target`
fn anonymous(target: &str) -> Mount {
    Mount {
        syntax: MountSyntax::Volume.into(),
        ..volume("", target)
    }
}

fn mounting(script: &str, mounts: Vec<Mount>) -> CreateContainerRequest {
    with(sh(script), |config, _| config.mounts = mounts)
}

fn of_image(image: &str, request: CreateContainerRequest) -> CreateContainerRequest {
    with(request, |config, _| image.clone_into(&mut config.image))
}

fn filter(key: &str, value: &str) -> HashMap<String, FilterValues> {
    let values = vec![value.to_owned()];
    HashMap::from([(key.to_owned(), FilterValues { values })])
}

fn named(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        ..CreateVolumeRequest::default()
    }
}

fn driven(name: &str, options: &[(&str, &str)]) -> CreateVolumeRequest {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    CreateVolumeRequest {
        options: options.iter().map(owned).collect(),
        ..named(name)
    }
}

impl Bed {
    fn volumes(&self) -> Vec<String> {
        let listed = self.engine.list_volumes(&HashMap::new()).unwrap();
        listed.into_iter().map(|volume| volume.name).collect()
    }

    fn data(&self, volume: &str) -> std::path::PathBuf {
        self.path().join("data/volumes").join(volume).join("_data")
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let request = RemoveVolumeRequest {
            name: name.into(),
            force: false,
        };
        self.engine.remove_volume(request).await
    }

    async fn output(&self, request: CreateContainerRequest) -> String {
        let (code, out, err) = self.run(request).await;
        assert_eq!(code, 0, "{out}{err}");
        out
    }

    async fn refused(&self, request: CreateContainerRequest) -> String {
        self.engine.create(request).await.unwrap_err().chain()
    }

    /// Lines of this host's mount table that belong to volumes.
    fn mounted(&self) -> usize {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let prefix = self.path().join("data/volumes").display().to_string();
        table.lines().filter(|line| line.contains(&prefix)).count()
    }
}

async fn named_volumes() {
    let bed = Bed::new().await;
    let made = bed.engine.create_volume(named("data")).await.unwrap();
    assert_eq!(
        (made.driver.as_str(), made.scope.as_str(), made.anonymous),
        ("local", "local", false)
    );
    assert_eq!(Path::new(&made.mountpoint), bed.data("data"));
    assert_eq!(bed.engine.create_volume(named("data")).await.unwrap(), made);
    bed.output(mounting("echo kept >/d/file", vec![volume("data", "/d")]))
        .await;
    let text = bed
        .output(mounting("cat /e/f/file", vec![volume("data", "/e/f")]))
        .await;
    assert_eq!(text, "kept\n");
    let id = bed
        .create(mounting(
            "true",
            vec![volume("data", "/d"), volume("fresh", "/f/")],
        ))
        .await;
    let points = bed.inspect(&id).mounts;
    assert_eq!(
        (
            points[0].name.as_str(),
            points[0].destination.as_str(),
            points[0].mode.as_str()
        ),
        ("data", "/d", "z")
    );
    assert_eq!(
        (points[1].source.clone(), points[1].read_write),
        (bed.data("fresh").display().to_string(), true)
    );
    let error = bed.remove_volume("data").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("remove data: volume is in use - [{id}]")
    );
    // Named volumes outlive their containers, also with -v.
    bed.engine.remove_with_volumes(&id, false).await.unwrap();
    assert_eq!(bed.volumes(), ["data", "fresh"]);
    for name in ["data", "fresh"] {
        bed.remove_volume(name).await.unwrap();
    }
    let missing = bed.remove_volume("data").await.unwrap_err();
    assert_eq!(missing.to_string(), "get data: no such volume");
    let force = RemoveVolumeRequest {
        name: "data".into(),
        force: true,
    };
    bed.engine.remove_volume(force).await.unwrap();
    let bad = |name: &str| bed.refused(mounting("true", vec![volume(name, "/d")]));
    assert_eq!(
        bad("x").await,
        "create x: volume name is too short, names should be at least two alphanumeric characters"
    );
    assert!(
        bad("a/b")
            .await
            .starts_with("create a/b: \"a/b\" includes invalid characters")
    );
    let mut other = volume("xy", "/d");
    other.volume = Some(VolumeOptions {
        driver: "nope".into(),
        ..VolumeOptions::default()
    });
    assert_eq!(
        bed.refused(mounting("true", vec![volume("made", "/m"), other]))
            .await,
        "create xy: error looking up volume plugin nope: plugin \"nope\" not found"
    );
    assert!(bed.volumes().is_empty(), "a refused container leaves no volume");
    bed.finish().await;
}

async fn listing_and_pruning_volumes() {
    let bed = Bed::new().await;
    let mut labelled = named("labelled");
    labelled.labels.insert("tier".into(), "db".into());
    bed.engine.create_volume(labelled).await.unwrap();
    let made_up = bed.engine.create_volume(named("")).await.unwrap();
    assert!(made_up.anonymous && made_up.labels.contains_key("com.docker.volume.anonymous"));
    let id = bed
        .create(mounting("true", vec![volume("used", "/d"), anonymous("/a")]))
        .await;
    let names = |filters: HashMap<String, FilterValues>| -> Vec<String> {
        let listed = bed.engine.list_volumes(&filters).unwrap();
        listed.into_iter().map(|volume| volume.name).collect()
    };
    assert_eq!(names(filter("label", "tier=db")), ["labelled"]);
    assert_eq!(names(filter("name", "use")), ["used"]);
    let mut free = vec!["labelled".to_owned(), made_up.name.clone()];
    free.sort();
    assert_eq!(names(filter("dangling", "true")), free);
    assert_eq!(names(filter("dangling", "false")).len(), 2);
    let error = bed.engine.list_volumes(&filter("x", "y")).unwrap_err();
    assert_eq!(error.to_string(), "invalid filter 'x'");
    std::fs::write(bed.data(&made_up.name).join("file"), vec![0; 4096]).unwrap();
    let pruned = bed.engine.prune_volumes(HashMap::new()).await.unwrap();
    assert_eq!(
        (pruned.deleted, pruned.space_reclaimed),
        (vec![made_up.name], 4096)
    );
    let kept = bed.engine.prune_volumes(filter("label!", "tier")).await.unwrap();
    assert_eq!(kept.deleted, Vec::<String>::new());
    let pruned = bed.engine.prune_volumes(filter("all", "true")).await.unwrap();
    assert_eq!(pruned.deleted, ["labelled"]);
    let usage = bed
        .engine
        .disk_usage(&pontoon_proto::v1::DiskUsageRequest {
            types: vec!["volume".into()],
        })
        .await
        .unwrap();
    let counted: Vec<(i64, i64)> = usage.volumes.iter().map(|v| (v.ref_count, v.size)).collect();
    assert_eq!(counted, [(1, 0), (1, 0)]);
    bed.engine.remove_with_volumes(&id, true).await.unwrap();
    assert_eq!(bed.volumes(), ["used"]);
    bed.finish().await;
}

/// An image with content in a volume of its own.
async fn with_volume(bed: &Bed) {
    let image = bed::image()
        .dir("/data", 0o1770)
        .file("/data/file", 0o640, "from image\n")
        .dir("/data/sub", 0o750)
        .symlink("/data/sub/link", "../file")
        .dir("/empty", 0o711)
        .config(ContainerConfig {
            env: vec!["PATH=/bin".into()],
            volumes: ["/data".to_owned()].into(),
            ..ContainerConfig::default()
        });
    bed.load_image(image, "withvolume:latest").await;
}

async fn image_volumes() {
    let bed = Bed::new().await;
    with_volume(&bed).await;
    let id = bed
        .create(of_image(
            "withvolume",
            sh("cat /data/sub/link; busybox stat -c %a /data /data/file"),
        ))
        .await;
    let view = bed.inspect(&id);
    assert_eq!(view.volumes, ["/data"]);
    let point = &view.mounts[0];
    assert_eq!(
        (point.name.len(), point.mode.as_str(), point.destination.as_str()),
        (64, "", "/data")
    );
    assert!(bed.engine.inspect_volume(&point.name).unwrap().anonymous);
    bed.engine.start(&id).await.unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    eventually("its output is there", || async {
        (bed.log(&id).await == "from image\n1770\n640\n").then_some(())
    })
    .await;
    // Without -v it stays, with -v it goes; what another container has stays.
    bed.engine.remove(&id, false).await.unwrap();
    assert_eq!(bed.volumes().len(), 1);
    let first = bed.create(of_image("withvolume", sh("true"))).await;
    let from = with(of_image("withvolume", sh("true")), |_, host| {
        host.volumes_from = vec![first.clone()]
    });
    let second = bed.create(from).await;
    assert_eq!(bed.volumes().len(), 2, "the other's volume is used, none is made");
    bed.engine.remove_with_volumes(&first, false).await.unwrap();
    assert_eq!(bed.volumes().len(), 2);
    bed.engine.remove_with_volumes(&second, false).await.unwrap();
    assert_eq!(bed.volumes().len(), 1);
    let gone = with(of_image("withvolume", sh("true")), |_, host| {
        host.auto_remove = true
    });
    let gone = bed.start(gone).await;
    eventually("it is removed with its volume", || async {
        (bed.engine.inspect(&gone).is_err() && bed.volumes().len() == 1).then_some(())
    })
    .await;
    // What is mounted there by name, or -v without a source, takes the image's place.
    let id = bed
        .create(of_image(
            "withvolume",
            mounting("true", vec![volume("mine", "/data/"), anonymous("/more")]),
        ))
        .await;
    let view = bed.inspect(&id);
    assert_eq!(
        (view.volumes, view.mounts.len()),
        (vec!["/data".to_owned(), "/more".to_owned()], 2)
    );
    bed.finish().await;
}

async fn copying_content() {
    let bed = Bed::new().await;
    with_volume(&bed).await;
    let list = |mount: Mount| of_image("withvolume", mounting("ls -A /data", vec![mount]));
    let all = "file\nsub\n";
    assert_eq!(bed.output(list(volume("one", "/data"))).await, all);
    // Only an empty volume is filled; a read-only mount too.
    std::fs::remove_file(bed.data("one").join("file")).unwrap();
    assert_eq!(bed.output(list(volume("one", "/data"))).await, "sub\n");
    let read_only = Mount {
        read_only: true,
        ..volume("two", "/data")
    };
    assert_eq!(bed.output(list(read_only)).await, all);
    let mut no_copy = volume("three", "/data");
    no_copy.volume.get_or_insert_default().no_copy = true;
    assert_eq!(bed.output(list(no_copy)).await, "");
    // Binds hide, they don't copy.
    let host = bed.path().join("host");
    std::fs::create_dir(&host).unwrap();
    let bind = mount(MountType::Bind, &host.display().to_string(), "/data");
    assert_eq!(bed.output(list(bind)).await, "");
    // An empty folder's mode is content as well.
    let mode = mounting("busybox stat -c %a /empty", vec![volume("four", "/empty")]);
    assert_eq!(bed.output(of_image("withvolume", mode)).await, "711\n");
    let file = bed
        .refused(mounting("true", vec![volume("five", "/plain")]))
        .await;
    assert_eq!(file, "cannot mount volume over existing file, file exists /plain");
    assert!(!bed.volumes().contains(&"five".to_owned()));
    bed.finish().await;
}

async fn volumes_from() {
    let bed = Bed::new().await;
    let tmp = Mount {
        syntax: MountSyntax::Volume.into(),
        create_source: true,
        ..mount(
            MountType::Bind,
            &bed.path().join("made").display().to_string(),
            "/bind",
        )
    };
    let one = CreateContainerRequest {
        name: "one".into(),
        ..mounting("true", vec![volume("data", "/d"), tmp])
    };
    bed.start(one).await;
    assert!(bed.path().join("made").is_dir(), "-v makes what it is to mount");
    let from =
        |spec: &str, script: &str| with(sh(script), |_, host| host.volumes_from = vec![spec.to_owned()]);
    bed.output(from("one", "echo x >/d/file && echo y >/bind/file"))
        .await;
    let read_only = from(
        "one:ro",
        "cat /d/file /bind/file; echo z >/d/file && exit 9; exit 0",
    );
    assert_eq!(bed.output(read_only).await, "x\ny\n");
    // An own mount on the same target wins.
    let mut own = from("one", "ls /d");
    own.config.as_mut().unwrap().mounts = vec![volume("other", "/d")];
    assert_eq!(bed.output(own).await, "");
    assert_eq!(
        bed.refused(from("nobody", "true")).await,
        "No such container: nobody"
    );
    assert_eq!(
        bed.refused(from("one:nocopy", "true")).await,
        "invalid mode: nocopy"
    );
    let id = bed.create(from("one", "true")).await;
    bed.engine.remove("one", true).await.unwrap();
    let error = bed.remove_volume("data").await.unwrap_err().to_string();
    assert_eq!(error, format!("remove data: volume is in use - [{id}]"));
    bed.finish().await;
}

async fn nested_and_readonly_mounts() {
    let bed = Bed::new().await;
    let twice = mounting(
        "true",
        vec![volume("ab", "/x"), mount(MountType::Tmpfs, "", "/x/")],
    );
    assert_eq!(bed.refused(twice).await, "Duplicate mount point: /x");
    let nested = vec![
        volume("inner", "/o/i/n"),
        volume("outer", "/o"),
        volume("middle", "/o/i"),
    ];
    bed.output(mounting("touch /o/i/n/deep /o/i/mid /o/out", nested))
        .await;
    assert!(bed.data("inner").join("deep").exists() && bed.data("middle").join("mid").exists());
    assert!(bed.data("outer").join("out").exists());
    // A folder with a mount below: read-only means both, unless asked for otherwise.
    let host = bed.path().join("tree");
    std::fs::create_dir_all(host.join("below")).unwrap();
    let source = host.display().to_string();
    bed::run(
        "mount",
        &["-t", "tmpfs", "below", &host.join("below").display().to_string()],
    );
    let bind = Mount {
        read_only: true,
        ..mount(MountType::Bind, &source, "/t")
    };
    let script =
        "for at in /t /t/below; do touch $at/x 2>/dev/null && echo rw || echo ro; done; rm -f /t/below/x";
    let ask = |bind: Mount| bed.output(mounting(script, vec![bind]));
    assert_eq!(ask(bind.clone()).await, "ro\nro\n");
    let force = Mount {
        read_only_force_recursive: true,
        propagation: "rprivate".into(),
        ..bind.clone()
    };
    assert_eq!(ask(force).await, "ro\nro\n");
    let writable = Mount {
        read_only_non_recursive: true,
        ..bind.clone()
    };
    assert_eq!(ask(writable).await, "ro\nrw\n");
    let alone = Mount {
        non_recursive: true,
        read_only: false,
        ..bind.clone()
    };
    assert_eq!(ask(alone.clone()).await, "rw\nrw\n");
    assert!(
        !host.join("below/x").exists(),
        "what was mounted below was not there"
    );
    bed::run("umount", &[&host.join("below").display().to_string()]);
    bed.finish().await;
}

async fn propagation() {
    let bed = Bed::new().await;
    let host = bed.path().join("tree");
    std::fs::create_dir_all(host.join("below")).unwrap();
    bed::run(
        "mount",
        &["-t", "tmpfs", "below", &host.join("below").display().to_string()],
    );
    // Propagation needs a shared mount.
    bed::run(
        "mount",
        &["--make-private", &host.join("below").display().to_string()],
    );
    let shared = Mount {
        propagation: "rshared".into(),
        ..mount(MountType::Bind, &host.join("below").display().to_string(), "/t")
    };
    let id = bed.create(mounting("true", vec![shared.clone()])).await;
    let error = bed.engine.start(&id).await.unwrap_err().chain();
    let below = host.join("below").display().to_string();
    assert_eq!(
        error,
        format!("path {below} is mounted on {below} but it is not a shared mount")
    );
    bed::run("mount", &["--make-shared", &below]);
    std::fs::create_dir(host.join("below/new")).unwrap();
    let made = with(
        mounting("mount -t tmpfs x /t/new && touch /t/new/seen", vec![shared]),
        |_, host| {
            host.privileged = true;
        },
    );
    bed.output(made).await;
    assert!(
        host.join("below/new/seen").exists(),
        "a mount made inside arrives on the host"
    );
    bed::run("umount", &[&host.join("below/new").display().to_string()]);
    bed::run("umount", &[&below]);
    bed.finish().await;
}

fn at(subpath: &str) -> Mount {
    let mut mount = volume("data", "/m");
    mount.volume.get_or_insert_default().subpath = subpath.into();
    mount
}

async fn subpaths() {
    let bed = Bed::new().await;
    bed.engine.create_volume(named("data")).await.unwrap();
    let data = bed.data("data");
    std::fs::create_dir_all(data.join("a/b")).unwrap();
    std::fs::write(data.join("a/b/file"), "deep\n").unwrap();
    symlink("a/b", data.join("within")).unwrap();
    symlink("/a", data.join("absolute")).unwrap();
    symlink("../../../../../../etc", data.join("out")).unwrap();
    assert_eq!(
        bed.output(mounting("cat /m/file", vec![at("a/b")])).await,
        "deep\n"
    );
    assert_eq!(
        bed.output(mounting("cat /m", vec![at("a/b/file")])).await,
        "deep\n"
    );
    assert_eq!(
        bed.output(mounting("cat /m/file", vec![at("within")])).await,
        "deep\n"
    );
    // Links are the volume's, never the host's: this one leads to the volume's own folder.
    assert_eq!(bed.output(mounting("ls /m", vec![at("absolute")])).await, "b\n");
    let error = bed.refused(mounting("true", vec![at("out")])).await;
    assert_eq!(
        error,
        format!(
            "cannot access path {}: no such file or directory",
            data.join("out").display()
        )
    );
    let error = bed.refused(mounting("true", vec![at("../x")])).await;
    assert_eq!(
        error,
        "invalid mount config for type \"volume\": subpath must be a relative path within the volume"
    );
    // Swapped after the creation: the start fails, and nothing of the host is seen.
    let id = bed.create(mounting("ls /m", vec![at("a/b")])).await;
    std::fs::remove_dir_all(data.join("a")).unwrap();
    symlink("/etc/..", data.join("a")).unwrap();
    let error = bed.engine.start(&id).await.unwrap_err().chain();
    assert!(
        error.contains("cannot access path a/b within the source"),
        "{error}"
    );
    bed.finish().await;
}

async fn image_mounts() {
    let bed = Bed::new().await;
    with_volume(&bed).await;
    let image = |subpath: &str| Mount {
        image_subpath: subpath.into(),
        ..mount(MountType::Image, "withvolume", "/i")
    };
    let script = "cat /i/data/file; touch /i/x 2>/dev/null && echo rw || echo ro";
    assert_eq!(
        bed.output(mounting(script, vec![image("")])).await,
        "from image\nro\n"
    );
    let script = "cat /i/file";
    assert_eq!(
        bed.output(mounting(script, vec![image("data")])).await,
        "from image\n"
    );
    let id = bed.create(mounting("cat /i/data/file", vec![image("")])).await;
    let point = bed.inspect(&id).mounts[0].clone();
    assert_eq!(
        (point.r#type(), point.name.as_str(), point.read_write),
        (MountType::Image, "withvolume", false)
    );
    // Its layers are held, also by the next daemon.
    let mut bed = bed;
    bed.reopen().await;
    bed.engine.start(&id).await.map_err(|e| e.chain()).unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    let mut missing = image("");
    missing.source = "nothere".into();
    assert_eq!(
        bed.refused(mounting("true", vec![missing])).await,
        "No such image: nothere"
    );
    bed.finish().await;
}

async fn tmpfs_mounts() {
    let bed = Bed::new().await;
    let flag = |options: &[&str]| Mount {
        syntax: MountSyntax::Tmpfs.into(),
        tmpfs_options: options.iter().map(ToString::to_string).collect(),
        mode: options.join(","),
        ..mount(MountType::Tmpfs, "", "/t")
    };
    let script = "grep ' /t ' /proc/mounts | busybox cut -d' ' -f4; busybox stat -c %a /t";
    let plain = bed.output(mounting(script, vec![flag(&[])])).await;
    assert!(
        plain.starts_with("rw,nosuid,nodev,noexec") && plain.ends_with("\n1777\n"),
        "{plain}"
    );
    let set = bed
        .output(mounting(
            script,
            vec![flag(&["size=1m", "mode=700", "exec", "uid=1000"])],
        ))
        .await;
    assert!(
        set.contains("size=1024k") && set.contains("uid=1000") && set.ends_with("\n700\n"),
        "{set}"
    );
    assert!(!set.contains("noexec"), "{set}");
    let long = Mount {
        tmpfs_size: 2 << 20,
        tmpfs_mode: 0o1770,
        read_only: true,
        ..mount(MountType::Tmpfs, "", "/t")
    };
    let set = bed.output(mounting(script, vec![long])).await;
    assert!(
        set.starts_with("ro,") && set.contains("size=2048k") && set.ends_with("\n1770\n"),
        "{set}"
    );
    // As runc: without a mode, that of the folder it covers.
    let over = Mount {
        target: "/root".into(),
        ..flag(&[])
    };
    assert_eq!(
        bed.output(mounting("busybox stat -c %a /root", vec![over])).await,
        "700\n"
    );
    assert_eq!(
        bed.refused(mounting("true", vec![flag(&["foo"])])).await,
        "invalid tmpfs option [\"foo\"]"
    );
    bed.finish().await;
}

async fn local_driver() {
    let bed = Bed::new().await;
    let make = |request: CreateVolumeRequest| bed.engine.create_volume(request);
    make(driven(
        "ram",
        &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=1000")],
    ))
    .await
    .unwrap();
    assert_eq!(bed.mounted(), 0, "it is mounted when somebody uses it");
    let waiting = |name: &str| mounting("touch /d/$HOSTNAME; sleep 1000", vec![volume(name, "/d")]);
    let first = bed.start(waiting("ram")).await;
    let second = bed.start(waiting("ram")).await;
    assert_eq!(bed.mounted(), 1);
    eventually("both see each other", || async {
        (std::fs::read_dir(bed.data("ram")).unwrap().count() == 2).then_some(())
    })
    .await;
    bed.engine.remove(&first, true).await.unwrap();
    assert_eq!(bed.mounted(), 1);
    bed.engine.remove(&second, true).await.unwrap();
    assert_eq!(bed.mounted(), 0);
    let host = bed.path().join("host");
    std::fs::create_dir(&host).unwrap();
    let device = host.display().to_string();
    make(driven(
        "bound",
        &[("type", "none"), ("device", &device), ("o", "bind")],
    ))
    .await
    .unwrap();
    bed.output(mounting("touch /d/there", vec![volume("bound", "/d")]))
        .await;
    assert!(host.join("there").exists() && bed.mounted() == 0);
    make(driven(
        "locked",
        &[("type", "none"), ("device", &device), ("o", "bind,ro")],
    ))
    .await
    .unwrap();
    let (code, ..) = bed
        .run(mounting("touch /d/more", vec![volume("locked", "/d")]))
        .await;
    assert_eq!((code, host.join("more").exists()), (1, false));
    bed.remove_volume("bound").await.unwrap();
    assert!(
        host.join("there").exists(),
        "what was mounted is not the volume's"
    );
    for (options, text) in [
        (&[("x", "y")][..], "create bad: invalid option: \"x\""),
        (
            &[("type", "nfs")],
            "create bad: missing required option: \"device\"",
        ),
        (
            &[("size", "1g")],
            "create bad: quota size requested but no quota support",
        ),
    ] {
        assert_eq!(make(driven("bad", options)).await.unwrap_err().to_string(), text);
    }
    let o = [
        ("type", "nfs"),
        ("device", ":/export"),
        ("o", "addr=192.0.2.1,soft,timeo=1,retrans=1"),
    ];
    make(driven("far", &o)).await.unwrap();
    let error = bed.refused(mounting("true", vec![volume("far", "/d")])).await;
    let known = format!(
        "error while mounting volume '{0}': failed to mount local volume: mount :/export:{0}, data: \
         addr=192.0.2.1,soft,timeo=1,retrans=1: ",
        bed.data("far").display()
    );
    assert!(error.starts_with(&known), "{error}");
    bed.finish().await;
}

async fn driver_mounts_survive_daemons() {
    let mut bed = Bed::new().await;
    let ram = [("type", "tmpfs"), ("device", "tmpfs")];
    for name in ["kept", "stray"] {
        bed.engine.create_volume(driven(name, &ram)).await.unwrap();
    }
    let id = bed
        .start(mounting(
            "echo here >/d/file; sleep 1000",
            vec![volume("kept", "/d")],
        ))
        .await;
    eventually("it is written", || async {
        bed.data("kept").join("file").exists().then_some(())
    })
    .await;
    bed::run(
        "mount",
        &["-t", "tmpfs", "left", &bed.data("stray").display().to_string()],
    );
    assert_eq!(bed.mounted(), 2);
    bed.reopen().await;
    assert_eq!(bed.mounted(), 1, "what nobody uses is unmounted");
    // The mount that is there is used, not covered by another.
    assert_eq!(
        bed.output(mounting("cat /d/file", vec![volume("kept", "/d")]))
            .await,
        "here\n"
    );
    assert_eq!(bed.mounted(), 1);
    let error = bed.remove_volume("kept").await.unwrap_err().to_string();
    assert_eq!(error, format!("remove kept: volume is in use - [{id}]"));
    bed.engine.remove(&id, true).await.unwrap();
    assert_eq!(bed.mounted(), 0);
    let volume: Volume = bed.engine.inspect_volume("kept").unwrap();
    assert_eq!(volume.options["type"], "tmpfs");
    bed.finish().await;
}

async fn volume_events() {
    let bed = Bed::new().await;
    let request = EventsRequest {
        filters: filter("type", "volume"),
        since: 1,
        ..EventsRequest::default()
    };
    let mut events = bed.engine.watch_events(&request).unwrap();
    let id = bed.start(mounting("true", vec![volume("data", "/d")])).await;
    assert_eq!(bed.wait(&id).await, 0);
    bed.engine.remove(&id, true).await.unwrap();
    bed.remove_volume("data").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let event = tokio::time::timeout(bed::PATIENCE, events.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (event.actor_id.as_str(), event.attributes["driver"].as_str()),
            ("data", "local")
        );
        if event.action == "mount" {
            assert_eq!(
                (
                    &event.attributes["container"],
                    event.attributes["destination"].as_str()
                ),
                (&id, "/d")
            );
            assert_eq!(event.attributes["read/write"], "true");
        }
        seen.push(event.action);
    }
    assert_eq!(seen, ["create", "mount", "unmount", "destroy"]);
    bed.finish().await;
}

async fn volume_faults() {
    let bed = Bed::new().await;
    // Deleted by hand.
    let id = bed.create(mounting("true", vec![volume("gone", "/d")])).await;
    std::fs::remove_dir_all(bed.path().join("data/volumes/gone")).unwrap();
    let error = bed.engine.start(&id).await.unwrap_err().chain();
    assert!(
        error.contains("the folder of volume gone is gone: remove the volume with"),
        "{error}"
    );
    bed.engine.remove(&id, false).await.unwrap();
    bed.remove_volume("gone").await.unwrap();
    // Disk full while content is copied: the volume is as empty as before, a new one is removed again.
    let big =
        bed::image()
            .file("/big/a", 0o644, vec![1; 400 << 10])
            .file("/big/b", 0o644, vec![2; 400 << 10]);
    bed.load_image(big, "big:latest").await;
    let small = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=512k")];
    bed.engine.create_volume(driven("small", &small)).await.unwrap();
    let keeper = bed
        .start(mounting("sleep 1000", vec![volume("small", "/d")]))
        .await;
    bed.engine.remove(&keeper, true).await.unwrap();
    let full = of_image(
        "big",
        mounting("true", vec![volume("fresh", "/f"), volume("small", "/big")]),
    );
    let error = bed.refused(full).await;
    assert_eq!(
        error,
        "copy the image's content of /big into volume small: no space left on device"
    );
    assert_eq!((bed.volumes(), bed.mounted()), (vec!["small".to_owned()], 0));
    assert!(bed.engine.list(&bed::all()).await.unwrap().is_empty());
    let list = mounting("ls -A /d", vec![volume("small", "/d")]);
    assert_eq!(bed.output(list).await, "");
    bed.finish().await;
}

async fn cut_short_creations() {
    let mut bed = Bed::new().await;
    bed.engine.create_volume(named("own")).await.unwrap();
    let cut = bed
        .create(mounting(
            "true",
            vec![volume("own", "/o"), volume("fresh", "/f"), anonymous("/a")],
        ))
        .await;
    let ran = bed.start(mounting("true", vec![volume("ran", "/r")])).await;
    assert_eq!(bed.wait(&ran).await, 0);
    let kept = bed.create(mounting("true", vec![volume("kept", "/k")])).await;
    bed.engine.remove(&kept, false).await.unwrap();
    // As if the daemon had been killed before the record of the first was there, and somebody had lost the second's.
    for id in [&cut, &ran] {
        std::fs::remove_dir_all(bed.path().join("data/engine/containers").join(id)).unwrap();
    }
    std::fs::create_dir_all(bed.path().join("data/volumes/.new-1234/_data")).unwrap();
    bed.reopen().await;
    assert_eq!(
        bed.volumes(),
        ["kept", "own", "ran"],
        "what was used, made or left by users stays"
    );
    assert!(!bed.path().join("data/volumes/.new-1234").exists());
    bed.finish().await;
}

async fn mount_attacks() {
    let bed = Bed::new().await;
    let outside = bed.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    // A volume whose content would lead a mount target out of the root (CVE-2021-30465).
    bed.engine.create_volume(named("evil")).await.unwrap();
    let evil = bed.data("evil");
    symlink(&outside, evil.join("absolute")).unwrap();
    symlink(
        format!("../../../../../..{}", outside.display()),
        evil.join("relative"),
    )
    .unwrap();
    symlink("/proc", evil.join("proc")).unwrap();
    for link in ["absolute", "relative"] {
        let target = format!("/v/{link}/new");
        let script = format!("touch {target}/file {}/new/file", outside.display());
        let mounts = vec![volume("evil", "/v"), volume("inner", &target)];
        bed.output(mounting(&script, mounts)).await;
        assert!(bed.data("inner").join("file").exists());
        assert_eq!(
            std::fs::read_dir(&outside).unwrap().count(),
            0,
            "{link} led to the host"
        );
    }
    // procfs is not mounted over, by whatever name (CVE-2023-28642 and kin).
    for target in ["/v/proc/self", "/proc/sys", "/v/proc/../proc/1"] {
        let mounts = vec![volume("evil", "/v"), volume("inner", target)];
        let id = bed.create(mounting("true", mounts)).await;
        let error = bed.engine.start(&id).await.unwrap_err().chain();
        assert!(error.contains("/proc"), "{error}");
        bed.engine.remove(&id, true).await.unwrap();
    }
    // The image's content is looked for in the image, not on the host.
    std::fs::write(outside.join("secret"), "x").unwrap();
    let image = bed::image().symlink("/out", &outside.display().to_string());
    bed.load_image(image, "evil:latest").await;
    let copy = mounting("ls -A /out", vec![volume("copied", "/out")]);
    assert_eq!(bed.output(of_image("evil", copy)).await, "");
    assert_eq!(std::fs::read_dir(bed.data("copied")).unwrap().count(), 0);
    // One that races: the target's parent is swapped all the time.
    let race =
        "while :; do busybox ln -sfn / /v/a 2>/dev/null; rm -f /v/a; mkdir /v/a; busybox rmdir /v/a; done";
    let racer = bed.start(mounting(race, vec![volume("raced", "/v")])).await;
    for _ in 0..5 {
        let mounts = vec![volume("raced", "/v"), volume("inner", "/v/a/pwned")];
        let id = bed.create(mounting("true", mounts)).await;
        // Whether it starts depends on the moment; where it mounts does not.
        let _ = bed.engine.start(&id).await;
        bed.engine.remove(&id, true).await.unwrap();
        assert!(!Path::new("/pwned").exists());
    }
    bed.engine.remove(&racer, true).await.unwrap();
    assert_eq!(bed.output(command(&["ls", "/plain"])).await, "/plain\n");
    bed.finish().await;
}
