//! Service flags turned into a `ServiceSpec`: each set flag writes its one place, so that `update` changes nothing else.

use pontoon_proto::v1::{
    ContainerSpec, EndpointMode, HealthConfig, LogDriver, NetworkAttachmentConfig, Placement, PortConfig,
    PortProtocol, PublishMode, ReplicatedMode, RestartCondition, ServiceSpec, TaskSpec, UpdateConfig,
    UpdateFailureAction, UpdateOrder, service_spec::Mode,
};

use super::capabilities;
use super::options::{EndpointModeFlag, FailureActionFlag, OrderFlag, RestartConditionFlag, ServiceOptions};
use crate::command::container::config::{pair, publish};
use crate::error::Failure;

/// Writes the flags into a spec.
///
/// # Errors
/// A flag whose value is no good, or that does not go with the service's mode.
pub fn apply(options: &ServiceOptions, spec: &mut ServiceSpec) -> Result<(), Failure> {
    let task = spec.task.get_or_insert_default();
    container(options, task.container.get_or_insert_default())?;
    resources(options, task);
    restart(options, task);
    task.drain_period = options.drain_period.or(task.drain_period);
    if let Some(limit) = options.replicas_max_per_node {
        task.placement.get_or_insert_default().max_replicas = limit;
    }
    if options.log_driver.as_deref() == Some("") {
        // The nodes' own default again.
        task.log_driver = None;
    }
    if options.log_driver.as_ref().is_some_and(|name| !name.is_empty()) || !options.log_opt.is_empty() {
        let driver: &mut LogDriver = task.log_driver.get_or_insert_default();
        if let Some(name) = options.log_driver.as_ref().filter(|name| !name.is_empty()) {
            // Another driver does not know the options of the one before.
            *driver = LogDriver {
                name: name.clone(),
                ..LogDriver::default()
            };
        }
        for option in &options.log_opt {
            let (key, value) = pair("log-opt", option)?;
            driver.options.insert(key, value);
        }
    }
    mode(options, spec)?;
    spec.on_disconnect = options.on_disconnect.or(spec.on_disconnect);
    if let Some(mode) = options.endpoint_mode {
        spec.endpoint.get_or_insert_default().set_mode(match mode {
            EndpointModeFlag::Vip => EndpointMode::Vip,
            EndpointModeFlag::Dnsrr => EndpointMode::Dnsrr,
        });
    }
    let update = UpdateFlags {
        parallelism: options.update_parallelism,
        delay: options.update_delay,
        monitor: options.update_monitor,
        failure_action: options.update_failure_action,
        max_failure_ratio: options.update_max_failure_ratio,
        order: options.update_order,
    };
    if spec.is_job() && (update.is_given() || rollback_flags(options).is_given()) {
        return Err(Failure::new(
            "update and rollback configuration is not supported for jobs",
        ));
    }
    update.apply(&mut spec.update);
    let rollback = rollback_flags(options);
    if matches!(rollback.failure_action, Some(FailureActionFlag::Rollback)) {
        return Err(Failure::new(
            "--rollback-failure-action must be pause or continue",
        ));
    }
    rollback.apply(&mut spec.rollback);
    Ok(())
}

fn rollback_flags(options: &ServiceOptions) -> UpdateFlags {
    UpdateFlags {
        parallelism: options.rollback_parallelism,
        delay: options.rollback_delay,
        monitor: options.rollback_monitor,
        failure_action: options.rollback_failure_action,
        max_failure_ratio: options.rollback_max_failure_ratio,
        order: options.rollback_order,
    }
}

