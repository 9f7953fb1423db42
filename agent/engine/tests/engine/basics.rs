//! Life and death: create, start, stop, remove, names, exit codes, failures half way.

use pontoon_engine::Error;
use pontoon_proto::v1::{
    ContainerState, CreateContainerRequest, ListContainersRequest, StopContainerRequest, WaitCondition,
};

use crate::bed::{Bed, all, all_streams, cases, collect, command, eventually, filters, is_running, sh, with};

cases![
    lifecycle,
    names_and_prefixes,
    exit_codes,
    start_failures_leave_nothing,
    removal,
    auto_remove,
    pause_and_kill,
    events_and_filters,
    images,
];

async fn lifecycle() {
    let bed = Bed::new().await;
    let request = CreateContainerRequest {
        name: "web".into(),
        ..sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")
    };
    let id = bed.create(request).await;
    let view = bed.inspect("web");
    assert_eq!(
        (view.id.as_str(), view.state()),
        (id.as_str(), ContainerState::Created)
    );
    assert_eq!((view.path.as_str(), view.args[0].as_str()), ("sh", "-c"));
    assert_eq!(view.config.unwrap().labels["image"], "label");
    bed.engine.start("web").await.unwrap();
    bed.engine.start("web").await.unwrap();
    let view = bed.inspect(&id);
    assert!(is_running(&view) && view.pid > 0 && view.started_at > 0);
    eventually("it is up", || async {
        bed.log(&id).await.contains("up").then_some(())
    })
    .await;
    let stop = StopContainerRequest {
        target: "web".into(),
        timeout: Some(30),
        ..Default::default()
    };
    bed.engine.stop(stop.clone()).await.unwrap();
    bed.engine.stop(stop.clone()).await.unwrap();
    let view = bed.inspect(&id);
    assert_eq!(
        (view.state(), view.exit_code, view.pid),
        (ContainerState::Exited, 3, 0)
    );
    bed.engine.restart(stop).await.unwrap();
    assert!(is_running(&bed.inspect(&id)));
    // It ignores nothing, but is given no time.
    let stop = StopContainerRequest {
        target: "web".into(),
        timeout: Some(0),
        signal: "USR1".into(),
    };
    bed.engine.stop(stop).await.unwrap();
    assert!(matches!(bed.inspect(&id).exit_code, 137 | 138));
    bed.finish().await;
}

async fn names_and_prefixes() {
    let bed = Bed::new().await;
    let named = |name: &str| CreateContainerRequest {
        name: name.into(),
        ..command(&["true"])
    };
    let id = bed.create(named("one")).await;
    let error = bed.engine.create(named("one")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Conflict. The container name \"/one\" is already in use by container \"{id}\". You have to remove (or \
             rename) that container to be able to reuse that name."
        )
    );
    assert!(matches!(
        bed.engine.create(named("a/b")).await,
        Err(Error::Invalid(_))
    ));
    let other = bed.create(named("")).await;
    assert!(bed.inspect(&other).name.contains('_'));
    assert_eq!(bed.inspect(&id[..12]).id, id);
    assert_eq!(bed.inspect("/one").id, id);
    let error = bed.engine.inspect("nothing").unwrap_err();
    assert_eq!(error.to_string(), "No such container: nothing");
    bed.engine.rename("one", "two").await.unwrap();
    assert_eq!(bed.inspect("two").id, id);
    assert!(bed.engine.inspect("one").is_err());
    assert!(bed.engine.rename(&other, "two").await.is_err());
    bed.create(named("one")).await;
    bed.finish().await;
}

async fn exit_codes() {
    let bed = Bed::new().await;
    assert_eq!(bed.run(command(&["true"])).await.0, 0);
    assert_eq!(bed.run(sh("exit 42")).await.0, 42);
    assert_eq!(bed.run(sh("sh -c 'kill -9 $$'; exit $?")).await.0, 137);
    let (code, out, err) = bed.run(sh("echo out; echo err >&2; exit 1")).await;
    assert_eq!((code, out.as_str(), err.as_str()), (1, "out\n", "err\n"));
    bed.finish().await;
}

async fn start_failures_leave_nothing() {
    let bed = Bed::new().await;
    for (program, code) in [("/nothing", 127), ("/plain", 126), ("missing", 127)] {
        let id = bed.create(command(&[program])).await;
        let error = bed.engine.start(&id).await.unwrap_err();
        assert_eq!(error.exit_code(), code, "{program}: {}", error.chain());
        let view = bed.inspect(&id);
        assert_eq!((view.state(), view.exit_code), (ContainerState::Created, code));
        assert!(!view.error.is_empty());
        bed.engine.remove(&id, false).await.unwrap();
    }
    let id = bed
        .create(with(command(&["true"]), |config, _| {
            config.user = "nobody-here".into()
        }))
        .await;
    let error = bed.engine.start(&id).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unable to find user nobody-here: no matching entries in passwd file"
    );
    bed.engine.remove(&id, false).await.unwrap();
    let id = bed
        .create(with(command(&["/nothing"]), |_, host| host.auto_remove = true))
        .await;
    bed.engine.start(&id).await.unwrap_err();
    assert!(bed.engine.inspect(&id).is_err());
    let error = bed
        .engine
        .create(with(command(&["true"]), |config, _| config.image = "gone".into()))
        .await;
    assert_eq!(error.unwrap_err().to_string(), "No such image: gone:latest");
    bed.assert_empty().await;
    bed.finish().await;
}

