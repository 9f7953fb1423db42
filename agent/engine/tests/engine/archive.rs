//! Files of containers: diff, commit.

use pontoon_engine::Error;
use pontoon_proto::v1::{ChangeKind, CommitContainerRequest, ContainerState, PruneRequest};

use crate::bed::{self, Bed, cases, command, eventually, sh, with};

cases![
    images_are_pruned,
    changes_as_docker_lists_them,
    committed_image_runs,
    commit_refuses,
    commit_while_running
];

async fn diff(bed: &Bed, id: &str) -> Vec<String> {
    let changes = bed.engine.changes(id).await.unwrap();
    changes
        .into_iter()
        .map(|change| {
            let letter = match change.kind() {
                ChangeKind::Modified => 'C',
                ChangeKind::Added => 'A',
                ChangeKind::Deleted => 'D',
            };
            format!("{letter} {}", change.path)
        })
        .collect()
}

pub async fn changes_as_docker_lists_them() {
    let bed = Bed::new().await;
    let id = bed
        .create(sh(
            "echo x >/new; mkdir -p /a/b; echo y >/a/b/c; rm /bin/cat; chmod 700 /tmp",
        ))
        .await;
    assert!(
        diff(&bed, &id).await.is_empty(),
        "mount points and the init layer are no changes"
    );
    bed.engine.start(&id).await.unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    assert_eq!(
        diff(&bed, &id).await,
        [
            "A /a",
            "A /a/b",
            "A /a/b/c",
            "C /bin",
            "D /bin/cat",
            "A /new",
            "C /tmp"
        ]
    );
    let error = bed.engine.changes("nothing").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchContainer(_)));
    bed.finish().await;
}

fn commit(target: &str, reference: &str) -> CommitContainerRequest {
    CommitContainerRequest {
        target: target.to_owned(),
        reference: reference.to_owned(),
        pause: true,
        ..CommitContainerRequest::default()
    }
}

pub async fn committed_image_runs() {
    let bed = Bed::new().await;
    let script = "mkdir /w; cd /w; echo text >f; ln f g; ln -s f l; mkfifo p; chmod 4755 f; rm /bin/cat; rm -r /etc/x; \
                  mkdir -p /etc/x; echo only >/etc/x/new; touch 'sp ace'";
    let id = bed
        .create(with(sh(script), |config, _| config.env.push("A=1".into())))
        .await;
    bed.engine.start(&id).await.unwrap();
    assert_eq!(bed.wait(&id).await, 0, "{}", bed.log(&id).await);
    let request = CommitContainerRequest {
        author: "me".into(),
        message: "why".into(),
        changes: vec![
            "CMD [\"ls\", \"/w\"]".into(),
            "ENV B=2".into(),
            "LABEL x=y".into(),
        ],
        ..commit(&id, "made:1")
    };
    let image_id = bed.engine.commit(request.clone()).await.unwrap();
    let image = bed.engine.inspect_image("made:1").await.unwrap();
    assert_eq!(image.id, image_id);
    assert_eq!((image.author.as_str(), image.comment.as_str()), ("me", "why"));
    assert_eq!(image.command, ["ls", "/w"]);
    assert!(image.env.contains(&"A=1".to_owned()) && image.env.contains(&"B=2".to_owned()));
    assert_eq!(
        (image.labels["x"].as_str(), image.labels["image"].as_str()),
        ("y", "label")
    );
    let base = bed.engine.inspect_image("busybox").await.unwrap();
    assert_eq!(
        image.diff_ids[..1],
        base.diff_ids,
        "the parent's layers are shared"
    );
    assert_eq!(image.diff_ids.len(), 2);
    let history = bed.engine.image_history("made:1").await.unwrap();
    assert_eq!((history[0].comment.as_str(), history.len()), ("why", 2));
    assert_eq!(history[0].created_by, format!("sh -c {script}"));
    // The same content gives the same layer.
    let again = bed.engine.commit(commit(&id, "made:2")).await.unwrap();
    let again = bed.engine.inspect_image(&again).await.unwrap();
    assert_eq!(again.diff_ids, image.diff_ids);

    let look = "cd /w; stat -c '%n %F %a %h' f l p; ls /etc/x; ls /bin/cat; echo $A$B; diff() { test \"$1\" -ef \"$2\"; }; \
                diff f g && echo linked";
    let mut request = sh(look);
    request.config.as_mut().unwrap().image = "made:1".into();
    let (code, out, err) = bed.run(request).await;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(
        out,
        "f regular file 4755 2\nl symbolic link 777 1\np fifo 644 1\nnew\n12\nlinked\n"
    );
    assert!(err.contains("/bin/cat"));
    // The image goes with its layer; the base stays.
    bed.engine.remove(&id, true).await.unwrap();
    bed.finish().await;
}