/// How many tasks there are to be, and how many at a time.
fn mode(options: &ServiceOptions, spec: &mut ServiceSpec) -> Result<(), Failure> {
    if let Some(replicas) = options.replicas {
        match &mut spec.mode {
            Some(Mode::Replicated(mode)) => mode.replicas = replicas,
            Some(Mode::ReplicatedJob(job)) => job.total_completions = replicas,
            Some(Mode::Global(_) | Mode::GlobalJob(_)) => {
                return Err(Failure::new(
                    "replicas can only be used with replicated or replicated-job mode",
                ));
            }
            mode @ None => *mode = Some(Mode::Replicated(ReplicatedMode { replicas })),
        }
    }
    if let Some(concurrent) = options.max_concurrent {
        let Some(Mode::ReplicatedJob(job)) = &mut spec.mode else {
            return Err(Failure::new(
                "max-concurrent can only be used with replicated-job mode",
            ));
        };
        job.max_concurrent = concurrent;
    }
    Ok(())
}

fn container(options: &ServiceOptions, container: &mut ContainerSpec) -> Result<(), Failure> {
    let set = |place: &mut String, value: &Option<String>| {
        if let Some(value) = value {
            place.clone_from(value);
        }
    };
    set(&mut container.hostname, &options.hostname);
    set(&mut container.stop_signal, &options.stop_signal);
    set(&mut container.user, &options.user);
    set(&mut container.dir, &options.workdir);
    if let Some(entrypoint) = &options.entrypoint {
        container.command = words(entrypoint)?;
    }
    let (added, dropped) = (&mut container.cap_add, &mut container.cap_drop);
    capabilities::change(added, dropped, &options.cap_add, &options.cap_drop);
    container.init = options.init.unwrap_or(container.init);
    container.read_only = options.read_only.unwrap_or(container.read_only);
    container.tty = options.tty.unwrap_or(container.tty);
    container.stop_grace_period = options.stop_grace_period.unwrap_or(container.stop_grace_period);
    let health_given = options.health_cmd.is_some()
        || options.health_interval.is_some()
        || options.health_retries.is_some()
        || options.health_start_interval.is_some()
        || options.health_start_period.is_some()
        || options.health_timeout.is_some();
    if options.no_healthcheck {
        if health_given {
            return Err(Failure::new("--no-healthcheck conflicts with --health-* options"));
        }
        container.healthcheck = Some(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..Default::default()
        });
    } else if health_given {
        let health = container.healthcheck.get_or_insert_default();
        if health.test.first().is_some_and(|kind| kind == "NONE") {
            health.test.clear();
        }
        match options.health_cmd.as_deref() {
            // The image's own again.
            Some("") => health.test.clear(),
            Some(command) => health.test = vec!["CMD-SHELL".to_owned(), command.to_owned()],
            None => {}
        }
        health.interval = options.health_interval.unwrap_or(health.interval);
        health.timeout = options.health_timeout.unwrap_or(health.timeout);
        health.start_period = options.health_start_period.unwrap_or(health.start_period);
        health.start_interval = options.health_start_interval.unwrap_or(health.start_interval);
        health.retries = options.health_retries.unwrap_or(health.retries);
    }
    Ok(())
}

fn resources(options: &ServiceOptions, task: &mut TaskSpec) {
    let limits_given =
        options.limit_cpu.is_some() || options.limit_memory.is_some() || options.limit_pids.is_some();
    if limits_given {
        let limits = task
            .resources
            .get_or_insert_default()
            .limits
            .get_or_insert_default();
        limits.nano_cpus = options.limit_cpu.unwrap_or(limits.nano_cpus);
        limits.memory_bytes = options.limit_memory.unwrap_or(limits.memory_bytes);
        limits.pids = options.limit_pids.unwrap_or(limits.pids);
    }
    if options.reserve_cpu.is_some() || options.reserve_memory.is_some() {
        let reservations = task
            .resources
            .get_or_insert_default()
            .reservations
            .get_or_insert_default();
        reservations.nano_cpus = options.reserve_cpu.unwrap_or(reservations.nano_cpus);
        reservations.memory_bytes = options.reserve_memory.unwrap_or(reservations.memory_bytes);
    }
}

