//! `service inspect --pretty`.

use pontoon_proto::v1::{
    ContainerSpec, DisconnectPolicy, Endpoint, EndpointMode, GetRequest, Placement, PortProtocol,
    PublishMode, Resources, Service, UpdateConfig, UpdateFailureAction, UpdateOrder, UpdateState,
    UpdateStatus, disconnect_policy::Action, service_spec::Mode,
};

use crate::client::Client;
use crate::command::inspect::type_name;
use crate::command::inspect::update_state_name;
use crate::error::Outcome;
use crate::output::{human, listing};

/// Prints services for people.
///
/// # Errors
/// The daemon's.
pub async fn run(client: &Client, names: &[String]) -> Outcome {
    for (at, name) in names.iter().enumerate() {
        let service = client
            .control()
            .get_service(GetRequest { target: name.clone() })
            .await?
            .into_inner();
        if at > 0 {
            listing::write("\n");
        }
        listing::write(&text(&service));
    }
    Ok(0)
}

fn text(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.clone().unwrap_or_default();
    let task = spec.task.clone().unwrap_or_default();
    let mut out = format!("ID:\t\t{}\nName:\t\t{}\n", service.id, annotations.name);
    if !annotations.labels.is_empty() {
        let mut labels: Vec<_> = annotations.labels.iter().collect();
        labels.sort();
        out.push_str("Labels:\n");
        for (key, value) in labels {
            out.push_str(&format!(" {key}={value}\n"));
        }
    }
    match &spec.mode {
        Some(Mode::Global(_)) => out.push_str("Service Mode:\tGlobal\n"),
        Some(Mode::Replicated(mode)) => {
            let replicas = mode.replicas;
            out.push_str(&format!("Service Mode:\tReplicated\n Replicas:\t{replicas}\n"));
        }
        Some(Mode::GlobalJob(_)) => out.push_str("Service Mode:\tGlobal Job\n"),
        Some(Mode::ReplicatedJob(job)) => out.push_str(&format!(
            "Service Mode:\tReplicated Job\n Max Concurrent:\t{}\n Total Completions:\t{}\n",
            job.concurrency(),
            job.total_completions
        )),
        None => {}
    }
    if let Some(job) = service.job_status {
        let (run, begun) = (job.iteration, human::ago(job.last_execution));
        out.push_str(&format!(
            "JobStatus:\n Iteration:\t{run}\n Last Execution:\t{begun}\n"
        ));
    }
    update_status(&mut out, service.update_status.as_ref());
    placement(&mut out, task.placement.as_ref());
    disconnect(&mut out, spec.on_disconnect.as_ref());
    update(&mut out, "UpdateConfig", "update", spec.update.as_ref());
    update(&mut out, "RollbackConfig", "rollback", spec.rollback.as_ref());
    container(&mut out, &task.container.unwrap_or_default());
    let limits = task.resources.unwrap_or_default();
    let units = &limits.generic_reservations;
    if limits.limits.is_some() || limits.reservations.is_some() || !units.is_empty() {
        out.push_str("Resources:\n");
        let reserved = (!units.is_empty()).then(Resources::default);
        resources(
            &mut out,
            " Reservations",
            limits.reservations.or(reserved).as_ref(),
        );
        for unit in units {
            let value = match unit.name.as_str() {
                "" => unit.count.to_string(),
                name => name.to_owned(),
            };
            out.push_str(&format!("  {}:\t{value}\n", unit.kind));
        }
        resources(&mut out, " Limits", limits.limits.as_ref());
    }
    if !task.networks.is_empty() {
        let names: Vec<_> = task
            .networks
            .iter()
            .map(|network| network.target.as_str())
            .collect();
        out.push_str(&format!("Networks: {}\n", names.join(" ")));
    }
    endpoint(&mut out, &service.endpoint.clone().unwrap_or_default());
    out
}

fn update_status(out: &mut String, status: Option<&UpdateStatus>) {
    let Some(status) = status.filter(|status| status.state() != UpdateState::None) else {
        return;
    };
    let state = update_state_name(status.state());
    let started = human::ago(status.started_at);
    out.push_str(&format!(
        "UpdateStatus:\n State:\t\t{state}\n Started:\t{started}\n"
    ));
    if status.completed_at != 0 {
        out.push_str(&format!(" Completed:\t{}\n", human::ago(status.completed_at)));
    }
    out.push_str(&format!(" Message:\t{}\n", status.message));
}

fn placement(out: &mut String, placement: Option<&Placement>) {
    let Some(placement) = placement else { return };
    if placement.constraints.is_empty() && placement.preferences.is_empty() && placement.max_replicas == 0 {
        return;
    }
    out.push_str("Placement:\n");
    if !placement.constraints.is_empty() {
        out.push_str(&format!(" Constraints:\t[{}]\n", placement.constraints.join(" ")));
    }
    for preference in &placement.preferences {
        let spread = &preference.spread_descriptor;
        out.push_str(&format!(" Preferences:\tspread={spread}\n"));
    }
    if placement.max_replicas > 0 {
        out.push_str(&format!(" Max Replicas Per Node:\t{}\n", placement.max_replicas));
    }
}

