//! Users' writes: they check what only the other objects can tell (names, ports, subnets in use), and keep spec versions.
//! Called by the controller's API inside its writer, with specs that [`spec`](crate::spec) found valid.

use ipnet::IpNet;
use pontoon_proto::v1::{
    JobStatus, Network, NetworkSpec, PortConfig, PublishMode, Service, ServiceSpec, UpdateState, UpdateStatus,
};
use pontoon_store::{Id, Kind, Snapshot, Tx};

use crate::allocator::{NODE_NETWORKS, conflict, shares_port};
use crate::orchestrator::dependencies;
use crate::state::state_of;
use crate::versions;

/// A refused edit. The messages are Docker's where it has some.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not found, ambiguous, or the name is taken.
    #[error(transparent)]
    Store(#[from] pontoon_store::Error),
    /// Somebody else wrote the object since it was read.
    #[error("update out of sequence")]
    OutOfSequence,
    /// The ports or the subnet belong to somebody.
    #[error("{0}")]
    Conflict(String),
    /// The object is used by others.
    #[error("{0}")]
    InUse(String),
    /// What is asked for can't be done to this object.
    #[error("{0}")]
    Unsupported(String),
}

fn port_conflict(view: &Snapshot, service_id: &str, spec: &ServiceSpec) -> Result<(), Error> {
    let Some(endpoint) = &spec.endpoint else {
        return Ok(());
    };
    let owner = |port: &PortConfig| {
        let ingress = port.publish_mode() == PublishMode::Ingress;
        view.services()
            .filter(|other| other.id != service_id)
            .find_map(|other| {
                let given = other
                    .endpoint
                    .as_ref()
                    .map_or(&[][..], |endpoint| endpoint.ports.as_slice());
                let asked = other.spec.as_ref().and_then(|spec| spec.endpoint.as_ref());
                let asked = asked.map_or(&[][..], |endpoint| endpoint.ports.as_slice());
                let mut theirs = given
                    .iter()
                    .chain(asked)
                    .filter(|theirs| shares_port(theirs, port));
                let is_ingress = |p: &&PortConfig| p.publish_mode() == PublishMode::Ingress;
                let found = theirs.find(|theirs| ingress || is_ingress(theirs))?;
                Some((Id::from(other.id.as_str()), is_ingress(&found)))
            })
    };
    conflict(view, service_id, endpoint, owner).map_or(Ok(()), |reason| Err(Error::Conflict(reason)))
}

fn known_networks(view: &Snapshot, spec: &ServiceSpec) -> Result<(), Error> {
    let networks = spec
        .task
        .as_ref()
        .map_or(&[][..], |task| task.networks.as_slice());
    for target in networks.iter().map(|network| network.target.as_str()) {
        if NODE_NETWORKS.contains(&target) {
            continue;
        }
        let network = view
            .network(target)
            .ok_or_else(|| pontoon_store::Error::NotFound {
                kind: Kind::Network,
                target: target.to_owned(),
            })?;
        if network.spec.as_ref().is_some_and(|spec| spec.ingress) {
            let message = "Service cannot be explicitly attached to the ingress network";
            return Err(Error::Unsupported(message.to_owned()));
        }
    }
    Ok(())
}

/// Services that wait for each other would never start.
fn no_circle(view: &Snapshot, spec: &ServiceSpec) -> Result<(), Error> {
    let name = spec
        .annotations
        .as_ref()
        .map_or("", |annotations| annotations.name.as_str());
    let next = |other: &str| {
        let spec = if other == name {
            Some(spec)
        } else {
            view.service_by_name(other)
                .and_then(|service| service.spec.as_ref())
        };
        let depends = dependencies::of(spec).iter();
        depends
            .map(|dependency| dependency.service.as_str())
            .collect::<Vec<_>>()
    };
    dependencies::circle(name, &next).map_or(Ok(()), |circle| {
        let circle = circle.join(" -> ");
        Err(Error::Unsupported(format!(
            "services depend on each other: {circle}"
        )))
    })
}

