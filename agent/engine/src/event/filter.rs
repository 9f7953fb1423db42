//! `events --filter`: Docker's keys and how each compares. Values of one key are alternatives, keys are conditions.

use std::collections::HashMap;

use pontoon_proto::v1::{Event, FilterValues};

use crate::{Error, Result};

/// Keys that `events` knows. Those of objects that do not exist here match nothing.
const KEYS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// A checked filter.
#[derive(Debug, Default)]
pub(crate) struct EventFilter {
    keys: HashMap<String, Vec<String>>,
}

impl EventFilter {
    /// Refuses keys that do not exist.
    pub(crate) fn new(given: &HashMap<String, FilterValues>) -> Result<Self> {
        if let Some(key) = given.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(Error::Invalid(format!("invalid filter '{key}'")));
        }
        Ok(Self {
            keys: given
                .iter()
                .map(|(key, values)| (key.clone(), values.values.clone()))
                .collect(),
        })
    }

    /// Whether an event fits.
    pub(crate) fn matches(&self, event: &Event) -> bool {
        self.keys.iter().all(|(key, values)| match key.as_str() {
            "event" => values.iter().any(|value| action_fits(value, &event.action)),
            "type" => values.contains(&event.r#type),
            "scope" => values.contains(&event.scope),
            "image" => values.iter().any(|value| image_fits(value, event)),
            "label" => values.iter().all(|value| label_fits(value, &event.attributes)),
            _ => values.iter().any(|value| named(value, event)),
        })
    }
}

/// Actions that carry a text after a colon are also found by what is before it.
fn action_fits(value: &str, action: &str) -> bool {
    let bare = matches!(value, "health_status" | "exec_create" | "exec_start");
    action == value || (bare && action.split_once(':').is_some_and(|(name, _)| name == value))
}

/// Ids and names by prefix, as Docker does.
fn named(value: &str, event: &Event) -> bool {
    let name = event.attributes.get("name");
    event.actor_id.starts_with(value) || name.is_some_and(|name| name.starts_with(value))
}

/// The image of a container, or the image itself; a tag in the event may be left out in the filter.
fn image_fits(value: &str, event: &Event) -> bool {
    let attribute = if event.r#type == "image" { "name" } else { "image" };
    let name = event.attributes.get(attribute).map_or("", String::as_str);
    [event.actor_id.as_str(), name]
        .into_iter()
        .any(|shown| shown == value || without_tag(shown) == value)
}

fn without_tag(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => name,
        _ => reference,
    }
}

fn label_fits(value: &str, attributes: &HashMap<String, String>) -> bool {
    match value.split_once('=') {
        Some((key, wanted)) => attributes.get(key).is_some_and(|found| found == wanted),
        None => attributes.contains_key(value),
    }
}
