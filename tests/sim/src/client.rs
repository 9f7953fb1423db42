//! Clients of the Control API on the managers' machines: they make, read, change and remove services, and write down what
//! they were told.

use std::time::Duration;

use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::service_spec::Mode;
use pontoon_proto::v1::{
    Annotations, ContainerSpec, CreateServiceRequest, EndpointSpec, GetRequest, NetworkAttachmentConfig,
    PortConfig, ReplicatedJobMode, ReplicatedMode, RestartPolicy, Service, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateFailureAction, UpdateOrder, UpdateServiceRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::history::{Ask, History, Told};
use crate::net::Net;
use crate::rng::Rng;
use crate::trace::Trace;

const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// The label that holds a register's value.
const LABEL: &str = "value";
/// Names in use at the same time.
const NAMES: u64 = 5;

/// One client.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// The managers' local sockets.
    pub managers: Vec<String>,
    /// The network.
    pub net: Net,
    /// Chance.
    pub rng: Rng,
    /// Where it writes down its calls.
    pub history: History,
    /// The trace.
    pub trace: Trace,
}

/// Services of this name are jobs: the agents see by their images that their tasks end.
const JOBS: &str = "svc4";

/// What a service is at this value.
fn spec(name: &str, value: u64) -> ServiceSpec {
    let mut labels = std::collections::HashMap::new();
    labels.insert(LABEL.to_owned(), value.to_string());
    let publish = |target_port| PortConfig {
        target_port,
        ..PortConfig::default()
    };
    let is_job = name.starts_with(JOBS);
    let replicas = 1 + value % 3;
    let mode = if is_job {
        Mode::ReplicatedJob(ReplicatedJobMode {
            max_concurrent: value % 2,
            total_completions: replicas,
        })
    } else {
        Mode::Replicated(ReplicatedMode { replicas })
    };
    let update = UpdateConfig {
        parallelism: value % 3,
        order: if value.is_multiple_of(2) {
            UpdateOrder::StartFirst.into()
        } else {
            UpdateOrder::StopFirst.into()
        },
        failure_action: UpdateFailureAction::Continue.into(),
        monitor: Some(500_000_000),
        ..UpdateConfig::default()
    };
    ServiceSpec {
        annotations: Some(Annotations {
            name: name.to_owned(),
            labels,
        }),
        task: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: format!("{}:{}", if is_job { "job" } else { "app" }, value % 3),
                ..ContainerSpec::default()
            }),
            networks: vec![NetworkAttachmentConfig {
                target: crate::NETWORK.to_owned(),
                ..NetworkAttachmentConfig::default()
            }],
            restart: Some(RestartPolicy {
                delay: Some(200_000_000),
                ..RestartPolicy::default()
            }),
            ..TaskSpec::default()
        }),
        mode: Some(mode),
        endpoint: Some(EndpointSpec {
            ports: if value.is_multiple_of(2) {
                vec![publish(80), publish(81)]
            } else {
                vec![publish(80)]
            },
            ..EndpointSpec::default()
        }),
        update: (!is_job).then_some(update),
        ..ServiceSpec::default()
    }
}

/// The value of a service that a client made.
pub(crate) fn value_of(service: &Service) -> Option<u64> {
    let annotations = service.spec.as_ref()?.annotations.as_ref()?;
    annotations.labels.get(LABEL)?.parse().ok()
}

/// An answer, or that there is none; `None` also for refusals that say nothing about the state.
enum Answer {
    Told(Told),
    /// Refused before anything was done.
    Void,
    Unknown,
}

fn answer(status: &Status) -> Answer {
    match status.code() {
        Code::NotFound => Answer::Told(Told::Missing),
        Code::AlreadyExists => Answer::Told(Told::Exists),
        Code::FailedPrecondition if status.message() == "update out of sequence" => Answer::Void,
        // The ports that were chosen ran out, and the like: refused by the writer.
        Code::InvalidArgument | Code::ResourceExhausted => Answer::Void,
        _ => Answer::Unknown,
    }
}

