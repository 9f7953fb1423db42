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
    hanging_checks_die_with_their_children,
    checks_wait_while_frozen,
    killed_shim_is_cleaned_up_and_restarted,
    reboot,
    start_time_survives_the_daemon,
    attached_clients_leave_at_the_first_end,
    memory_is_lacked_live,
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

/// The pid of the process that holds a container's.
fn shim_of(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.unwrap().trim().to_owned()
}

async fn hanging_checks_die_with_their_children() {
    let bed = Bed::new().await;
    let check = HealthConfig {
        test: vec![
            "CMD-SHELL".into(),
            "echo begun; sleep 1001 & sleep 1002; true".into(),
        ],
        interval: 500_000_000,
        timeout: 200_000_000,
        retries: 1,
        ..HealthConfig::default()
    };
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(check)
        }))
        .await;
    let view = bed
        .until(&id, "the check has timed out", |c| {
            c.health.as_ref().is_some_and(|health| !health.log.is_empty())
        })
        .await;
    let result = &view.health.unwrap().log[0];
    assert_eq!(
        (result.exit_code, result.output.as_str()),
        (-1, "Health check exceeded timeout (200ms): begun\n")
    );
    // Between two checks the container is alone with its own process again.
    eventually("nothing of a check is left", || async {
        let listed = bed.engine.top(&id, &[]).await.unwrap();
        (listed.processes.len() == 1).then_some(())
    })
    .await;
    let view = bed.engine.inspect_whole(&id).await.unwrap();
    assert_eq!(view.health.unwrap().state(), HealthState::Unhealthy);
    bed.finish().await;
}

async fn checks_wait_while_frozen() {
    let bed = Bed::new().await;
    let check = HealthConfig {
        test: vec!["CMD".into(), "true".into()],
        interval: 20_000_000,
        ..HealthConfig::default()
    };
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.healthcheck = Some(check)
        }))
        .await;
    let checked = |c: &pontoon_proto::v1::Container| {
        let health = c.health.as_ref().unwrap();
        health.log.last().map_or(0, |result| result.start)
    };
    bed.until(&id, "it is healthy", |c| checked(c) > 0).await;
    bed.engine.pause(&id).await.unwrap();
    bed.engine.unpause(&id).await.unwrap();
    let thawed = checked(&bed.inspect(&id));
    let view = bed
        .until(&id, "it is checked again", |c| checked(c) > thawed)
        .await;
    let health = view.health.unwrap();
    assert!(
        health.log.iter().all(|result| result.exit_code == 0),
        "{health:?}"
    );
    bed.finish().await;
}

