//! From state to state: `rename`, `restart`, `kill`, `pause`, `container prune`.

use std::collections::HashMap;

use pontoon_engine::ContainerEventKind;
use pontoon_proto::v1::{ContainerRestartPolicy, ContainerState, PruneRequest, RestartPolicyName};

use crate::bed::{Bed, cases, command, eventually, filters, is_running, sh, stop, with};

cases![
    prune_removes_what_rests,
    renames,
    restart_of_one_that_is_removed_at_its_end,
    kill_ends_a_restart,
    pause_freezes,
];

async fn prune_removes_what_rests() {
    let bed = Bed::new().await;
    let runs = bed.start(command(&["sleep", "1000"])).await;
    let labelled = |request| {
        with(request, |config, _| {
            config.labels.insert("keep".into(), "yes".into());
        })
    };
    let keep = bed.create(labelled(command(&["true"]))).await;
    let wrote = bed.start(sh("dd if=/dev/zero of=/file bs=1k count=100")).await;
    bed.wait(&wrote).await;
    let created = bed.create(command(&["true"])).await;
    let prune = async |filters| bed.engine.prune_containers(&PruneRequest { filters }).await;
    assert!(prune(filters(&[("name", "x")])).await.is_err());
    assert!(
        prune(filters(&[("until", "1h")]))
            .await
            .unwrap()
            .deleted
            .is_empty()
    );
    let pruned = prune(filters(&[("label!", "keep=yes")])).await.unwrap();
    assert_eq!(pruned.deleted, [created, wrote]);
    assert!(pruned.space_reclaimed >= 100 << 10, "{}", pruned.space_reclaimed);
    assert_eq!(prune(HashMap::new()).await.unwrap().deleted, [keep]);
    assert!(is_running(&bed.inspect(&runs)));
    bed.finish().await;
}

async fn renames() {
    let bed = Bed::new().await;
    let mut request = command(&["sleep", "1000"]);
    request.name = "first".to_owned();
    let id = bed.start(request.clone()).await;
    request.name = "second".to_owned();
    bed.create(request).await;
    bed.engine.rename("first", "third").await.unwrap();
    assert!(bed.engine.inspect("first").is_err());
    assert_eq!(bed.inspect("third").id, id);
    let said = bed.engine.rename("third", "second").await.unwrap_err().chain();
    assert!(
        said.starts_with("Error when allocating new name: Conflict. The container name \"/second\""),
        "{said}"
    );
    let said = bed.engine.rename("third", "a b").await.unwrap_err().chain();
    assert_eq!(
        said,
        "Error when allocating new name: Invalid container name (/a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    );
    let said = bed.engine.rename("third", "third").await.unwrap_err().chain();
    assert_eq!(
        said,
        "Renaming a container with the same name as its current name"
    );
    bed.finish().await;
}

async fn restart_of_one_that_is_removed_at_its_end() {
    let bed = Bed::new().await;
    let id = bed
        .start(with(command(&["sleep", "1000"]), |_, host| {
            host.auto_remove = true
        }))
        .await;
    let pid = bed.inspect(&id).pid;
    bed.engine
        .restart(stop(&id))
        .await
        .map_err(|e| e.chain())
        .unwrap();
    let view = bed.inspect(&id);
    assert!(is_running(&view) && view.pid != pid);
    bed.engine.stop(stop(&id)).await.unwrap();
    eventually("it is removed", || async {
        bed.engine.inspect(&id).is_err().then_some(())
    })
    .await;
    bed.finish().await;
}

async fn kill_ends_a_restart() {
    let bed = Bed::new().await;
    let id = bed
        .start(with(sh("exit 1"), |_, host| {
            host.restart_policy = Some(ContainerRestartPolicy {
                name: RestartPolicyName::Always.into(),
                maximum_retry_count: 0,
            });
        }))
        .await;
    bed.until(&id, "it has failed several times", |c| c.restart_count >= 4)
        .await;
    // Long enough a pause by now that it is met in it.
    eventually("it waits for its restart", || async {
        match bed.engine.pause(&id).await {
            Ok(()) => bed.engine.unpause(&id).await.map(|()| None).unwrap_or(None),
            Err(error) => error.chain().contains("is restarting").then_some(()),
        }
    })
    .await;
    bed.engine.kill(&id, "").await.unwrap();
    let view = bed.inspect(&id);
    assert_eq!((view.state(), view.exit_code), (ContainerState::Exited, 1));
    bed.finish().await;
}

async fn pause_freezes() {
    let bed = Bed::new().await;
    let id = bed.start(sh("while :; do echo tick; sleep 0.02; done")).await;
    let mut events = bed.engine.events();
    bed.engine.pause(&id).await.unwrap();
    assert_eq!(bed.inspect(&id).state(), ContainerState::Paused);
    assert_eq!(events.recv().await.unwrap().kind, ContainerEventKind::Paused);
    let said = bed.engine.pause(&id).await.unwrap_err().chain();
    assert_eq!(said, format!("Container {id} is already paused"));
    let said = bed.engine.start(&id).await.unwrap_err().chain();
    assert_eq!(said, "cannot start a paused container, try unpause instead");
    bed.engine.unpause(&id).await.unwrap();
    let before = bed.log(&id).await.len();
    eventually("it writes again", || async {
        (bed.log(&id).await.len() > before).then_some(())
    })
    .await;
    // The stop signal reaches a frozen one too, and a daemon that comes back finds it frozen.
    bed.engine.pause(&id).await.unwrap();
    bed.engine.stop(stop(&id)).await.unwrap();
    assert_eq!(bed.inspect(&id).state(), ContainerState::Exited);
    bed.finish().await;
}