async fn commit_refuses() {
    let bed = Bed::new().await;
    let id = bed.create(command(&["true"])).await;
    let text = |request| async { bed.engine.commit(request).await.unwrap_err().chain() };
    assert_eq!(text(commit("nothing", "")).await, "No such container: nothing");
    let change = |line: &str| CommitContainerRequest {
        changes: vec![line.to_owned()],
        ..commit(&id, "")
    };
    assert_eq!(text(change("RUN x")).await, "run is not a valid change command");
    assert!(
        text(commit(&id, "BAD"))
            .await
            .starts_with("invalid reference format")
    );
    // Nothing changed: an image without a layer of its own, and without a name.
    let image = bed.engine.commit(commit(&id, "")).await.unwrap();
    let image = bed.engine.inspect_image(&image).await.unwrap();
    assert_eq!((image.diff_ids.len(), image.repo_tags.len()), (1, 0));
    bed.finish().await;
}

pub async fn commit_while_running() {
    let bed = Bed::new().await;
    let id = bed
        .start(sh(
            "i=0; while :; do i=$((i+1)); echo $i >/n; busybox mv /n /count; done",
        ))
        .await;
    eventually("it counts", || async {
        diff(&bed, &id)
            .await
            .contains(&"A /count".to_owned())
            .then_some(())
    })
    .await;
    bed.engine.commit(commit(&id, "counted")).await.unwrap();
    assert_eq!(bed.inspect(&id).state(), ContainerState::Running);
    bed.engine.pause(&id).await.unwrap();
    bed.engine.commit(commit(&id, "counted")).await.unwrap();
    assert_eq!(
        bed.inspect(&id).state(),
        ContainerState::Paused,
        "it stays as it was"
    );
    bed.engine.unpause(&id).await.unwrap();
    let mut request = command(&["cat", "/count"]);
    request.config.as_mut().unwrap().image = "counted".into();
    let (code, out, _) = bed.run(request).await;
    assert_eq!(code, 0);
    assert!(out.trim().parse::<u64>().unwrap() > 0);
    bed.finish().await;
}

async fn images_are_pruned() {
    let bed = Bed::new().await;
    let id = bed.create(sh("head -c 100000 /dev/zero >/big")).await;
    bed.engine.start(&id).await.unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    let dangling = bed.engine.commit(commit(&id, "")).await.unwrap();
    let labelled = CommitContainerRequest {
        changes: vec!["LABEL keep=yes".into()],
        ..commit(&id, "named:1")
    };
    let named = bed.engine.commit(labelled).await.unwrap();
    let prune = |filters: &[(&str, &str)]| {
        let filters = bed::filters(filters);
        let request = PruneRequest { filters };
        let engine = bed.engine.clone();
        async move { engine.prune_images(&request).await }
    };
    // The layer is shared with the named image: only its own configuration and manifest go with the dangling one.
    let done = prune(&[]).await.unwrap();
    assert_eq!(done.deleted, [format!("deleted: {dangling}")]);
    assert!(
        (1..10_000).contains(&done.space_reclaimed),
        "{}",
        done.space_reclaimed
    );
    assert!(
        prune(&[("dangling", "false"), ("label!", "keep")])
            .await
            .unwrap()
            .deleted
            .is_empty()
    );
    assert!(
        prune(&[("dangling", "false"), ("until", "1h")])
            .await
            .unwrap()
            .deleted
            .is_empty()
    );
    assert!(prune(&[("foo", "bar")]).await.is_err());
    let done = prune(&[("dangling", "false")]).await.unwrap();
    assert_eq!(
        done.deleted[..2],
        ["untagged: named:1".to_owned(), format!("deleted: {named}")]
    );
    // The layer as it is unpacked, and as it came.
    assert!(
        (200_000..220_000).contains(&done.space_reclaimed),
        "{}",
        done.space_reclaimed
    );
    assert!(
        bed.engine.inspect_image("busybox").await.is_ok(),
        "a container was made from it"
    );
    bed.finish().await;
}
