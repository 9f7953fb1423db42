//! Session, worker and the walk of tasks, against a manager that speaks the real protocol and an executor that only
//! pretends: `run` runs until it is stopped, `exit` fails at once, `missing` is an image that is not there.
#![allow(clippy::unwrap_used)]

mod manager;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use manager::{Manager, PERIOD, Running, soon, task};
use pontoon_agent::SessionState;
use pontoon_agent::exec::{Controller, Executor, Exit, Progress, StepError};
use pontoon_proto::v1::manager_message::Message as ToAgent;
use pontoon_proto::v1::{
    Assignments, ContainerStatus, IngressConfig, LogEntry, LogSelector, LogSubscription, ManagerList,
    NetworkAttachment, NetworkCheck, NetworkDrift, NetworkFindings, Node, NodeDescription, OverlayNetwork,
    TaskAssignment, TaskState,
};
use tokio::sync::{mpsc, watch};

/// What was done, in order, and which containers there are.
#[derive(Clone)]
struct Fake {
    done: Arc<Mutex<Vec<String>>>,
    running: Arc<watch::Sender<HashSet<String>>>,
    created: Arc<Mutex<HashSet<String>>>,
    /// Images that tasks name.
    images: Arc<watch::Sender<BTreeSet<String>>>,
}

impl Fake {
    fn new() -> Self {
        Self {
            done: Arc::default(),
            running: Arc::new(watch::Sender::new(HashSet::new())),
            created: Arc::default(),
            images: Arc::new(watch::Sender::new(BTreeSet::new())),
        }
    }

    async fn until_images(&self, images: &[&str]) {
        let wanted: BTreeSet<String> = images.iter().map(|image| (*image).to_owned()).collect();
        let mut told = self.images.subscribe();
        let told = told.wait_for(|images| *images == wanted);
        soon(&format!("images {images:?}"), told).await.unwrap();
    }

    fn note(&self, what: String) {
        self.done.lock().unwrap().push(what);
    }

    fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    async fn until(&self, what: &str) {
        soon(what, async {
            while !self.done().iter().any(|done| done == what) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

struct FakeController {
    fake: Fake,
    id: String,
    image: String,
}

#[tonic::async_trait]
impl Controller for FakeController {
    async fn prepare(&self) -> Result<Progress, StepError> {
        self.fake.note(format!("prepare {}", self.id));
        if self.image == "missing" {
            return Err(StepError::Reject("No such image: missing".into()));
        }
        let is_new = self.fake.created.lock().unwrap().insert(self.id.clone());
        Ok(match (is_new, self.fake.running.borrow().contains(&self.id)) {
            (true, _) => Progress::Prepared,
            (false, true) => Progress::Running,
            (false, false) => Progress::Ended,
        })
    }

    async fn start(&self) -> Result<(), StepError> {
        self.fake.note(format!("start {}", self.id));
        self.fake.running.send_modify(|running| {
            running.insert(self.id.clone());
        });
        Ok(())
    }

    async fn wait_ready(&self) -> Result<Option<Exit>, StepError> {
        Ok(None)
    }

    async fn wait_exit(&self) -> Result<Exit, StepError> {
        if self.image == "exit" {
            return Ok(Exit {
                code: 3,
                details: vec!["out of memory".into()],
                output: vec!["oops".into()],
            });
        }
        let mut running = self.fake.running.subscribe();
        running
            .wait_for(|running| !running.contains(&self.id))
            .await
            .unwrap();
        Ok(Exit {
            code: 0,
            details: Vec::new(),
            output: Vec::new(),
        })
    }

    async fn shutdown(&self) -> Result<(), StepError> {
        self.fake.note(format!("shutdown {}", self.id));
        self.fake.running.send_modify(|running| {
            running.remove(&self.id);
        });
        Ok(())
    }

    async fn remove(&self) -> Result<(), StepError> {
        self.fake.note(format!("remove {}", self.id));
        self.fake.created.lock().unwrap().remove(&self.id);
        Ok(())
    }

    async fn status(&self) -> Option<ContainerStatus> {
        if self.image == "bare" {
            return None;
        }
        Some(ContainerStatus {
            container_id: format!("c-{}", self.id),
            ..ContainerStatus::default()
        })
    }
}

#[tonic::async_trait]
impl Executor for Fake {
    async fn describe(&self) -> NodeDescription {
        NodeDescription {
            hostname: "host".into(),
            ..NodeDescription::default()
        }
    }

    fn controller(&self, task: &TaskAssignment) -> Box<dyn Controller> {
        let image = task
            .spec
            .as_ref()
            .unwrap()
            .container
            .as_ref()
            .unwrap()
            .image
            .clone();
        Box::new(FakeController {
            fake: self.clone(),
            id: task.task_id.clone(),
            image,
        })
    }

    async fn set_network(&self, network: &OverlayNetwork) -> Result<(), String> {
        self.note(format!("network {}", network.id));
        Ok(())
    }

    async fn remove_network(&self, id: &str) -> Result<(), String> {
        self.note(format!("no network {id}"));
        Ok(())
    }

    async fn set_ingress(&self, ingress: Option<&IngressConfig>) -> Result<(), String> {
        self.note(format!("ingress {}", ingress.is_some()));
        Ok(())
    }

    async fn check_networks(&self, ids: &[String], repair: bool) -> Result<NetworkFindings, String> {
        if ids.is_empty() {
            return Err("nothing can be read".into());
        }
        let drift = |id: &String| NetworkDrift {
            network_id: id.clone(),
            repaired: repair,
            ..NetworkDrift::default()
        };
        Ok(NetworkFindings {
            drifts: ids.iter().map(drift).collect(),
            probes: Vec::new(),
        })
    }

    fn set_images(&self, images: BTreeSet<String>) {
        self.images.send_replace(images);
    }

    async fn tasks(&self) -> Vec<String> {
        self.created.lock().unwrap().iter().cloned().collect()
    }

    async fn remove_task(&self, task_id: &str) -> Result<(), String> {
        self.note(format!("remove unknown {task_id}"));
        self.created.lock().unwrap().remove(task_id);
        Ok(())
    }

    async fn logs(&self, task_id: &str, _: &LogSelector) -> Result<mpsc::Receiver<LogEntry>, String> {
        if task_id == "bare" {
            return Err("task bare has no container".into());
        }
        let (sender, receiver) = mpsc::channel(8);
        for line in ["one\n", "two\n"] {
            let line = format!("{task_id} {line}").into_bytes().into();
            sender
                .try_send(LogEntry {
                    stream: 1,
                    timestamp: 1,
                    line,
                    ..LogEntry::default()
                })
                .unwrap();
        }
        Ok(receiver)
    }
}

#[tokio::test]
async fn a_task_walks_as_the_manager_wants() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    assert_eq!(session.register.description.as_ref().unwrap().hostname, "host");
    let attachment = NetworkAttachment {
        network_id: "net".into(),
        ..NetworkAttachment::default()
    };
    let wanted = |desired| TaskAssignment {
        networks: vec![attachment.clone()],
        ..task("t", "run", desired)
    };
    session.send(ToAgent::Assignments(Assignments {
        full: true,
        version: 7,
        tasks: vec![wanted(TaskState::Ready)],
        networks: vec![OverlayNetwork {
            id: "net".into(),
            ..OverlayNetwork::default()
        }],
        ingress: Some(IngressConfig::default()),
        ..Assignments::default()
    }));
    session.until("t", TaskState::Ready).await;
    assert_eq!(fake.done(), ["network net", "ingress true", "prepare t"]);
    session.beat().await;
    session.assign(false, vec![wanted(TaskState::Running)]);
    let (status, _) = session.until("t", TaskState::Running).await;
    assert_eq!(status.container.unwrap().container_id, "c-t");
    session.assign(false, vec![wanted(TaskState::Shutdown)]);
    session.until("t", TaskState::Shutdown).await;
    // Wishes do not go back.
    session.assign(false, vec![wanted(TaskState::Running)]);
    session.assign(false, vec![wanted(TaskState::Remove)]);
    fake.until("remove t").await;
    let removal = Assignments {
        removed_tasks: vec!["t".into()],
        removed_networks: vec!["net".into()],
        ..Assignments::default()
    };
    session.send(ToAgent::Assignments(removal));
    fake.until("no network net").await;
    assert_eq!(std::fs::read_dir(dir.path().join("task")).unwrap().count(), 0);
    assert_eq!(fake.done().iter().filter(|done| *done == "start t").count(), 1);
    running.stop().await;
}

/// The program is not told to end as long as what was begun with it may take.
#[tokio::test]
async fn a_leaving_task_drains_first() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    let draining = |id: &str, period: Option<i64>, desired| {
        let mut task = task(id, "run", desired);
        task.spec.as_mut().unwrap().drain_period = period;
        task
    };
    const HOUR: i64 = 3_600_000_000_000;
    session.assign(
        true,
        vec![
            draining("slow", Some(HOUR), TaskState::Running),
            draining("quick", Some(0), TaskState::Running),
            draining("alone", None, TaskState::Running),
        ],
    );
    let mut waiting = HashSet::from(["slow", "quick", "alone"].map(str::to_owned));
    while !waiting.is_empty() {
        for (id, status) in session.statuses().await {
            if status.state() == TaskState::Running {
                waiting.remove(&id);
            }
        }
    }
    session.assign(false, vec![draining("slow", Some(HOUR), TaskState::Shutdown)]);
    session.assign(false, vec![draining("quick", Some(0), TaskState::Shutdown)]);
    session.until("quick", TaskState::Shutdown).await;
    // In no network nobody has begun anything with it.
    session.assign(false, vec![draining("alone", None, TaskState::Shutdown)]);
    session.until("alone", TaskState::Shutdown).await;
    assert!(!fake.done().contains(&"shutdown slow".to_owned()));
    // A program that has ended by itself is not waited for.
    fake.running.send_modify(|running| {
        running.remove("slow");
    });
    session.until("slow", TaskState::Shutdown).await;
    running.stop().await;
}

#[tokio::test]
async fn images_of_assigned_tasks_are_told_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    session.assign(
        true,
        vec![
            task("a", "run", TaskState::Running),
            task("b", "missing", TaskState::Running),
        ],
    );
    fake.until_images(&["missing", "run"]).await;
    session.until("a", TaskState::Running).await;
    running.stop().await;
    drop(session);
    // Without any manager: what is assigned is known from the disk.
    fake.images.send_replace(BTreeSet::new());
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![manager.peer()]).await;
    fake.until_images(&["missing", "run"]).await;
    let session = manager.session().await;
    session.assign(true, vec![]);
    fake.until_images(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn failures_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    session.assign(true, vec![task("a", "missing", TaskState::Running)]);
    assert_eq!(
        session.until("a", TaskState::Rejected).await.0.err,
        "No such image: missing"
    );
    session.assign(false, vec![task("b", "exit", TaskState::Running)]);
    let (status, _) = session.until("b", TaskState::Failed).await;
    assert_eq!(status.err, "task: non-zero exit (3): out of memory");
    assert_eq!(status.output, ["oops"]);
    running.stop().await;
}

#[tokio::test]
async fn statuses_are_sent_until_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    session.acknowledges = false;
    session.assign(true, vec![task("t", "run", TaskState::Running)]);
    session.until("t", TaskState::Running).await;
    drop(session);
    let mut session = manager.session().await;
    assert_eq!(
        session.register.tasks[0].status.as_ref().unwrap().state(),
        TaskState::Running
    );
    assert_eq!(
        session.until("t", TaskState::Running).await.1,
        [TaskState::Running]
    );
    running.stop().await;
}

