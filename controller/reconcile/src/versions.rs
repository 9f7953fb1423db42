//! Versions of a service's spec: which parts of a spec make a new version, and the spec of each version that tasks run.
//! Tasks name a version instead of carrying a copy.

use std::sync::Arc;

use pontoon_proto::v1::{
    EndpointSpec, PortConfig, PublishMode, Service, ServiceSpec, Task, TaskSpec, VersionedSpec,
};
use pontoon_store::Snapshot;

/// The spec that a task runs; none if the service is gone or never knew the version.
pub(crate) fn spec_of(service: Option<&Service>, version: u64) -> Option<&ServiceSpec> {
    let service = service?;
    if service.spec_version == version {
        return service.spec.as_ref();
    }
    let retained = service
        .retained
        .iter()
        .find(|retained| retained.version == version)?;
    retained.spec.as_ref()
}

/// The image that a task runs; none if its service is gone.
pub fn image_of<'a>(snapshot: &'a Snapshot, task: &Task) -> Option<&'a str> {
    let service = snapshot.service(&task.service_id).map(Arc::as_ref);
    let container = spec_of(service, task.spec_version)?
        .task
        .as_ref()?
        .container
        .as_ref()?;
    Some(container.image.as_str())
}

/// The ports of a spec published in this mode.
pub(crate) fn ports(endpoint: Option<&EndpointSpec>, mode: PublishMode) -> impl Iterator<Item = &PortConfig> {
    let ports = endpoint.map_or(&[][..], |endpoint| endpoint.ports.as_slice());
    ports.iter().filter(move |port| port.publish_mode() == mode)
}

/// Whether tasks of the spec take part in the routing mesh.
pub(crate) fn uses_ingress(spec: &ServiceSpec) -> bool {
    ports(spec.endpoint.as_ref(), PublishMode::Ingress)
        .next()
        .is_some()
}

/// Whether tasks made of either spec would be the same: the task template, the host ports, and whether they are in the
/// ingress network. Labels, replicas, update settings, the ports' numbers and the endpoint mode don't touch tasks, nor does what
/// agents log in to a registry with: a task that runs has its image.
pub(crate) fn same_tasks(a: &ServiceSpec, b: &ServiceSpec) -> bool {
    let template = |spec: &ServiceSpec| TaskSpec {
        registry_auth: None,
        ..spec.task.clone().unwrap_or_default()
    };
    let host = |spec: &ServiceSpec| -> Vec<PortConfig> {
        ports(spec.endpoint.as_ref(), PublishMode::Host)
            .cloned()
            .collect()
    };
    template(a) == template(b) && uses_ingress(a) == uses_ingress(b) && host(a) == host(b)
}

/// Makes `spec` the service's newest. A template that an older version has gets that version's number again, so that
/// tasks which still run it (a rollback, an update taken back) stay.
pub(crate) fn advance<'a>(service: &mut Service, spec: ServiceSpec, tasks: impl Iterator<Item = &'a Task>) {
    let old = service.spec.replace(spec);
    let (Some(old), Some(new)) = (old, service.spec.as_ref()) else {
        service.spec_version = service.spec_version.max(1);
        return;
    };
    if same_tasks(&old, new) {
        return;
    }
    let known = service
        .retained
        .iter()
        .find(|v| v.spec.as_ref().is_some_and(|spec| same_tasks(spec, new)));
    let retained = service.retained.iter().map(|v| v.version);
    let highest = retained
        .chain(tasks.map(|task| task.spec_version))
        .max()
        .unwrap_or(0);
    let version = known.map_or(highest.max(service.spec_version) + 1, |v| v.version);
    service.retained.retain(|v| v.version != version);
    service.retained.push(VersionedSpec {
        version: service.spec_version,
        spec: Some(old),
    });
    service.retained.sort_by_key(|v| v.version);
    service.spec_version = version;
}

/// The service's name.
pub(crate) fn name(service: &Service) -> &str {
    let annotations = service.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations.map_or("", |annotations| annotations.name.as_str())
}