/// Creates a service under `id`.
///
/// # Errors
/// [`Error::Store`] if the name is taken or a network does not exist, [`Error::Conflict`] if a port is.
pub fn create_service(tx: &mut Tx, id: String, spec: ServiceSpec) -> Result<(), Error> {
    known_networks(tx, &spec)?;
    no_circle(tx, &spec)?;
    port_conflict(tx, &id, &spec)?;
    let job_status = spec.is_job().then(JobStatus::default);
    let service = Service {
        id,
        spec: Some(spec),
        spec_version: 1,
        job_status,
        ..Default::default()
    };
    Ok(tx.put_service(service)?)
}

fn mode(spec: Option<&ServiceSpec>) -> &'static str {
    spec.map_or("replicated", ServiceSpec::mode_name)
}

/// Gives a service a new spec, and begins a new run of a job; `version` is the object's version that the user read (0: any).
///
/// # Errors
/// [`Error::OutOfSequence`], [`Error::Unsupported`] if the mode would change, else as [`create_service`].
pub fn update_service(tx: &mut Tx, id: &str, version: u64, spec: ServiceSpec) -> Result<(), Error> {
    let mut service = find(tx, id, version)?;
    let next = Service {
        spec: Some(spec.clone()),
        ..Default::default()
    };
    if mode(service.spec.as_ref()) != mode(next.spec.as_ref()) {
        return Err(Error::Unsupported(
            "service mode change is not allowed".to_owned(),
        ));
    }
    if versions::name(&service) != versions::name(&next) {
        return Err(Error::Unsupported(
            "renaming services is not supported".to_owned(),
        ));
    }
    known_networks(tx, &spec)?;
    port_conflict(tx, id, &spec)?;
    no_circle(tx, &spec)?;
    if service.spec.as_ref() != Some(&spec) {
        // The same again lets a paused update go on: the way back stays.
        service.previous_spec.clone_from(&service.spec);
    }
    service.update_status = None;
    if let Some(iteration) = service.iteration() {
        service.job_status = Some(JobStatus {
            iteration: iteration + 1,
            last_execution: 0,
        });
    }
    let (released, version) = (dependencies::is_released(&service), service.spec_version);
    advance(tx, &mut service, spec);
    if released && service.spec_version == version {
        // Its tasks run already: dependencies that were added hold up none of them.
        service.released_version = version;
    }
    Ok(tx.put_service(service)?)
}

/// Takes a service's previous spec again; doing so twice leads back to where it was.
///
/// # Errors
/// [`Error::Unsupported`] if there is no previous spec, or it is a job, else as [`update_service`].
pub fn rollback_service(tx: &mut Tx, id: &str, version: u64, now: i64) -> Result<(), Error> {
    let mut service = find(tx, id, version)?;
    if service.iteration().is_some() {
        let message = "jobs cannot be rolled back: update the job instead, which runs it again";
        return Err(Error::Unsupported(message.to_owned()));
    }
    let Some(previous) = service.previous_spec.take() else {
        let name = versions::name(&service);
        return Err(Error::Unsupported(format!(
            "service {name} does not have a previous spec"
        )));
    };
    known_networks(tx, &previous)?;
    port_conflict(tx, id, &previous)?;
    service.previous_spec.clone_from(&service.spec);
    service.update_status = Some(UpdateStatus {
        state: UpdateState::RollbackStarted.into(),
        started_at: now,
        completed_at: 0,
        message: "manually requested rollback".to_owned(),
    });
    advance(tx, &mut service, previous);
    Ok(tx.put_service(service)?)
}

fn find(tx: &Tx, id: &str, version: u64) -> Result<Service, Error> {
    let service = tx.service(id).ok_or_else(|| pontoon_store::Error::NotFound {
        kind: Kind::Service,
        target: id.to_owned(),
    })?;
    if !tx.is_at(Kind::Service, id, version) {
        return Err(Error::OutOfSequence);
    }
    Ok(Service::clone(service))
}

fn advance(tx: &Tx, service: &mut Service, spec: ServiceSpec) {
    let tasks: Vec<_> = tx.tasks_by_service(&service.id).cloned().collect();
    versions::advance(service, spec, tasks.iter().map(AsRef::as_ref));
}

