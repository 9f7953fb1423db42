//! Docker's JSON of the cluster's objects: nodes, services, tasks, networks.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use pontoon_proto::v1::{
    Availability, Dependency, EndpointMode, IpamConfig, Meta, Network, Node, NodeRole, PortConfig,
    PortProtocol, PublishMode, Reachability, ResourceRequirements, Resources, RestartCondition, Service,
    ServiceSpec, Task, TaskStep, TlsInfo, UpdateConfig, UpdateFailureAction, UpdateOrder, UpdateState,
    dependency::Condition, disconnect_policy::Action, service_spec::Mode,
};
use serde_json::{Value, json};

use super::container::health_json;
use super::mounts;
use crate::generic;
use crate::output::human;

fn meta(value: &mut Value, meta: Option<&Meta>) {
    let meta = meta.copied().unwrap_or_default();
    value["Version"] = json!({ "Index": meta.version });
    value["CreatedAt"] = human::rfc3339(meta.created_at).into();
    value["UpdatedAt"] = human::rfc3339(meta.updated_at).into();
}

/// "manager" or "worker".
pub fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Manager => "manager",
        NodeRole::Worker => "worker",
    }
}

/// "active", "pause" or "drain".
pub fn availability_name(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

/// The object as `node inspect` shows it.
pub fn node_json(node: &Node) -> Value {
    let spec = node.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.clone().unwrap_or_default();
    let description = node.description.clone().unwrap_or_default();
    let platform = description.platform.clone().unwrap_or_default();
    let resources = description.resources.unwrap_or_default();
    let engine = description.engine.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut value = json!({
        "ID": node.id,
        "Spec": {
            "Name": annotations.name, "Labels": annotations.labels, "Role": role_name(spec.role()),
            "Availability": availability_name(spec.availability()),
        },
        "Description": {
            "Hostname": description.hostname,
            "Platform": { "Architecture": platform.architecture, "OS": platform.os },
            "Resources": { "NanoCPUs": resources.nano_cpus, "MemoryBytes": resources.memory_bytes },
            "Engine": {
                "EngineVersion": engine.engine_version, "Labels": engine.labels,
                "Plugins": engine.plugins.iter()
                    .map(|plugin| json!({ "Type": plugin.r#type, "Name": plugin.name }))
                    .collect::<Vec<_>>(),
            },
            "TLSInfo": tls_json(description.tls_info.as_ref()),
        },
        "Status": { "State": status.state().name(), "Message": status.message, "Addr": status.addr },
    });
    if !description.generic_resources.is_empty() {
        let units = generic::json(&description.generic_resources);
        value["Description"]["Resources"]["GenericResources"] = units;
    }
    meta(&mut value, node.meta.as_ref());
    if let Some(manager) = &node.manager_status {
        value["ManagerStatus"] = json!({
            "Leader": manager.leader, "Reachability": reachability_name(manager.reachability()), "Addr": manager.addr,
        });
    }
    value
}

/// Docker's `TLSInfo`.
pub fn tls_json(info: Option<&TlsInfo>) -> Value {
    match info {
        None => json!({}),
        Some(info) => json!({
            "TrustRoot": String::from_utf8_lossy(&info.trust_root),
            "CertIssuerSubject": STANDARD.encode(&info.issuer_subject),
            "CertIssuerPublicKey": STANDARD.encode(&info.issuer_public_key),
        }),
    }
}

/// "reachable", "unreachable" or "unknown".
pub fn reachability_name(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Unknown => "unknown",
        Reachability::Unreachable => "unreachable",
        Reachability::Reachable => "reachable",
    }
}

fn port_json(port: &PortConfig) -> Value {
    json!({
        "Protocol": match port.protocol() { PortProtocol::Tcp => "tcp", PortProtocol::Udp => "udp", PortProtocol::Sctp => "sctp" },
        "TargetPort": port.target_port,
        "PublishedPort": port.published_port,
        "PublishMode": match port.publish_mode() { PublishMode::Ingress => "ingress", PublishMode::Host => "host" },
    })
}

fn resources_json(resources: Option<&Resources>) -> Value {
    let resources = resources.copied().unwrap_or_default();
    let mut value = json!({});
    for (name, amount) in [
        ("NanoCPUs", resources.nano_cpus),
        ("MemoryBytes", resources.memory_bytes),
        ("Pids", resources.pids),
    ] {
        if amount != 0 {
            value[name] = amount.into();
        }
    }
    value
}

/// Besides CPUs and memory, the generic resources.
fn reservations_json(resources: &ResourceRequirements) -> Value {
    let mut value = resources_json(resources.reservations.as_ref());
    if !resources.generic_reservations.is_empty() {
        value["GenericResources"] = generic::json(&resources.generic_reservations);
    }
    value
}

fn update_json(update: &UpdateConfig) -> Value {
    json!({
        "Parallelism": update.parallelism, "Delay": update.delay,
        "FailureAction": match update.failure_action() {
            UpdateFailureAction::Pause => "pause",
            UpdateFailureAction::Continue => "continue",
            UpdateFailureAction::Rollback => "rollback",
        },
        "Monitor": update.monitor.unwrap_or(5_000_000_000), "MaxFailureRatio": update.max_failure_ratio,
        "Order": match update.order() { UpdateOrder::StopFirst => "stop-first", UpdateOrder::StartFirst => "start-first" },
    })
}

fn mode_json(mode: Option<&Mode>) -> Value {
    match mode {
        Some(Mode::Global(_)) => json!({ "Global": {} }),
        Some(Mode::Replicated(mode)) => json!({ "Replicated": { "Replicas": mode.replicas } }),
        Some(Mode::ReplicatedJob(job)) => json!({ "ReplicatedJob": {
            "MaxConcurrent": job.concurrency(), "TotalCompletions": job.total_completions,
        } }),
        Some(Mode::GlobalJob(_)) => json!({ "GlobalJob": {} }),
        None => json!({ "Replicated": { "Replicas": 1 } }),
    }
}

/// What Docker's services don't have.
fn beyond_docker(value: &mut Value, spec: &ServiceSpec) {
    let drain_period = spec.task.as_ref().and_then(|task| task.drain_period);
    if !spec.depends_on.is_empty() {
        let depends = |depends: &Dependency| {
            let condition = match depends.condition() {
                Condition::Started => "service_started",
                Condition::Healthy => "service_healthy",
                Condition::Completed => "service_completed_successfully",
            };
            json!({ "Service": depends.service, "Condition": condition, "Required": !depends.optional })
        };
        value["DependsOn"] = spec.depends_on.iter().map(depends).collect();
    }
    if let Some(period) = drain_period {
        value["TaskTemplate"]["DrainPeriod"] = period.into();
    }
    if let Some(policy) = &spec.on_disconnect {
        let action = match policy.action() {
            Action::Replace => "replace",
            Action::Keep => "keep",
        };
        value["OnDisconnect"] = json!({ "Action": action });
        if let Some(grace) = policy.grace {
            value["OnDisconnect"]["Grace"] = grace.into();
        }
    }
}

fn spec_json(spec: &ServiceSpec) -> Value {
    let annotations = spec.annotations.clone().unwrap_or_default();
    let task = spec.task.clone().unwrap_or_default();
    let container = task.container.clone().unwrap_or_default();
    let resources = task.resources.unwrap_or_default();
    let restart = task.restart.unwrap_or_default();
    let placement = task.placement.clone().unwrap_or_default();
    let endpoint = spec.endpoint.clone().unwrap_or_default();
    let mut value = json!({
        "Name": annotations.name,
        "Labels": annotations.labels,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": container.image, "Labels": container.labels, "Command": container.command, "Args": container.args,
                "Hostname": container.hostname, "Env": container.env, "Dir": container.dir, "User": container.user,
                "Groups": container.groups, "TTY": container.tty, "OpenStdin": container.open_stdin,
                "ReadOnly": container.read_only, "StopSignal": container.stop_signal, "Init": container.init,
                "StopGracePeriod": container.stop_grace_period,
                "Healthcheck": container.healthcheck.as_ref().map(health_json),
                "CapabilityAdd": container.cap_add, "CapabilityDrop": container.cap_drop, "Sysctls": container.sysctls,
                "Hosts": container.hosts,
            },
            "Resources": {
                "Limits": resources_json(resources.limits.as_ref()),
                "Reservations": reservations_json(&resources),
            },
            "RestartPolicy": {
                "Condition": match restart.condition() {
                    RestartCondition::Any => "any",
                    RestartCondition::OnFailure => "on-failure",
                    RestartCondition::None => "none",
                },
                "Delay": restart.delay.unwrap_or(5_000_000_000), "MaxAttempts": restart.max_attempts, "Window": restart.window,
            },
            "Placement": {
                "Constraints": placement.constraints, "MaxReplicas": placement.max_replicas,
                "Preferences": placement.preferences.iter()
                    .map(|preference| json!({ "Spread": { "SpreadDescriptor": preference.spread_descriptor } }))
                    .collect::<Vec<_>>(),
            },
            "Networks": task.networks.iter()
                .map(|network| json!({ "Target": network.target, "Aliases": network.aliases }))
                .collect::<Vec<_>>(),
            "ForceUpdate": task.force_update,
            "Runtime": "container",
        },
        "Mode": mode_json(spec.mode.as_ref()),
        "EndpointSpec": {
            "Mode": match endpoint.mode() { EndpointMode::Vip => "vip", EndpointMode::Dnsrr => "dnsrr" },
            "Ports": endpoint.ports.iter().map(port_json).collect::<Vec<_>>(),
        },
    });
    if let Some(mounts) = mounts::of_service(&container.mounts) {
        value["TaskTemplate"]["ContainerSpec"]["Mounts"] = mounts;
    }
    for (name, update) in [("UpdateConfig", &spec.update), ("RollbackConfig", &spec.rollback)] {
        if let Some(update) = update {
            value[name] = update_json(update);
        }
    }
    if let Some(longest) = restart.max_delay {
        value["TaskTemplate"]["RestartPolicy"]["MaxDelay"] = longest.into();
    }
    if let Some(driver) = &task.log_driver {
        value["TaskTemplate"]["LogDriver"] = json!({ "Name": driver.name, "Options": driver.options });
    }
    beyond_docker(&mut value, spec);
    value
}

/// Docker's word for the state of an update.
pub fn update_state_name(state: UpdateState) -> &'static str {
    match state {
        UpdateState::None => "",
        UpdateState::Updating => "updating",
        UpdateState::Paused => "paused",
        UpdateState::Completed => "completed",
        UpdateState::RollbackStarted => "rollback_started",
        UpdateState::RollbackPaused => "rollback_paused",
        UpdateState::RollbackCompleted => "rollback_completed",
    }
}

