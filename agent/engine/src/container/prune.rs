//! `container prune`: removes what does not run.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_proto::v1::{ContainerState, FilterValues, PruneRequest, PruneResponse};

use super::Container;
use super::filter::has_label;
use crate::event::EventObject;
use crate::{Engine, Error, Result, id};

/// Filters of a prune, checked.
pub(crate) struct PruneFilters {
    /// Only what was created before that, nanoseconds since the epoch.
    until: Option<i64>,
    labels: Vec<String>,
    without: Vec<String>,
}

impl PruneFilters {
    /// Reads and checks them.
    pub(crate) fn new(given: &HashMap<String, FilterValues>) -> Result<Self> {
        let mut filters = Self {
            until: None,
            labels: Vec::new(),
            without: Vec::new(),
        };
        for (key, list) in given {
            match (key.as_str(), list.values.as_slice()) {
                ("until", [value]) => filters.until = Some(moment(value)?),
                ("until", []) => {}
                ("until", _) => {
                    return Err(Error::Invalid("more than one until filter specified".to_owned()));
                }
                ("label", values) => values.clone_into(&mut filters.labels),
                ("label!", values) => values.clone_into(&mut filters.without),
                _ => return Err(Error::Invalid(format!("invalid filter '{key}'"))),
            }
        }
        Ok(filters)
    }

    fn matches(&self, container: &Container) -> bool {
        container.read(|record| self.fits(record.view().created_at, &record.config().labels))
    }

    /// Whether something with this time of creation and these labels fits.
    pub(crate) fn fits(&self, created: i64, labels: &HashMap<String, String>) -> bool {
        self.until.is_none_or(|until| created <= until)
            && self.labels.iter().all(|wanted| has_label(labels, wanted))
            && !self.without.iter().any(|unwanted| has_label(labels, unwanted))
    }
}

/// A moment as clients send it: nanoseconds since the epoch, or what they did not resolve: RFC 3339, Unix seconds, or
/// a time that long ago (`10m`, `1h30m`).
pub(crate) fn moment(text: &str) -> Result<i64> {
    let bad = || Error::Invalid(format!("failed to parse value as time or duration: {text:?}"));
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return i64::try_from(at.as_nanosecond()).map_err(|_| bad());
    }
    if let Ok(seconds) = text.parse::<f64>() {
        // Beyond the type's range the cast stops at its ends.
        return Ok((seconds * 1e9) as i64);
    }
    if let Ok(day) = text.parse::<jiff::civil::DateTime>() {
        let at = day.to_zoned(jiff::tz::TimeZone::system()).map_err(|_| bad())?;
        return i64::try_from(at.timestamp().as_nanosecond()).map_err(|_| bad());
    }
    let ago = duration(text).ok_or_else(bad)?;
    Ok(id::now().saturating_sub(ago))
}

/// Go's durations, `1h30m`, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total as i64)
}

impl Engine {
    /// Removes all containers that do not run (nor wait for their restart) and fit the filters.
    ///
    /// # Errors
    /// A filter that makes no sense. A container that can't be removed is left and logged.
    pub async fn prune_containers(self: &Arc<Self>, request: &PruneRequest) -> Result<PruneResponse> {
        let filters = PruneFilters::new(&request.filters)?;
        let mut containers = self.containers.all();
        containers
            .sort_by_key(|container| std::cmp::Reverse(container.read(|record| record.view().created_at)));
        let mut response = PruneResponse::default();
        for container in containers {
            let idle = matches!(
                container.state(),
                ContainerState::Created | ContainerState::Exited | ContainerState::Dead
            );
            if !idle || !filters.matches(&container) {
                continue;
            }
            let mut view = container.read(|record| record.view().clone());
            // Without a size it is removed all the same.
            if let Err(error) = self.fill_size(&mut view).await {
                tracing::debug!(container = container.id, error = error.chain(), "size unknown");
            }
            match self.remove(&container.id, false).await {
                Ok(()) => {
                    response.deleted.push(container.id.clone());
                    response.space_reclaimed += u64::try_from(view.size_rw).unwrap_or_default();
                }
                // Started or removed by somebody else meanwhile.
                Err(Error::NoSuchContainer(_) | Error::Conflict(_)) => {}
                Err(error @ Error::ShuttingDown(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        container = container.id,
                        error = error.chain(),
                        "could not remove a container"
                    );
                }
            }
        }
        self.emit_pruned(EventObject::Container, response.space_reclaimed);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment("1700000000").unwrap(), 1_700_000_000_000_000_000);
        assert_eq!(moment("2023-11-14T22:13:20Z").unwrap(), 1_700_000_000_000_000_000);
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert!(moment("1h30m").unwrap() <= id::now() - 5_400_000_000_000);
        for bad in ["x", "", "5 apples"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_filters_are_refused() {
        let of = |key: &str, values: &[&str]| {
            PruneFilters::new(&HashMap::from([(
                key.to_owned(),
                FilterValues {
                    values: values.iter().map(ToString::to_string).collect(),
                },
            )]))
        };
        assert!(of("label", &["a"]).is_ok() && of("label!", &["a=b"]).is_ok());
        assert!(of("name", &["a"]).is_err());
        assert!(of("until", &["1h", "2h"]).is_err());
    }
}
