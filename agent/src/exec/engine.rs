//! [`EngineExecutor`]: tasks as containers of the local engine.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use pontoon_engine::{Engine, system};
use pontoon_proto::v1::{
    ContainerState, EngineDescription, FilterValues, IngressConfig, ListContainersRequest, LogEntry,
    LogSelector, LogsRequest, NetworkFindings, NodeDescription, OverlayNetwork, Platform, Resources,
    TaskAssignment,
};
use tokio::sync::{mpsc, watch};

use super::container::ContainerController;
use super::placeholder::Place;
use super::request::{NODE_ID, TASK_ID};
use super::{Controller, Executor, findings, network};
use crate::error::chain;
use crate::{Attachments, Images};

/// What the executor can't find out by itself.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// This node's id.
    pub node_id: String,
    /// Address that other nodes send VXLAN packets to.
    pub data_path_addr: IpAddr,
    /// host:port where other nodes get images from this one; empty: it gives none.
    pub peer_addr: String,
    /// Host name to register with; empty: the machine's.
    pub hostname: String,
}

/// Which networks give a task's default route first.
pub(super) type Ranks = Arc<RwLock<HashMap<String, u8>>>;

/// Carries out tasks with an [`Engine`].
#[derive(Debug)]
pub struct EngineExecutor {
    engine: Arc<Engine>,
    options: ExecutorOptions,
    ranks: Ranks,
    images: Option<Arc<Images>>,
    attachments: Option<Arc<Attachments>>,
}

impl EngineExecutor {
    /// With this engine.
    pub fn new(engine: Arc<Engine>, options: ExecutorOptions) -> Self {
        Self {
            engine,
            options,
            ranks: Ranks::default(),
            images: None,
            attachments: None,
        }
    }

    /// With what joins other containers to the cluster's networks.
    #[must_use]
    pub fn with_attachments(mut self, attachments: Arc<Attachments>) -> Self {
        self.attachments = Some(attachments);
        self
    }

    /// With what brings images from other nodes; without it an image must be here.
    #[must_use]
    pub fn with_images(mut self, images: Arc<Images>) -> Self {
        self.images = Some(images);
        self
    }

    /// The node's host name: as configured, else the machine's.
    fn hostname(&self) -> String {
        match self.options.hostname.as_str() {
            "" => system::host_name(),
            configured => configured.to_owned(),
        }
    }

