//! `update`, `top`, `stats`, `container prune`, `rename`, `restart`, `pause`, `kill`, filters of `ps`.

use std::collections::HashMap;

use pontoon_engine::ContainerEventKind;
use pontoon_proto::v1::{
    ContainerRestartPolicy, ContainerState, ContainerStatsRequest, ExecStart, FilterValues,
    ListContainersRequest, PruneRequest, Resources, RestartPolicyName, StopContainerRequest,
    UpdateContainerRequest,
};

use crate::bed::{Bed, cases, command, eventually, is_running, sh, with};

cases![
    update_changes_limits_and_policy,
    update_is_refused,
    top_lists_the_processes,
    stats_of_one_and_all,
    stats_follow_starts_and_ends,
    prune_removes_what_rests,
    renames,
    restart_of_one_that_is_removed_at_its_end,
    kill_ends_a_restart,
    pause_freezes,
    execs_are_listed_while_they_run,
    filters,
    init_has_dockers_name,
];

fn stop(target: &str) -> StopContainerRequest {
    StopContainerRequest {
        target: target.into(),
        timeout: Some(0),
        ..Default::default()
    }
}

/// A control file of a container's cgroup, by its names in both versions; empty if the host has neither.
fn limit(bed: &Bed, id: &str, v1: &str, v2: &str) -> String {
    let parent = bed.engine.config().cgroup_parent.clone();
    let (controller, file) = v1.split_once('/').unwrap();
    let paths = [
        format!("/sys/fs/cgroup/{controller}{parent}/{id}/{file}"),
        format!("/sys/fs/cgroup{parent}/{id}/{v2}"),
    ];
    let read = paths.iter().find_map(|path| std::fs::read_to_string(path).ok());
    read.unwrap_or_default().trim().to_owned()
}

