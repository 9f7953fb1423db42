//! What a service of a stack file says: its keys, and what each sets. Deployment is in [`deploy`], ports and mounts in
//! [`ports`] and [`mounts`], keys that are not supported in [`refused`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use pontoon_proto::v1::{ContainerSpec, DnsConfig, HealthConfig, LogDriver, PortConfig, Ulimit};

use super::depends::{self, Depends};
use super::deploy::{self, Deploy};
use super::mounts::Written;
use super::reader::{Field, Reader};
use super::yaml::{Node, Value};
use super::{mounts, ports, refused};
use crate::command::container::config::environment;
use crate::command::service::spec::words;
use crate::output::human;

/// A service as its file describes it; names of networks are the file's.
#[derive(Debug, Default)]
pub struct Service {
    /// What runs.
    pub container: ContainerSpec,
    /// Its networks; none given: the stack's default one.
    pub networks: Option<Vec<Attachment>>,
    /// Its mounts; names of volumes are the file's.
    pub mounts: Vec<Written>,
    /// Published ports.
    pub ports: Vec<PortConfig>,
    /// How it is deployed.
    pub deploy: Deploy,
    /// Services that it waits for.
    pub depends_on: Vec<Depends>,
    /// Log driver.
    pub log: Option<LogDriver>,
    env_files: Vec<String>,
    environment: BTreeMap<String, Option<String>>,
}

/// A service's place in a network.
#[derive(Debug)]
pub struct Attachment {
    /// The network's key in the file.
    pub network: String,
    /// Additional names of the service in it.
    pub aliases: Vec<String>,
    /// Where that is written.
    pub at: super::Position,
}

const KEYS: &[Field<Service>] = &[
    ("image", |s, r, n| s.container.image = r.text(n)),
    ("command", |s, r, n| s.container.args = command(r, n)),
    ("entrypoint", |s, r, n| s.container.command = command(r, n)),
    ("environment", |s, r, n| s.environment = r.dictionary(n)),
    ("env_file", |s, r, n| s.env_files = env_files(r, n)),
    ("ports", |s, r, n| s.ports = ports::read(r, n)),
    ("networks", |s, r, n| s.networks = Some(networks(r, n))),
    ("deploy", |s, r, n| deploy::read(r, n, &mut s.deploy)),
    ("depends_on", |s, r, n| s.depends_on = depends::read(r, n)),
    ("labels", |s, r, n| s.container.labels = r.labels(n)),
    ("healthcheck", |s, r, n| s.container.healthcheck = health(r, n)),
    ("hostname", |s, r, n| s.container.hostname = r.text(n)),
    ("user", |s, r, n| s.container.user = r.text(n)),
    ("working_dir", |s, r, n| s.container.dir = r.text(n)),
    ("stop_grace_period", |s, r, n| {
        s.container.stop_grace_period = duration(r, n)
    }),
    ("stop_signal", |s, r, n| s.container.stop_signal = r.text(n)),
    ("init", |s, r, n| s.container.init = r.flag(n)),
    ("read_only", |s, r, n| s.container.read_only = r.flag(n)),
    ("tty", |s, r, n| s.container.tty = r.flag(n)),
    ("stdin_open", |s, r, n| s.container.open_stdin = r.flag(n)),
    ("cap_add", |s, r, n| s.container.cap_add = r.texts(n)),
    ("cap_drop", |s, r, n| s.container.cap_drop = r.texts(n)),
    ("group_add", |s, r, n| s.container.groups = r.texts(n)),
    ("sysctls", |s, r, n| s.container.sysctls = r.labels(n)),
    ("ulimits", |s, r, n| s.container.ulimits = ulimits(r, n)),
    ("extra_hosts", |s, r, n| s.container.hosts = hosts(r, n)),
    ("dns", |s, r, n| dns(s).nameservers = nameservers(r, n)),
    ("dns_search", |s, r, n| dns(s).search = r.text_or_texts(n)),
    ("dns_opt", |s, r, n| dns(s).options = r.texts(n)),
    ("tmpfs", |s, r, n| s.mounts.extend(mounts::tmpfs(r, n))),
    ("volumes", |s, r, n| s.mounts.extend(mounts::volumes(r, n))),
    ("logging", |s, r, n| s.log = logging(r, n)),
];