    /// Engine labels (`engine.labels.K` in constraints); what they look like was checked when they were read.
    fn labels(&self) -> HashMap<String, String> {
        let labels = self.engine.labels();
        let pairs = labels.iter().filter_map(|label| label.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    async fn program(&self, network: &OverlayNetwork) -> Result<(), String> {
        let state = network::overlay(network, self.options.data_path_addr)?;
        let rank = match &network.spec {
            Some(spec) if spec.internal => 2,
            Some(spec) if spec.ingress => 1,
            _ => 0,
        };
        self.ranks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(network.id.clone(), rank);
        self.engine
            .network()
            .set_overlay(state)
            .await
            .map_err(|error| chain(&error))
    }

    /// Names of containers with a label.
    async fn containers(&self, label: String) -> Result<Vec<pontoon_proto::v1::Container>, String> {
        let request = ListContainersRequest {
            all: true,
            filters: HashMap::from([("label".to_owned(), FilterValues { values: vec![label] })]),
            ..ListContainersRequest::default()
        };
        self.engine.list(&request).await.map_err(|error| error.chain())
    }
}

#[tonic::async_trait]
impl Executor for EngineExecutor {
    async fn describe(&self) -> NodeDescription {
        NodeDescription {
            hostname: self.hostname(),
            platform: Some(Platform {
                architecture: system::architecture().to_owned(),
                os: "linux".to_owned(),
            }),
            resources: Some(Resources {
                nano_cpus: i64::from(system::cpus()).saturating_mul(1_000_000_000),
                memory_bytes: system::memory_total(),
                pids: 0,
            }),
            engine: Some(EngineDescription {
                engine_version: self.engine.version().version,
                labels: self.labels(),
                plugins: system::plugins(),
            }),
            data_path_addr: self.options.data_path_addr.to_string(),
            peer_addr: self.options.peer_addr.clone(),
            tls_info: None,
            generic_resources: self.engine.generic_resources(),
        }
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.engine.reloads())
    }

    fn controller(&self, task: &TaskAssignment) -> Box<dyn Controller> {
        let (engine, ranks) = (self.engine.clone(), self.ranks.clone());
        let place = Place {
            hostname: self.hostname(),
            architecture: system::architecture().to_owned(),
        };
        let controller = ContainerController::new(engine, task.clone(), place, ranks);
        Box::new(controller.with_images(self.images.clone()))
    }

    async fn set_network(&self, network: &OverlayNetwork) -> Result<(), String> {
        let outcome = self.program(network).await;
        if let Some(attachments) = &self.attachments {
            attachments.programmed_now(network, &outcome);
        }
        outcome
    }

    fn attachments(&self) -> Option<Arc<Attachments>> {
        self.attachments.clone()
    }

    async fn remove_network(&self, id: &str) -> Result<(), String> {
        if let Some(attachments) = &self.attachments {
            attachments.forgotten(id);
        }
        self.ranks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        self.engine
            .network()
            .remove_overlay(id)
            .await
            .map_err(|errors| errors.to_string())
    }

    async fn set_ingress(&self, config: Option<&IngressConfig>) -> Result<(), String> {
        let network = self.engine.network();
        let Some(config) = config else {
            return network
                .remove_ingress()
                .await
                .map_err(|errors| errors.to_string());
        };
        let conflicts = network
            .set_ingress(network::ingress(config)?)
            .await
            .map_err(|error| chain(&error))?;
        for conflict in conflicts {
            tracing::warn!(
                port = conflict.published,
                protocol = %conflict.protocol,
                error = chain(&conflict.error),
                "this node can't serve a published port"
            );
        }
        Ok(())
    }

    async fn check_networks(&self, ids: &[String], repair: bool) -> Result<NetworkFindings, String> {
        findings::check(&self.engine, ids, repair).await
    }

    fn set_images(&self, images: BTreeSet<String>) {
        self.engine.set_task_images(images);
    }

    async fn tasks(&self) -> Vec<String> {
        let label = format!("{NODE_ID}={}", self.options.node_id);
        let containers = match self.containers(label).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(error, "could not list the containers of tasks");
                return Vec::new();
            }
        };
        containers
            .into_iter()
            .filter_map(|container| container.config?.labels.remove(TASK_ID))
            .collect()
    }

    async fn remove_task(&self, task_id: &str) -> Result<(), String> {
        for container in self.containers(format!("{TASK_ID}={task_id}")).await? {
            match self.engine.remove_with_volumes(&container.id, true).await {
                Ok(()) | Err(pontoon_engine::Error::NoSuchContainer(_)) => {}
                Err(error) => return Err(error.chain()),
            }
        }
        Ok(())
    }

    async fn logs(&self, task_id: &str, selector: &LogSelector) -> Result<mpsc::Receiver<LogEntry>, String> {
        let containers = self.containers(format!("{TASK_ID}={task_id}")).await?;
        let Some(container) = containers.into_iter().next() else {
            return Err(format!("task {task_id} has no container"));
        };
        let request = LogsRequest {
            target: container.id,
            follow: selector.follow,
            stdout: true,
            stderr: true,
            tail: selector.tail,
            since: selector.since,
            until: selector.until,
            details: selector.details,
        };
        if selector.follow {
            // A container that has not run yet has no end to follow to.
            let mut phase = self
                .engine
                .watch(&request.target)
                .map_err(|error| error.chain())?;
            let begun = |phase: &pontoon_engine::Phase| {
                phase.state != ContainerState::Created || phase.removed || !phase.error.is_empty()
            };
            phase.wait_for(begun).await.map_err(|error| error.to_string())?;
        }
        let mut entries = self.engine.logs(&request).map_err(|error| error.chain())?;
        let (sender, receiver) = mpsc::channel(64);
        let task_id = task_id.to_owned();
        tokio::spawn(async move {
            while let Some(entry) = entries.recv().await {
                match entry {
                    Ok(entry) => {
                        if sender.send(entry).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(task = task_id, error = error.chain(), "could not read a log");
                        return;
                    }
                }
            }
        });
        Ok(receiver)
    }
}
