//! A service's `deploy`: mode, placement, resources, restarts and updates.

use std::collections::HashMap;

use pontoon_proto::v1::{
    DisconnectPolicy, EndpointMode, GenericResource, Placement, PlacementPreference, ResourceRequirements,
    Resources, RestartCondition, RestartPolicy, UpdateConfig, UpdateFailureAction, UpdateOrder,
};

use super::reader::{Field, Reader};
use super::refused;
use super::service::duration;
use super::yaml::Node;
use crate::command::service::options;
use crate::output::human;

/// A service's mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A number of tasks.
    #[default]
    Replicated,
    /// A task on every node.
    Global,
    /// A number of tasks that run to their end.
    ReplicatedJob,
    /// A task on every node, run to its end.
    GlobalJob,
}

/// How a service is deployed.
#[derive(Debug, Default)]
pub struct Deploy {
    /// How many tasks there are, and whether they run to their end.
    pub mode: Mode,
    /// Number of tasks.
    pub replicas: Option<u64>,
    /// How many of a job's tasks run at a time.
    pub max_concurrent: Option<u64>,
    /// The service's labels.
    pub labels: HashMap<String, String>,
    /// Virtual address or DNS round robin.
    pub endpoint_mode: EndpointMode,
    /// Where tasks may run.
    pub placement: Option<Placement>,
    /// Limits and reservations.
    pub resources: Option<ResourceRequirements>,
    /// When tasks are restarted.
    pub restart: Option<RestartPolicy>,
    /// How an update goes.
    pub update: Option<UpdateConfig>,
    /// How a rollback goes.
    pub rollback: Option<UpdateConfig>,
    /// What becomes of tasks whose node is down.
    pub on_disconnect: Option<DisconnectPolicy>,
    /// Nanoseconds between a leaving task's last new connection and its stop signal.
    pub drain_period: Option<i64>,
}

const KEYS: &[Field<Deploy>] = &[
    ("mode", |d, r, n| {
        let words = [
            ("replicated", Mode::Replicated),
            ("global", Mode::Global),
            ("replicated-job", Mode::ReplicatedJob),
            ("global-job", Mode::GlobalJob),
        ];
        d.mode = r.choice(n, &words).unwrap_or_default();
    }),
    ("replicas", |d, r, n| d.replicas = Some(r.number(n))),
    // Files that Docker is to read too have no word for it.
    ("x-max-concurrent", |d, r, n| d.max_concurrent = Some(r.number(n))),
    ("labels", |d, r, n| d.labels = r.labels(n)),
    ("endpoint_mode", |d, r, n| {
        let words = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
        d.endpoint_mode = r.choice(n, &words).unwrap_or_default();
    }),
    ("placement", |d, r, n| {
        r.fields(n, d.placement.get_or_insert_default(), PLACEMENT, &[]);
    }),
    ("resources", |d, r, n| {
        r.fields(n, d.resources.get_or_insert_default(), RESOURCES, &[]);
    }),
    ("restart_policy", |d, r, n| {
        r.fields(n, d.restart.get_or_insert_default(), RESTART, &[]);
    }),
    ("update_config", |d, r, n| d.update = Some(update(r, n))),
    ("rollback_config", |d, r, n| d.rollback = Some(rollback(r, n))),
    ("on_disconnect", on_disconnect),
    // The same in a file that Docker is to read too.
    ("x-on-disconnect", on_disconnect),
    ("drain_period", |d, r, n| d.drain_period = Some(duration(r, n))),
    ("x-drain-period", |d, r, n| d.drain_period = Some(duration(r, n))),
];

const PLACEMENT: &[Field<Placement>] = &[
    ("constraints", |p, r, n| p.constraints = r.texts(n)),
    ("preferences", |p, r, n| {
        p.preferences = r.items(n).iter().map(|item| preference(r, item)).collect();
    }),
    ("max_replicas_per_node", |p, r, n| p.max_replicas = r.number(n)),
];

const PREFERENCE: &[Field<PlacementPreference>] = &[("spread", |p, r, n| p.spread_descriptor = r.text(n))];

const RESOURCES: &[Field<ResourceRequirements>] = &[
    ("limits", |q, r, n| {
        r.fields(n, q.limits.get_or_insert_default(), LIMITS, refused::RESOURCES);
    }),
    ("reservations", |q, r, n| {
        q.reservations.get_or_insert_default();
        r.fields(n, q, RESERVATIONS, refused::RESOURCES);
    }),
];

const LIMITS: &[Field<Resources>] = &[
    ("cpus", |q, r, n| q.nano_cpus = cpus(r, n)),
    ("memory", |q, r, n| q.memory_bytes = memory(r, n)),
    ("pids", |q, r, n| q.pids = r.number(n)),
];

const RESERVATIONS: &[Field<ResourceRequirements>] = &[
    ("cpus", |q, r, n| {
        q.reservations.get_or_insert_default().nano_cpus = cpus(r, n);
    }),
    ("memory", |q, r, n| {
        q.reservations.get_or_insert_default().memory_bytes = memory(r, n);
    }),
    ("generic_resources", |q, r, n| {
        q.generic_reservations = r.items(n).iter().map(|item| generic(r, item)).collect();
    }),
];