/// The object as `service inspect` shows it.
pub fn service_json(service: &Service) -> Value {
    let endpoint = service.endpoint.clone().unwrap_or_default();
    let mut value = json!({
        "ID": service.id,
        "Spec": spec_json(&service.spec.clone().unwrap_or_default()),
        "Endpoint": {
            "Spec": { "Mode": match endpoint.spec.clone().unwrap_or_default().mode() {
                EndpointMode::Vip => "vip",
                EndpointMode::Dnsrr => "dnsrr",
            } },
            "Ports": endpoint.ports.iter().map(port_json).collect::<Vec<_>>(),
            "VirtualIPs": endpoint.virtual_ips.iter()
                .map(|ip| json!({ "NetworkID": ip.network_id, "Addr": ip.addr }))
                .collect::<Vec<_>>(),
        },
    });
    meta(&mut value, service.meta.as_ref());
    if let Some(previous) = &service.previous_spec {
        value["PreviousSpec"] = spec_json(previous);
    }
    if let Some(job) = &service.job_status {
        value["JobStatus"] = json!({
            "JobIteration": { "Index": job.iteration }, "LastExecution": human::rfc3339(job.last_execution),
        });
    }
    if let Some(update) = service
        .update_status
        .as_ref()
        .filter(|update| update.state() != UpdateState::None)
    {
        value["UpdateStatus"] = json!({
            "State": update_state_name(update.state()), "StartedAt": human::rfc3339(update.started_at),
            "CompletedAt": human::rfc3339(update.completed_at), "Message": update.message,
        });
    }
    value
}