async fn killed_shim_is_cleaned_up_and_restarted() {
    let bed = Bed::new().await;
    let bridged =
        |request: CreateContainerRequest| with(request, |_, host| host.network_mode = "bridge".to_owned());
    let plain = bed.start(bridged(command(&["sleep", "1000"]))).await;
    let kept = bed
        .start(policy(
            bridged(command(&["sleep", "1000"])),
            RestartPolicyName::OnFailure,
            0,
        ))
        .await;
    let views = [bed.inspect(&plain), bed.inspect(&kept)];
    for view in &views {
        crate::bed::run("kill", &["-9", &shim_of(view.pid)]);
    }
    let view = bed
        .until(&plain, "its end is seen", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(view.exit_code, 255);
    assert!(view.error.contains("shim"), "{:?}", view.error);
    let view = bed
        .until(&kept, "it runs again", |c| is_running(c) && c.restart_count == 1)
        .await;
    assert!(view.pid != views[1].pid && view.error.is_empty());
    eventually("the namespace of the dead one is gone", || async {
        (!std::path::Path::new(&views[0].sandbox_key).exists()).then_some(())
    })
    .await;
    for view in &views {
        let status = std::fs::read_to_string(format!("/proc/{}/status", view.pid)).unwrap_or_default();
        assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
    }
    bed.finish().await;
}

async fn reboot() {
    let mut bed = Bed::new().await;
    let sleeper = || command(&["sleep", "1000"]);
    let plain = bed.start(sleeper()).await;
    let always = bed.start(policy(sleeper(), RestartPolicyName::Always, 0)).await;
    let unless = bed
        .start(policy(sleeper(), RestartPolicyName::UnlessStopped, 0))
        .await;
    let stopped = bed
        .start(policy(sleeper(), RestartPolicyName::UnlessStopped, 0))
        .await;
    bed.engine.stop(stop(&stopped)).await.unwrap();
    let removed = bed
        .start(with(sleeper(), |_, host| host.auto_remove = true))
        .await;
    let running = [&plain, &always, &unless, &removed];
    let pids: Vec<u32> = running.iter().map(|id| bed.inspect(id).pid).collect();
    bed.engine.shutdown().await;
    // As a reboot leaves it: no processes, no cgroups, and here a run folder that has outlived it.
    for pid in &pids {
        crate::bed::run("kill", &["-9", &shim_of(*pid), &pid.to_string()]);
    }
    eventually("nothing runs", || async {
        let is_over = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        };
        pids.iter().all(is_over).then_some(())
    })
    .await;
    let parent = bed.engine.config().cgroup_parent.clone();
    for id in running {
        for root in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(root.path().join(parent.trim_start_matches('/')).join(id));
        }
        let _ = std::fs::remove_dir(format!("/sys/fs/cgroup{parent}/{id}"));
    }
    std::fs::write(bed.path().join("run/boot-id"), "the boot before").unwrap();
    bed.reopen().await;
    bed.until(&always, "always is started again", is_running).await;
    bed.until(&unless, "unless-stopped is started again", is_running)
        .await;
    let view = bed
        .until(&plain, "its end is seen", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(view.exit_code, 255);
    assert_eq!(bed.inspect(&stopped).state(), ContainerState::Exited);
    eventually("it is removed", || async {
        bed.engine.inspect(&removed).is_err().then_some(())
    })
    .await;
    bed.finish().await;
}

async fn start_time_survives_the_daemon() {
    let mut bed = Bed::new().await;
    let id = bed.start(command(&["sleep", "1000"])).await;
    let exec = pontoon_proto::v1::ExecStart {
        target: id.clone(),
        command: ["sleep", "1001"].map(str::to_owned).to_vec(),
        detach: true,
        ..Default::default()
    };
    let exec = bed.engine.exec(exec).await.unwrap().id;
    let before = bed.inspect(&id);
    bed.reopen().await;
    let after = bed.inspect(&id);
    assert_eq!((after.started_at, after.pid), (before.started_at, before.pid));
    eventually("its exec is known again", || async {
        let view = bed.engine.inspect_whole(&id).await.unwrap();
        (view.exec_ids == [exec.clone()]).then_some(())
    })
    .await;
    bed.finish().await;
}

async fn attached_clients_leave_at_the_first_end() {
    let bed = Bed::new().await;
    let id = bed
        .create(policy(sh("echo run; exit 4"), RestartPolicyName::OnFailure, 2))
        .await;
    let session = bed
        .engine
        .attach(&id, crate::bed::all_streams(), false)
        .await
        .unwrap();
    bed.engine.start(&id).await.unwrap();
    let (out, _, code) = crate::bed::collect(session).await;
    assert_eq!((out.as_str(), code), ("run\n", Some(4)));
    bed.until(&id, "it gives up", |c| c.state() == ContainerState::Exited)
        .await;
    assert_eq!(bed.log(&id).await, "run\nrun\nrun\n");
    bed.finish().await;
}

async fn memory_is_lacked_live() {
    let bed = Bed::new().await;
    let script = "while ! test -e /end; do (x=a; while :; do x=$x$x; done); sleep 0.1; done";
    let id = bed
        .create(with(sh(script), |_, host| {
            host.resources = Some(pontoon_proto::v1::Resources {
                memory_bytes: 20 << 20,
                ..Default::default()
            });
        }))
        .await;
    let mut events = bed.engine.events();
    bed.engine.start(&id).await.unwrap();
    let told = async {
        while events.recv().await.unwrap().kind != pontoon_engine::ContainerEventKind::OutOfMemory {}
    };
    tokio::time::timeout(crate::bed::PATIENCE, told)
        .await
        .expect("the lack of memory is told");
    let view = bed.inspect(&id);
    assert!(is_running(&view) && view.oom_killed);
    bed.finish().await;
}