impl Client {
    /// Calls until it is aborted.
    pub async fn run(self) {
        let mut client: Option<(String, ControlClient<Channel>)> = None;
        let mut round = 0_u64;
        let mut seen: Option<(String, u64, u64)> = None;
        loop {
            tokio::time::sleep(self.rng.millis(20, 600)).await;
            round += 1;
            let (addr, mut control) = match client.take() {
                Some(open) => open,
                None => {
                    let Some(addr) = self.rng.pick(&self.managers).cloned() else {
                        return;
                    };
                    let place = crate::net::place_of(&addr).to_owned();
                    let Ok(channel) = self.net.connect(&place, &addr, None).await else {
                        continue;
                    };
                    (addr, ControlClient::new(channel))
                }
            };
            // New names from time to time keep each history short.
            let name = format!("svc{}-{}", self.rng.below(NAMES), round / 24);
            let value = self.rng.bits() >> 20;
            let (name, ask) = match (self.rng.below(10), seen.take()) {
                (0..=2, Some((name, version, from))) => {
                    let told = self.update(&mut control, &name, version, from, value).await;
                    if told {
                        client = Some((addr, control));
                    }
                    continue;
                }
                (0..=3, _) => (name, Ask::Create(value)),
                (4, _) => (name, Ask::Remove),
                _ => (name, Ask::Get),
            };
            let (keep, service) = self.call(&mut control, &name, ask).await;
            seen = service.and_then(|service| {
                let version = service.meta.as_ref()?.version;
                Some((name, version, value_of(&service)?))
            });
            // Now and then to another manager.
            if keep && !self.rng.chance(150) {
                client = Some((addr, control));
            }
        }
    }

    /// True when it was answered.
    async fn update(
        &self,
        control: &mut ControlClient<Channel>,
        name: &str,
        version: u64,
        from: u64,
        to: u64,
    ) -> bool {
        let open = self.history.begin(self.number, name, Ask::Update(from, to));
        let request = UpdateServiceRequest {
            target: name.to_owned(),
            version,
            spec: Some(spec(name, to)),
            ..UpdateServiceRequest::default()
        };
        let done = tokio::time::timeout(CALL_TIMEOUT, control.update_service(request)).await;
        let answer = match done {
            Ok(Ok(_)) => Answer::Told(Told::Done),
            Ok(Err(status)) => self.refusal(name, &status),
            Err(_) => Answer::Unknown,
        };
        self.write_down(&open, name, Ask::Update(from, to), answer)
    }

    async fn call(
        &self,
        control: &mut ControlClient<Channel>,
        name: &str,
        ask: Ask,
    ) -> (bool, Option<Service>) {
        let open = self.history.begin(self.number, name, ask);
        let target = GetRequest {
            target: name.to_owned(),
        };
        let mut found = None;
        let doing = async {
            match ask {
                Ask::Create(value) => {
                    let request = CreateServiceRequest {
                        spec: Some(spec(name, value)),
                        ..CreateServiceRequest::default()
                    };
                    control.create_service(request).await.map(|_| Told::Done)
                }
                Ask::Remove => control.remove_service(target).await.map(|_| Told::Done),
                Ask::Get | Ask::Update(..) => {
                    let service = control.get_service(target).await?.into_inner();
                    let value = value_of(&service).unwrap_or_default();
                    found = Some(service);
                    Ok(Told::Value(value))
                }
            }
        };
        let answer = match tokio::time::timeout(CALL_TIMEOUT, doing).await {
            Ok(Ok(told)) => Answer::Told(told),
            Ok(Err(status)) => self.refusal(name, &status),
            Err(_) => Answer::Unknown,
        };
        (self.write_down(&open, name, ask, answer), found)
    }

    fn refusal(&self, name: &str, status: &Status) -> Answer {
        self.trace.event(format_args!(
            "client {} {name} refused: {:?}: {}",
            self.number,
            status.code(),
            status.message()
        ));
        answer(status)
    }

    fn write_down(&self, open: &crate::history::Open, name: &str, ask: Ask, answer: Answer) -> bool {
        let (number, trace) = (self.number, &self.trace);
        match answer {
            Answer::Told(told) => {
                self.history.end(open, told);
                trace.event(format_args!("client {number} {name} {ask:?} -> {told:?}"));
                true
            }
            Answer::Void => {
                self.history.void(open);
                trace.event(format_args!("client {number} {name} {ask:?} -> void"));
                true
            }
            Answer::Unknown => {
                trace.event(format_args!("client {number} {name} {ask:?} -> unknown"));
                false
            }
        }
    }
}
