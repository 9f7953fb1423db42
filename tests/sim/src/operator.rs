//! Whoever runs the cluster's services, at random: makes, changes, scales, forces, rolls back and removes them with all their settings, and
//! labels, drains and pauses nodes. What becomes of that is judged by the oracle (`rules`, `invariants`), not by answers; once there is peace
//! all nodes are labelled and take tasks, and the services must come to what they ask for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::service_spec::Mode;
use pontoon_proto::v1::{
    Annotations, Availability, ContainerSpec, CreateServiceRequest, Dependency, DisconnectPolicy,
    GenericResource, GetRequest, GlobalJobMode, GlobalMode, ListRequest, NetworkAttachmentConfig, Node,
    Placement, PlacementPreference, ReplicatedJobMode, ReplicatedMode, ResourceRequirements, Resources,
    RestartPolicy, ServiceSpec, TaskSpec, UpdateConfig, UpdateNodeRequest, UpdateServiceRequest,
};
use pontoon_proto::v1::{UpdateFailureAction, UpdateOrder, dependency, disconnect_policy};
use tonic::Code;
use tonic::transport::Channel;

use crate::net::{Net, place_of};
use crate::rng::Rng;
use crate::trace::Trace;

const CALL_TIMEOUT: Duration = Duration::from_secs(8);
/// Services: four replicated, a global one, a job, a global job.
const SERVICES: u64 = 7;
/// Most replicas of one.
const REPLICAS: u64 = 6;
/// The label that constraints ask for, and how many values it has.
pub(crate) const ZONE: &str = "zone";
const ZONES: u64 = 3;
/// A millisecond in nanoseconds.
const MILLI: i64 = 1_000_000;

/// The operator.
#[derive(Clone)]
pub(crate) struct Operator {
    /// The managers' local sockets.
    pub(crate) managers: Vec<String>,
    /// The network.
    pub(crate) net: Net,
    /// Chance.
    pub(crate) rng: Rng,
    /// The trace.
    pub(crate) trace: Trace,
    /// Nothing is to be changed any more but what keeps the cluster from resting.
    pub(crate) peace: Arc<AtomicBool>,
}

impl Operator {
    /// Works until it is aborted.
    pub(crate) async fn run(self) {
        loop {
            tokio::time::sleep(self.rng.millis(50, 600)).await;
            let Some(addr) = self.rng.pick(&self.managers).cloned() else {
                return;
            };
            let work = async {
                let channel = self.net.connect(place_of(&addr), &addr, None).await.ok()?;
                let mut control = ControlClient::new(channel);
                if self.peace.load(Ordering::Relaxed) {
                    Box::pin(self.heal(&mut control)).await
                } else if self.rng.chance(300) {
                    Box::pin(self.node(&mut control)).await
                } else {
                    Box::pin(self.service(&mut control)).await
                }
            };
            let done = tokio::time::timeout(CALL_TIMEOUT, Box::pin(work)).await;
            if !matches!(done, Ok(Some(()))) {
                self.trace.event(format_args!("the operator got no answer"));
            }
        }
    }

    /// A node is drained, paused, activated, labelled.
    async fn node(&self, control: &mut ControlClient<Channel>) -> Option<()> {
        let nodes = control
            .list_nodes(ListRequest::default())
            .await
            .ok()?
            .into_inner()
            .nodes;
        let mut node = self.rng.pick(&nodes)?.clone();
        let availability = match self.rng.below(6) {
            0 => Availability::Drain,
            1 => Availability::Pause,
            2 | 3 => {
                self.label(&mut node, self.rng.below(ZONES));
                Availability::Active
            }
            _ => Availability::Active,
        };
        node.spec.get_or_insert_default().set_availability(availability);
        self.put(control, node).await
    }

    fn label(&self, node: &mut Node, zone: u64) {
        let spec = node.spec.get_or_insert_default();
        let labels = &mut spec.annotations.get_or_insert_default().labels;
        labels.insert(ZONE.to_owned(), zone.to_string());
    }

