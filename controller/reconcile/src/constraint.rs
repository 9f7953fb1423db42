//! Placement constraints: `node.labels.zone==a`, `node.role!=manager`. Parsed when a service is validated and when its
//! tasks are placed; SwarmKit's grammar, keys and words.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_proto::v1::{Node, NodeRole};

/// A constraint that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither `==` nor `!=`.
    #[error("constraint expected one operator from ==, !=")]
    NoOperator,
    /// The left side is no key.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// The right side is no value.
    #[error("value '{0}' is invalid")]
    Value(String),
}

/// One condition on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    equal: bool,
    value: String,
}

/// `^[a-z_][a-z0-9\-_.]+$`, any case.
fn is_key(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && text.len() > 1 && chars.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_value(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || ":-_.*()?+[]\\^$|/".contains(c);
    !text.is_empty() && text.chars().all(allowed)
}

/// Reads one constraint.
///
/// # Errors
/// [`Error`] says which part is wrong.
pub fn parse(text: &str) -> Result<Constraint, Error> {
    let equals = text.find("==").map(|at| (at, true));
    let differs = text.find("!=").map(|at| (at, false));
    let (at, equal) = [equals, differs]
        .into_iter()
        .flatten()
        .min()
        .ok_or(Error::NoOperator)?;
    let (key, value) = (text[..at].trim(), text[at + 2..].trim());
    if !is_key(key) {
        return Err(Error::Key(key.to_owned()));
    }
    if !is_value(value) {
        return Err(Error::Value(value.to_owned()));
    }
    Ok(Constraint {
        key: key.to_owned(),
        equal,
        value: value.to_owned(),
    })
}

/// The part of `key` after `prefix`, compared without case.
fn after<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    let head = key.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &key[prefix.len()..])
}

/// A node's label that a key such as `node.labels.K` or `engine.labels.K` names; none: the key is no label's.
pub(crate) fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    if let Some(name) = after(key, "node.labels.") {
        let annotations = node.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        return Some(
            annotations
                .and_then(|a| a.labels.get(name))
                .map_or("", String::as_str),
        );
    }
    let name = after(key, "engine.labels.")?;
    let engine = node.description.as_ref().and_then(|d| d.engine.as_ref());
    Some(engine.and_then(|e| e.labels.get(name)).map_or("", String::as_str))
}

fn matches_address(addr: &str, value: &str) -> bool {
    let Ok(addr) = addr.parse::<IpAddr>() else {
        return false;
    };
    match (value.parse::<IpAddr>(), value.parse::<IpNet>()) {
        (Ok(ip), _) => ip == addr,
        (_, Ok(net)) => net.contains(&addr),
        _ => false,
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = if self.equal { "==" } else { "!=" };
        write!(f, "{}{operator}{}", self.key, self.value)
    }
}

impl Constraint {
    /// Whether the node meets the condition. A key that is not known is never met.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let description = node.description.as_ref();
        let platform = description.and_then(|d| d.platform.as_ref());
        let actual = match self.key.to_ascii_lowercase().as_str() {
            "node.id" => node.id.as_str(),
            "node.hostname" => description.map_or("", |d| d.hostname.as_str()),
            "node.ip" => {
                let addr = node.status.as_ref().map_or("", |s| s.addr.as_str());
                return matches_address(addr, &self.value) == self.equal;
            }
            "node.role" => match node.spec.as_ref().map_or(NodeRole::Worker, |spec| spec.role()) {
                NodeRole::Manager => "manager",
                NodeRole::Worker => "worker",
            },
            "node.platform.os" => platform.map_or("", |p| p.os.as_str()),
            "node.platform.arch" => platform.map_or("", |p| p.architecture.as_str()),
            _ => match label(node, &self.key) {
                Some(value) => value,
                None => return false,
            },
        };
        actual.eq_ignore_ascii_case(&self.value) == self.equal
    }
}

/// Whether the node meets all of them.
pub(crate) fn all_match(constraints: &[Constraint], node: &Node) -> bool {
    constraints.iter().all(|constraint| constraint.matches(node))
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{Annotations, NodeDescription, NodeSpec, NodeStatus, Platform};

    use super::*;

    fn node() -> Node {
        let labels = [("zone".to_owned(), "Eu-1".to_owned())].into();
        let platform = Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
        };
        Node {
            id: "abc".to_owned(),
            spec: Some(NodeSpec {
                annotations: Some(Annotations {
                    labels,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            description: Some(NodeDescription {
                platform: Some(platform),
                ..Default::default()
            }),
            status: Some(NodeStatus {
                addr: "192.0.2.7".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn matches_as_swarm_does() {
        for (text, expected) in [
            ("node.id==abc", true),
            ("node.id == ABC", true),
            ("node.id!=abc", false),
            ("node.role==worker", true),
            ("node.role!=manager", true),
            ("node.labels.zone==eu-1", true),
            ("node.labels.zone!=us", true),
            ("node.labels.other==", false),
            ("node.labels.other!=x", true),
            ("node.ip==192.0.2.7", true),
            ("node.ip==192.0.2.0/24", true),
            ("node.ip!=192.0.3.0/24", true),
            ("node.platform.arch==amd64", true),
            ("node.platform.os!=linux", false),
            ("node.unknown==x", false),
            ("node.unknown!=x", false),
        ] {
            match parse(text) {
                Ok(constraint) => assert_eq!(constraint.matches(&node()), expected, "{text}"),
                Err(error) => assert_eq!((error, expected), (Error::Value(String::new()), false), "{text}"),
            }
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(parse("node.id=abc").unwrap_err(), Error::NoOperator);
        assert_eq!(
            parse("1node==a").unwrap_err().to_string(),
            "key '1node' is invalid"
        );
        assert_eq!(
            parse("node.id==a&b").unwrap_err().to_string(),
            "value 'a&b' is invalid"
        );
    }
}
