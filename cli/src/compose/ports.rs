//! A service's `ports`: the short form ("8080:80/udp", with ranges) and the long form.

use pontoon_proto::v1::{PortConfig, PortProtocol, PublishMode};

use super::reader::{Field, Reader};
use super::refused;
use super::yaml::{Node, Value};
use crate::command::service::spec::published;

const KEYS: &[Field<PortConfig>] = &[
    ("target", |p, r, n| p.target_port = port(r, n)),
    ("published", |p, r, n| p.published_port = port(r, n)),
    ("protocol", |p, r, n| {
        let words = [
            ("tcp", PortProtocol::Tcp),
            ("udp", PortProtocol::Udp),
            ("sctp", PortProtocol::Sctp),
        ];
        p.set_protocol(r.choice(n, &words).unwrap_or_default());
    }),
    ("mode", |p, r, n| {
        let words = [("ingress", PublishMode::Ingress), ("host", PublishMode::Host)];
        p.set_publish_mode(r.choice(n, &words).unwrap_or_default());
    }),
];

/// Reads the list.
pub fn read(reader: &Reader<'_>, node: &Node) -> Vec<PortConfig> {
    let mut all: Vec<PortConfig> = Vec::new();
    for item in reader.items(node) {
        let made = match &item.value {
            Value::Mapping(_) => long(reader, item),
            _ => reader.parsed(item, short).unwrap_or_default(),
        };
        for port in made {
            let taken = |other: &PortConfig| {
                port.published_port != 0
                    && (other.published_port, other.protocol) == (port.published_port, port.protocol)
            };
            if all.iter().any(taken) {
                let message = format_args!("port {} is published twice", port.published_port);
                reader.mistake(&item.at, message);
            } else {
                all.push(port);
            }
        }
    }
    all
}

fn short(text: &str) -> Result<Vec<PortConfig>, String> {
    // The long form of --publish is the command line's alone.
    if text.contains('=') {
        return Err(format!(
            "invalid port {text:?}: use \"8080:80\", or the keys target and published"
        ));
    }
    published(text).map_err(|failure| failure.message)
}

fn long(reader: &Reader<'_>, node: &Node) -> Vec<PortConfig> {
    let mut port = PortConfig::default();
    reader.fields(node, &mut port, KEYS, refused::PORT);
    if node.get("target").is_none() {
        reader.mistake(
            &node.at,
            "target is required: the port that the containers listen on",
        );
    }
    vec![port]
}

fn port(reader: &Reader<'_>, node: &Node) -> u32 {
    let parse = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port.into()),
        _ => Err(format!("{text:?} is not a port from 1 to 65535")),
    };
    reader.parsed(node, parse).unwrap_or_default()
}
