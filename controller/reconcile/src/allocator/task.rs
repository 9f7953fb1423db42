//! Tasks: an address in each network of their spec version. With it a task is PENDING: fit to be placed.

use std::net::IpAddr;

use pontoon_proto::v1::{NetworkAttachment, ServiceSpec, Task, TaskState};
use pontoon_store::{Id, Kind};

use super::NODE_NETWORKS;
use crate::pass::Pass;
use crate::{reasons, versions};

/// Gives all waiting tasks their addresses, as far as that is possible.
pub(super) fn run(pass: &mut Pass<'_, '_>) {
    let waiting: Vec<(Id, Vec<Id>)> = {
        let tasks = &pass.state.alloc.tasks;
        tasks
            .iter()
            .map(|(service, tasks)| (service.clone(), tasks.iter().cloned().collect()))
            .collect()
    };
    for (service_id, tasks) in waiting {
        let Some(service) = pass.tx.service(&service_id).cloned() else {
            continue;
        };
        let mut refused = Some(service.allocation_error.clone()).filter(|reason| !reason.is_empty());
        for id in tasks {
            let Some(task) = pass.tx.task(&id).cloned() else {
                continue;
            };
            if !pass.may_write(Kind::Task, &id) {
                pass.state.alloc.retry = true;
                return;
            }
            let attachments = match (&refused, versions::spec_of(Some(&service), task.spec_version)) {
                (Some(reason), _) => Err(reason.clone()),
                (None, Some(spec)) => attachments(pass, spec),
                (None, None) => Err(format!("spec version {} is not known", task.spec_version)),
            };
            let mut task = Task::clone(&task);
            let now = pass.now();
            if attachments.is_ok() {
                reasons::waited(&mut task, now);
            }
            let status = task.status.get_or_insert_default();
            match attachments {
                Ok(networks) => {
                    status.set_state(TaskState::Pending);
                    status.timestamp = now;
                    status.message = "pending task scheduling".to_owned();
                    status.err.clear();
                    task.networks = networks;
                }
                Err(reason) => {
                    status.err.clone_from(&reason);
                    // The others of the service ask for the same.
                    refused = Some(reason);
                }
            }
            pass.put_task(task);
        }
    }
}

fn attachments(pass: &mut Pass<'_, '_>, spec: &ServiceSpec) -> Result<Vec<NetworkAttachment>, String> {
    let networks = spec
        .task
        .as_ref()
        .map_or(&[][..], |task| task.networks.as_slice());
    let mut wished: Vec<(String, Vec<String>)> = networks
        .iter()
        .map(|network| (network.target.clone(), network.aliases.clone()))
        .collect();
    if versions::uses_ingress(spec) {
        let ingress = pass
            .state
            .alloc
            .ingress
            .as_ref()
            .ok_or("there is no ingress network yet")?;
        wished.push((ingress.as_ref().to_owned(), Vec::new()));
    }
    let mut given: Vec<NetworkAttachment> = Vec::new();
    let mut taken: Vec<(String, IpAddr)> = Vec::new();
    for (target, aliases) in wished {
        if NODE_NETWORKS.contains(&target.as_str()) {
            given.push(NetworkAttachment {
                network_id: target,
                addr: String::new(),
                aliases,
            });
            continue;
        }
        let network = pass.tx.network(&target).cloned();
        let address = match network {
            Some(network) => pass.state.alloc.take_address(&network),
            None => Err(format!("network {target} not found")),
        };
        match address {
            Ok((address, prefix)) => {
                taken.push((target.clone(), address));
                given.push(NetworkAttachment {
                    network_id: target,
                    addr: format!("{address}/{prefix}"),
                    aliases,
                });
            }
            Err(reason) => {
                for (network, address) in taken {
                    pass.state.alloc.give_back(&network, address);
                }
                return Err(reason);
            }
        }
    }
    Ok(given)
}
