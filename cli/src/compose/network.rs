//! A stack file's top-level `networks`.

use pontoon_proto::v1::{IpamConfig, NetworkSpec};

use super::reader::{Field, Reader};
use super::refused;
use super::yaml::{Node, Value};

/// A network as its file describes it.
#[derive(Debug, Default)]
pub struct Network {
    /// Its name in the cluster, if it is not to be `STACK_KEY`.
    pub name: Option<String>,
    /// It must exist already, and is neither made nor removed.
    pub external: bool,
    /// What is made, but for the name.
    pub spec: NetworkSpec,
}

const KEYS: &[Field<Network>] = &[
    ("driver", |w, r, n| w.spec.driver = driver(r, n)),
    ("driver_opts", |w, r, n| w.spec.driver_opts = r.labels(n)),
    ("external", external),
    ("name", |w, r, n| w.name = Some(r.text(n))),
    ("internal", |w, r, n| w.spec.internal = r.flag(n)),
    ("attachable", |w, r, n| w.spec.attachable = r.flag(n)),
    ("ipam", |w, r, n| {
        r.fields(n, &mut w.spec.ipam, IPAM, refused::IPAM)
    }),
    ("labels", |w, r, n| {
        w.spec.annotations.get_or_insert_default().labels = r.labels(n)
    }),
];

const IPAM: &[Field<Vec<IpamConfig>>] = &[
    ("driver", |_, r, n| {
        r.choice(n, &[("default", ())]);
    }),
    ("config", |all, r, n| {
        for item in r.items(n) {
            let mut config = IpamConfig::default();
            r.fields(item, &mut config, SUBNET, refused::SUBNET);
            all.push(config);
        }
    }),
];

const SUBNET: &[Field<IpamConfig>] = &[
    ("subnet", |c, r, n| c.subnet = r.text(n)),
    ("ip_range", |c, r, n| c.range = r.text(n)),
    ("gateway", |c, r, n| c.gateway = r.text(n)),
];

const OLD_EXTERNAL: &[Field<Network>] = &[("name", |w, r, n| w.name = Some(r.text(n)))];

/// Reads a network; nothing after its key stands for an overlay network with all defaults.
pub fn read(reader: &Reader<'_>, node: &Node) -> Network {
    let mut network = Network::default();
    reader.fields(node, &mut network, KEYS, refused::NETWORK);
    if network.external {
        let made = [
            "driver",
            "driver_opts",
            "internal",
            "attachable",
            "ipam",
            "labels",
        ];
        for key in made {
            if let Some(value) = node.get(key) {
                let message = format_args!("{key} can't be given for an external network: it exists already");
                reader.mistake(&value.at, message);
            }
        }
    }
    if network.spec.driver.is_empty() {
        "overlay".clone_into(&mut network.spec.driver);
    }
    network
}

fn driver(reader: &Reader<'_>, node: &Node) -> String {
    let driver = reader.text(node);
    if driver != "overlay" {
        let message = format_args!("the driver must be overlay, as {driver:?} does not span nodes");
        reader.mistake(&node.at, message);
    }
    driver
}

/// `true`, or the old form `{name: NAME}`.
fn external(network: &mut Network, reader: &Reader<'_>, node: &Node) {
    if matches!(node.value, Value::Mapping(_)) {
        network.external = true;
        reader.fields(node, network, OLD_EXTERNAL, &[]);
    } else {
        network.external = reader.flag(node);
    }
}
