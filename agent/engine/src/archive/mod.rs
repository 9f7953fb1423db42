//! Files of containers: `diff` and `commit` (what a container has changed), `cp` and `export` (its files as tar archives).
//! Called by the gRPC service. The archives themselves are `pontoon_image::archive`'s.
//!
//! - [`changes`](Engine::changes) in this file, `commit`: read the container's writable layer, no mount needed;
//! - `copy`: `cp` and `export`, by a helper process (`helper`, and the engine's end of it, `process`);
//! - `gate`: who may be at a container's files at the same time.

mod commit;
mod copy;
pub(crate) mod gate;
mod helper;
mod places;
mod process;

use pontoon_image::archive::{Change, ChangeKind};
use pontoon_proto::v1;

pub use copy::Chunks;
pub use helper::main;

use crate::engine::blocking;
use crate::{Engine, Error, Result};

impl Engine {
    /// What a container has changed of its image's file system, sorted by path.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], or its files can't be read.
    pub async fn changes(&self, target: &str) -> Result<Vec<v1::ContainerChange>> {
        let container = self.containers.find(target)?;
        let (images, id) = (self.images.clone(), container.id.clone());
        let changes = blocking(move || images.changes(&id).map_err(Error::Image)).await?;
        Ok(changes.into_iter().map(change).collect())
    }
}

fn change(change: Change) -> v1::ContainerChange {
    let kind = match change.kind {
        ChangeKind::Modified => v1::ChangeKind::Modified,
        ChangeKind::Added => v1::ChangeKind::Added,
        ChangeKind::Deleted => v1::ChangeKind::Deleted,
    };
    v1::ContainerChange {
        kind: kind.into(),
        path: String::from_utf8_lossy(&change.path).into_owned(),
    }
}
