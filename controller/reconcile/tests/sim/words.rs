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

/// `3` of a kind, or the one of a name.
fn unit(kind: &str, value: &str) -> GenericResource {
    let count = value.parse().ok();
    GenericResource {
        kind: kind.to_owned(),
        name: count.map_or(value.to_owned(), |_: i64| String::new()),
        count: count.unwrap_or(0),
    }
}

/// Applies a word to a node: `cpu=2`, `mem=1G`, `os=linux`, `arch=amd64`, `hostname=h`, `ip=192.0.2.1`, `label.K=V`,
/// `engine.label.K=V`, `generic.gpu=2`, `generic.gpu=a,b`, `plugin=Log/journald`, `manager`, `worker`, `active`, `pause`, `drain`.
pub fn node(node: &mut Node, word: &str) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    let spec = node.spec.get_or_insert_default();
    let description = node.description.get_or_insert_default();
    match key {
        "cpu" => description.resources.get_or_insert_default().nano_cpus = nano(value),
        "mem" => description.resources.get_or_insert_default().memory_bytes = bytes(value),
        "os" => description.platform.get_or_insert_default().os = value.to_owned(),
        "hostname" => value.clone_into(&mut description.hostname),
        "ip" => value.clone_into(&mut node.status.get_or_insert_default().addr),
        "plugin" => {
            let (kind, name) = value.split_once('/').expect("Type/name");
            let plugins = &mut description.engine.get_or_insert_default().plugins;
            plugins.push(PluginDescription {
                r#type: kind.to_owned(),
                name: name.to_owned(),
            });
        }
        "arch" => description.platform.get_or_insert_default().architecture = value.to_owned(),
        "manager" => spec.set_role(NodeRole::Manager),
        "worker" => spec.set_role(NodeRole::Worker),
        "active" => spec.set_availability(Availability::Active),
        "pause" => spec.set_availability(Availability::Pause),
        "drain" => spec.set_availability(Availability::Drain),
        key if key.starts_with("engine.label.") => {
            let labels = &mut description.engine.get_or_insert_default().labels;
            labels.insert(key["engine.label.".len()..].to_owned(), value.to_owned());
        }
        key if key.starts_with("generic.") => {
            let kind = &key["generic.".len()..];
            let offered = &mut description.generic_resources;
            offered.retain(|unit| unit.kind != kind);
            offered.extend(value.split(',').map(|value| unit(kind, value)));
        }
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
        "replicas" | "job" | "global-job" | "global" | "no-mode" => mode(&mut spec.mode, key, value),
        "image" => value.clone_into(&mut task.container.get_or_insert_default().image),
        "force" => task.force_update += 1,
        "after" => spec.depends_on.push(dependency(value)),
        "drain" => task.drain_period = Some(duration(value)),
        "reserve-cpu" => reservations(task).nano_cpus = nano(value),
        "reserve-mem" => reservations(task).memory_bytes = bytes(value),
        "generic" | "log" | "volume" => needs(task, key, value),
        "constraint" | "no-constraints" | "spread" | "platform" | "max-per-node" => {
            place(task.placement.get_or_insert_default(), key, value);
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

/// How many tasks there are to be.
fn mode(mode: &mut Option<service_spec::Mode>, key: &str, value: &str) {
    *mode = match (key, mode.take()) {
        ("replicas", Some(service_spec::Mode::ReplicatedJob(mut job))) => {
            job.total_completions = value.parse().expect("a number");
            Some(service_spec::Mode::ReplicatedJob(job))
        }
        ("replicas", _) => {
            let replicas = value.parse().expect("a number");
            Some(service_spec::Mode::Replicated(ReplicatedMode { replicas }))
        }
        // So many completions, and after a colon so many at a time.
        ("job", _) => {
            let (total, concurrent) = value.split_once(':').unwrap_or((value, "0"));
            Some(service_spec::Mode::ReplicatedJob(ReplicatedJobMode {
                total_completions: total.parse().expect("a number"),
                max_concurrent: concurrent.parse().expect("a number"),
            }))
        }
        ("global-job", _) => Some(service_spec::Mode::GlobalJob(GlobalJobMode {})),
        ("global", _) => Some(service_spec::Mode::Global(GlobalMode {})),
        _ => None,
    };
}

/// Where tasks may be.
fn place(placement: &mut Placement, key: &str, value: &str) {
    match key {
        "constraint" => placement.constraints.push(value.to_owned()),
        "no-constraints" => placement.constraints.clear(),
        "spread" => placement.preferences.push(PlacementPreference {
            spread_descriptor: value.to_owned(),
        }),
        "platform" => {
            let (os, architecture) = value.split_once('/').expect("os/arch");
            placement.platforms.push(Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
            });
        }
        _ => placement.max_replicas = value.parse().expect("a number"),
    }
}

/// `db:healthy`, `db:started:optional`.
fn dependency(value: &str) -> Dependency {
    let mut parts = value.split(':');
    let mut dependency = Dependency {
        service: parts.next().expect("a service").to_owned(),
        ..Default::default()
    };
    dependency.set_condition(match parts.next() {
        Some("started") => dependency::Condition::Started,
        Some("healthy") => dependency::Condition::Healthy,
        Some("completed") => dependency::Condition::Completed,
        other => panic!("condition {other:?}"),
    });
    dependency.optional = parts.next() == Some("optional");
    dependency
}

/// What only some nodes have: units of a kind, a driver of logs or of volumes.
fn needs(task: &mut TaskSpec, key: &str, value: &str) {
    match key {
        "generic" => {
            let (kind, value) = value.split_once(':').expect("kind:number or kind:name");
            let resources = task.resources.get_or_insert_default();
            resources.generic_reservations.push(unit(kind, value));
        }
        "log" => value.clone_into(&mut task.log_driver.get_or_insert_default().name),
        _ => {
            let mount = Mount {
                r#type: MountType::Volume.into(),
                source: "data".to_owned(),
                target: "/data".to_owned(),
                volume: Some(VolumeOptions {
                    driver: value.to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            task.container.get_or_insert_default().mounts.push(mount);
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
        "-max-delay" => policy.max_delay = Some(duration(value)),
        "-attempts" => policy.max_attempts = value.parse().expect("a number"),
        "-window" => policy.window = duration(value),
        other => panic!("restart word {other}"),
    }
}
