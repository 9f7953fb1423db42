//! Which labels and variables of a container its lines are marked with, and the tag.

use std::collections::{BTreeMap, HashMap};

use regex_lite::Regex;

use crate::logs::tag;
use crate::{Error, Result};

/// What makes attributes and the tag.
pub(super) const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// Which labels and variables lines are marked with.
#[derive(Clone, Debug, Default)]
pub(in crate::logs) struct Attributes {
    labels: Vec<String>,
    labels_regex: Option<Regex>,
    env: Vec<String>,
    env_regex: Option<Regex>,
    /// Template of the tag; empty: none was asked for.
    pub tag: String,
}

impl Attributes {
    pub(super) fn new(options: &BTreeMap<&str, &str>) -> Result<Self> {
        let list = |key: &str| -> Vec<String> {
            let text = options.get(key).copied().unwrap_or_default();
            text.split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let regex = |key: &str| match options.get(key) {
            None | Some(&"") => Ok(None),
            Some(text) => Regex::new(text).map(Some).map_err(|error| {
                Error::Invalid(format!("invalid value for {key}: error parsing regexp: {error}"))
            }),
        };
        let attributes = Self {
            labels: list("labels"),
            labels_regex: regex("labels-regex")?,
            env: list("env"),
            env_regex: regex("env-regex")?,
            tag: options.get("tag").copied().unwrap_or_default().to_owned(),
        };
        tag::evaluate(&attributes.tag, &tag::Info::default())?;
        Ok(attributes)
    }

    /// Those that a container has.
    pub(in crate::logs) fn choose(
        &self,
        labels: &HashMap<String, String>,
        env: &[String],
    ) -> BTreeMap<String, String> {
        let mut chosen = BTreeMap::new();
        let mut pick = |names: &[String], regex: Option<&Regex>, name: &str, value: &str| {
            if names.iter().any(|wanted| wanted == name) || regex.is_some_and(|regex| regex.is_match(name)) {
                chosen.insert(name.to_owned(), value.to_owned());
            }
        };
        for (name, value) in labels {
            pick(&self.labels, self.labels_regex.as_ref(), name, value);
        }
        for (name, value) in env.iter().filter_map(|entry| entry.split_once('=')) {
            pick(&self.env, self.env_regex.as_ref(), name, value);
        }
        chosen
    }
}