async fn update_changes_limits_and_policy() {
    let bed = Bed::new().await;
    let limited = |request| {
        with(request, |_, host| {
            host.resources = Some(Resources {
                memory_bytes: 64 << 20,
                ..Resources::default()
            });
        })
    };
    let id = bed.start(limited(command(&["sleep", "1000"]))).await;
    let to = |change: fn(&mut UpdateContainerRequest)| {
        let mut request = UpdateContainerRequest {
            target: id.clone(),
            ..Default::default()
        };
        change(&mut request);
        request
    };
    // Up and down again, with and without swap: the kernel refuses a limit above memory and swap together.
    for (memory, swap) in [
        (32 << 20, 0),
        (256 << 20, 300 << 20),
        (16 << 20, 20 << 20),
        (64 << 20, -1),
    ] {
        let mut request = to(|_| {});
        request.memory_bytes = Some(memory);
        request.memory_swap = (swap != 0).then_some(swap);
        bed.engine.update(request).await.map_err(|e| e.chain()).unwrap();
        assert_eq!(
            limit(&bed, &id, "memory/memory.limit_in_bytes", "memory.max"),
            memory.to_string()
        );
        let host = bed.inspect(&id).host.unwrap();
        assert_eq!(host.resources.unwrap().memory_bytes, memory);
        assert_eq!(host.memory_swap, if swap == 0 { 128 << 20 } else { swap });
    }
    let request = to(|r| {
        r.nano_cpus = Some(500_000_000);
        r.pids_limit = Some(17);
        r.restart_policy = Some(ContainerRestartPolicy {
            name: RestartPolicyName::OnFailure.into(),
            maximum_retry_count: 3,
        });
    });
    bed.engine.update(request).await.map_err(|e| e.chain()).unwrap();
    assert_eq!(limit(&bed, &id, "pids/pids.max", "pids.max"), "17");
    let quota = limit(&bed, &id, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let policy = bed.inspect(&id).host.unwrap().restart_policy.unwrap();
    assert_eq!(
        (policy.name(), policy.maximum_retry_count),
        (RestartPolicyName::OnFailure, 3)
    );
    // 0 takes the limit on processes away.
    bed.engine.update(to(|r| r.pids_limit = Some(0))).await.unwrap();
    assert_eq!(limit(&bed, &id, "pids/pids.max", "pids.max"), "max");
    // One that does not run has its new limits from its next start on.
    let rests = bed.create(limited(command(&["sleep", "1000"]))).await;
    let mut request = to(|r| r.memory_bytes = Some(32 << 20));
    request.target.clone_from(&rests);
    bed.engine.update(request).await.unwrap();
    bed.engine.start(&rests).await.unwrap();
    assert_eq!(
        limit(&bed, &rests, "memory/memory.limit_in_bytes", "memory.max"),
        (32 << 20).to_string()
    );
    bed.finish().await;
}

async fn update_is_refused() {
    let bed = Bed::new().await;
    let id = bed
        .start(with(command(&["sleep", "1000"]), |_, host| {
            host.auto_remove = true
        }))
        .await;
    let before = bed.inspect(&id).host;
    let refused = async |change: fn(&mut UpdateContainerRequest)| {
        let mut request = UpdateContainerRequest {
            target: id.clone(),
            ..Default::default()
        };
        change(&mut request);
        bed.engine.update(request).await.unwrap_err().chain()
    };
    let policy = ContainerRestartPolicy {
        name: RestartPolicyName::Always.into(),
        maximum_retry_count: 0,
    };
    let said = {
        let mut request = UpdateContainerRequest {
            target: id.clone(),
            restart_policy: Some(policy),
            ..Default::default()
        };
        let said = bed.engine.update(request.clone()).await.unwrap_err().chain();
        request.target = "nobody".to_owned();
        assert_eq!(
            bed.engine.update(request).await.unwrap_err().chain(),
            "No such container: nobody"
        );
        said
    };
    assert_eq!(
        said,
        format!(
            "Cannot update container {id}: Restart policy cannot be updated because AutoRemove is enabled for the \
             container"
        )
    );
    assert_eq!(
        refused(|r| r.memory_bytes = Some(1 << 20)).await,
        "Minimum memory limit allowed is 6MB"
    );
    assert!(
        refused(|r| r.memory_bytes = Some(64 << 20))
            .await
            .contains("memoryswap")
    );
    assert!(
        refused(|r| r.cpuset_cpus = Some("9999".into()))
            .await
            .contains("Requested CPUs are not available")
    );
    assert!(refused(|r| r.blkio_weight = Some(5)).await.contains("lkio"));
    assert_eq!(bed.inspect(&id).host, before);
    bed.finish().await;
}

async fn top_lists_the_processes() {
    let bed = Bed::new().await;
    let id = bed.start(sh("sleep 1234 & sleep 1235; true")).await;
    let pid = bed.inspect(&id).pid.to_string();
    let listed = eventually("both sleeps run", || async {
        let listed = bed.engine.top(&id, &[]).await.unwrap();
        (listed.processes.len() == 3).then_some(listed)
    })
    .await;
    let column = |name: &str| listed.titles.iter().position(|title| title == name).unwrap();
    assert_eq!(listed.processes[0].values[column("PID")], pid);
    let commands: Vec<&str> = listed
        .processes
        .iter()
        .map(|process| process.values[column("CMD")].as_str())
        .collect();
    assert!(commands.contains(&"sleep 1234"), "{commands:?}");
    let options = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let listed = bed.engine.top(&id, &options(&["-o", "pid,comm"])).await.unwrap();
    assert_eq!(listed.titles, ["PID", "COMMAND"]);
    assert_eq!(listed.processes.len(), 3);
    let error = bed.engine.top(&id, &options(&["-o", "comm"])).await.unwrap_err();
    assert_eq!(error.chain(), "Couldn't find PID field in ps output");
    let error = bed
        .engine
        .top(&id, &options(&["-o", "ppid=PID"]))
        .await
        .unwrap_err();
    assert_eq!(error.chain(), "specifying \"ppid=PID\" is not allowed");
    let error = bed
        .engine
        .top(&id, &options(&["--no-such-option"]))
        .await
        .unwrap_err();
    assert!(error.chain().starts_with("ps: "), "{}", error.chain());
    bed.engine.stop(stop(&id)).await.unwrap();
    let error = bed.engine.top(&id, &[]).await.unwrap_err();
    assert_eq!(error.chain(), format!("Container {id} is not running"));
    bed.finish().await;
}

async fn stats_of_one_and_all() {
    let bed = Bed::new().await;
    let busy = bed
        .start(with(sh("while :; do :; done"), |_, host| {
            host.resources = Some(Resources {
                memory_bytes: 64 << 20,
                pids: 10,
                ..Resources::default()
            });
        }))
        .await;
    let rests = bed.create(command(&["true"])).await;
    let ask = |targets: &[&String], all| ContainerStatsRequest {
        targets: targets.iter().map(|&target| target.clone()).collect(),
        all,
        stream: false,
    };
    let collect = async |request: ContainerStatsRequest| {
        let mut samples = bed.engine.stats(&request).unwrap();
        let mut all = Vec::new();
        while let Some(sample) = samples.recv().await {
            all.push(sample.unwrap());
        }
        all
    };
    let samples = collect(ask(&[], false)).await;
    assert_eq!(samples.len(), 1);
    let sample = &samples[0];
    assert_eq!(sample.id, busy);
    assert!(sample.cpu_total > sample.previous_cpu_total && sample.previous_cpu_total > 0);
    assert!(sample.system_cpu > sample.previous_system_cpu && sample.online_cpus > 0);
    assert_eq!(
        (sample.memory_limit, sample.pids, sample.pids_limit),
        (64 << 20, 1, 10)
    );
    assert!(sample.memory_usage > 0 && sample.memory_usage < 64 << 20);
    let samples = collect(ask(&[], true)).await;
    assert_eq!(samples.len(), 2);
    assert_eq!((samples[0].id.as_str(), samples[0].read_at), (rests.as_str(), 0));
    let samples = collect(ask(&[&rests], false)).await;
    assert_eq!((samples.len(), samples[0].read_at), (1, 0));
    assert!(!samples[0].name.is_empty());
    assert!(bed.engine.stats(&ask(&[&"nobody".to_owned()], false)).is_err());
    bed.finish().await;
}

async fn stats_follow_starts_and_ends() {
    let bed = Bed::new().await;
    let request = ContainerStatsRequest {
        stream: true,
        ..Default::default()
    };
    let mut samples = bed.engine.stats(&request).unwrap();
    let id = bed.start(command(&["sleep", "1000"])).await;
    let mut next = async || {
        tokio::time::timeout(crate::bed::PATIENCE, samples.recv())
            .await
            .expect("a sample comes")
            .unwrap()
            .unwrap()
    };
    let sample = next().await;
    assert!(sample.id == id && sample.read_at != 0);
    bed.engine.stop(stop(&id)).await.unwrap();
    loop {
        let sample = next().await;
        assert_eq!(sample.id, id);
        if sample.read_at == 0 {
            break;
        }
    }
    bed.engine.start(&id).await.unwrap();
    assert!(next().await.read_at != 0);
    bed.finish().await;
}

fn filter(key: &str, values: &[&str]) -> HashMap<String, FilterValues> {
    let values = values.iter().map(ToString::to_string).collect();
    HashMap::from([(key.to_owned(), FilterValues { values })])
}

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
    assert!(prune(filter("name", &["x"])).await.is_err());
    assert!(prune(filter("until", &["1h"])).await.unwrap().deleted.is_empty());
    let pruned = prune(filter("label!", &["keep=yes"])).await.unwrap();
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

async fn execs_are_listed_while_they_run() {
    let bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    let exec = ExecStart {
        target: id.clone(),
        command: ["sh", "-c", "while ! test -e /end; do sleep 0.02; done"]
            .map(str::to_owned)
            .to_vec(),
        detach: true,
        ..Default::default()
    };
    let session = bed.engine.exec(exec).await.unwrap();
    let view = bed.engine.inspect_whole(&id).await.unwrap();
    assert_eq!(view.exec_ids, [session.id]);
    for key in ["LowerDir", "MergedDir", "UpperDir", "WorkDir"] {
        assert!(view.driver_data.contains_key(key), "{key}");
    }
    let end = ExecStart {
        target: id.clone(),
        command: ["touch", "/end"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    crate::bed::collect(bed.engine.exec(end).await.unwrap()).await;
    eventually("the exec is gone", || async {
        let view = bed.engine.inspect_whole(&id).await.unwrap();
        view.exec_ids.is_empty().then_some(())
    })
    .await;
    bed.finish().await;
}

async fn filters() {
    let bed = Bed::new().await;
    let named = |name: &str, mut request: pontoon_proto::v1::CreateContainerRequest| {
        request.name = name.to_owned();
        request
    };
    let first = bed.create(named("web-1", command(&["true"]))).await;
    bed.start(named("web-2", command(&["sleep", "1000"]))).await;
    bed.create(named("other", command(&["true"]))).await;
    let list = async |key: &str, value: &str| {
        let request = ListContainersRequest {
            all: true,
            filters: filter(key, &[value]),
            ..Default::default()
        };
        let listed = bed.engine.list(&request).await.map_err(|e| e.chain())?;
        Ok::<_, String>(listed.into_iter().map(|c| c.name).collect::<Vec<_>>())
    };
    for (key, value, expected) in [
        ("name", "web", vec!["web-2", "web-1"]),
        ("name", "^/web-1$", vec!["web-1"]),
        ("name", "^web-.$", vec!["web-2", "web-1"]),
        ("name", "[", vec![]),
        ("id", &first[..12], vec!["web-1"]),
        ("status", "running", vec!["web-2"]),
        ("before", "web-2", vec!["web-1"]),
        ("since", "web-1", vec!["other", "web-2"]),
        ("isolation", "default", vec!["other", "web-2", "web-1"]),
        ("network", "none", vec!["other", "web-2", "web-1"]),
        ("volume", "nothing", vec![]),
        ("publish", "80/xyz", vec![]),
    ] {
        assert_eq!(list(key, value).await.unwrap(), expected, "{key}={value}");
    }
    for (key, value, said) in [
        ("colour", "red", "invalid filter 'colour'"),
        ("status", "up", "invalid filter 'status=up'"),
        ("exited", "x", "strconv.Atoi: parsing \"x\": invalid syntax"),
        ("health", "bad", "Unrecognised filter value for health: bad"),
        ("is-task", "x", "invalid filter 'is-task=[x]'"),
        ("before", "nobody", "No such container: nobody"),
        (
            "publish",
            "x",
            "error while looking up for publish x: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
    ] {
        assert_eq!(list(key, value).await.unwrap_err(), said, "{key}={value}");
    }
    bed.finish().await;
}

async fn init_has_dockers_name() {
    let bed = Bed::new().await;
    let request = with(sh("cat /proc/1/cmdline /proc/1/comm; exit 7"), |config, _| {
        config.init = true
    });
    let (code, out, err) = bed.run(request).await;
    assert_eq!((code, err.as_str()), (7, ""));
    let words: Vec<&str> = out.split('\0').collect();
    assert_eq!(words[..4], ["/sbin/docker-init", "--", "sh", "-c"]);
    assert_eq!(words.last(), Some(&"docker-init\n"));
    bed.finish().await;
}