#[tokio::test]
async fn follows_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, follower, mut leader) = (Fake::new(), Manager::start().await, Manager::start().await);
    follower.defer_to(&leader.addr);
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![follower.peer()]).await;
    let session = leader.session().await;
    let mut state = running.agent.session_state();
    let established = |state: &SessionState| matches!(state, SessionState::Established { manager, .. } if *manager == leader.addr);
    soon("the session", state.wait_for(established)).await.unwrap();
    let mut third = Manager::start().await;
    session.send(ToAgent::Managers(ManagerList {
        managers: vec![follower.peer(), third.peer()],
    }));
    session.send(ToAgent::Node(Node {
        id: "node".into(),
        ..Node::default()
    }));
    session.send(ToAgent::Node(Node {
        id: "other".into(),
        ..Node::default()
    }));
    let mut node = running.agent.node_updates();
    soon("the node", node.wait_for(Option::is_some)).await.unwrap();
    follower.defer_to(&third.addr);
    leader.stop();
    drop(session);
    third.session().await;
    running.stop().await;
    // The list was kept: no manager has to be given again.
    let running = Running::start(dir.path(), Arc::new(fake), Vec::new()).await;
    third.session().await;
    assert_eq!(node.borrow().as_ref().unwrap().id, "node");
    running.stop().await;
}

