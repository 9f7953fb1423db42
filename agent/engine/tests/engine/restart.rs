//! Restart policies, health checks, and the daemon's own restarts.

use pontoon_proto::v1::{
    ContainerRestartPolicy, ContainerState, CreateContainerRequest, HealthConfig, HealthState,
    RestartPolicyName, StopContainerRequest,
};

use crate::bed::{Bed, cases, command, eventually, is_running, sh, with};

cases![
    restarts_on_failure,
    always_restarts_until_stopped,
    daemon_restart_keeps_containers,
    daemon_leaves_during_a_stop,
    ends_while_the_daemon_is_away,
    dead_shim,
    leftovers,
    health,
];

fn policy(request: CreateContainerRequest, name: RestartPolicyName, count: u32) -> CreateContainerRequest {
    with(request, |_, host| {
        host.restart_policy = Some(ContainerRestartPolicy {
            name: name.into(),
            maximum_retry_count: count,
        });
    })
}

fn stop(target: &str) -> StopContainerRequest {
    StopContainerRequest {
        target: target.into(),
        timeout: Some(0),
        ..Default::default()
    }
}

async fn restarts_on_failure() {
    let bed = Bed::new().await;
    let id = bed
        .start(policy(sh("echo run; exit 1"), RestartPolicyName::OnFailure, 2))
        .await;
    let view = bed
        .until(&id, "it gives up", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!((view.restart_count, view.exit_code), (2, 1));
    assert_eq!(bed.log(&id).await, "run\nrun\nrun\n");
    let id = bed
        .start(policy(sh("exit 0"), RestartPolicyName::OnFailure, 0))
        .await;
    assert_eq!(bed.wait(&id).await, 0);
    assert_eq!(bed.inspect(&id).restart_count, 0);
    bed.finish().await;
}

async fn always_restarts_until_stopped() {
    let bed = Bed::new().await;
    let id = bed
        .start(policy(sh("exit 0"), RestartPolicyName::Always, 0))
        .await;
    bed.until(&id, "it restarts", |c| c.restart_count >= 3).await;
    bed.engine.stop(stop(&id)).await.unwrap();
    assert_eq!(bed.inspect(&id).state(), ContainerState::Exited);
    let count = bed.inspect(&id).restart_count;
    bed.engine.start(&id).await.unwrap();
    bed.engine.remove(&id, true).await.unwrap();
    assert!(count >= 3);
    bed.assert_empty().await;
    bed.finish().await;
}

async fn daemon_leaves_during_a_stop() {
    let mut bed = Bed::new().await;
    let id = bed.start(sh("trap '' TERM; while :; do sleep 0.1; done")).await;
    let pid = bed.inspect(&id).pid;
    let mut events = bed.engine.events();
    let engine = bed.engine.clone();
    let patient = StopContainerRequest {
        // Its end is waited for without a limit.
        timeout: Some(-1),
        ..stop(&id)
    };
    let stopping = tokio::spawn(async move { engine.stop(patient).await });
    while !matches!(
        events.recv().await.unwrap().kind,
        pontoon_engine::ContainerEventKind::Killed { .. }
    ) {}
    bed.reopen().await;
    let cut_off = stopping.await.unwrap();
    assert!(
        matches!(cut_off, Err(pontoon_engine::Error::ShuttingDown(_))),
        "{cut_off:?}"
    );
    assert_eq!(bed.inspect(&id).pid, pid);
    bed.engine.stop(stop(&id)).await.unwrap();
    bed.finish().await;
}

async fn daemon_restart_keeps_containers() {
    let mut bed = Bed::new().await;
    let id = bed.start(sh("while :; do echo tick; sleep 0.1; done")).await;
    let pid = bed.inspect(&id).pid;
    let stopped = bed
        .start(policy(
            command(&["sleep", "1000"]),
            RestartPolicyName::UnlessStopped,
            0,
        ))
        .await;
    bed.engine.stop(stop(&stopped)).await.unwrap();
    let always = bed
        .start(policy(command(&["sleep", "1000"]), RestartPolicyName::Always, 0))
        .await;
    bed.engine.stop(stop(&always)).await.unwrap();
    bed.reopen().await;
    let view = bed.inspect(&id);
    assert!(is_running(&view) && view.pid == pid);
    let before = bed.log(&id).await.len();
    eventually("it still writes", || async {
        (bed.log(&id).await.len() > before).then_some(())
    })
    .await;
    bed.until(&always, "always means it", is_running).await;
    assert_eq!(bed.inspect(&stopped).state(), ContainerState::Exited);
    bed.engine.stop(stop(&id)).await.unwrap();
    assert_eq!(bed.inspect(&id).exit_code, 137);
    bed.finish().await;
}

async fn ends_while_the_daemon_is_away() {
    let mut bed = Bed::new().await;
    let flag = bed.path().join("flag");
    std::fs::create_dir(&flag).unwrap();
    let mount = pontoon_proto::v1::Mount {
        source: flag.display().to_string(),
        target: "/flag".into(),
        ..Default::default()
    };
    let script = "while ! test -e /flag/end; do sleep 0.05; done; touch /flag/ended; exit 9";
    let waiting = |request| with(request, |config, _| config.mounts = vec![mount.clone()]);
    let plain = bed.start(waiting(sh(script))).await;
    let again = bed
        .start(policy(waiting(sh(script)), RestartPolicyName::OnFailure, 1))
        .await;
    let removed = bed
        .start(with(waiting(sh(script)), |_, host| host.auto_remove = true))
        .await;
    let pids: Vec<u32> = [&plain, &again, &removed]
        .iter()
        .map(|id| bed.inspect(id).pid)
        .collect();
    bed.engine.shutdown().await;
    std::fs::write(flag.join("end"), "").unwrap();
    eventually("they end", || async {
        pids.iter()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
            .then_some(())
    })
    .await;
    bed.reopen().await;
    bed.until(&plain, "its end is seen", |c| {
        c.state() == ContainerState::Exited && c.exit_code == 9
    })
    .await;
    let view = bed
        .until(&again, "it was restarted", |c| {
            c.state() == ContainerState::Exited
        })
        .await;
    assert_eq!((view.exit_code, view.restart_count), (9, 1));
    eventually("it is removed", || async {
        bed.engine.inspect(&removed).is_err().then_some(())
    })
    .await;
    bed.finish().await;
}

async fn dead_shim() {
    let mut bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    let pid = bed.inspect(&id).pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .to_owned();
    bed.engine.shutdown().await;
    crate::bed::run("kill", &["-9", &shim]);
    bed.reopen().await;
    let view = bed
        .until(&id, "its end is seen", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(view.exit_code, 255);
    // Whoever adopted the process may not have collected it yet.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
    let id = bed.start(command(&["sleep", "1000"])).await;
    let pid = bed.inspect(&id).pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .to_owned();
    crate::bed::run("kill", &["-9", &shim]);
    bed.until(&id, "its end is seen at once", |c| {
        c.state() == ContainerState::Exited
    })
    .await;
    bed.finish().await;
}

async fn leftovers() {
    let mut bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    bed.engine.shutdown().await;
    // As if the record had been lost: shim, sandbox and root file system belong to nobody.
    std::fs::remove_dir_all(bed.path().join("data/engine/containers").join(&id)).unwrap();
    let half = bed.path().join("data/engine/containers").join("a".repeat(64));
    std::fs::create_dir(&half).unwrap();
    bed.reopen().await;
    assert!(bed.engine.inspect(&id).is_err());
    bed.assert_empty().await;
    bed.finish().await;
}

async fn health() {
    let mut bed = Bed::new().await;
    let check = |test: &str| HealthConfig {
        test: vec!["CMD-SHELL".into(), test.into()],
        interval: 50_000_000,
        timeout: 5_000_000_000,
        retries: 2,
        ..HealthConfig::default()
    };
    let checked = |test: &str| {
        with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(check(test))
        })
    };
    let id = bed.start(checked("test -e /tmp/well && echo fine")).await;
    let state = |c: &pontoon_proto::v1::Container| c.health.as_ref().unwrap().state();
    let view = bed
        .until(&id, "it is unhealthy", |c| state(c) == HealthState::Unhealthy)
        .await;
    assert!(view.health.unwrap().failing_streak >= 2);
    let exec = pontoon_proto::v1::ExecStart {
        target: id.clone(),
        command: vec!["touch".into(), "/tmp/well".into()],
        ..Default::default()
    };
    crate::bed::collect(bed.engine.exec(exec).await.unwrap()).await;
    let view = bed
        .until(&id, "it is healthy", |c| state(c) == HealthState::Healthy)
        .await;
    assert_eq!(view.health.unwrap().log.last().unwrap().output, "fine\n");
    // Checks go on after a restart of the daemon.
    bed.reopen().await;
    let last = bed.inspect(&id).health.unwrap().log.last().unwrap().start;
    bed.until(&id, "it is checked", |c| {
        c.health.as_ref().unwrap().log.last().unwrap().start > last
    })
    .await;
    let mut slow = check("sleep 1000");
    slow.timeout = 50_000_000;
    slow.retries = 1;
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(slow)
        }))
        .await;
    let view = bed
        .until(&id, "the check times out", |c| state(c) == HealthState::Unhealthy)
        .await;
    assert_eq!(
        view.health.unwrap().log[0].output,
        "Health check exceeded timeout (50ms)"
    );
    let none = with(command(&["true"]), |config, _| {
        config.healthcheck = Some(HealthConfig {
            test: vec!["NONE".into()],
            ..HealthConfig::default()
        });
    });
    let id = bed.create(none).await;
    assert!(bed.inspect(&id).health.is_none());
    bed.finish().await;
}