/// The object as `inspect` shows a task.
pub fn task_json(task: &Task) -> Value {
    let status = task.status.clone().unwrap_or_default();
    let container = status.container.clone().unwrap_or_default();
    let mut value = json!({
        "ID": task.id, "ServiceID": task.service_id, "Slot": task.slot, "NodeID": task.node_id,
        "DesiredState": task.desired_state().name(),
        "Status": {
            "Timestamp": human::rfc3339(status.timestamp), "State": status.state().name(), "Message": status.message,
            "Err": status.err,
            "ContainerStatus": {
                "ContainerID": container.container_id, "PID": container.pid, "ExitCode": container.exit_code,
            },
            "PortStatus": { "Ports": status.ports.iter().map(port_json).collect::<Vec<_>>() },
        },
        "NetworksAttachments": task.networks.iter()
            .map(|network| json!({ "Network": { "ID": network.network_id }, "Addresses": [network.addr] }))
            .collect::<Vec<_>>(),
    });
    if container.oom_killed {
        value["Status"]["ContainerStatus"]["OOMKilled"] = true.into();
    }
    if !status.output.is_empty() {
        value["Status"]["Output"] = status.output.into();
    }
    if let Some(iteration) = task.job_iteration {
        value["JobIteration"] = json!({ "Index": iteration });
    }
    if !task.steps.is_empty() {
        let step = |step: &TaskStep| json!({ "Timestamp": human::rfc3339(step.at), "State": step.state().name(), "Reason": step.reason });
        value["Steps"] = task.steps.iter().map(step).collect();
    }
    if !task.generic_resources.is_empty() {
        value["AssignedGenericResources"] = generic::json(&task.generic_resources);
    }
    meta(&mut value, task.meta.as_ref());
    value
}