fn disconnect(out: &mut String, policy: Option<&DisconnectPolicy>) {
    let Some(policy) = policy else { return };
    let action = match policy.action() {
        Action::Replace => "replace",
        Action::Keep => "keep",
    };
    out.push_str(&format!("OnDisconnect:\n Action:\t{action}\n"));
    if let Some(grace) = policy.grace {
        out.push_str(&format!(
            " Grace:\t\t{}\n",
            format_args!("{}s", grace as f64 / 1e9)
        ));
    }
}

fn container(out: &mut String, container: &ContainerSpec) {
    out.push_str(&format!("ContainerSpec:\n Image:\t\t{}\n", container.image));
    for (title, words) in [("Args", &container.args), ("Env", &container.env)] {
        if !words.is_empty() {
            out.push_str(&format!(" {title}:\t\t{}\n", words.join(" ")));
        }
    }
    if !container.mounts.is_empty() {
        out.push_str("Mounts:\n");
    }
    for mount in &container.mounts {
        let kind = type_name(mount.r#type());
        out.push_str(&format!(
            " Target:\t{}\n  Source:\t{}\n  ReadOnly:\t{}\n  Type:\t\t{kind}\n",
            mount.target, mount.source, mount.read_only
        ));
    }
}

fn endpoint(out: &mut String, endpoint: &Endpoint) {
    let mode = match endpoint.spec.clone().unwrap_or_default().mode() {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    };
    out.push_str(&format!("Endpoint Mode:\t{mode}\n"));
    if !endpoint.ports.is_empty() {
        out.push_str("Ports:\n");
    }
    for port in &endpoint.ports {
        let protocol = match port.protocol() {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
            PortProtocol::Sctp => "sctp",
        };
        let mode = match port.publish_mode() {
            PublishMode::Ingress => "ingress",
            PublishMode::Host => "host",
        };
        out.push_str(&format!(
            " PublishedPort = {}\n  Protocol = {protocol}\n  TargetPort = {}\n  PublishMode = {mode}\n",
            port.published_port, port.target_port,
        ));
    }
}

fn resources(out: &mut String, title: &str, resources: Option<&Resources>) {
    let Some(resources) = resources else { return };
    out.push_str(&format!("{title}:\n"));
    if resources.nano_cpus != 0 {
        out.push_str(&format!("  CPU:\t\t{}\n", resources.nano_cpus as f64 / 1e9));
    }
    if resources.memory_bytes != 0 {
        out.push_str(&format!(
            "  Memory:\t{}\n",
            human::binary_size(resources.memory_bytes)
        ));
    }
}

fn update(out: &mut String, title: &str, verb: &str, config: Option<&UpdateConfig>) {
    let Some(config) = config else { return };
    let seconds = |nanoseconds: i64| format!("{}s", nanoseconds as f64 / 1e9);
    out.push_str(&format!("{title}:\n Parallelism:\t{}\n", config.parallelism));
    if config.delay != 0 {
        out.push_str(&format!(" Delay:\t\t{}\n", seconds(config.delay)));
    }
    let action = match config.failure_action() {
        UpdateFailureAction::Pause => "pause",
        UpdateFailureAction::Continue => "continue",
        UpdateFailureAction::Rollback => "rollback",
    };
    let order = match config.order() {
        UpdateOrder::StopFirst => "stop-first",
        UpdateOrder::StartFirst => "start-first",
    };
    out.push_str(&format!(
        " On failure:\t{action}\n Monitoring Period: {}\n",
        seconds(config.monitor.unwrap_or(5_000_000_000))
    ));
    out.push_str(&format!(
        " Max failure ratio: {}\n {}{} order:      {order}\n",
        config.max_failure_ratio,
        verb[..1].to_uppercase(),
        &verb[1..]
    ));
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{Annotations, PortConfig, ReplicatedMode, ServiceSpec, TaskSpec};

    use super::*;

    #[test]
    fn services_are_shown_as_docker_does() {
        let task = TaskSpec {
            container: Some(ContainerSpec {
                image: "img".into(),
                args: vec!["a".into(), "b".into()],
                ..Default::default()
            }),
            placement: Some(Placement {
                constraints: vec!["node.role==worker".into()],
                max_replicas: 2,
                ..Default::default()
            }),
            ..Default::default()
        };
        let service = Service {
            id: "i".into(),
            spec: Some(ServiceSpec {
                annotations: Some(Annotations {
                    name: "n".into(),
                    labels: [("k".to_owned(), "v".to_owned())].into(),
                }),
                mode: Some(Mode::Replicated(ReplicatedMode { replicas: 2 })),
                task: Some(task),
                ..Default::default()
            }),
            endpoint: Some(Endpoint {
                ports: vec![PortConfig {
                    target_port: 80,
                    published_port: 8080,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let expected = "\
ID:\t\ti
Name:\t\tn
Labels:
 k=v
Service Mode:\tReplicated
 Replicas:\t2
Placement:
 Constraints:\t[node.role==worker]
 Max Replicas Per Node:\t2
ContainerSpec:
 Image:\t\timg
 Args:\t\ta b
Endpoint Mode:\tvip
Ports:
 PublishedPort = 8080
  Protocol = tcp
  TargetPort = 80
  PublishMode = ingress
";
        assert_eq!(text(&service), expected);
    }
}
