//! The daemon leaves and comes back: what ran, what ended meanwhile, what a boot of the host left.

use pontoon_proto::v1::{ContainerState, RestartPolicyName, StopContainerRequest};

use super::{policy, shim_of};
use crate::bed::{Bed, cases, command, eventually, is_running, sh, stop, with};

cases![
    daemon_restart_keeps_containers,
    daemon_leaves_during_a_stop,
    ends_while_the_daemon_is_away,
    leftovers,
    reboot,
    start_time_survives_the_daemon,
];

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
