//! `update`: new limits and another restart policy for a container, running or not (moby `daemon/update.go`). A running
//! container's cgroup is changed first, so that a limit which the kernel refuses is not recorded.

mod changes;
mod merge;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use pontoon_proto::v1::{
    ContainerRestartPolicy, ContainerState, HostConfig, Resources, RestartPolicyName, UpdateContainerRequest,
    UpdateContainerResponse,
};

use self::changes::changes;
use self::merge::merged;
use super::record::has_process;
use super::{Container, validate};
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result};

impl Engine {
    /// Changes limits and the restart policy. What the request leaves out, or has as 0 (but for the limit on
    /// processes), stays as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad value, [`Error::Conflict`] for one that does not go with what is set already, or the
    /// kernel's refusal; nothing is changed then.
    pub async fn update(
        self: &Arc<Self>,
        mut request: UpdateContainerRequest,
    ) -> Result<UpdateContainerResponse> {
        let warnings = check(&mut request)?;
        let container = self.containers.find(&request.target)?;
        let engine = self.clone();
        self.whole(async move { engine.update_now(&container, &request).await })
            .await?;
        Ok(UpdateContainerResponse { warnings })
    }

    async fn update_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: &UpdateContainerRequest,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        let state = container.state();
        if matches!(state, ContainerState::Removing | ContainerState::Dead) {
            return Err(cannot(
                container,
                "container is marked for removal and cannot be \"update\"",
            ));
        }
        let before = container.read(|record| record.host());
        let after = merged(&before, request).map_err(|reason| cannot(container, reason))?;
        if has_process(state) {
            let shim = container.shim()?;
            let failed = |error| Error::runtime(format!("Cannot update container {}", container.id), error);
            if let Some(resources) = changes(request, &after)
                && let Err(error) = shim.update(&resources).await
            {
                // Some of the limits may have been written before the one that was refused.
                if let Some(old) = changes(request, &before) {
                    drop(shim.update(&old).await);
                }
                return Err(failed(error));
            }
        }
        container.update(|record| record.view_mut().host = Some(after))?;
        self.emit(&container.id, ContainerEventKind::Updated);
        Ok(())
    }
}

fn cannot(container: &Container, reason: impl std::fmt::Display) -> Error {
    Error::Conflict(format!("Cannot update container {}: {reason}", container.id))
}

/// Refuses values that can't be, whatever the container has, and takes out what this kernel can't limit; gives warnings of that.
fn check(request: &mut UpdateContainerRequest) -> Result<Vec<String>> {
    let mut host = HostConfig {
        memory_reservation: request.memory_reservation.unwrap_or_default(),
        cpu_shares: request.cpu_shares.unwrap_or_default(),
        cpu_period: request.cpu_period.unwrap_or_default(),
        cpu_quota: request.cpu_quota.unwrap_or_default(),
        cpu_rt_period: request.cpu_rt_period.unwrap_or_default(),
        cpu_rt_runtime: request.cpu_rt_runtime.unwrap_or_default(),
        cpuset_cpus: request.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: request.cpuset_mems.clone().unwrap_or_default(),
        blkio_weight: request.blkio_weight.unwrap_or_default(),
        resources: Some(Resources {
            nano_cpus: request.nano_cpus.unwrap_or_default(),
            memory_bytes: request.memory_bytes.unwrap_or_default(),
            pids: request.pids_limit.unwrap_or_default(),
        }),
        ..HostConfig::default()
    };
    // A swap limit by itself is fine here: the container has its memory limit.
    if request.memory_bytes.unwrap_or_default() != 0 {
        host.memory_swap = request.memory_swap.unwrap_or_default();
    }
    validate::resources(&host)?;
    let mut warnings = Vec::new();
    let wanted = host.clone();
    validate::discard(&mut host, &mut warnings)?;
    if host.blkio_weight != wanted.blkio_weight {
        request.blkio_weight = None;
    }
    if host.cpu_shares != wanted.cpu_shares {
        request.cpu_shares = None;
    }
    if host.memory_reservation != wanted.memory_reservation {
        request.memory_reservation = None;
    }
    if (host.cpu_rt_period, host.cpu_rt_runtime) != (wanted.cpu_rt_period, wanted.cpu_rt_runtime) {
        (request.cpu_rt_period, request.cpu_rt_runtime) = (None, None);
    }
    match request.restart_policy {
        Some(policy) => check_policy(policy).map(|()| warnings),
        None => Ok(warnings),
    }
}

fn check_policy(policy: ContainerRestartPolicy) -> Result<()> {
    let name = match policy.name() {
        RestartPolicyName::OnFailure => return Ok(()),
        RestartPolicyName::No => "no",
        RestartPolicyName::Always => "always",
        RestartPolicyName::UnlessStopped => "unless-stopped",
    };
    if policy.maximum_retry_count == 0 {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "maximum retry count cannot be used with restart policy '{name}'"
    )))
}
