//! A service's `depends_on`: other services of the stack that must be started, healthy or completed before its tasks start. The
//! managers see to that, at each deployment; here it is read and checked.

use pontoon_proto::v1::dependency::Condition;
use pontoon_reconcile::circle;

use super::reader::{Field, Reader};
use super::service::Service;
use super::yaml::{Key, Node, Value};
use super::{Position, Stack};

/// A service that is waited for.
#[derive(Debug)]
pub struct Depends {
    /// Its key in the file.
    pub service: String,
    /// What of it is waited for.
    pub condition: Condition,
    /// It must be there.
    pub required: bool,
    /// Where that is written.
    pub at: Position,
}

const KEYS: &[Field<Depends>] = &[
    ("condition", |d, r, n| {
        let words = [
            ("service_started", Condition::Started),
            ("service_healthy", Condition::Healthy),
            ("service_completed_successfully", Condition::Completed),
        ];
        d.condition = r.choice(n, &words).unwrap_or_default();
    }),
    ("required", |d, r, n| d.required = r.flag(n)),
    ("restart", |_, r, n| {
        if r.flag(n) {
            let message = "true is not supported by this version: a service is updated when its own part of the file changes";
            r.mistake(&n.at, message);
        }
    }),
];

/// Reads a list of services, or a mapping with conditions.
pub fn read(reader: &Reader<'_>, node: &Node) -> Vec<Depends> {
    let depends = |service: &str, at: &Position| Depends {
        service: service.to_owned(),
        condition: Condition::Started,
        required: true,
        at: at.clone(),
    };
    if let Value::Sequence(items) = &node.value {
        let named = items.iter().map(|item| depends(&reader.text(item), &item.at));
        return named.collect();
    }
    let read = |(key, value): &(Key, Node)| {
        let mut made = depends(&key.text, &key.at);
        reader.within(&key.text, || {
            reader.fields(value, &mut made, KEYS, &[]);
        });
        made
    };
    reader.entries(node).iter().map(read).collect()
}

impl Stack {
    /// Dependencies lead to other services of the stack, and not in a circle.
    pub(super) fn check_dependencies(&self, reader: &Reader<'_>, key: &Key, service: &Service) {
        let find = |name: &str| self.services.iter().find(|(key, _)| key.text == name);
        let mut seen: Vec<&str> = Vec::new();
        for dependency in &service.depends_on {
            let name = dependency.service.as_str();
            if dependency.required && find(name).is_none() {
                reader.mistake(
                    &dependency.at,
                    format_args!("depends on undefined service {name:?}"),
                );
            }
            if seen.contains(&name) {
                reader.mistake(&dependency.at, format_args!("service {name:?} is given twice"));
            }
            seen.push(name);
        }
        let next = |name: &str| {
            let depends = find(name).map_or(&[][..], |(_, service)| service.depends_on.as_slice());
            depends
                .iter()
                .map(|depends| depends.service.as_str())
                .collect::<Vec<_>>()
        };
        if let Some(circle) = circle(&key.text, &next) {
            let circle = circle.join(" -> ");
            reader.mistake(&key.at, format_args!("depends on itself: {circle}"));
        }
    }
}