/// Removes a service; its tasks are stopped and removed after it.
///
/// # Errors
/// [`Error::Store`] if it does not exist.
pub fn remove_service(tx: &mut Tx, id: &str) -> Result<(), Error> {
    if tx.delete(Kind::Service, id) {
        return Ok(());
    }
    Err(pontoon_store::Error::NotFound {
        kind: Kind::Service,
        target: id.to_owned(),
    }
    .into())
}

/// Creates a network under `id`.
///
/// # Errors
/// [`Error::Store`] if the name is taken, [`Error::Conflict`] if a subnet overlaps another network's or there is an
/// ingress network already.
pub fn create_network(tx: &mut Tx, id: String, spec: NetworkSpec) -> Result<(), Error> {
    let is_ingress = |network: &Network| network.spec.as_ref().is_some_and(|spec| spec.ingress);
    if spec.ingress
        && let Some(other) = tx.networks().find(|network| is_ingress(network))
    {
        return Err(Error::Conflict(format!(
            "ingress network ({}) is already present",
            other.id
        )));
    }
    let subnets = spec
        .ipam
        .iter()
        .filter_map(|config| config.subnet.parse::<IpNet>().ok());
    for subnet in subnets {
        for other in tx.networks() {
            let taken = other
                .ipam
                .iter()
                .filter_map(|config| config.subnet.parse::<IpNet>().ok());
            let overlap = |theirs: &IpNet| theirs.contains(&subnet) || subnet.contains(theirs);
            if let Some(theirs) = taken.into_iter().find(overlap) {
                let name = other.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
                let name = name.map_or("", |annotations| annotations.name.as_str());
                return Err(Error::Conflict(format!(
                    "subnet {subnet} overlaps with {theirs} of network {name}"
                )));
            }
        }
    }
    Ok(tx.put_network(Network {
        id,
        spec: Some(spec),
        ..Default::default()
    })?)
}

/// Removes a network that neither a service nor a task nor a container uses.
///
/// # Errors
/// [`Error::InUse`] names the user, [`Error::Store`] if the network does not exist.
pub fn remove_network(tx: &mut Tx, id: &str) -> Result<(), Error> {
    let Some(network) = tx.network(id).cloned() else {
        return Err(pontoon_store::Error::NotFound {
            kind: Kind::Network,
            target: id.to_owned(),
        }
        .into());
    };
    let spec = network.spec.clone().unwrap_or_default();
    let name = spec
        .annotations
        .as_ref()
        .map_or("", |annotations| annotations.name.as_str());
    let uses = |service: &ServiceSpec| {
        let networks = service
            .task
            .as_ref()
            .map_or(&[][..], |task| task.networks.as_slice());
        networks.iter().any(|network| network.target == id)
            || (spec.ingress && versions::uses_ingress(service))
    };
    if let Some(service) = tx
        .services()
        .find(|service| service.spec.as_ref().is_some_and(uses))
    {
        let service = versions::name(service);
        return Err(Error::InUse(format!(
            "network {name} is in use by service {service}"
        )));
    }
    let attached = |task: &pontoon_proto::v1::Task| task.networks.iter().any(|a| a.network_id == id);
    if let Some(task) = tx
        .tasks()
        .find(|task| !state_of(task).is_terminal() && attached(task))
    {
        return Err(Error::InUse(format!(
            "network {name} is in use by task {}",
            task.id
        )));
    }
    if let Some(user) = crate::attachment::user_of(tx, id) {
        return Err(Error::InUse(format!("network {name} is in use by {user}")));
    }
    tx.delete(Kind::Network, id);
    Ok(())
}

/// Removes a node. Whether that is wise (it is down, it is no manager) the API decides; its tasks are given up.
///
/// # Errors
/// [`Error::Store`] if it does not exist.
pub fn remove_node(tx: &mut Tx, id: &str) -> Result<(), Error> {
    if tx.delete(Kind::Node, id) {
        return Ok(());
    }
    Err(pontoon_store::Error::NotFound {
        kind: Kind::Node,
        target: id.to_owned(),
    }
    .into())
}
