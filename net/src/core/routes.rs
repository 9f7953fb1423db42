//! Which of a sandbox's endpoints gives the default routes, and published ports with them.
use std::{cmp::Reverse, net::IpAddr};

use super::{Core, endpoint::EndpointRecord};
use crate::{
    Result,
    netlink::{Batch, DefaultRoute, Protocol},
};

impl Core {
    /// The way out of an endpoint: see [`LocalNetwork::exit`](super::local::LocalNetwork::exit).
    pub fn exit(&self, endpoint: &EndpointRecord, at: usize) -> Option<Option<IpAddr>> {
        self.networks.get(&endpoint.endpoint.network_id)?.exit(at)
    }

    /// Whether any endpoint of a sandbox leads out.
    pub fn has_exit(&self, sandbox_id: &str) -> bool {
        let endpoints = self.sandbox(sandbox_id).map(|s| s.record.endpoints.as_slice());
        endpoints
            .unwrap_or_default()
            .iter()
            .any(|e| (0..2).any(|at| self.exit(e, at).is_some()))
    }

    /// Docker's order of endpoints by their claim to the default route: priority, then both families rather than one,
    /// then the network's name. Egress of overlays comes last.
    pub fn rank(&self, endpoint: &EndpointRecord) -> impl Ord + use<> {
        let families = (0..2).filter(|at| self.exit(endpoint, *at).is_some()).count();
        let name = self
            .networks
            .get(&endpoint.endpoint.network_id)
            .map(|n| n.record.spec.name.clone());
        (!endpoint.is_egress(), endpoint.priority, families, Reverse(name))
    }

    /// Gives each family's default route to the endpoint with the best claim, and published ports with it.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn elect(&mut self, sandbox_id: &str) -> Result<()> {
        let mut endpoints = self.sandbox(sandbox_id)?.record.endpoints.clone();
        let mut batch = Batch::default();
        for at in 0..2 {
            let chosen = endpoints
                .iter()
                .filter_map(|e| Some((e, self.exit(e, at)?)))
                .max_by_key(|(e, _)| self.rank(e))
                .map(|(e, gateway)| (e.number, gateway));
            let route = |index, gateway| DefaultRoute {
                index,
                is_ipv6: at == 1,
                gateway,
            };
            for endpoint in &mut endpoints {
                let is_chosen = chosen.is_some_and(|(number, _)| number == endpoint.number);
                if endpoint.routes[at] && !is_chosen {
                    let gateway = [endpoint.endpoint.gateway, endpoint.endpoint.gateway6][at];
                    batch.remove_default_route(route(endpoint.index(), gateway));
                    endpoint.routes[at] = false;
                }
            }
            let wanted = chosen.and_then(|(number, gateway)| {
                let endpoint = endpoints.iter_mut().find(|e| e.number == number)?;
                (!std::mem::replace(&mut endpoint.routes[at], true)).then_some((endpoint.index(), gateway))
            });
            if let Some((index, gateway)) = wanted {
                batch.add_default_route(route(index, gateway));
            }
        }
        if !batch.requests.is_empty() {
            self.socket_inside(sandbox_id, Protocol::Route)?.transact(batch)?;
            self.sandbox_mut(sandbox_id)?.record.endpoints = endpoints;
            self.save_sandbox(sandbox_id)?;
        }
        self.retarget_ports(sandbox_id)
    }
}
