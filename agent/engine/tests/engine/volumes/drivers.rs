//! Volumes of the local driver that are mounted: with options, and over restarts of the daemon.

use pontoon_proto::v1::{CreateVolumeRequest, Volume};

use super::{driven, mounting, volume};
use crate::bed::{self, Bed, cases, eventually};

cases![local_driver, driver_mounts_survive_daemons,];

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
