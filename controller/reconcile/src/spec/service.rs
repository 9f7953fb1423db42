//! Specs of services.

use std::collections::{BTreeSet, HashMap};

use pontoon_proto::v1::{
    ContainerSpec, EndpointMode, EndpointSpec, GenericResource, HealthConfig, MountType, Placement,
    PortProtocol, PublishMode, ResourceRequirements, Resources, RestartCondition, RestartPolicy, ServiceSpec,
    TaskSpec, UpdateConfig, UpdateFailureAction, UpdateOrder, dependency::Condition, service_spec::Mode,
};

use super::{Problem, Problems, check_name, container, image};
use crate::{constraint, defaults, versions};

/// Least memory a container can be limited to: Docker's 6 MiB is what runc needs, SwarmKit asks for 4.
const MIN_MEMORY: i64 = 4 << 20;
/// Least share of a CPU: a thousandth.
const MIN_NANO_CPUS: i64 = 1_000_000;
/// Least time of a health check, in nanoseconds; none at all stands for the default.
const MIN_HEALTH_TIME: i64 = 1_000_000;
/// Most replicas of one service.
const MAX_REPLICAS: u64 = 1_000_000;

/// Checks a service's spec.
///
/// # Errors
/// All that is wrong with it.
pub fn validate_service(spec: &ServiceSpec) -> Result<(), Vec<Problem>> {
    let mut problems = Problems::default();
    check_name(spec.annotations.as_ref(), &mut problems);
    match &spec.task {
        Some(task) => check_task(spec, task, &mut problems),
        None => problems.add("TaskSpec: missing task"),
    }
    check_mode(spec, &mut problems);
    if let Some(update) = &spec.update {
        check_update("update", update, &mut problems);
    }
    if let Some(rollback) = &spec.rollback {
        check_update("rollback", rollback, &mut problems);
        problems.add_if(
            rollback.failure_action() == UpdateFailureAction::Rollback,
            "rollback-failure-action must be pause or continue",
        );
    }
    if let Some(endpoint) = &spec.endpoint {
        check_endpoint(endpoint, &mut problems);
    }
    let grace = spec.on_disconnect.as_ref().and_then(|policy| policy.grace);
    problems.add_if(
        grace.is_some_and(|grace| grace < 0),
        "on-disconnect: the grace cannot be negative",
    );
    check_dependencies(spec, &mut problems);
    problems.finish()
}

fn check_mode(spec: &ServiceSpec, problems: &mut Problems) {
    let replicas = match &spec.mode {
        Some(Mode::Replicated(mode)) => mode.replicas,
        Some(Mode::ReplicatedJob(mode)) => mode.total_completions,
        Some(Mode::Global(_) | Mode::GlobalJob(_)) => 0,
        None => {
            problems.add("mode: replicated, global, replicated-job or global-job must be given");
            return;
        }
    };
    if replicas > MAX_REPLICAS {
        problems.add(format!(
            "{} service: number of replicas must be at most {MAX_REPLICAS}",
            spec.mode_name()
        ));
    }
    let placement = spec.task.as_ref().and_then(|task| task.placement.as_ref());
    problems.add_if(
        spec.is_per_node() && placement.is_some_and(|placement| placement.max_replicas > 0),
        "replicas-max-per-node can only be used with replicated or replicated-job mode",
    );
    problems.add_if(
        spec.is_job() && spec.update.is_some(),
        "Jobs may not have an update config",
    );
    problems.add_if(
        spec.is_job() && spec.rollback.is_some(),
        "Jobs may not have a rollback config",
    );
}

fn check_dependencies(spec: &ServiceSpec, problems: &mut Problems) {
    let own = spec
        .annotations
        .as_ref()
        .map_or("", |annotations| annotations.name.as_str());
    let mut seen = BTreeSet::new();
    for dependency in &spec.depends_on {
        let name = &dependency.service;
        problems.add_if(name.is_empty(), "depends_on: the service's name must be given");
        if !name.is_empty() && name == own {
            problems.add(format!("depends_on: service {name} can't depend on itself"));
        }
        if !seen.insert(name) {
            problems.add(format!("depends_on: service {name} is given twice"));
        }
        problems.add_if(
            Condition::try_from(dependency.condition).is_err(),
            "depends_on: the condition must be started, healthy or completed",
        );
    }
}

