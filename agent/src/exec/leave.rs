//! What a node does when it leaves its cluster: no task, no overlay, no routing mesh stays, and no other container in an overlay. Called by
//! the daemon.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pontoon_engine::Engine;
use pontoon_net::Driver;
use pontoon_proto::v1::{FilterValues, ListContainersRequest};

use super::request::TASK_ID;
use crate::error::chain;

/// Removes the containers of all tasks, then the overlays and the routing mesh of this host. Goes on after failures, which it
/// returns; may be called again.
pub async fn remove_all(engine: &Arc<Engine>) -> Vec<String> {
    let mut failures = Vec::new();
    engine.set_task_images(BTreeSet::new());
    let request = ListContainersRequest {
        all: true,
        filters: HashMap::from([(
            "label".to_owned(),
            FilterValues {
                values: vec![TASK_ID.to_owned()],
            },
        )]),
        ..ListContainersRequest::default()
    };
    match engine.list(&request).await {
        Ok(containers) => {
            let removals = containers.into_iter().map(|container| async move {
                match engine.remove_with_volumes(&container.id, true).await {
                    Ok(()) | Err(pontoon_engine::Error::NoSuchContainer(_)) => None,
                    Err(error) => Some(format!("remove container {}: {}", container.name, error.chain())),
                }
            });
            failures.extend(
                futures_util::future::join_all(removals)
                    .await
                    .into_iter()
                    .flatten(),
            );
        }
        Err(error) => failures.push(error.chain()),
    }
    engine.leave_cluster();
    failures.extend(engine.disconnect_from_cluster().await);
    let network = engine.network();
    if let Err(errors) = network.remove_ingress().await {
        failures.push(errors.to_string());
    }
    match network.list_networks().await {
        Ok(networks) => {
            for overlay in networks
                .into_iter()
                .filter(|network| matches!(network.spec.driver, Driver::Overlay { .. }))
            {
                if let Err(errors) = network.remove_overlay(&overlay.spec.id).await {
                    failures.push(errors.to_string());
                }
            }
        }
        Err(error) => failures.push(chain(&error)),
    }
    failures
}
