//! A manager for tests: the real Dispatcher protocol on a loopback port, without TLS, driven by hand.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_agent::exec::Executor;
use pontoon_agent::{Agent, AgentConfig, BoxError, Connector};
use pontoon_proto::v1::agent_message::Message as FromAgent;
use pontoon_proto::v1::dispatcher_server::{Dispatcher, DispatcherServer};
use pontoon_proto::v1::manager_message::Message as ToAgent;
use pontoon_proto::v1::{
    AgentMessage, Assignments, AttachNetworkRequest, AttachNetworkResponse, CheckImageRequest,
    CheckImageResponse, ContainerSpec, DetachNetworkRequest, DetachNetworkResponse, FindImageRequest,
    FindImageResponse, FindNetworkRequest, FindNetworkResponse, ManagerMessage, ManagerPeer,
    NetworkCheckReport, NetworkCheckReportResponse, PublishLogsMessage, PublishLogsResponse, Register,
    Registered, ReportFetchRequest, ReportFetchResponse, ReportImagesRequest, ReportImagesResponse,
    StatusAck, TaskAssignment, TaskSpec, TaskState, TaskStatus,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

/// How long any single expectation may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds between beats.
pub const PERIOD: i64 = 50_000_000;

/// Waits for something that has to come.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

#[derive(Clone)]
struct Service {
    sessions: mpsc::UnboundedSender<Session>,
    logs: mpsc::UnboundedSender<PublishLogsMessage>,
    checks: mpsc::UnboundedSender<NetworkCheckReport>,
    leader: Arc<Mutex<Option<String>>>,
    period: Arc<AtomicI64>,
}

/// One agent's session.
pub struct Session {
    pub register: Register,
    requests: Streaming<AgentMessage>,
    answers: mpsc::UnboundedSender<Result<ManagerMessage, Status>>,
    /// Statuses are acknowledged as they come.
    pub acknowledges: bool,
    pub beats: usize,
}

impl Session {
    pub fn send(&self, message: ToAgent) {
        self.answers
            .send(Ok(ManagerMessage {
                message: Some(message),
            }))
            .ok();
    }

    /// Wants a beat in each so many nanoseconds.
    pub fn pace(&self, period: i64) {
        self.send(ToAgent::Registered(Registered {
            session_id: "s".into(),
            heartbeat_period: period,
        }));
    }

    pub fn assign(&self, full: bool, tasks: Vec<TaskAssignment>) {
        self.send(ToAgent::Assignments(Assignments {
            full,
            version: 1,
            tasks,
            ..Assignments::default()
        }));
    }

    /// The next status of any task.
    pub async fn statuses(&mut self) -> Vec<(String, TaskStatus)> {
        loop {
            let message = soon("a message", self.requests.message())
                .await
                .unwrap()
                .expect("the session lasts");
            match message.message.unwrap() {
                FromAgent::Status(report) => {
                    if self.acknowledges {
                        self.send(ToAgent::StatusAck(StatusAck {
                            sequence: report.sequence,
                        }));
                    }
                    return report
                        .updates
                        .into_iter()
                        .map(|u| (u.task_id, u.status.unwrap()))
                        .collect();
                }
                FromAgent::Heartbeat(_) => self.beats += 1,
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Waits until a task is reported in a state; gives the states seen on the way.
    pub async fn until(&mut self, task: &str, state: TaskState) -> (TaskStatus, Vec<TaskState>) {
        let mut seen = Vec::new();
        loop {
            for (id, status) in self.statuses().await {
                if id == task {
                    seen.push(status.state());
                    if status.state() == state {
                        return (status, seen);
                    }
                    assert!(
                        status.state() < state || !status.state().is_terminal(),
                        "{status:?}, not {state:?}"
                    );
                }
            }
        }
    }

    pub async fn beat(&mut self) {
        loop {
            let message = soon("a beat", self.requests.message()).await.unwrap().unwrap();
            if matches!(message.message, Some(FromAgent::Heartbeat(_))) {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl Dispatcher for Service {
    type SessionStream = UnboundedReceiverStream<Result<ManagerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(leader) = self.leader.lock().unwrap().clone() {
            let mut status = Status::failed_precondition("not the leader");
            status
                .metadata_mut()
                .insert("pontoon-leader", leader.parse().unwrap());
            return Err(status);
        }
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap().message;
        let Some(FromAgent::Register(register)) = first else {
            panic!("not a registration: {first:?}")
        };
        let (answers, stream) = mpsc::unbounded_channel();
        let session = Session {
            register,
            requests,
            answers,
            acknowledges: true,
            beats: 0,
        };
        session.pace(self.period.load(Ordering::Relaxed));
        self.sessions.send(session).ok();
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn report_images(
        &self,
        _: Request<ReportImagesRequest>,
    ) -> Result<Response<ReportImagesResponse>, Status> {
        Ok(Response::new(ReportImagesResponse {}))
    }

    async fn find_image(&self, _: Request<FindImageRequest>) -> Result<Response<FindImageResponse>, Status> {
        Err(Status::unimplemented("no images here"))
    }

    async fn report_fetch(
        &self,
        _: Request<ReportFetchRequest>,
    ) -> Result<Response<ReportFetchResponse>, Status> {
        Ok(Response::new(ReportFetchResponse {}))
    }

    async fn check_image(
        &self,
        _: Request<CheckImageRequest>,
    ) -> Result<Response<CheckImageResponse>, Status> {
        Ok(Response::new(CheckImageResponse { allowed: false }))
    }

    async fn report_network_check(
        &self,
        request: Request<NetworkCheckReport>,
    ) -> Result<Response<NetworkCheckReportResponse>, Status> {
        self.checks.send(request.into_inner()).ok();
        Ok(Response::new(NetworkCheckReportResponse {}))
    }

    async fn find_network(
        &self,
        _: Request<FindNetworkRequest>,
    ) -> Result<Response<FindNetworkResponse>, Status> {
        Err(Status::not_found("no networks here"))
    }

    async fn attach_network(
        &self,
        _: Request<AttachNetworkRequest>,
    ) -> Result<Response<AttachNetworkResponse>, Status> {
        Err(Status::not_found("no networks here"))
    }

    async fn detach_network(
        &self,
        _: Request<DetachNetworkRequest>,
    ) -> Result<Response<DetachNetworkResponse>, Status> {
        Ok(Response::new(DetachNetworkResponse {}))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            self.logs.send(message).ok();
        }
        Ok(Response::new(PublishLogsResponse {}))
    }
}

/// A manager.
pub struct Manager {
    pub addr: String,
    sessions: mpsc::UnboundedReceiver<Session>,
    pub logs: mpsc::UnboundedReceiver<PublishLogsMessage>,
    pub checks: mpsc::UnboundedReceiver<NetworkCheckReport>,
    leader: Arc<Mutex<Option<String>>>,
    period: Arc<AtomicI64>,
    down: CancellationToken,
}

impl Manager {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: SocketAddr = listener.local_addr().unwrap();
        let (sessions, opened) = mpsc::unbounded_channel();
        let (logs, published) = mpsc::unbounded_channel();
        let (checks, checked) = mpsc::unbounded_channel();
        let leader = Arc::new(Mutex::new(None));
        let period = Arc::new(AtomicI64::new(PERIOD));
        let down = CancellationToken::new();
        let service = DispatcherServer::new(Service {
            sessions,
            logs,
            checks,
            leader: leader.clone(),
            period: period.clone(),
        });
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let stopped = down.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(server).await });
        Self {
            addr: addr.to_string(),
            sessions: opened,
            logs: published,
            checks: checked,
            leader,
            period,
            down,
        }
    }

    /// From now on it names another as leader.
    pub fn defer_to(&self, leader: &str) {
        *self.leader.lock().unwrap() = Some(leader.to_owned());
    }

    /// New sessions begin with this pace, in nanoseconds.
    pub fn begin_at(&self, period: i64) {
        self.period.store(period, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.down.cancel();
    }

    pub async fn session(&mut self) -> Session {
        soon("a session", self.sessions.recv()).await.unwrap()
    }

    pub fn peer(&self) -> ManagerPeer {
        ManagerPeer {
            node_id: "m".into(),
            addr: self.addr.clone(),
        }
    }
}

struct Plain;

#[tonic::async_trait]
impl Connector for Plain {
    async fn connect(&self, addr: &str) -> Result<Channel, BoxError> {
        Ok(Channel::from_shared(format!("http://{addr}"))?.connect().await?)
    }
}

/// A running agent.
pub struct Running {
    pub agent: Arc<Agent>,
    cancelled: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub async fn start(dir: &Path, executor: Arc<dyn Executor>, managers: Vec<ManagerPeer>) -> Self {
        let config = AgentConfig {
            images: None,
            node_id: "node".into(),
            state_dir: dir.to_owned(),
            managers,
            connector: Arc::new(Plain),
            executor,
        };
        let agent = Arc::new(Agent::open(config).await.unwrap());
        let cancelled = CancellationToken::new();
        let (running, token) = (agent.clone(), cancelled.clone());
        let task = tokio::spawn(async move { running.run(token).await.unwrap() });
        Self {
            agent,
            cancelled,
            task,
        }
    }

    pub async fn stop(self) {
        self.cancelled.cancel();
        soon("the agent's end", self.task).await.unwrap();
    }
}

/// A task of an image.
pub fn task(id: &str, image: &str, desired: TaskState) -> TaskAssignment {
    TaskAssignment {
        task_id: id.into(),
        service_id: "service".into(),
        service_name: "web".into(),
        slot: 1,
        node_id: "node".into(),
        desired_state: desired.into(),
        spec: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: image.into(),
                ..ContainerSpec::default()
            }),
            ..TaskSpec::default()
        }),
        ..TaskAssignment::default()
    }
}