fn restart(options: &ServiceOptions, task: &mut TaskSpec) {
    let given = options.restart_condition.is_some()
        || options.restart_delay.is_some()
        || options.restart_max_attempts.is_some()
        || options.restart_max_delay.is_some()
        || options.restart_window.is_some();
    if !given {
        return;
    }
    let restart = task.restart.get_or_insert_default();
    if let Some(condition) = options.restart_condition {
        restart.set_condition(match condition {
            RestartConditionFlag::None => RestartCondition::None,
            RestartConditionFlag::OnFailure => RestartCondition::OnFailure,
            RestartConditionFlag::Any => RestartCondition::Any,
        });
    }
    restart.delay = options.restart_delay.or(restart.delay);
    restart.max_delay = options.restart_max_delay.or(restart.max_delay);
    restart.max_attempts = options.restart_max_attempts.unwrap_or(restart.max_attempts);
    restart.window = options.restart_window.unwrap_or(restart.window);
}

struct UpdateFlags {
    parallelism: Option<u64>,
    delay: Option<i64>,
    monitor: Option<i64>,
    failure_action: Option<FailureActionFlag>,
    max_failure_ratio: Option<f32>,
    order: Option<OrderFlag>,
}

impl UpdateFlags {
    fn is_given(&self) -> bool {
        self.parallelism.is_some()
            || self.delay.is_some()
            || self.monitor.is_some()
            || self.failure_action.is_some()
            || self.max_failure_ratio.is_some()
            || self.order.is_some()
    }

    fn apply(self, config: &mut Option<UpdateConfig>) {
        if !self.is_given() {
            return;
        }
        let config = config.get_or_insert_with(|| UpdateConfig {
            parallelism: 1,
            ..Default::default()
        });
        config.parallelism = self.parallelism.unwrap_or(config.parallelism);
        config.delay = self.delay.unwrap_or(config.delay);
        config.monitor = self.monitor.or(config.monitor);
        config.max_failure_ratio = self.max_failure_ratio.unwrap_or(config.max_failure_ratio);
        if let Some(action) = self.failure_action {
            config.set_failure_action(match action {
                FailureActionFlag::Pause => UpdateFailureAction::Pause,
                FailureActionFlag::Continue => UpdateFailureAction::Continue,
                FailureActionFlag::Rollback => UpdateFailureAction::Rollback,
            });
        }
        if let Some(order) = self.order {
            config.set_order(match order {
                OrderFlag::StartFirst => UpdateOrder::StartFirst,
                OrderFlag::StopFirst => UpdateOrder::StopFirst,
            });
        }
    }
}

/// A published port: `8080:80/tcp`, or `published=8080,target=80,protocol=tcp,mode=ingress`.
///
/// # Errors
/// Quotes what is no good.
pub fn published(text: &str) -> Result<Vec<PortConfig>, Failure> {
    if !text.contains('=') {
        let bindings = publish(text)?;
        if let Some(binding) = bindings.iter().find(|binding| !binding.host_ip.is_empty()) {
            return Err(Failure::new(format!(
                "invalid published port {text:?}: a service's ports are published on all addresses, {} can't be honoured",
                binding.host_ip
            )));
        }
        let config = |binding: pontoon_proto::v1::PortBinding| PortConfig {
            protocol: binding.protocol,
            target_port: binding.container_port,
            published_port: binding.host_port,
            publish_mode: PublishMode::Ingress.into(),
        };
        return Ok(bindings.into_iter().map(config).collect());
    }
    let bad = |why: &str| Failure::new(format!("invalid published port {text:?}: {why}"));
    let number = |value: &str| {
        value
            .parse::<u16>()
            .map(u32::from)
            .map_err(|_| bad("ports are numbers from 1 to 65535"))
    };
    let mut port = PortConfig::default();
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("target", value)) => port.target_port = number(value)?,
            Some(("published", value)) => port.published_port = number(value)?,
            Some(("protocol", "tcp")) => port.set_protocol(PortProtocol::Tcp),
            Some(("protocol", "udp")) => port.set_protocol(PortProtocol::Udp),
            Some(("protocol", "sctp")) => port.set_protocol(PortProtocol::Sctp),
            Some(("protocol", other)) => {
                return Err(bad(&format!(
                    "invalid protocol value {other}: use tcp, udp or sctp"
                )));
            }
            Some(("mode", "ingress")) => port.set_publish_mode(PublishMode::Ingress),
            Some(("mode", "host")) => port.set_publish_mode(PublishMode::Host),
            Some(("mode", other)) => {
                return Err(bad(&format!(
                    "invalid publish mode value {other}: use ingress or host"
                )));
            }
            _ => {
                return Err(bad(&format!(
                    "invalid field {field}: use target, published, protocol and mode"
                )));
            }
        }
    }
    if port.target_port == 0 {
        return Err(bad("target is required"));
    }
    Ok(vec![port])
}