/// Reads a service.
pub fn read(reader: &Reader<'_>, node: &Node) -> Service {
    let mut service = Service::default();
    reader.fields(node, &mut service, KEYS, refused::SERVICE);
    service.container.env = env(reader, node, &service);
    service
}

/// Durations such as 1m30s, in nanoseconds.
pub(super) fn duration(reader: &Reader<'_>, node: &Node) -> i64 {
    reader.parsed(node, human::parse_duration).unwrap_or_default()
}

fn dns(service: &mut Service) -> &mut DnsConfig {
    service.container.dns.get_or_insert_default()
}

fn command(reader: &Reader<'_>, node: &Node) -> Vec<String> {
    match &node.value {
        Value::Sequence(_) => reader.texts(node),
        _ => reader
            .parsed(node, |text| words(text).map_err(|failure| failure.message))
            .unwrap_or_default(),
    }
}

struct EnvFile {
    path: String,
    required: bool,
}

const ENV_FILE: &[Field<EnvFile>] = &[
    ("path", |f, r, n| f.path = r.text(n)),
    ("required", |f, r, n| f.required = r.flag(n)),
];

/// The variables of the files, later ones winning, as `NAME=VALUE`.
fn env_files(reader: &Reader<'_>, node: &Node) -> Vec<String> {
    let mut all = Vec::new();
    for item in reader.one_or_more(node) {
        let mut file = EnvFile {
            path: String::new(),
            required: true,
        };
        match &item.value {
            Value::Mapping(_) => reader.fields(item, &mut file, ENV_FILE, refused::ENV_FILE),
            _ => file.path = reader.text(item),
        }
        let path = reader.base.join(&file.path);
        if file.path.is_empty() {
            reader.mistake(&item.at, "needs the path of a file");
        } else if file.required || path.exists() {
            match environment(&[path], &[]) {
                Ok(variables) => all.extend(variables),
                Err(failure) => reader.mistake(&item.at, failure),
            }
        }
    }
    all
}

