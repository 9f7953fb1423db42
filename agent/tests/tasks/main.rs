//! Tasks as real containers: the agent with the engine behind it, a manager that speaks the real protocol. The case runs
//! in namespaces of its own; the binary is also the shim, netd and init of its containers. Needs root.
#![allow(clippy::unwrap_used)]

#[path = "../../engine/tests/engine/bed/mod.rs"]
mod bed;
#[path = "../../runtime/tests/support/group.rs"]
mod group;
#[path = "../../engine/tests/engine/host.rs"]
mod host;
#[path = "../manager/mod.rs"]
mod manager;

use std::process::ExitCode;
use std::sync::Arc;

use bed::Bed;
use group::Group;
use manager::{Manager, Running, soon, task};
use pontoon_agent::exec::{EngineExecutor, ExecutorOptions};
use pontoon_engine::Engine;
use pontoon_proto::v1::manager_message::Message as ToAgent;
use pontoon_proto::v1::{
    ContainerState, HealthConfig, LogSelector, LogSubscription, TaskAssignment, TaskState,
};

const INNER: &str = "PONTOON_AGENT_CASE";

fn main() -> ExitCode {
    if let Some(code) = host::helper() {
        return code;
    }
    if !host::is_able() {
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INNER).is_none() {
        let outcome = host::run(&Group::of_case("agent", "tasks"), (INNER, "1"), host::DEADLINE);
        print!("{}", outcome.report());
        return if outcome.is_good() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    host::block_on(tasks_are_containers());
    println!("tasks are containers ... ok");
    ExitCode::SUCCESS
}

fn shell(id: &str, script: &str) -> TaskAssignment {
    let mut task = task(id, "busybox", TaskState::Running);
    let config = task.spec.as_mut().unwrap().container.as_mut().unwrap();
    config.args = ["sh", "-c", script].map(str::to_owned).to_vec();
    config.stop_grace_period = 500_000_000;
    task
}

async fn tasks_are_containers() {
    let bed = Bed::new().await;
    let engine = &bed.engine;
    let options = ExecutorOptions {
        peer_addr: String::new(),
        node_id: "node".into(),
        data_path_addr: "127.0.0.1".parse().unwrap(),
        hostname: String::new(),
    };
    let executor = Arc::new(EngineExecutor::new(Arc::clone(engine), options));
    let mut manager = Manager::start().await;
    let dir = bed.path().join("tasks");
    let running = Running::start(&dir, executor.clone(), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    assert!(
        session
            .register
            .description
            .as_ref()
            .unwrap()
            .resources
            .unwrap()
            .memory_bytes
            > 0
    );

    let mut healthy = shell("h", "sleep 0.3; touch /well; sleep 1000");
    healthy
        .spec
        .as_mut()
        .unwrap()
        .container
        .as_mut()
        .unwrap()
        .healthcheck = Some(HealthConfig {
        test: vec!["CMD".into(), "test".into(), "-e".into(), "/well".into()],
        interval: 50_000_000,
        retries: 1000,
        ..HealthConfig::default()
    });
    session.assign(true, vec![healthy.clone()]);
    let (status, _) = session.until("h", TaskState::Running).await;
    let view = engine.inspect("web.1.h").unwrap();
    assert_eq!(view.id, status.container.unwrap().container_id);
    let labels = view.config.unwrap().labels;
    assert_eq!(labels["com.docker.swarm.task.name"], "web.1.h");
    assert_eq!(labels["com.docker.swarm.node.id"], "node");
    let image = engine.images().get("busybox").unwrap().id;
    assert_eq!(engine.task_images(), [image].into());

    endings(&mut session).await;
    sickness(&mut session).await;
    session.send(ToAgent::LogSubscription(LogSubscription {
        id: "s".into(),
        task_ids: vec!["f".into()],
        options: Some(LogSelector {
            follow: true,
            ..LogSelector::default()
        }),
        close: false,
    }));
    let message = soon("lines", manager.logs.recv()).await.unwrap();
    assert_eq!(message.entries[0].line, "first words\n");

    // The agent's restart: the container is taken up as it is.
    let pid = engine.inspect("web.1.h").unwrap().pid;
    running.stop().await;
    let running = Running::start(&dir, executor, vec![manager.peer()]).await;
    leave(engine, manager.session().await, healthy, pid).await;
    running.stop().await;
    bed.finish().await;
}

/// How tasks end, and what is said of it.
async fn endings(session: &mut manager::Session) {
    session.assign(
        false,
        vec![shell("f", "echo first words; echo last words; exit 4")],
    );
    let (status, _) = session.until("f", TaskState::Failed).await;
    assert_eq!(status.err, "task: non-zero exit (4)");
    assert_eq!(status.output, ["first words", "last words"]);
    assert_eq!(status.container.unwrap().exit_code, 4);
    session.assign(false, vec![task("m", "missing", TaskState::Running)]);
    assert_eq!(
        session.until("m", TaskState::Rejected).await.0.err,
        "No such image: missing:latest"
    );
    session.assign(false, vec![shell("k", "sh -c 'kill -9 $$'; exit $?")]);
    let (status, _) = session.until("k", TaskState::Failed).await;
    assert_eq!(status.err, "task: non-zero exit (137): SIGKILL");
    session.assign(false, vec![shell("c", "exit 0")]);
    session.until("c", TaskState::Complete).await;
    session.assign(
        false,
        vec![shell("x", "")]
            .into_iter()
            .map(|mut t| {
                t.spec.as_mut().unwrap().container.as_mut().unwrap().args = vec!["/nothing".into()];
                t
            })
            .collect(),
    );
    let (status, _) = session.until("x", TaskState::Failed).await;
    assert!(
        status.err.contains("no such file or directory") || status.err.contains("not found"),
        "{}",
        status.err
    );
}

/// A task whose health check begins to fail says that it leaves, before it is ended.
async fn sickness(session: &mut manager::Session) {
    let mut sick = shell("s", "touch /well; sleep 1; rm /well; sleep 1000");
    let spec = sick.spec.as_mut().unwrap();
    // Long enough that a report of it goes out before the end is one with it, however busy the machine is.
    spec.drain_period = Some(4_000_000_000);
    spec.container.as_mut().unwrap().healthcheck = Some(HealthConfig {
        test: vec!["CMD".into(), "test".into(), "-e".into(), "/well".into()],
        interval: 50_000_000,
        retries: 2,
        start_period: 60_000_000_000,
        // Else the first look is after five seconds, when it is no longer well.
        start_interval: 50_000_000,
        ..HealthConfig::default()
    });
    session.assign(false, vec![sick]);
    session.until("s", TaskState::Running).await;
    let mut leaving = false;
    loop {
        for (_, status) in session.statuses().await.into_iter().filter(|(id, _)| id == "s") {
            leaving |= status.leaving && status.state() == TaskState::Running;
            if status.state() == TaskState::Failed {
                assert!(leaving, "it was ended while others sent to it");
                let reason = "unhealthy container: last health check (1)";
                assert!(status.err.contains(reason), "{}", status.err);
                return;
            }
        }
    }
}

/// A full set without the others, then the task leaves and is removed.
async fn leave(engine: &Engine, mut session: manager::Session, healthy: TaskAssignment, pid: u32) {
    let mut leaving = healthy.clone();
    session.assign(true, vec![healthy]);
    assert_eq!(engine.inspect("web.1.h").unwrap().pid, pid);
    soon("the others' containers go", async {
        while engine.inspect("web.1.f").is_ok() || engine.inspect("web.1.c").is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    leaving.set_desired_state(TaskState::Shutdown);
    session.assign(false, vec![leaving.clone()]);
    session.until("h", TaskState::Shutdown).await;
    assert_eq!(engine.inspect("web.1.h").unwrap().state(), ContainerState::Exited);
    leaving.set_desired_state(TaskState::Remove);
    session.assign(false, vec![leaving]);
    soon("the container goes", async {
        while engine.inspect("web.1.h").is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