    async fn put(&self, control: &mut ControlClient<Channel>, node: Node) -> Option<()> {
        let labels = node.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        self.trace.event(format_args!(
            "the operator makes node {} {:?} in zone {:?}",
            node.id,
            node.spec.as_ref().map(|spec| spec.availability()),
            labels.and_then(|annotations| annotations.labels.get(ZONE))
        ));
        let request = UpdateNodeRequest {
            target: node.id,
            version: node.meta.map_or(0, |meta| meta.version),
            spec: node.spec,
        };
        // Somebody else may have been faster.
        match control.update_node(request).await {
            Err(status) if status.code() == Code::Unavailable => None,
            _ => Some(()),
        }
    }

    /// Every node takes tasks, and every zone has nodes.
    async fn heal(&self, control: &mut ControlClient<Channel>) -> Option<()> {
        let list = control.list_nodes(ListRequest::default()).await.ok()?;
        for (at, mut node) in list.into_inner().nodes.into_iter().enumerate() {
            if !is_healed(&node) {
                self.label(&mut node, at as u64 % ZONES);
                let spec = node.spec.get_or_insert_default();
                spec.set_availability(Availability::Active);
                self.put(control, node).await?;
            }
        }
        Some(())
    }

    async fn service(&self, control: &mut ControlClient<Channel>) -> Option<()> {
        let number = self.rng.below(SERVICES);
        let name = name(number);
        let target = GetRequest { target: name.clone() };
        let what = self.rng.below(12);
        let service = match control.get_service(target.clone()).await {
            Ok(service) => service.into_inner(),
            Err(status) if status.code() == Code::NotFound => {
                self.trace.event(format_args!("the operator makes {name}"));
                let request = CreateServiceRequest {
                    spec: Some(self.spec(number)),
                    ..CreateServiceRequest::default()
                };
                return self.told("create", &control.create_service(request).await);
            }
            Err(_) => return None,
        };
        self.trace
            .event(format_args!("the operator changes {name} ({what})"));
        let mut spec = service.spec?;
        let task = spec.task.get_or_insert_default();
        let mut rollback = false;
        match what {
            0 => {
                return self.told("remove", &control.remove_service(target).await);
            }
            1 => rollback = true,
            2 | 3 => spec.mode = Some(self.mode(number)),
            4 => task.force_update += 1,
            5 => task.placement = Some(self.placement()),
            6 | 7 => {
                spec.update = self.config(number);
                let container = task.container.get_or_insert_default();
                container.image = self.image(number);
            }
            _ => spec = self.spec(number),
        }
        let request = UpdateServiceRequest {
            target: name,
            version: service.meta.map_or(0, |meta| meta.version),
            spec: (!rollback).then_some(spec),
            rollback,
            ..UpdateServiceRequest::default()
        };
        self.told("update", &control.update_service(request).await)
    }

    fn told<T>(&self, what: &str, answer: &Result<T, tonic::Status>) -> Option<()> {
        if let Err(status) = answer {
            self.trace.event(format_args!(
                "the operator's {what} is refused: {:?}: {}",
                status.code(),
                status.message()
            ));
        }
        Some(())
    }

    /// Up to so many thousandths of a second, in nanoseconds.
    fn time(&self, millis: u64) -> i64 {
        i64::try_from(self.rng.below(millis)).unwrap_or_default() * MILLI
    }

    fn image(&self, number: u64) -> String {
        let kind = if number >= 5 { "job" } else { "app" };
        format!("{kind}:{}", self.rng.below(3))
    }

    fn mode(&self, number: u64) -> Mode {
        match number {
            0..=3 => Mode::Replicated(ReplicatedMode {
                replicas: self.rng.below(REPLICAS + 1),
            }),
            4 => Mode::Global(GlobalMode {}),
            5 => Mode::ReplicatedJob(ReplicatedJobMode {
                max_concurrent: self.rng.below(4),
                total_completions: self.rng.below(REPLICAS + 1),
            }),
            _ => Mode::GlobalJob(GlobalJobMode {}),
        }
    }

    /// How it is updated; jobs are not.
    fn config(&self, number: u64) -> Option<UpdateConfig> {
        let mut config = UpdateConfig {
            parallelism: self.rng.below(4),
            delay: self.time(800),
            monitor: Some(self.time(800)),
            max_failure_ratio: [0.0, 0.3, 1.0][usize::try_from(self.rng.below(3)).unwrap_or(0)],
            ..UpdateConfig::default()
        };
        config.set_order(match self.rng.below(2) {
            0 => UpdateOrder::StopFirst,
            _ => UpdateOrder::StartFirst,
        });
        config.set_failure_action(match self.rng.below(3) {
            0 => UpdateFailureAction::Pause,
            1 => UpdateFailureAction::Continue,
            _ => UpdateFailureAction::Rollback,
        });
        (number < 5).then_some(config)
    }

