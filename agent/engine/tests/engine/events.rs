//! What the engine tells of containers and images, live and looking back.

use std::time::Duration;

use pontoon_proto::v1::{Event, EventsRequest, ExecStart, StopContainerRequest};

use crate::bed::{Bed, cases, command, filters};

cases![a_life_is_told_in_order, images_tell_too_and_watchers_end];

async fn past(bed: &Bed, since: i64, pairs: &[(&str, &str)]) -> Vec<Event> {
    let request = EventsRequest {
        since,
        until: now(),
        filters: filters(pairs),
    };
    let mut receiver = bed.engine.watch_events(&request).unwrap();
    let mut events = Vec::new();
    while let Some(event) = receiver.recv().await {
        events.push(event);
    }
    events
}

fn now() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

fn actions(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.action.as_str()).collect()
}

/// A detached exec that ends with 3, and its end being told.
async fn fails_in_the_background(bed: &Bed, id: &str) {
    let exec = ExecStart {
        target: id.to_owned(),
        command: ["sh", "-c", "exit 3"].map(str::to_owned).into(),
        detach: true,
        ..ExecStart::default()
    };
    bed.engine.exec(exec).await.unwrap();
    let mut died = bed
        .engine
        .watch_events(&EventsRequest {
            since: 1,
            filters: filters(&[("event", "exec_die")]),
            ..EventsRequest::default()
        })
        .unwrap();
    let died = tokio::time::timeout(Duration::from_secs(30), died.recv())
        .await
        .expect("the detached exec ends")
        .unwrap();
    assert_eq!(died.attributes["exitCode"], "3");
}

async fn a_life_is_told_in_order() {
    let bed = Bed::new().await;
    let mut request = command(&["sleep", "1000"]);
    request.name = "told".to_owned();
    let config = request.config.get_or_insert_default();
    config.labels.insert("tier".to_owned(), "front".to_owned());
    let id = bed.start(request).await;
    fails_in_the_background(&bed, &id).await;
    bed.engine.pause(&id).await.unwrap();
    bed.engine.unpause(&id).await.unwrap();
    bed.engine.rename("told", "retold").await.unwrap();
    let stop = StopContainerRequest {
        target: id.clone(),
        timeout: Some(10),
        signal: "KILL".to_owned(),
    };
    bed.engine.stop(stop).await.unwrap();
    bed.engine.remove(&id, false).await.unwrap();

    let events = past(&bed, 1, &[("container", &id)]).await;
    assert_eq!(
        actions(&events),
        [
            "create",
            "start",
            "exec_create: sh -c exit 3",
            "exec_start: sh -c exit 3",
            "exec_die",
            "pause",
            "unpause",
            "rename",
            "kill",
            "die",
            "stop",
            "destroy"
        ]
    );
    assert!(
        events.windows(2).all(|pair| pair[0].time <= pair[1].time),
        "times go forward"
    );
    let of = |action: &str| {
        &events
            .iter()
            .find(|event| event.action == action)
            .unwrap()
            .attributes
    };
    assert_eq!(of("create")["image"], "busybox");
    assert_eq!(of("create")["tier"], "front");
    assert_eq!(
        (of("start")["name"].as_str(), of("stop")["name"].as_str()),
        ("told", "retold")
    );
    assert_eq!(of("rename")["oldName"], "/told");
    assert_eq!(of("kill")["signal"], "9");
    assert_eq!(of("die")["exitCode"], "137");
    assert_eq!(of("die")["execDuration"], "0");
    let labelled = past(
        &bed,
        1,
        &[("label", "tier=front"), ("event", "die"), ("event", "oom")],
    )
    .await;
    assert_eq!(actions(&labelled), ["die"]);
}

async fn images_tell_too_and_watchers_end() {
    let bed = Bed::new().await;
    bed.engine.tag_image("busybox", "told:1").await.unwrap();
    let request = pontoon_proto::v1::RemoveImageRequest {
        target: "told:1".to_owned(),
        ..Default::default()
    };
    bed.engine.remove_image(request).await.unwrap();
    let events = past(&bed, 1, &[("type", "image")]).await;
    assert_eq!(actions(&events), ["load", "tag", "untag"]);
    assert_eq!(events[1].attributes["name"], "told:1");
    assert!(past(&bed, 1, &[("type", "volume")]).await.is_empty());

    // From now on only, until the engine is shut down.
    let mut live = bed.engine.watch_events(&EventsRequest::default()).unwrap();
    bed.engine.tag_image("busybox", "later").await.unwrap();
    assert_eq!(live.recv().await.unwrap().action, "tag");
    bed.engine.shutdown().await;
    assert!(live.recv().await.is_none());

    let backwards = EventsRequest {
        since: 20,
        until: 10,
        ..EventsRequest::default()
    };
    let refused = bed.engine.watch_events(&backwards).unwrap_err();
    assert_eq!(refused.to_string(), "`since` time cannot be after `until` time");
}
