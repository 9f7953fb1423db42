//! `ps --filter`: Docker's keys, read once and applied to each container. Values of one key are alternatives (labels: all
//! must hold), keys are conditions.

use std::collections::HashMap;

use pontoon_image::Reference;
use pontoon_proto::v1::{self, ContainerState, FilterValues, HealthState, PortProtocol};

use crate::{Error, Result};

const KEYS: [&str; 15] = [
    "id",
    "name",
    "label",
    "status",
    "exited",
    "ancestor",
    "before",
    "since",
    "network",
    "publish",
    "expose",
    "health",
    "volume",
    "is-task",
    "isolation",
];

/// Docker's name of a state.
pub(crate) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Restarting => "restarting",
        ContainerState::Removing => "removing",
        ContainerState::Exited => "exited",
        ContainerState::Dead => "dead",
    }
}

/// Docker's name of a protocol.
pub(crate) fn protocol(protocol: PortProtocol) -> &'static str {
    match protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    }
}

/// Filters, checked.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    values: HashMap<String, Vec<String>>,
}

impl Filters {
    /// Refuses unknown keys and values that can't be.
    pub(crate) fn new(given: &HashMap<String, FilterValues>) -> Result<Self> {
        let mut values = HashMap::new();
        for (key, list) in given {
            if !KEYS.contains(&key.as_str()) {
                return Err(Error::Invalid(format!("invalid filter '{key}'")));
            }
            for value in &list.values {
                check(key, value)?;
            }
            values.insert(key.clone(), list.values.clone());
        }
        Ok(Self { values })
    }

    /// Values of a key.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// True if the filters name states, so that ended containers are listed without `--all`.
    pub(crate) fn names_states(&self) -> bool {
        !self.values("status").is_empty() || !self.values("exited").is_empty()
    }

    /// Whether a container passes. `before` and `since` are the caller's: they need other containers.
    pub(crate) fn matches(&self, view: &v1::Container) -> bool {
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            let values = self.values(key);
            values.is_empty() || values.iter().any(|value| test(value))
        };
        let labels = view.config.as_ref().map(|config| &config.labels);
        any("id", &|value| matches(value, &view.id))
            && any("name", &|value| {
                matches(value, &view.name) || matches(value, &format!("/{}", view.name))
            })
            && self
                .values("label")
                .iter()
                .all(|wanted| labels.is_some_and(|l| has_label(l, wanted)))
            && any("status", &|value| state_name(view.state()) == value)
            && any("exited", &|value| {
                view.state() == ContainerState::Exited && value.parse() == Ok(view.exit_code)
            })
            && any("ancestor", &|value| is_ancestor(view, value))
            && any("network", &|value| in_network(view, value))
            && any("publish", &|value| is_published(view, value))
            && any("expose", &|value| is_exposed(view, value))
            && any("health", &|value| {
                let state = view
                    .health
                    .as_ref()
                    .map_or(HealthState::None, |health| health.state());
                HEALTH
                    .iter()
                    .any(|(name, known)| *name == value && *known == state)
            })
            && any("volume", &|value| {
                let wanted = view.config.iter().flat_map(|config| &config.mounts);
                let in_force = &view.mounts;
                wanted
                    .into_iter()
                    .any(|mount| mount.source == value || mount.target == value)
                    || in_force.iter().any(|mount| {
                        let source = if mount.name.is_empty() {
                            &mount.source
                        } else {
                            &mount.name
                        };
                        source == value || mount.destination == value
                    })
            })
            && any("is-task", &|value| {
                let is_task = labels.is_some_and(|l| l.contains_key("com.docker.swarm.task.id"));
                is_task == (value == "true")
            })
    }
}

const STATES: [ContainerState; 7] = [
    ContainerState::Created,
    ContainerState::Running,
    ContainerState::Paused,
    ContainerState::Restarting,
    ContainerState::Removing,
    ContainerState::Exited,
    ContainerState::Dead,
];

const HEALTH: [(&str, HealthState); 4] = [
    ("none", HealthState::None),
    ("starting", HealthState::Starting),
    ("healthy", HealthState::Healthy),
    ("unhealthy", HealthState::Unhealthy),
];

/// `key` or `key=value`.
pub(crate) fn has_label(labels: &HashMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
        None => labels.contains_key(wanted),
    }
}

