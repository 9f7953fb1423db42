//! The life of volumes: names, use, listing, pruning, events, and what a creation that was cut short leaves.

use std::collections::HashMap;
use std::path::Path;

use pontoon_proto::v1::{EventsRequest, FilterValues, RemoveVolumeRequest, VolumeOptions};

use super::{anonymous, mounting, named, volume};
use crate::bed::{self, Bed, cases, filters};

cases![
    named_volumes,
    listing_and_pruning_volumes,
    volume_events,
    cut_short_creations,
];

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
    assert_eq!(names(filters(&[("label", "tier=db")])), ["labelled"]);
    assert_eq!(names(filters(&[("name", "use")])), ["used"]);
    let mut free = vec!["labelled".to_owned(), made_up.name.clone()];
    free.sort();
    assert_eq!(names(filters(&[("dangling", "true")])), free);
    assert_eq!(names(filters(&[("dangling", "false")])).len(), 2);
    let error = bed.engine.list_volumes(&filters(&[("x", "y")])).unwrap_err();
    assert_eq!(error.to_string(), "invalid filter 'x'");
    std::fs::write(bed.data(&made_up.name).join("file"), vec![0; 4096]).unwrap();
    let pruned = bed.engine.prune_volumes(HashMap::new()).await.unwrap();
    assert_eq!(
        (pruned.deleted, pruned.space_reclaimed),
        (vec![made_up.name], 4096)
    );
    let kept = bed
        .engine
        .prune_volumes(filters(&[("label!", "tier")]))
        .await
        .unwrap();
    assert_eq!(kept.deleted, Vec::<String>::new());
    let pruned = bed
        .engine
        .prune_volumes(filters(&[("all", "true")]))
        .await
        .unwrap();
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

async fn volume_events() {
    let bed = Bed::new().await;
    let request = EventsRequest {
        filters: filters(&[("type", "volume")]),
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
        let event = bed::next(&mut events).await.unwrap();
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
