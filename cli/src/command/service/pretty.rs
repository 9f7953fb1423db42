//! `service inspect --pretty`.

use pontoon_proto::v1::{
    EndpointMode, GetRequest, PortProtocol, PublishMode, Resources, Service, UpdateConfig,
    UpdateFailureAction, UpdateOrder, UpdateState, service_spec::Mode,
};

use crate::client::Client;
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
    let container = task.container.clone().unwrap_or_default();
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
            out.push_str(&format!(
                "Service Mode:\tReplicated\n Replicas:\t{}\n",
                mode.replicas
            ));
        }
        None => {}
    }
    if let Some(update) = service
        .update_status
        .as_ref()
        .filter(|update| update.state() != UpdateState::None)
    {
        out.push_str(&format!(
            "UpdateStatus:\n State:\t\t{}\n",
            update_state_name(update.state())
        ));
        out.push_str(&format!(" Started:\t{}\n", human::ago(update.started_at)));
        if update.completed_at != 0 {
            out.push_str(&format!(" Completed:\t{}\n", human::ago(update.completed_at)));
        }
        out.push_str(&format!(" Message:\t{}\n", update.message));
    }
    let placement = task.placement.clone().unwrap_or_default();
    if !placement.constraints.is_empty() || !placement.preferences.is_empty() {
        out.push_str("Placement:\n");
        if !placement.constraints.is_empty() {
            out.push_str(&format!(" Constraints:\t[{}]\n", placement.constraints.join(" ")));
        }
        for preference in &placement.preferences {
            out.push_str(&format!(
                " Preferences:\tspread={}\n",
                preference.spread_descriptor
            ));
        }
    }
    update(&mut out, "UpdateConfig", "update", spec.update.as_ref());
    update(&mut out, "RollbackConfig", "rollback", spec.rollback.as_ref());
    out.push_str(&format!("ContainerSpec:\n Image:\t\t{}\n", container.image));
    if !container.args.is_empty() {
        out.push_str(&format!(" Args:\t\t{}\n", container.args.join(" ")));
    }
    if !container.env.is_empty() {
        out.push_str(&format!(" Env:\t\t{}\n", container.env.join(" ")));
    }
    let limits = task.resources.unwrap_or_default();
    if limits.limits.is_some() || limits.reservations.is_some() {
        out.push_str("Resources:\n");
        resources(&mut out, " Reservations", limits.reservations.as_ref());
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
    let endpoint = service.endpoint.clone().unwrap_or_default();
    let mode = endpoint.spec.clone().unwrap_or_default().mode();
    out.push_str(&format!(
        "Endpoint Mode:\t{}\n",
        if mode == EndpointMode::Vip { "vip" } else { "dnsrr" }
    ));
    if !endpoint.ports.is_empty() {
        out.push_str("Ports:\n");
    }
    for port in &endpoint.ports {
        out.push_str(&format!(
            " PublishedPort = {}\n  Protocol = {}\n  TargetPort = {}\n  PublishMode = {}\n",
            port.published_port,
            if port.protocol() == PortProtocol::Tcp {
                "tcp"
            } else {
                "udp"
            },
            port.target_port,
            if port.publish_mode() == PublishMode::Ingress {
                "ingress"
            } else {
                "host"
            },
        ));
    }
    out
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