fn is_ancestor(view: &v1::Container, value: &str) -> bool {
    let hex = view.image_id.strip_prefix("sha256:").unwrap_or(&view.image_id);
    let prefix = value.strip_prefix("sha256:").unwrap_or(value);
    if prefix.len() >= 4 && hex.starts_with(prefix) {
        return true;
    }
    let normal = |name: &str| {
        Reference::parse(name)
            .ok()
            .map(|reference| reference.with_default_tag().familiar())
    };
    normal(value).is_some_and(|wanted| normal(&view.image) == Some(wanted))
}

fn in_network(view: &v1::Container, value: &str) -> bool {
    let mode = view.host.as_ref().map_or("", |host| host.network_mode.as_str());
    mode == value
        || view
            .networks
            .iter()
            .any(|n| n.network == value || n.network_id.starts_with(value))
}

/// Refuses values that can't be, in Docker's words.
fn check(key: &str, value: &str) -> Result<()> {
    let refused = match key {
        "status" if !STATES.iter().any(|state| state_name(*state) == value) => {
            format!("invalid filter 'status={value}'")
        }
        "exited" if value.parse::<i32>().is_err() => {
            format!("strconv.Atoi: parsing {value:?}: invalid syntax")
        }
        "health" if !HEALTH.iter().any(|(name, _)| *name == value) => {
            format!("Unrecognised filter value for health: {value}")
        }
        "is-task" if !matches!(value, "true" | "false") => format!("invalid filter 'is-task=[{value}]'"),
        "publish" | "expose" => match ports(value) {
            Ok(_) => return Ok(()),
            Err(bad) => format!(
                "error while looking up for {key} {value}: strconv.ParseUint: parsing {bad:?}: invalid syntax"
            ),
        },
        _ => return Ok(()),
    };
    Err(Error::Invalid(refused))
}

/// Docker's way with names and ids: the value itself, or a regular expression that fits somewhere. One that is none fits
/// nothing.
fn matches(pattern: &str, text: &str) -> bool {
    pattern == text || regex_lite::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
}

/// `80`, `80/tcp`, `80-90/udp`; an error is what is no number.
fn ports(value: &str) -> Result<(std::ops::RangeInclusive<u32>, &str), &str> {
    let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &'_ str| text.parse::<u16>().map(u32::from);
    let first_number = number(first).map_err(|_| first)?;
    let last_number = number(last).map_err(|_| last)?;
    Ok((first_number..=last_number, protocol))
}

/// By the port on the host, as it is in force.
fn is_published(view: &v1::Container, value: &str) -> bool {
    let Ok((range, wanted)) = ports(value) else {
        return false;
    };
    view.ports
        .iter()
        .any(|binding| protocol(binding.protocol()) == wanted && range.contains(&binding.host_port))
}

fn is_exposed(view: &v1::Container, value: &str) -> bool {
    let Ok((range, wanted)) = ports(value) else {
        return false;
    };
    view.exposed_ports.iter().any(|port| {
        port.split_once('/').is_some_and(|(number, protocol)| {
            protocol == wanted && number.parse::<u32>().is_ok_and(|number| range.contains(&number))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(key: &str, value: &str) -> Result<Filters> {
        Filters::new(&HashMap::from([(
            key.to_owned(),
            FilterValues {
                values: vec![value.to_owned()],
            },
        )]))
    }

    #[test]
    fn match_as_in_docker() {
        let view = v1::Container {
            id: "ab12".into(),
            name: "web.1".into(),
            image: "busybox".into(),
            image_id: "sha256:deadbeef".into(),
            state: ContainerState::Exited.into(),
            exit_code: 3,
            exposed_ports: vec!["80/tcp".into()],
            config: Some(v1::ContainerSpec {
                labels: HashMap::from([("a".into(), "b".into())]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let passing = [
            ("id", "ab"),
            ("name", "eb"),
            ("label", "a"),
            ("label", "a=b"),
            ("status", "exited"),
            ("exited", "3"),
            ("ancestor", "busybox:latest"),
            ("ancestor", "deadb"),
            ("expose", "70-90"),
            ("is-task", "false"),
            ("health", "none"),
        ];
        for (key, value) in passing {
            assert!(filters(key, value).unwrap().matches(&view), "{key}={value}");
        }
        for (key, value) in [
            ("id", "b1$x"),
            ("label", "a=c"),
            ("exited", "0"),
            ("ancestor", "busy"),
            ("expose", "81"),
        ] {
            assert!(!filters(key, value).unwrap().matches(&view), "{key}={value}");
        }
        assert!(filters("colour", "x").is_err() && filters("status", "up").is_err());
    }
}
