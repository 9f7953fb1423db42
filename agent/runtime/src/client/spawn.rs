//! Starting a shim: writes its files, runs our own binary again, waits for its one line.

use std::path::PathBuf;

use crate::protocol::ContainerState;
use crate::{Error, ShimConfig};

/// Uses another binary than our own for shims: for programs (tests, tools) that do not dispatch `shim`.
/// Call it before the first `spawn`; later calls have no effect.
pub fn set_shim_executable(path: PathBuf) {
    let _ = path;
}

pub(super) async fn spawn(
    _cfg: &ShimConfig,
    _spec: &oci_spec::runtime::Spec,
) -> Result<ContainerState, Error> {
    Err(Error::Unsupported("shim".to_owned()))
}