fn check_task(service: &ServiceSpec, task: &TaskSpec, problems: &mut Problems) {
    match &task.container {
        Some(spec) => {
            check_container(spec, problems);
            let labels = service
                .annotations
                .as_ref()
                .map(|annotations| &annotations.labels);
            container::check(spec, labels.unwrap_or(&HashMap::new()), problems);
        }
        None => problems.add("ContainerSpec: missing in service spec"),
    }
    problems.add_if(
        task.drain_period.is_some_and(|period| period < 0),
        "TaskSpec: drain-period cannot be negative",
    );
    if let Some(resources) = &task.resources {
        check_resources(resources, problems);
    }
    if let Some(restart) = &task.restart {
        check_restart(restart, problems);
    }
    if let Some(placement) = &task.placement {
        check_placement(placement, problems);
    }
    let mut targets = BTreeSet::new();
    for network in &task.networks {
        problems.add_if(
            network.target.is_empty(),
            "network attachment: target must be given",
        );
        if !targets.insert(&network.target) {
            problems.add(format!("network {} is attached more than once", network.target));
        }
    }
}

fn check_container(container: &ContainerSpec, problems: &mut Problems) {
    problems.add_if(
        container.image.is_empty(),
        "ContainerSpec: image reference must be provided",
    );
    problems.add_if(
        !container.image.is_empty() && !image::is_reference(&container.image),
        &format!(
            "ContainerSpec: \"{}\" is not a valid repository/tag: invalid reference format",
            container.image
        ),
    );
    problems.add_if(
        container.stop_grace_period < 0,
        "ContainerSpec: stop-grace-period cannot be negative",
    );
    for variable in &container.env {
        let named = variable
            .split_once('=')
            .map_or(variable.as_str(), |(name, _)| name);
        problems.add_if(
            named.is_empty(),
            "ContainerSpec: invalid environment variable: name is empty",
        );
    }
    let mut targets = BTreeSet::new();
    for mount in &container.mounts {
        if mount.target.is_empty() {
            problems.add("ContainerSpec: mount target must not be empty");
        } else if !mount.target.starts_with('/') {
            problems.add(format!(
                "ContainerSpec: mount target {} must be an absolute path",
                mount.target
            ));
        } else if !targets.insert(&mount.target) {
            problems.add(format!("ContainerSpec: duplicate mount point: {}", mount.target));
        }
        match mount.r#type() {
            MountType::Bind if !mount.source.starts_with('/') => {
                problems.add(format!(
                    "ContainerSpec: bind mount source {} must be an absolute path",
                    mount.source
                ));
            }
            MountType::Tmpfs if !mount.source.is_empty() => {
                problems.add("ContainerSpec: a tmpfs mount has no source");
            }
            MountType::Image if mount.source.is_empty() => {
                problems.add("ContainerSpec: an image mount needs the image as its source");
            }
            MountType::Volume if mount.source.is_empty() && mount.read_only => {
                problems.add("ContainerSpec: an anonymous volume can't be read-only");
            }
            _ => {}
        }
        problems.add_if(
            mount.tmpfs_size < 0,
            "ContainerSpec: tmpfs size cannot be negative",
        );
    }
    if let Some(health) = &container.healthcheck {
        check_health(health, problems);
    }
}

fn check_health(health: &HealthConfig, problems: &mut Problems) {
    let durations = [
        ("interval", health.interval),
        ("timeout", health.timeout),
        ("start period", health.start_period),
        ("start interval", health.start_interval),
    ];
    for (what, duration) in durations {
        if duration < 0 {
            problems.add(format!("ContainerSpec: healthcheck {what} cannot be negative"));
        } else if duration != 0 && duration < MIN_HEALTH_TIME {
            problems.add(format!(
                "ContainerSpec: healthcheck {what} cannot be less than 1ms"
            ));
        }
    }
    let known = ["NONE", "CMD", "CMD-SHELL"];
    if let Some(kind) = health.test.first()
        && !known.contains(&kind.as_str())
    {
        problems.add(format!(
            "ContainerSpec: unknown type of healthcheck {kind}: use NONE, CMD or CMD-SHELL"
        ));
    }
}

fn check_resources(resources: &ResourceRequirements, problems: &mut Problems) {
    let limits = resources.limits.unwrap_or_default();
    let reserved = resources.reservations.unwrap_or_default();
    for (what, set) in [("limit", &limits), ("reservation", &reserved)] {
        check_amounts(what, set, problems);
    }
    check_generic(&resources.generic_reservations, problems);
    problems.add_if(reserved.pids != 0, "pids can be limited, not reserved");
    problems.add_if(
        limits.nano_cpus > 0 && limits.nano_cpus < reserved.nano_cpus,
        "limit-cpu must not be smaller than reserve-cpu",
    );
    problems.add_if(
        limits.memory_bytes > 0 && limits.memory_bytes < reserved.memory_bytes,
        "limit-memory must not be smaller than reserve-memory",
    );
}

