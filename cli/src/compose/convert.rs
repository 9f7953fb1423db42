//! A stack's services and networks as the cluster's specs: names and labels of the stack put in, checked as the managers check them.
//! Called by `stack deploy` before its first request.

use std::collections::HashMap;

use pontoon_proto::v1::{
    Dependency, EndpointSpec, GlobalJobMode, GlobalMode, Mount, MountType, NetworkAttachmentConfig,
    NetworkSpec, PortConfig, PublishMode, ReplicatedJobMode, ReplicatedMode, ServiceSpec, TaskSpec,
    service_spec::Mode,
};
use pontoon_reconcile::spec::{validate_network, validate_service};

use super::depends::Depends;
use super::deploy;
use super::mistake::{Error, Mistake};
use super::network::Network;
use super::service::{Attachment, Service};
use super::yaml::Key;
use super::{Position, Stack};

/// Label of everything that belongs to a stack; its value is the stack's name.
pub const NAMESPACE_LABEL: &str = "com.docker.stack.namespace";
/// Label of a stack's service: the image as the file names it.
pub const IMAGE_LABEL: &str = "com.docker.stack.image";

/// A stack, ready to be deployed.
#[derive(Debug)]
pub struct Plan {
    /// The networks that its services use.
    pub networks: Vec<PlannedNetwork>,
    /// Its services. Networks are named, not given by id.
    pub services: Vec<ServiceSpec>,
}

/// A network that a stack uses.
#[derive(Debug)]
pub struct PlannedNetwork {
    /// Its name in the cluster.
    pub name: String,
    /// What to make; none for an external network, which must be there.
    pub spec: Option<NetworkSpec>,
}

/// Whether a stack can have this name: letters, digits, `-` and `_`, beginning with a letter or digit.
///
/// # Errors
/// A message that says what a name looks like.
pub fn check_stack_name(name: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(inner) {
        return Ok(());
    }
    Err(format!(
        "invalid stack name {name:?}: use letters, digits, - and _, with a letter or digit first"
    ))
}

impl Stack {
    /// Puts the stack's name in.
    ///
    /// # Errors
    /// [`Error::Mistakes`]: what the managers would refuse, with the places of the services and networks.
    pub fn plan(&self, stack: &str) -> Result<Plan, Error> {
        let namespace = Namespace { stack, files: self };
        let mut mistakes = Vec::new();
        let mut networks = Vec::new();
        let nowhere = (Key::default_network(self), Network::default());
        let has_default = self.networks.iter().any(|(key, _)| key.text == "default");
        let implied = (!has_default).then_some(&nowhere);
        for (key, network) in self.networks.iter().chain(implied) {
            if self.uses(&key.text) {
                let planned = namespace.network(&key.text, network);
                if let Some(Err(problems)) = planned.spec.as_ref().map(validate_network) {
                    note(&mut mistakes, key, "networks", &problems);
                }
                networks.push(planned);
            }
        }
        let mut services = Vec::new();
        for (key, service) in &self.services {
            let spec = namespace.service(&key.text, service);
            if let Err(problems) = validate_service(&spec) {
                note(&mut mistakes, key, "services", &problems);
            }
            services.push(spec);
        }
        self.check_ports(&mut mistakes);
        if mistakes.is_empty() {
            Ok(Plan { networks, services })
        } else {
            Err(Error::Mistakes(mistakes))
        }
    }

    fn uses(&self, network: &str) -> bool {
        let used = |service: &Service| match &service.networks {
            None => network == "default",
            Some(attachments) => attachments.iter().any(|attachment| attachment.network == network),
        };
        self.services.iter().any(|(_, service)| used(service))
    }

    /// Two services of the stack can't both have a port of the routing mesh.
    fn check_ports(&self, mistakes: &mut Vec<Mistake>) {
        let mut owners: HashMap<(i32, u32), &str> = HashMap::new();
        let in_mesh =
            |port: &&PortConfig| port.published_port != 0 && port.publish_mode() == PublishMode::Ingress;
        for (key, service) in &self.services {
            for port in service.ports.iter().filter(in_mesh) {
                if let Some(owner) = owners.insert((port.protocol, port.published_port), &key.text) {
                    mistakes.push(Mistake {
                        at: key.at.clone(),
                        message: format!(
                            "services.{}: port {} is published by service {owner} as well",
                            key.text, port.published_port
                        ),
                    });
                }
            }
        }
    }
}

impl Key {
    /// The network that is there without being written; placed at the first service.
    fn default_network(stack: &Stack) -> Key {
        let first = stack.services.first().map(|(key, _)| key.at.clone());
        let nowhere = Position {
            file: "".into(),
            line: 1,
            column: 1,
        };
        Key {
            at: first.unwrap_or(nowhere),
            text: "default".to_owned(),
        }
    }
}