#[tokio::test]
async fn restarts_without_managers() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    session.assign(
        true,
        vec![
            task("a", "run", TaskState::Running),
            task("b", "exit", TaskState::Running),
        ],
    );
    let mut waiting = HashSet::from([
        ("a".to_owned(), TaskState::Running),
        ("b".to_owned(), TaskState::Failed),
    ]);
    while !waiting.is_empty() {
        for (id, status) in session.statuses().await {
            waiting.remove(&(id, status.state()));
        }
    }
    running.stop().await;
    manager.stop();
    drop(session);
    let before = fake.done();
    // The dead manager is all it knows.
    let running = Running::start(dir.path(), Arc::new(fake.clone()), Vec::new()).await;
    soon("the running task is taken up", async {
        while fake.done().iter().filter(|done| *done == "prepare a").count() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let since = fake.done().split_off(before.len());
    assert_eq!(
        since,
        ["prepare a"],
        "nothing is started, what had failed is left alone"
    );
    running.stop().await;
    let mut manager = Manager::start().await;
    let running = Running::start(dir.path(), Arc::new(fake.clone()), vec![manager.peer()]).await;
    let session = manager.session().await;
    // A full set knows b no more, and an unknown container is found.
    fake.created.lock().unwrap().insert("stray".into());
    session.assign(true, vec![task("a", "run", TaskState::Running)]);
    fake.until("remove b").await;
    fake.until("remove unknown stray").await;
    assert!(!fake.done().contains(&"shutdown a".to_owned()));
    running.stop().await;
}

#[tokio::test]
async fn beats_at_the_pace_that_it_was_told_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut manager = Manager::start().await;
    manager.begin_at(3_600_000_000_000);
    let running = Running::start(dir.path(), Arc::new(Fake::new()), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    session.beat().await;
    // The next one would come in an hour.
    session.pace(PERIOD);
    for _ in 0..3 {
        session.beat().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn checks_networks_and_says_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake), vec![manager.peer()]).await;
    let session = manager.session().await;
    let check = |id: &str, networks: &[&str]| NetworkCheck {
        id: id.to_owned(),
        network_ids: networks.iter().map(|id| (*id).to_owned()).collect(),
        repair: true,
    };
    session.send(ToAgent::NetworkCheck(check("c1", &["n1", "n2"])));
    let report = soon("findings", manager.checks.recv()).await.unwrap();
    let drifts = report.findings.unwrap().drifts;
    assert_eq!((report.check_id.as_str(), report.error.as_str()), ("c1", ""));
    assert_eq!(
        drifts.iter().map(|d| d.network_id.as_str()).collect::<Vec<_>>(),
        ["n1", "n2"]
    );
    assert!(drifts.iter().all(|drift| drift.repaired));
    session.send(ToAgent::NetworkCheck(check("c2", &[])));
    let report = soon("an error", manager.checks.recv()).await.unwrap();
    assert_eq!(
        (report.findings, report.error.as_str()),
        (None, "nothing can be read")
    );
    running.stop().await;
}

#[tokio::test]
async fn publishes_logs() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, mut manager) = (Fake::new(), Manager::start().await);
    let running = Running::start(dir.path(), Arc::new(fake), vec![manager.peer()]).await;
    let mut session = manager.session().await;
    session.assign(true, vec![task("t", "run", TaskState::Running)]);
    session.until("t", TaskState::Running).await;
    // Taken back before it had a container: nothing of its log is missing.
    session.assign(false, vec![task("bare", "bare", TaskState::Shutdown)]);
    session.until("bare", TaskState::Shutdown).await;
    session.send(ToAgent::LogSubscription(LogSubscription {
        id: "s".into(),
        task_ids: vec!["bare".into(), "t".into(), "unknown".into()],
        options: Some(LogSelector {
            follow: true,
            ..LogSelector::default()
        }),
        close: false,
    }));
    let mut lines = Vec::new();
    loop {
        let message = soon("lines", manager.logs.recv()).await.unwrap();
        assert_eq!(message.subscription_id, "s");
        assert_eq!(message.error, "");
        lines.extend(message.entries.into_iter().map(|entry| entry.line));
        if message.end {
            break;
        }
    }
    assert_eq!(lines, ["t one\n", "t two\n"]);
    running.stop().await;
}