/// The files' variables under those of `environment`; one without a value takes the client's, or is left out.
fn env(reader: &Reader<'_>, node: &Node, service: &Service) -> Vec<String> {
    let mut all = BTreeMap::new();
    for variable in &service.env_files {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        all.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in &service.environment {
        if name.is_empty() || name.contains('=') {
            let at = node
                .get("environment")
                .map_or(&node.at, |environment| &environment.at);
            reader.mistake(at, format_args!("environment: {name:?} is no name of a variable"));
        }
        if let Some(value) = value.clone().or_else(|| (reader.variables)(name)) {
            all.insert(name.clone(), value);
        }
    }
    all.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

const ATTACHMENT: &[Field<Attachment>] = &[("aliases", |a, r, n| a.aliases = r.texts(n))];

fn networks(reader: &Reader<'_>, node: &Node) -> Vec<Attachment> {
    let attachment = |network: &str, at: &super::Position| Attachment {
        network: network.to_owned(),
        aliases: Vec::new(),
        at: at.clone(),
    };
    if let Value::Sequence(items) = &node.value {
        let named = items.iter().map(|item| attachment(&reader.text(item), &item.at));
        return named.collect();
    }
    let read = |(key, value): &(super::yaml::Key, Node)| {
        let mut made = attachment(&key.text, &key.at);
        reader.within(&key.text, || {
            reader.fields(value, &mut made, ATTACHMENT, refused::ATTACHMENT);
        });
        made
    };
    reader.entries(node).iter().map(read).collect()
}

#[derive(Default)]
struct Health {
    config: HealthConfig,
    disabled: bool,
}

const HEALTH: &[Field<Health>] = &[
    ("test", |h, r, n| h.config.test = health_test(r, n)),
    ("interval", |h, r, n| h.config.interval = duration(r, n)),
    ("timeout", |h, r, n| h.config.timeout = duration(r, n)),
    ("retries", |h, r, n| h.config.retries = r.number(n)),
    ("start_period", |h, r, n| h.config.start_period = duration(r, n)),
    ("start_interval", |h, r, n| {
        h.config.start_interval = duration(r, n)
    }),
    ("disable", |h, r, n| h.disabled = r.flag(n)),
];

fn health_test(reader: &Reader<'_>, node: &Node) -> Vec<String> {
    if !matches!(node.value, Value::Sequence(_)) {
        return vec!["CMD-SHELL".to_owned(), reader.text(node)];
    }
    let test = reader.texts(node);
    let complete = match test.first().map(String::as_str) {
        Some("NONE") => test.len() == 1,
        Some("CMD") => test.len() > 1,
        Some("CMD-SHELL") => test.len() == 2,
        _ => false,
    };
    if !complete {
        let forms = "[\"NONE\"], [\"CMD\", program, argument, …] or [\"CMD-SHELL\", line]";
        reader.mistake(&node.at, format_args!("a list must be {forms}"));
    }
    test
}

fn health(reader: &Reader<'_>, node: &Node) -> Option<HealthConfig> {
    let mut health = Health::default();
    reader.fields(node, &mut health, HEALTH, &[]);
    if health.disabled {
        if !health.config.test.is_empty() {
            reader.mistake(&node.at, "test and disable can't be used together");
        }
        health.config = HealthConfig {
            test: vec!["NONE".to_owned()],
            ..Default::default()
        };
    }
    Some(health.config)
}

const ULIMIT: &[Field<Ulimit>] = &[
    ("soft", |u, r, n| u.soft = r.number(n)),
    ("hard", |u, r, n| u.hard = r.number(n)),
];

fn ulimits(reader: &Reader<'_>, node: &Node) -> Vec<Ulimit> {
    let read = |(key, value): &(super::yaml::Key, Node)| {
        reader.within(&key.text, || {
            let mut ulimit = Ulimit {
                name: key.text.clone(),
                ..Default::default()
            };
            if matches!(value.value, Value::Mapping(_)) {
                reader.fields(value, &mut ulimit, ULIMIT, &[]);
                if value.get("soft").is_none() || value.get("hard").is_none() {
                    reader.mistake(&value.at, "needs both soft and hard");
                }
            } else {
                ulimit.soft = reader.number(value);
                ulimit.hard = ulimit.soft;
            }
            if ulimit.hard != -1 && (ulimit.soft > ulimit.hard || ulimit.soft == -1) {
                reader.mistake(&value.at, "the soft limit must not be above the hard limit");
            }
            ulimit
        })
    };
    let mut all: Vec<Ulimit> = reader.entries(node).iter().map(read).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn address(text: &str) -> Result<IpAddr, String> {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

fn nameservers(reader: &Reader<'_>, node: &Node) -> Vec<String> {
    let items = reader.one_or_more(node).iter();
    items
        .filter_map(|item| reader.parsed(item, address))
        .map(|address| address.to_string())
        .collect()
}

/// `name:address` and `name=address`, in a list or as a mapping.
fn hosts(reader: &Reader<'_>, node: &Node) -> Vec<String> {
    let entry = |name: &str, text: &str| match (name, address(text)) {
        ("", _) => Err(format!("{text:?} has no host name")),
        (_, Err(message)) => Err(message),
        (name, Ok(address)) => Ok(format!("{name}:{address}")),
    };
    let listed = |item: &Node| {
        reader.parsed(item, |text| match text.split_once(['=', ':']) {
            Some((name, address)) => entry(name, address),
            None => Err(format!("{text:?} is not of the form name:address")),
        })
    };
    match &node.value {
        Value::Sequence(items) => items.iter().filter_map(listed).collect(),
        _ => {
            let read = |(key, value): &(super::yaml::Key, Node)| {
                reader.within(&key.text, || reader.parsed(value, |text| entry(&key.text, text)))
            };
            reader.entries(node).iter().filter_map(read).collect()
        }
    }
}

const LOGGING: &[Field<LogDriver>] = &[
    ("driver", |l, r, n| {
        let known = [("json-file", "json-file"), ("none", "none")];
        l.name = r.choice(n, &known).unwrap_or_default().to_owned();
    }),
    ("options", |l, r, n| l.options = r.labels(n)),
];

fn logging(reader: &Reader<'_>, node: &Node) -> Option<LogDriver> {
    let mut driver = LogDriver::default();
    reader.fields(node, &mut driver, LOGGING, &[]);
    Some(driver)
}