/// A network: its name, or `name=NAME,alias=ALIAS,…`.
///
/// # Errors
/// Quotes the field that is not known.
pub fn network(text: &str) -> Result<NetworkAttachmentConfig, Failure> {
    let mut network = NetworkAttachmentConfig::default();
    if !text.contains('=') {
        network.target = text.to_owned();
        return Ok(network);
    }
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", name)) => network.target = name.to_owned(),
            Some(("alias", alias)) => network.aliases.push(alias.to_owned()),
            _ => {
                return Err(Failure::new(format!(
                    "invalid field in --network {text:?}: {field} (use name and alias)"
                )));
            }
        }
    }
    if network.target.is_empty() {
        return Err(Failure::new(format!(
            "invalid --network {text:?}: name is required"
        )));
    }
    Ok(network)
}

/// A host's name and address, `name:address`, from Docker's newer `name=address` as well.
pub fn host(text: &str) -> String {
    match text.split_once('=') {
        Some((name, address)) if !name.contains(':') => format!("{name}:{address}"),
        _ => text.to_owned(),
    }
}

/// A placement preference: `spread=node.labels.zone`.
///
/// # Errors
/// When it is no `spread`.
pub fn preference(text: &str) -> Result<pontoon_proto::v1::PlacementPreference, Failure> {
    match text.split_once('=') {
        Some(("spread", descriptor)) if !descriptor.is_empty() => {
            Ok(pontoon_proto::v1::PlacementPreference {
                spread_descriptor: descriptor.to_owned(),
            })
        }
        _ => Err(Failure::new(format!(
            "invalid placement preference {text:?}: use spread=node.labels.NAME"
        ))),
    }
}

/// The placement of a spec, made when there is none.
pub fn placement(spec: &mut ServiceSpec) -> &mut Placement {
    spec.task
        .get_or_insert_default()
        .placement
        .get_or_insert_default()
}

/// Splits a command line as a shell would: blanks separate, quotes and backslashes keep.
///
/// # Errors
/// When a quote is not closed.
pub fn words(line: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(characters.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Failure::new(format!("unterminated quote in {line:?}")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let port = &published("8080:80").unwrap()[0];
        assert_eq!((port.published_port, port.target_port), (8080, 80));
        let port = &published("published=53,target=5353,protocol=udp,mode=host").unwrap()[0];
        assert_eq!(
            (port.protocol(), port.publish_mode()),
            (PortProtocol::Udp, PublishMode::Host)
        );
        for bad in [
            "mode=host",
            "target=80,mode=x",
            "target=x",
            "127.0.0.1:80:80",
            "target=80,what=1",
        ] {
            assert!(published(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn command_lines() {
        assert_eq!(
            words(r#"sh -c "echo 'a b'" x\ y ''"#).unwrap(),
            ["sh", "-c", "echo 'a b'", "x y", ""]
        );
        assert!(words("'open").is_err());
        assert_eq!(network("name=n,alias=a").unwrap().aliases, ["a"]);
        assert!(preference("zone").is_err());
    }
}
