//! What volumes take: for `system df`.

use std::sync::Arc;

use pontoon_proto::v1;

use super::tree;
use crate::engine::blocking;
use crate::{Engine, Result};

/// All volumes with their size in bytes (-1: it could not be read) and the number of containers that have them.
///
/// # Errors
/// The engine is shutting down.
pub(crate) async fn usage(engine: &Arc<Engine>) -> Result<Vec<v1::Volume>> {
    let engine = engine.clone();
    blocking(move || {
        let measured =
            |(volume, containers): (Arc<super::volume::Volume>, std::collections::BTreeSet<String>)| {
                let size = tree::size(&volume.path())
                    .ok()
                    .and_then(|size| i64::try_from(size).ok());
                v1::Volume {
                    size: size.unwrap_or(-1),
                    ref_count: i64::try_from(containers.len()).unwrap_or(i64::MAX),
                    ..volume.view()
                }
            };
        Ok(engine.volumes.all().into_iter().map(measured).collect())
    })
    .await
}
