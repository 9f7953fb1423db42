//! Filters of `volume ls` and `volume prune`, with Docker's keys and texts.

use std::collections::HashMap;

use pontoon_proto::v1::{FilterValues, Volume};

use crate::container::filter::has_label;
use crate::{Error, Result};

/// Filters, checked.
#[derive(Debug, Default)]
pub(super) struct Filters {
    values: HashMap<String, Vec<String>>,
    /// `dangling` or `all`, where it was given.
    switch: Option<bool>,
}

impl Filters {
    /// For `ls`.
    pub(super) fn for_list(given: &HashMap<String, FilterValues>) -> Result<Self> {
        Self::new(given, &["dangling", "driver", "label", "name"], "dangling")
    }

    /// For `prune`.
    pub(super) fn for_prune(given: &HashMap<String, FilterValues>) -> Result<Self> {
        Self::new(given, &["all", "label", "label!"], "all")
    }

    fn new(given: &HashMap<String, FilterValues>, keys: &[&str], switch: &str) -> Result<Self> {
        let mut names: Vec<&String> = given.keys().collect();
        names.sort();
        if let Some(unknown) = names.iter().find(|name| !keys.contains(&name.as_str())) {
            return Err(Error::Invalid(format!("invalid filter '{unknown}'")));
        }
        let values: HashMap<String, Vec<String>> = given
            .iter()
            .map(|(key, list)| (key.clone(), list.values.clone()))
            .collect();
        let given = values.get(switch).map_or(&[][..], Vec::as_slice);
        let switch = match given.iter().map(|word| boolean(word)).collect::<Option<Vec<_>>>() {
            Some(words) if words.iter().all(|word| *word == words[0]) => words.first().copied(),
            _ => {
                return Err(Error::Invalid(format!(
                    "invalid filter '{switch}=[{}]'",
                    given.join(" ")
                )));
            }
        };
        Ok(Self { values, switch })
    }

    /// `dangling` or `all`.
    pub(super) fn switch(&self) -> Option<bool> {
        self.switch
    }

    /// Whether a volume passes, but for the switch.
    pub(super) fn matches(&self, volume: &Volume) -> bool {
        let get = |key: &str| self.values.get(key).map_or(&[][..], Vec::as_slice);
        let any =
            |key: &str, test: &dyn Fn(&String) -> bool| get(key).is_empty() || get(key).iter().any(test);
        let unwanted = get("label!");
        let has_unwanted =
            !unwanted.is_empty() && unwanted.iter().all(|label| has_label(&volume.labels, label));
        any("name", &|value| volume.name.contains(value.as_str()))
            && any("driver", &|value| volume.driver == *value)
            && get("label")
                .iter()
                .all(|wanted| has_label(&volume.labels, wanted))
            && !has_unwanted
    }
}

/// As Docker reads booleans in filters.
fn boolean(word: &str) -> Option<bool> {
    match word {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> HashMap<String, FilterValues> {
        let mut map: HashMap<String, FilterValues> = HashMap::new();
        for (key, value) in pairs {
            map.entry((*key).to_owned())
                .or_default()
                .values
                .push((*value).to_owned());
        }
        map
    }

    #[test]
    fn match_as_in_docker() {
        let volume = Volume {
            name: "pgdata".into(),
            driver: "local".into(),
            labels: HashMap::from([("a".into(), "b".into())]),
            ..Volume::default()
        };
        let passes = |pairs: &[(&str, &str)]| Filters::for_list(&given(pairs)).unwrap().matches(&volume);
        assert!(passes(&[
            ("name", "data"),
            ("driver", "local"),
            ("label", "a=b"),
            ("label", "a")
        ]));
        assert!(!passes(&[("name", "x")]) && !passes(&[("label", "a"), ("label", "c")]));
        assert!(passes(&[("name", "x"), ("name", "pg")]));
        let prunes = |pairs: &[(&str, &str)]| Filters::for_prune(&given(pairs)).unwrap().matches(&volume);
        assert!(prunes(&[("label!", "c")]) && !prunes(&[("label!", "a=b")]));
        let error = |result: Result<Filters>| result.unwrap_err().to_string();
        assert_eq!(
            error(Filters::for_list(&given(&[("x", "y")]))),
            "invalid filter 'x'"
        );
        assert_eq!(
            error(Filters::for_list(&given(&[("dangling", "maybe")]))),
            "invalid filter 'dangling=[maybe]'"
        );
        assert_eq!(
            Filters::for_prune(&given(&[("all", "1")])).unwrap().switch(),
            Some(true)
        );
    }
}
