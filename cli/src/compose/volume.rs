//! A stack file's top-level `volumes`: what each node that runs a service's task makes of a volume's name.

use std::collections::HashMap;

use super::reader::{Field, Reader};
use super::yaml::{Node, Value};

/// A volume as its file describes it.
#[derive(Debug, Default)]
pub struct Volume {
    /// Its name on the nodes, if it is not to be `STACK_KEY`.
    pub name: Option<String>,
    /// It is made by somebody else: the stack's label and options are not its.
    pub external: bool,
    /// Its driver; empty: local.
    pub driver: String,
    /// `type`, `device`, `o`.
    pub driver_options: HashMap<String, String>,
    /// Its labels.
    pub labels: HashMap<String, String>,
}

const KEYS: &[Field<Volume>] = &[
    ("driver", |v, r, n| v.driver = r.text(n)),
    ("driver_opts", |v, r, n| v.driver_options = r.labels(n)),
    ("external", external),
    ("labels", |v, r, n| v.labels = r.labels(n)),
    ("name", |v, r, n| v.name = Some(r.text(n))),
];

const OLD_EXTERNAL: &[Field<Volume>] = &[("name", |v, r, n| v.name = Some(r.text(n)))];

/// Reads a volume; nothing after its key stands for a local volume with all defaults.
pub fn read(reader: &Reader<'_>, node: &Node) -> Volume {
    let mut volume = Volume::default();
    reader.fields(node, &mut volume, KEYS, &[]);
    if volume.external {
        for key in ["driver", "driver_opts", "labels"] {
            if let Some(value) = node.get(key) {
                let message = format_args!("{key} can't be given for an external volume: it exists already");
                reader.mistake(&value.at, message);
            }
        }
    }
    volume
}

/// `true`, or the old form `{name: NAME}`.
fn external(volume: &mut Volume, reader: &Reader<'_>, node: &Node) {
    if matches!(node.value, Value::Mapping(_)) {
        volume.external = true;
        reader.fields(node, volume, OLD_EXTERNAL, &[]);
    } else {
        volume.external = reader.flag(node);
    }
}