async fn removal() {
    let bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    let error = bed.engine.remove(&id, false).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "You cannot remove a running container {id}. Stop the container before attempting removal or force remove"
        )
    );
    bed.engine.remove(&id, true).await.unwrap();
    assert!(matches!(
        bed.engine.remove(&id, true).await,
        Err(Error::NoSuchContainer(_))
    ));
    bed.assert_empty().await;
    bed.finish().await;
}

async fn auto_remove() {
    let bed = Bed::new().await;
    let id = bed
        .create(with(sh("exit 7"), |_, host| host.auto_remove = true))
        .await;
    let phase = bed.engine.watch(&id).unwrap();
    bed.engine.start(&id).await.unwrap();
    let end = bed.engine.wait_on(phase, WaitCondition::Removed).await.unwrap();
    assert_eq!(end.exit_code, 7);
    assert!(bed.engine.inspect(&id).is_err());
    // Those who are attached are told the code when the name is free again.
    for round in 0..10 {
        let mut request = with(sh("exit 7"), |_, host| host.auto_remove = true);
        request.name = "again".into();
        let id = bed.create(request).await;
        let session = bed.engine.attach(&id, all_streams(), false).await.unwrap();
        bed.engine.start(&id).await.unwrap();
        assert_eq!(collect(session).await.2, Some(7), "round {round}");
    }
    // A removal that the end overtakes has what it wanted.
    let id = bed
        .start(with(command(&["sleep", "1000"]), |_, host| {
            host.auto_remove = true
        }))
        .await;
    bed.engine.remove(&id, true).await.unwrap();
    bed.assert_empty().await;
    bed.finish().await;
}

async fn pause_and_kill() {
    let bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    bed.engine.pause(&id).await.unwrap();
    assert_eq!(bed.inspect(&id).state(), ContainerState::Paused);
    assert!(matches!(bed.engine.pause(&id).await, Err(Error::Conflict(_))));
    let exec = pontoon_proto::v1::ExecStart {
        target: id.clone(),
        command: vec!["true".into()],
        ..Default::default()
    };
    assert!(bed.engine.exec(exec).await.is_err());
    bed.engine.unpause(&id).await.unwrap();
    assert!(is_running(&bed.inspect(&id)));
    bed.engine.pause(&id).await.unwrap();
    bed.engine.kill(&id, "").await.unwrap();
    assert_eq!(bed.inspect(&id).exit_code, 137);
    let error = bed.engine.kill(&id, "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Cannot kill container: {id}: Container {id} is not running")
    );
    assert!(matches!(
        bed.engine.kill(&id, "FOO").await,
        Err(Error::Invalid(_))
    ));
    bed.finish().await;
}

async fn events_and_filters() {
    let bed = Bed::new().await;
    let mut events = bed.engine.events();
    let id = bed.start(sh("exit 5")).await;
    bed.wait(&id).await;
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        kinds.push(format!("{:?}", events.recv().await.unwrap().kind));
    }
    assert!(
        kinds[0].starts_with("Created")
            && kinds[1].starts_with("Started")
            && kinds[2].contains("exit_code: 5")
    );
    let list = async |all: bool, key: &str, value: &str| {
        let filters = match key {
            "" => Default::default(),
            key => filters(&[(key, value)]),
        };
        bed.engine
            .list(&ListContainersRequest {
                all,
                filters,
                ..Default::default()
            })
            .await
            .map(|l| l.len())
    };
    assert_eq!(list(false, "", "").await.unwrap(), 0);
    assert_eq!(list(true, "", "").await.unwrap(), 1);
    assert_eq!(list(false, "exited", "5").await.unwrap(), 1);
    assert_eq!(list(true, "ancestor", "busybox").await.unwrap(), 1);
    assert!(list(true, "colour", "red").await.is_err());
    let sized = ListContainersRequest { size: true, ..all() };
    assert!(bed.engine.list(&sized).await.unwrap()[0].size_root_fs > 0);
    bed.finish().await;
}

async fn images() {
    let bed = Bed::new().await;
    let image = bed.engine.inspect_image("busybox").await.unwrap();
    assert_eq!(image.repo_tags, ["busybox:latest"]);
    bed.engine.tag_image("busybox", "other:1").await.unwrap();
    assert_eq!(bed.engine.list_images(Default::default()).await.unwrap().len(), 1);
    let id = bed.create(command(&["true"])).await;
    let remove = |target: &str| pontoon_proto::v1::RemoveImageRequest {
        target: target.into(),
        ..Default::default()
    };
    assert_eq!(bed.engine.remove_image(remove("other:1")).await.unwrap().len(), 1);
    let error = bed.engine.remove_image(remove("busybox")).await.unwrap_err();
    assert!(error.to_string().contains(&id[..12]), "{error}");
    let mut saved = bed.engine.save_images(vec!["busybox".into()]);
    let mut size = 0;
    while let Some(chunk) = saved.recv().await {
        size += chunk.unwrap().len();
    }
    assert!(size > 1000);
    assert!(!bed.engine.image_history("busybox").await.unwrap().is_empty());
    let info = bed.engine.info().await.unwrap();
    assert_eq!((info.containers, info.images), (1, 1));
    bed.engine.remove(&id, false).await.unwrap();
    bed.engine.remove_image(remove("busybox")).await.unwrap();
    assert!(bed.engine.inspect_image("busybox").await.is_err());
    bed.finish().await;
}