fn check_generic(units: &[GenericResource], problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for unit in units {
        problems.add_if(
            unit.kind.trim().is_empty(),
            "generic resource: its kind must be given",
        );
        if unit.count < 0 {
            problems.add(format!("cannot ask for negative resource {}", unit.kind));
        }
        if !seen.insert((&unit.kind, &unit.name)) {
            let what = [unit.kind.as_str(), unit.name.as_str()].join("=");
            problems.add(format!(
                "duplicate generic-resource `{}` for service task",
                what.trim_end_matches('=')
            ));
        }
    }
}

fn check_amounts(what: &str, amounts: &Resources, problems: &mut Problems) {
    if amounts.nano_cpus != 0 && amounts.nano_cpus < MIN_NANO_CPUS {
        problems.add(format!("invalid cpu {what}: must be at least 0.001"));
    }
    if amounts.memory_bytes != 0 && amounts.memory_bytes < MIN_MEMORY {
        problems.add(format!(
            "invalid memory {what} {}: must be at least 4MiB",
            amounts.memory_bytes
        ));
    }
    if amounts.pids < 0 {
        problems.add(format!("invalid pids {what}: cannot be negative"));
    }
}

fn check_restart(restart: &RestartPolicy, problems: &mut Problems) {
    problems.add_if(
        RestartCondition::try_from(restart.condition).is_err(),
        "TaskSpec: restart-condition must be any, on-failure or none",
    );
    problems.add_if(
        restart.delay.is_some_and(|delay| delay < 0),
        "TaskSpec: restart-delay cannot be negative",
    );
    problems.add_if(restart.window < 0, "TaskSpec: restart-window cannot be negative");
    let delay = restart.delay.unwrap_or(defaults::RESTART_DELAY);
    problems.add_if(
        restart.max_delay.is_some_and(|longest| longest < delay),
        "TaskSpec: restart-max-delay cannot be less than restart-delay",
    );
    problems.add_if(
        restart.max_delay.is_some() && delay == 0,
        "TaskSpec: restart-max-delay needs a restart-delay that is not 0",
    );
}

fn check_placement(placement: &Placement, problems: &mut Problems) {
    for text in &placement.constraints {
        if let Err(error) = constraint::parse(text) {
            problems.add(format!("invalid constraint '{text}': {error}"));
        }
    }
    for preference in &placement.preferences {
        let key = &preference.spread_descriptor;
        let label = ["node.labels.", "engine.labels."].iter().any(|prefix| {
            key.to_ascii_lowercase()
                .strip_prefix(prefix)
                .is_some_and(|name| !name.is_empty())
        });
        if !label {
            problems.add(format!(
                "invalid placement preference '{key}': spread over node.labels.K or engine.labels.K"
            ));
        }
    }
}

fn check_update(which: &str, update: &UpdateConfig, problems: &mut Problems) {
    if update.delay < 0 {
        problems.add(format!("TaskSpec: {which}-delay cannot be negative"));
    }
    if update.monitor.is_some_and(|monitor| monitor < 0) {
        problems.add(format!("TaskSpec: {which}-monitor cannot be negative"));
    }
    if !(0.0..=1.0).contains(&update.max_failure_ratio) {
        problems.add(format!(
            "TaskSpec: {which}-maxfailureratio cannot be less than 0 or bigger than 1"
        ));
    }
    if UpdateFailureAction::try_from(update.failure_action).is_err() {
        problems.add(format!(
            "{which}-failure-action must be pause, continue or rollback"
        ));
    }
    if UpdateOrder::try_from(update.order).is_err() {
        problems.add(format!("{which}-order must be stop-first or start-first"));
    }
}

fn check_endpoint(endpoint: &EndpointSpec, problems: &mut Problems) {
    let dnsrr = endpoint.mode() == EndpointMode::Dnsrr;
    problems.add_if(
        dnsrr
            && versions::ports(Some(endpoint), PublishMode::Ingress)
                .next()
                .is_some(),
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    );
    let mut published = BTreeSet::new();
    let mut targets = BTreeSet::new();
    for port in &endpoint.ports {
        problems.add_if(
            PortProtocol::try_from(port.protocol).is_err(),
            "EndpointSpec: protocol must be tcp, udp or sctp",
        );
        if port.target_port == 0 || port.target_port > 65_535 {
            problems.add(format!(
                "EndpointSpec: target port {} must be between 1 and 65535",
                port.target_port
            ));
        }
        if port.published_port > 65_535 {
            problems.add(format!(
                "EndpointSpec: published port {} must be at most 65535",
                port.published_port
            ));
        }
        if port.published_port != 0 && !published.insert((port.protocol, port.published_port)) {
            problems.add("EndpointSpec: duplicate published ports provided");
        }
        if !targets.insert((
            port.protocol,
            port.target_port,
            port.published_port,
            port.publish_mode,
        )) {
            problems.add(format!(
                "EndpointSpec: port {} is published twice in the same way",
                port.target_port
            ));
        }
    }
}