fn note(
    mistakes: &mut Vec<Mistake>,
    key: &Key,
    section: &str,
    problems: &[pontoon_reconcile::spec::Problem],
) {
    mistakes.extend(problems.iter().map(|problem| Mistake {
        at: key.at.clone(),
        message: format!("{section}.{}: {problem}", key.text),
    }));
}

struct Namespace<'a> {
    stack: &'a str,
    files: &'a Stack,
}

impl Namespace<'_> {
    fn named(&self, key: &str) -> String {
        format!("{}_{key}", self.stack)
    }

    fn network_name(&self, key: &str) -> String {
        let declared = self.files.networks.iter().find(|(name, _)| name.text == key);
        match declared {
            Some((_, Network { name: Some(name), .. })) => name.clone(),
            Some((_, network)) if network.external => key.to_owned(),
            _ => self.named(key),
        }
    }

    fn network(&self, key: &str, network: &Network) -> PlannedNetwork {
        let name = self.network_name(key);
        let spec = (!network.external).then(|| {
            let mut spec = network.spec.clone();
            let annotations = spec.annotations.get_or_insert_default();
            annotations.name.clone_from(&name);
            let label = (NAMESPACE_LABEL.to_owned(), self.stack.to_owned());
            annotations.labels.extend([label]);
            if spec.driver.is_empty() {
                "overlay".clone_into(&mut spec.driver);
            }
            spec
        });
        PlannedNetwork { name, spec }
    }

    /// A mount whose volume has its name on the nodes, and says how it is made there.
    fn mount(&self, written: &Mount) -> Mount {
        let mut mount = written.clone();
        let declared = self
            .files
            .volumes
            .iter()
            .find(|(key, _)| key.text == mount.source);
        let Some((key, volume)) = declared.filter(|_| mount.r#type() == MountType::Volume) else {
            return mount;
        };
        mount.source = match &volume.name {
            Some(name) => name.clone(),
            None if volume.external => key.text.clone(),
            None => self.named(&key.text),
        };
        if !volume.external {
            let options = mount.volume.get_or_insert_default();
            options.labels.clone_from(&volume.labels);
            options
                .labels
                .insert(NAMESPACE_LABEL.to_owned(), self.stack.to_owned());
            options.driver.clone_from(&volume.driver);
            options.driver_options.clone_from(&volume.driver_options);
        }
        mount
    }

    fn dependency(&self, depends: &Depends) -> Dependency {
        Dependency {
            service: self.named(&depends.service),
            condition: depends.condition.into(),
            optional: !depends.required,
        }
    }

    fn service(&self, key: &str, service: &Service) -> ServiceSpec {
        let deploy = &service.deploy;
        let namespace = (NAMESPACE_LABEL.to_owned(), self.stack.to_owned());
        let mut labels = deploy.labels.clone();
        labels.extend([
            namespace.clone(),
            (IMAGE_LABEL.to_owned(), service.container.image.clone()),
        ]);
        let mut container = service.container.clone();
        container.labels.extend([namespace]);
        container.mounts = service
            .mounts
            .iter()
            .map(|written| self.mount(&written.mount))
            .collect();
        let attachment = |name: &str, aliases: &[String]| NetworkAttachmentConfig {
            target: self.network_name(name),
            aliases: aliases.iter().cloned().chain([key.to_owned()]).collect(),
        };
        let networks = match &service.networks {
            None => vec![attachment("default", &[])],
            Some(all) => {
                let made = |Attachment { network, aliases, .. }: &Attachment| attachment(network, aliases);
                all.iter().map(made).collect()
            }
        };
        let replicas = deploy.replicas.unwrap_or(1);
        ServiceSpec {
            annotations: Some(pontoon_proto::v1::Annotations {
                name: self.named(key),
                labels,
            }),
            task: Some(TaskSpec {
                registry_auth: None,
                container: Some(container),
                resources: deploy.resources.clone(),
                restart: deploy.restart,
                placement: deploy.placement.clone(),
                networks,
                log_driver: service.log.clone(),
                force_update: 0,
                drain_period: deploy.drain_period,
            }),
            mode: Some(match deploy.mode {
                deploy::Mode::Replicated => Mode::Replicated(ReplicatedMode { replicas }),
                deploy::Mode::Global => Mode::Global(GlobalMode {}),
                deploy::Mode::ReplicatedJob => Mode::ReplicatedJob(ReplicatedJobMode {
                    max_concurrent: deploy.max_concurrent.unwrap_or_default(),
                    total_completions: replicas,
                }),
                deploy::Mode::GlobalJob => Mode::GlobalJob(GlobalJobMode {}),
            }),
            update: deploy.update,
            rollback: deploy.rollback,
            on_disconnect: deploy.on_disconnect,
            depends_on: service
                .depends_on
                .iter()
                .map(|depends| self.dependency(depends))
                .collect(),
            endpoint: Some(EndpointSpec {
                mode: deploy.endpoint_mode.into(),
                ports: service.ports.clone(),
            }),
        }
    }
}
