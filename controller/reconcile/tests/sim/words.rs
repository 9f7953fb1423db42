//! The language of the cases: `key=value` words that make up nodes and services.

use pontoon_proto::v1::*;

use super::SECOND;

/// `1500ms`, `5s`, `2m`, `24h` in nanoseconds.
pub fn duration(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).expect("a unit"));
    let number: i64 = number.parse().expect("a number");
    number
        * match unit {
            "ms" => SECOND / 1000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            other => panic!("unit {other}"),
        }
}

/// `512M`, `2G` in bytes.
fn bytes(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.len() - 1);
    number.parse::<i64>().expect("a number") << if unit == "G" { 30 } else { 20 }
}

fn nano(text: &str) -> i64 {
    #[allow(clippy::cast_possible_truncation)]
    let nano = (text.parse::<f64>().expect("a number") * 1e9) as i64;
    nano
}

/// Applies a word to a node.
pub fn node(node: &mut Node, word: &str) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    let spec = node.spec.get_or_insert_default();
    let description = node.description.get_or_insert_default();
    match key {
        "cpu" => description.resources.get_or_insert_default().nano_cpus = nano(value),
        "mem" => description.resources.get_or_insert_default().memory_bytes = bytes(value),
        "arch" => description.platform.get_or_insert_default().architecture = value.to_owned(),
        "manager" => spec.set_role(NodeRole::Manager),
        "worker" => spec.set_role(NodeRole::Worker),
        "active" => spec.set_availability(Availability::Active),
        "pause" => spec.set_availability(Availability::Pause),
        "drain" => spec.set_availability(Availability::Drain),
        key => {
            let name = key
                .strip_prefix("label.")
                .unwrap_or_else(|| panic!("node word {word}"));
            let labels = &mut spec.annotations.get_or_insert_default().labels;
            labels.insert(name.to_owned(), value.to_owned());
        }
    }
}

pub fn service(name: &str) -> ServiceSpec {
    ServiceSpec {
        annotations: Some(Annotations {
            name: name.to_owned(),
            ..Default::default()
        }),
        task: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: "app:1".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        mode: Some(service_spec::Mode::Replicated(ReplicatedMode { replicas: 1 })),
        ..Default::default()
    }
}

/// `8080:80`, `8080:80/udp`, `8080:80@host`, `:80` (port chosen).
fn port(text: &str) -> PortConfig {
    let (text, mode) = text.split_once('@').unwrap_or((text, "ingress"));
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = text.split_once(':').expect("published:target");
    PortConfig {
        protocol: i32::from(protocol == "udp"),
        target_port: target.parse().expect("a port"),
        published_port: if published.is_empty() {
            0
        } else {
            published.parse().expect("a port")
        },
        publish_mode: i32::from(mode == "host"),
    }
}

/// Applies a word to a service's spec; `network` turns a network's name into its id.
pub fn spec(spec: &mut ServiceSpec, word: &str, network: &dyn Fn(&str) -> String) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    if let Some(rest) = key.strip_prefix("update-") {
        return update(spec.update.get_or_insert_with(one_at_a_time), rest, value);
    }
    if let Some(rest) = key.strip_prefix("rollback-") {
        return update(spec.rollback.get_or_insert_with(one_at_a_time), rest, value);
    }
    if let Some(rest) = key.strip_prefix("restart") {
        return restart(
            spec.task.get_or_insert_default().restart.get_or_insert_default(),
            rest,
            value,
        );
    }
    let task = spec.task.get_or_insert_default();
    match key {
        "on-disconnect" => spec.on_disconnect = Some(disconnect(value)),
        "replicas" => {
            let replicas = value.parse().expect("a number");
            spec.mode = Some(service_spec::Mode::Replicated(ReplicatedMode { replicas }));
        }
        "global" => spec.mode = Some(service_spec::Mode::Global(GlobalMode {})),
        "image" => value.clone_into(&mut task.container.get_or_insert_default().image),
        "force" => task.force_update += 1,
        "no-mode" => spec.mode = None,
        "reserve-cpu" => reservations(task).nano_cpus = nano(value),
        "reserve-mem" => reservations(task).memory_bytes = bytes(value),
        "constraint" => task
            .placement
            .get_or_insert_default()
            .constraints
            .push(value.to_owned()),
        "no-constraints" => task.placement.get_or_insert_default().constraints.clear(),
        "spread" => {
            let preference = PlacementPreference {
                spread_descriptor: value.to_owned(),
            };
            task.placement
                .get_or_insert_default()
                .preferences
                .push(preference);
        }
        "platform" => {
            let (os, architecture) = value.split_once('/').expect("os/arch");
            let platform = Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            };
            task.placement.get_or_insert_default().platforms.push(platform);
        }
        "max-per-node" => {
            task.placement.get_or_insert_default().max_replicas = value.parse().expect("a number")
        }
        "network" => {
            task.networks.push(NetworkAttachmentConfig {
                target: network(value),
                ..Default::default()
            });
        }
        "publish" => spec.endpoint.get_or_insert_default().ports.push(port(value)),
        "no-ports" => spec.endpoint.get_or_insert_default().ports.clear(),
        "dnsrr" => spec
            .endpoint
            .get_or_insert_default()
            .set_mode(EndpointMode::Dnsrr),
        key => {
            let name = key
                .strip_prefix("label.")
                .unwrap_or_else(|| panic!("service word {word}"));
            let labels = &mut spec.annotations.get_or_insert_default().labels;
            labels.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn disconnect(value: &str) -> DisconnectPolicy {
    let (action, grace) = value
        .split_once(':')
        .map_or((value, None), |(action, grace)| (action, Some(duration(grace))));
    let mut policy = DisconnectPolicy {
        grace,
        ..Default::default()
    };
    policy.set_action(match action {
        "keep" => disconnect_policy::Action::Keep,
        "replace" => disconnect_policy::Action::Replace,
        other => panic!("action {other}"),
    });
    policy
}

fn reservations(task: &mut TaskSpec) -> &mut Resources {
    task.resources
        .get_or_insert_default()
        .reservations
        .get_or_insert_default()
}

fn one_at_a_time() -> UpdateConfig {
    UpdateConfig {
        parallelism: 1,
        ..Default::default()
    }
}

fn update(update: &mut UpdateConfig, key: &str, value: &str) {
    match key {
        "parallelism" => update.parallelism = value.parse().expect("a number"),
        "delay" => update.delay = duration(value),
        "monitor" => update.monitor = Some(duration(value)),
        "ratio" => update.max_failure_ratio = value.parse().expect("a ratio"),
        "order" => update.set_order(match value {
            "start-first" => UpdateOrder::StartFirst,
            _ => UpdateOrder::StopFirst,
        }),
        "failure-action" => update.set_failure_action(match value {
            "continue" => UpdateFailureAction::Continue,
            "rollback" => UpdateFailureAction::Rollback,
            _ => UpdateFailureAction::Pause,
        }),
        other => panic!("update word {other}"),
    }
}

fn restart(policy: &mut RestartPolicy, key: &str, value: &str) {
    match key {
        "" => policy.set_condition(match value {
            "none" => RestartCondition::None,
            "on-failure" => RestartCondition::OnFailure,
            _ => RestartCondition::Any,
        }),
        "-delay" => policy.delay = Some(duration(value)),
        "-attempts" => policy.max_attempts = value.parse().expect("a number"),
        "-window" => policy.window = duration(value),
        other => panic!("restart word {other}"),
    }
}
