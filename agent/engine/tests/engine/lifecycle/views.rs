//! What is told of containers: `top`, `stats`, execs in `inspect`, filters of `ps`.

use pontoon_proto::v1::{ContainerStatsRequest, ExecStart, ListContainersRequest, Resources};

use crate::bed::{Bed, cases, command, eventually, filters, named, sh, stop, with};

cases![
    top_lists_the_processes,
    stats_of_one_and_all,
    stats_follow_starts_and_ends,
    execs_are_listed_while_they_run,
    filters_of_ps,
    init_has_dockers_name,
];

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

async fn filters_of_ps() {
    let bed = Bed::new().await;
    let first = bed.create(named("web-1", command(&["true"]))).await;
    bed.start(named("web-2", command(&["sleep", "1000"]))).await;
    bed.create(named("other", command(&["true"]))).await;
    let list = async |key: &str, value: &str| {
        let request = ListContainersRequest {
            all: true,
            filters: filters(&[(key, value)]),
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
