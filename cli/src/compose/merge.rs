//! Several files to one: a later file's values win, mappings merge key by key, lists grow. Called by [`load`](super::load) with
//! the trees of `-c a -c b`.

use super::yaml::{Key, Node, Value};

/// Keys whose list form ("K=V") means the same as their mapping form; networks' list form names networks.
const EITHER_FORM: [&str; 4] = ["environment", "labels", "sysctls", "networks"];
/// Lists that a later file replaces instead of adding to them.
const REPLACED: [&str; 3] = ["command", "entrypoint", "test"];

/// Puts `later` over `base`.
pub fn merge(base: Node, later: Node) -> Node {
    merge_at("", base, later)
}

fn merge_at(name: &str, base: Node, later: Node) -> Node {
    let (base, later) = if EITHER_FORM.contains(&name) {
        (as_mapping(base), as_mapping(later))
    } else {
        (base, later)
    };
    let value = match (base.value, later.value) {
        (value, Value::Null) => value,
        (Value::Mapping(base), Value::Mapping(later)) => Value::Mapping(merge_mappings(base, later)),
        (Value::Sequence(base), Value::Sequence(later)) if !REPLACED.contains(&name) => {
            Value::Sequence(append(name, base, later))
        }
        (_, value) => value,
    };
    Node { at: later.at, value }
}

fn merge_mappings(mut base: Vec<(Key, Node)>, later: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
    for (key, node) in later {
        match base.iter_mut().find(|(there, _)| there.text == key.text) {
            Some((there, place)) => {
                let nothing = Node {
                    at: place.at.clone(),
                    value: Value::Null,
                };
                *place = merge_at(&key.text, std::mem::replace(place, nothing), node);
                *there = key;
            }
            None => base.push((key, node)),
        }
    }
    base
}

/// Appends what is not there yet; a mount replaces the one with the same target.
fn append(name: &str, mut base: Vec<Node>, later: Vec<Node>) -> Vec<Node> {
    for node in later {
        if name == "volumes"
            && let Some(target) = mount_target(&node)
        {
            base.retain(|there| mount_target(there) != Some(target));
        }
        if !base.iter().any(|there| same(there, &node)) {
            base.push(node);
        }
    }
    base
}

fn mount_target(node: &Node) -> Option<&str> {
    let target = match &node.value {
        Value::Scalar { text, .. } => return text.split(':').nth(1).or(Some(text)),
        _ => node.get("target")?,
    };
    match &target.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// Equal but for the place.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Null, Value::Null) => true,
        (Value::Scalar { text: a, .. }, Value::Scalar { text: b, .. }) => a == b,
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Mapping(a), Value::Mapping(b)) => {
            let found = |(key, node): &(Key, Node)| {
                b.iter()
                    .any(|(other, theirs)| other.text == key.text && same(node, theirs))
            };
            a.len() == b.len() && a.iter().all(found)
        }
        _ => false,
    }
}

fn as_mapping(node: Node) -> Node {
    let Value::Sequence(items) = node.value else {
        return node;
    };
    let mut entries = Vec::new();
    for item in &items {
        let Value::Scalar { text, .. } = &item.value else {
            // Not a list of texts: left as it is, for the reader to complain about.
            return Node {
                at: node.at,
                value: Value::Sequence(items),
            };
        };
        let (name, value) = match text.split_once('=') {
            Some((name, text)) => {
                let text = text.to_owned();
                (name, Value::Scalar { text, quoted: true })
            }
            None => (text.as_str(), Value::Null),
        };
        let key = Key {
            at: item.at.clone(),
            text: name.to_owned(),
        };
        entries.retain(|(there, _): &(Key, Node)| there.text != key.text);
        let at = item.at.clone();
        entries.push((key, Node { at, value }));
    }
    Node {
        at: node.at,
        value: Value::Mapping(entries),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compose::{emit, yaml};

    #[test]
    fn later_files_win() {
        let cases = [
            (
                "a: {b: 1, c: 2}",
                "a: {c: 3, d: 4}",
                "a:\n  b: 1\n  c: 3\n  d: 4\n",
            ),
            (
                "ports: [\"1:1\"]",
                "ports: [\"1:1\", \"2:2\"]",
                "ports:\n  - \"1:1\"\n  - \"2:2\"\n",
            ),
            ("command: [a, b]", "command: [c]", "command:\n  - c\n"),
            ("command: a b", "command: [c]", "command:\n  - c\n"),
            (
                "environment: [A=1, B=2]",
                "environment: {B: 3}",
                "environment:\n  A: \"1\"\n  B: 3\n",
            ),
            (
                "networks: [a]",
                "networks: {b: {aliases: [x]}}",
                "networks:\n  a:\n  b:\n    aliases:\n      - x\n",
            ),
            (
                "volumes: [/a:/t]",
                "volumes: [{source: /b, target: /t}]",
                "volumes:\n  -\n    source: /b\n    target: /t\n",
            ),
            ("a: 1", "a:", "a: 1\n"),
        ];
        for (base, later, expected) in cases {
            let read = |text| yaml::parse(&Arc::from("f"), text).unwrap();
            assert_eq!(
                emit::emit(&merge(read(base), read(later))),
                expected,
                "{base} + {later}"
            );
        }
    }
}