    fn placement(&self) -> Placement {
        let mut placement = Placement::default();
        if self.rng.chance(300) {
            let relation = if self.rng.chance(600) { "==" } else { "!=" };
            let zone = self.rng.below(ZONES);
            placement
                .constraints
                .push(format!("node.labels.{ZONE}{relation}{zone}"));
        }
        if self.rng.chance(300) {
            placement.preferences.push(PlacementPreference {
                spread_descriptor: format!("node.labels.{ZONE}"),
            });
        }
        if self.rng.chance(100) {
            placement.max_replicas = REPLICAS;
        }
        placement
    }

    fn resources(&self) -> ResourceRequirements {
        let mut resources = ResourceRequirements::default();
        if self.rng.chance(200) {
            resources.reservations = Some(Resources {
                nano_cpus: 1_000_000_000,
                ..Resources::default()
            });
        }
        if self.rng.chance(250) {
            resources.generic_reservations.push(GenericResource {
                kind: "gpu".to_owned(),
                count: 1,
                ..GenericResource::default()
            });
        }
        resources
    }

    /// What a service waits for: only such with a higher number, so that there is no circle.
    fn depends_on(&self, number: u64) -> Vec<Dependency> {
        if !self.rng.chance(250) {
            return Vec::new();
        }
        let on = number + 1 + self.rng.below(SERVICES);
        if on >= SERVICES {
            return Vec::new();
        }
        let mut dependency = Dependency {
            service: name(on),
            optional: true,
            ..Dependency::default()
        };
        dependency.set_condition(match self.rng.below(3) {
            0 => dependency::Condition::Started,
            1 => dependency::Condition::Healthy,
            _ if on >= 5 => dependency::Condition::Completed,
            _ => dependency::Condition::Healthy,
        });
        vec![dependency]
    }

    fn on_disconnect(&self) -> Option<DisconnectPolicy> {
        let action = match self.rng.below(4) {
            0 => disconnect_policy::Action::Keep,
            1 => disconnect_policy::Action::Replace,
            _ => return None,
        };
        let mut policy = DisconnectPolicy {
            grace: Some(self.time(3000)),
            ..DisconnectPolicy::default()
        };
        policy.set_action(action);
        Some(policy)
    }

    fn spec(&self, number: u64) -> ServiceSpec {
        let network = NetworkAttachmentConfig {
            target: crate::NETWORK.to_owned(),
            ..NetworkAttachmentConfig::default()
        };
        ServiceSpec {
            annotations: Some(Annotations {
                name: name(number),
                labels: HashMap::new(),
            }),
            task: Some(TaskSpec {
                container: Some(ContainerSpec {
                    image: self.image(number),
                    ..ContainerSpec::default()
                }),
                networks: if self.rng.chance(500) {
                    vec![network]
                } else {
                    Vec::new()
                },
                restart: Some(RestartPolicy {
                    delay: Some(self.time(400)),
                    max_delay: self.rng.chance(300).then_some(1000 * MILLI),
                    ..RestartPolicy::default()
                }),
                placement: Some(self.placement()),
                resources: Some(self.resources()),
                force_update: self.rng.below(2),
                drain_period: self.rng.chance(300).then(|| self.time(1000)),
                ..TaskSpec::default()
            }),
            mode: Some(self.mode(number)),
            update: self.config(number),
            rollback: self.config(number),
            depends_on: self.depends_on(number),
            on_disconnect: self.on_disconnect(),
            ..ServiceSpec::default()
        }
    }
}

fn name(number: u64) -> String {
    format!("op{number}")
}

/// Whether a node takes tasks and has a zone.
pub(crate) fn is_healed(node: &Node) -> bool {
    node.spec.as_ref().is_some_and(|spec| {
        let annotations = spec.annotations.as_ref();
        spec.availability() == Availability::Active
            && annotations.is_some_and(|annotations| annotations.labels.contains_key(ZONE))
    })
}
