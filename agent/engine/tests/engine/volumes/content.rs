//! What comes into volumes: the image's own volumes, its content, other containers' volumes, and what becomes of a copy that fails.

use pontoon_proto::v1::{CreateContainerRequest, Mount, MountSyntax, MountType};

use super::{anonymous, driven, mounting, of_image, volume, with_volume};
use crate::bed::{self, Bed, cases, eventually, mount, sh, with};

cases![image_volumes, copying_content, volumes_from, volume_faults,];

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