const GENERIC: &[Field<GenericResource>] = &[
    ("discrete_resource_spec", |g, r, n| r.fields(n, g, DISCRETE, &[])),
    // Not Docker's: the unit of this name.
    ("named_resource_spec", |g, r, n| r.fields(n, g, NAMED, &[])),
];

const DISCRETE: &[Field<GenericResource>] = &[
    ("kind", |g, r, n| g.kind = r.text(n)),
    ("value", |g, r, n| {
        let count: u32 = r.number(n);
        g.count = i64::from(count);
    }),
];

const NAMED: &[Field<GenericResource>] = &[
    ("kind", |g, r, n| g.kind = r.text(n)),
    ("value", |g, r, n| g.name = r.text(n)),
];

const RESTART: &[Field<RestartPolicy>] = &[
    ("condition", |p, r, n| {
        let words = [
            ("none", RestartCondition::None),
            ("on-failure", RestartCondition::OnFailure),
            ("any", RestartCondition::Any),
        ];
        p.set_condition(r.choice(n, &words).unwrap_or_default());
    }),
    ("delay", |p, r, n| p.delay = Some(duration(r, n))),
    ("max_attempts", |p, r, n| p.max_attempts = r.number(n)),
    ("x-max-delay", |p, r, n| p.max_delay = Some(duration(r, n))),
    ("window", |p, r, n| p.window = duration(r, n)),
];

const UPDATE: &[Field<UpdateConfig>] = &[
    ("parallelism", |u, r, n| u.parallelism = r.number(n)),
    ("delay", |u, r, n| u.delay = duration(r, n)),
    ("monitor", |u, r, n| u.monitor = Some(duration(r, n))),
    ("failure_action", |u, r, n| {
        let words = [
            ("pause", UpdateFailureAction::Pause),
            ("continue", UpdateFailureAction::Continue),
            ("rollback", UpdateFailureAction::Rollback),
        ];
        u.set_failure_action(r.choice(n, &words).unwrap_or_default());
    }),
    ("max_failure_ratio", |u, r, n| {
        u.max_failure_ratio = r.parsed(n, ratio).unwrap_or_default()
    }),
    ("order", |u, r, n| {
        let words = [
            ("stop-first", UpdateOrder::StopFirst),
            ("start-first", UpdateOrder::StartFirst),
        ];
        u.set_order(r.choice(n, &words).unwrap_or_default());
    }),
];

/// Reads a `deploy`.
pub fn read(reader: &Reader<'_>, node: &Node, deploy: &mut Deploy) {
    reader.fields(node, deploy, KEYS, &[]);
    if matches!(deploy.mode, Mode::Global | Mode::GlobalJob)
        && let (Some(_), Some(replicas)) = (deploy.replicas, node.get("replicas"))
    {
        let message = "replicas can only be used with mode replicated or replicated-job";
        reader.mistake(&replicas.at, message);
    }
    if deploy.mode != Mode::ReplicatedJob
        && let (Some(_), Some(concurrent)) = (deploy.max_concurrent, node.get("x-max-concurrent"))
    {
        let message = "x-max-concurrent can only be used with mode replicated-job";
        reader.mistake(&concurrent.at, message);
    }
}

fn on_disconnect(deploy: &mut Deploy, reader: &Reader<'_>, node: &Node) {
    deploy.on_disconnect = reader.parsed(node, options::on_disconnect);
}

fn preference(reader: &Reader<'_>, node: &Node) -> PlacementPreference {
    let mut preference = PlacementPreference::default();
    reader.fields(node, &mut preference, PREFERENCE, &[]);
    preference
}

fn generic(reader: &Reader<'_>, node: &Node) -> GenericResource {
    let mut unit = GenericResource::default();
    reader.fields(node, &mut unit, GENERIC, &[]);
    if unit.kind.is_empty() {
        reader.mistake(
            &node.at,
            "a generic resource needs discrete_resource_spec: {kind: KIND, value: NUMBER}",
        );
    }
    unit
}

fn cpus(reader: &Reader<'_>, node: &Node) -> i64 {
    reader.parsed(node, human::parse_cpus).unwrap_or_default()
}

fn memory(reader: &Reader<'_>, node: &Node) -> i64 {
    reader.parsed(node, human::parse_size).unwrap_or_default()
}

fn ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("invalid ratio {text:?}: use a number from 0 to 1")),
    }
}

fn update(reader: &Reader<'_>, node: &Node) -> UpdateConfig {
    let mut config = UpdateConfig {
        parallelism: 1,
        ..Default::default()
    };
    reader.fields(node, &mut config, UPDATE, &[]);
    config
}

fn rollback(reader: &Reader<'_>, node: &Node) -> UpdateConfig {
    let config = update(reader, node);
    if config.failure_action() == UpdateFailureAction::Rollback {
        reader.mistake(&node.at, "failure_action of a rollback must be pause or continue");
    }
    config
}
