//! `builder prune`, and what `system df` shows of the build cache.

use std::collections::HashSet;
use std::sync::Arc;

use pontoon_image::ListOptions;
use pontoon_proto::v1::{BuildCacheRecord, FilterValues, PruneRequest, PruneResponse};

use super::cache::Record;
use crate::engine::blocking;
use crate::{Engine, Error, Result, id};

/// What is to go.
#[derive(Default)]
struct Wanted {
    all: bool,
    /// Bytes that may stay.
    keep: u64,
    /// Only what was not used since then.
    until: Option<i64>,
    filters: Vec<(String, Vec<String>)>,
}

impl Engine {
    /// The entries of the build cache, by id.
    ///
    /// # Errors
    /// The images can't be listed.
    pub async fn build_cache_records(self: &Arc<Self>) -> Result<Vec<BuildCacheRecord>> {
        let engine = self.clone();
        blocking(move || engine.cache_records()).await
    }

    fn cache_records(&self) -> Result<Vec<BuildCacheRecord>> {
        let mut chains = HashSet::new();
        for image in self.images.list(&ListOptions::default()).map_err(Error::Image)? {
            if let Ok(image) = self.images.get(&image.id.to_string()) {
                chains.extend(image.layers);
            }
        }
        let record = |(key, record, in_use): (String, Record, bool)| {
            let top = self
                .images
                .kept(&format!("build-{key}"))
                .ok()
                .flatten()
                .and_then(|stack| stack.chain());
            BuildCacheRecord {
                shared: top.is_some_and(|chain| chains.contains(&chain)),
                id: key,
                r#type: record.kind,
                description: record.description,
                size: i64::try_from(record.size).unwrap_or(i64::MAX),
                created_at: record.created_at,
                last_used_at: record.last_used_at,
                usage_count: record.usage_count,
                in_use,
            }
        };
        Ok(self.build_cache.list().into_iter().map(record).collect())
    }

    /// Removes build cache that nothing uses, the longest unused first.
    ///
    /// # Errors
    /// A filter that makes no sense, or files that can't be removed.
    pub async fn prune_build_cache(self: &Arc<Self>, request: PruneRequest) -> Result<PruneResponse> {
        let wanted = Wanted::parse(request)?;
        let engine = self.clone();
        self.whole(async move {
            blocking(move || {
                let mut records = engine.cache_records()?;
                records.sort_by(|a, b| (a.last_used_at, &a.id).cmp(&(b.last_used_at, &b.id)));
                let mut left: u64 = records.iter().map(|record| record.size.unsigned_abs()).sum();
                let mut response = PruneResponse::default();
                for record in records {
                    if wanted.keep > 0 && left <= wanted.keep {
                        break;
                    }
                    if record.in_use || !wanted.fits(&record) {
                        continue;
                    }
                    engine.build_cache.forget(&engine.images, &record.id)?;
                    let size = record.size.unsigned_abs();
                    left = left.saturating_sub(size);
                    // What an image has too is still there.
                    response.space_reclaimed += if record.shared { 0 } else { size };
                    response.deleted.push(record.id);
                }
                Ok(response)
            })
            .await
        })
        .await
    }
}

impl Wanted {
    fn parse(request: PruneRequest) -> Result<Self> {
        let mut wanted = Self::default();
        for (key, FilterValues { values }) in request.filters {
            let last = values.last().cloned().unwrap_or_default();
            match key.as_str() {
                "all" => wanted.all = matches!(last.as_str(), "true" | "1"),
                "keep-storage" => {
                    let invalid = |_| Error::Invalid(format!("invalid filter 'keep-storage={last}'"));
                    wanted.keep = last.parse().map_err(invalid)?;
                }
                "until" | "unused-for" => {
                    let age = pontoon_image::instruction_duration(&last).map_err(|_| {
                        Error::Invalid(format!(
                            "invalid filter '{key}={last}': a duration like 24h is expected"
                        ))
                    })?;
                    wanted.until = Some(id::now() - age);
                }
                "id" | "type" | "description" | "inuse" | "shared" | "private" => {
                    wanted.filters.push((key, values))
                }
                _ => return Err(Error::Invalid(format!("invalid filter '{key}'"))),
            }
        }
        Ok(wanted)
    }

    fn fits(&self, record: &BuildCacheRecord) -> bool {
        // Without --all what an image has too stays: it costs nothing.
        let idle = self.all || !record.shared;
        let old = self.until.is_none_or(|limit| record.last_used_at < limit);
        idle && old
            && self.filters.iter().all(|(key, values)| {
                values.iter().any(|value| match key.as_str() {
                    "id" => record.id.starts_with(value.as_str()),
                    "type" => record.r#type == *value,
                    "description" => record.description.contains(value.as_str()),
                    "inuse" => record.in_use == truth(value),
                    "shared" => record.shared == truth(value),
                    _ => record.shared != truth(value),
                })
            })
    }
}

fn truth(value: &str) -> bool {
    value.is_empty() || matches!(value, "1" | "true")
}