fn ipam_json(ipam: &[IpamConfig]) -> Value {
    let configs: Vec<Value> = ipam
        .iter()
        .map(|config| {
            let mut value = json!({ "Subnet": config.subnet });
            if !config.range.is_empty() {
                value["IPRange"] = config.range.clone().into();
            }
            if !config.gateway.is_empty() {
                value["Gateway"] = config.gateway.clone().into();
            }
            if !config.auxiliary_addresses.is_empty() {
                value["AuxiliaryAddresses"] = json!(config.auxiliary_addresses);
            }
            value
        })
        .collect();
    json!({ "Driver": "default", "Options": null, "Config": configs })
}

/// A cluster's network as `network inspect` shows it.
pub fn network_json(network: &Network) -> Value {
    let spec = network.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.clone().unwrap_or_default();
    let mut options = spec.driver_opts.clone();
    if network.vni != 0 {
        options.insert(
            "com.docker.network.driver.overlay.vxlanid_list".to_owned(),
            network.vni.to_string(),
        );
    }
    json!({
        "Name": annotations.name, "Id": network.id, "Created": human::rfc3339(network.meta.unwrap_or_default().created_at),
        "Scope": "swarm", "Driver": spec.driver, "EnableIPv6": spec.enable_ipv6, "IPAM": ipam_json(&network.ipam),
        "Internal": spec.internal, "Attachable": spec.attachable, "Ingress": spec.ingress, "Containers": {},
        "Options": options, "Labels": annotations.labels,
    })
}
