//! Links of an overlay: its bridge, its tunnel, ports of containers and of the routing mesh.
use std::collections::BTreeMap;

use super::Found;
use crate::{
    Drift, Driver, Error, Part, Result,
    core::{
        Core, Overlay,
        endpoint::{Attachment, EndpointRecord},
        mesh,
        overlay::{self, BRIDGE_INDEX, VXLAN_INDEX},
    },
    netlink::{Batch, LinkState, PortFlags, Tunnel},
};

/// How a link is mended.
#[derive(Debug)]
pub(super) enum Remedy {
    /// The bridge is made.
    MakeBridge,
    /// The bridge gets its settings.
    SetBridge {
        /// Its MAC too: with it the kernel forgets all neighbours, even if it is the same as before.
        mac: bool,
    },
    /// The tunnel's device is made, instead of one that leads elsewhere.
    MakeTunnel,
    /// A container's link is made.
    MakeEndpoint {
        /// Its sandbox.
        sandbox: String,
        /// Its endpoint.
        record: Box<EndpointRecord>,
    },
    /// The routing mesh's leg is made.
    MakeLeg,
    /// A link becomes a port of the bridge, up, with its settings.
    Join {
        /// Its name.
        link: String,
        /// Its index.
        index: u32,
        /// How the bridge treats it.
        flags: PortFlags,
    },
    /// The leg's end on the host gets its address.
    SetLeg,
}

impl Remedy {
    /// Whether a link is made, on which something else hangs.
    pub(super) fn makes_anew(&self) -> bool {
        matches!(
            self,
            Self::MakeBridge | Self::MakeTunnel | Self::MakeEndpoint { .. } | Self::MakeLeg
        )
    }
}

/// Links of a namespace by name.
struct Links(BTreeMap<String, LinkState>);

/// In what a port differs from what it should be, in words; `None` if in nothing.
fn port_differences(link: &LinkState, mtu: u32, wanted: PortFlags) -> Option<String> {
    let mut all = Vec::new();
    if link.master != Some(BRIDGE_INDEX) {
        all.push("no port of the bridge".to_owned());
    } else if !has_flags(link.port, wanted) {
        all.push("a port with other settings".to_owned());
    }
    if !link.up {
        all.push("down".to_owned());
    }
    if link.mtu != mtu {
        all.push(format!("with MTU {}", link.mtu));
    }
    (!all.is_empty()).then(|| all.join(", "))
}

/// Whether what is wished of a port holds; what is not wished may be anything.
fn has_flags(found: PortFlags, wanted: PortFlags) -> bool {
    let pairs = [
        (found.learning, wanted.learning),
        (found.flood, wanted.flood),
        (found.proxy_arp, wanted.proxy_arp),
        (found.neigh_suppress, wanted.neigh_suppress),
    ];
    pairs
        .iter()
        .all(|(found, wanted)| wanted.is_none() || found == wanted)
}

impl Core {
    /// What is wrong about an overlay's links. None if there is no such overlay.
    pub(super) fn link_drifts(&mut self, id: &str) -> Result<Found<Remedy>> {
        let Some(overlay) = self.overlays.get_mut(id) else {
            return Ok(Vec::new());
        };
        let addresses = overlay.route.addresses_of(BRIDGE_INDEX)?;
        let has_address = addresses.contains(&overlay.bridge_address().addr());
        let states = overlay.route.link_states()?;
        let links = Links(states.into_iter().map(|link| (link.name.clone(), link)).collect());
        let bridge = links.0.values().find(|link| link.index == BRIDGE_INDEX);
        let Some(bridge) = bridge else {
            let drift = Drift::of(id, Part::Bridge, overlay.bridge_text(), "nothing");
            return Ok(vec![(drift, Remedy::MakeBridge)]);
        };
        let mut found = Vec::new();
        if let Some(how) = overlay.bridge_differences(bridge, has_address) {
            let drift = Drift::of(id, Part::Bridge, overlay.bridge_text(), how);
            let mac = bridge.mac != Some(overlay.bridge_mac());
            found.push((drift, Remedy::SetBridge { mac }));
        }
        if overlay.has_vxlan() {
            found.extend(overlay.tunnel_drift(id, &links));
        }
        let mtu = overlay.mtu;
        found.extend(self.endpoint_drifts(id, &links, mtu));
        found.extend(self.leg_drift(id, &links, mtu)?);
        Ok(found)
    }

    fn endpoint_drifts(&self, id: &str, links: &Links, mtu: u32) -> Found<Remedy> {
        let mut found = Vec::new();
        for (sandbox, state) in &self.sandboxes {
            for record in state
                .record
                .endpoints
                .iter()
                .filter(|e| e.endpoint.network_id == id)
            {
                let Attachment::Overlay { index } = record.attachment else {
                    continue;
                };
                if self.withdrawn.contains(&record.link) || state.netns.is_none() {
                    continue;
                }
                let flags = overlay::endpoint_flags();
                let (how, remedy) = match links.0.get(&record.link) {
                    None => {
                        let (sandbox, record) = (sandbox.clone(), Box::new(record.clone()));
                        ("nothing".to_owned(), Remedy::MakeEndpoint { sandbox, record })
                    }
                    Some(link) => {
                        let Some(how) = port_differences(link, mtu, flags) else {
                            continue;
                        };
                        let link = record.link.clone();
                        (how, Remedy::Join { link, index, flags })
                    }
                };
                let should = format!(
                    "link {} of the container's {}",
                    record.link, record.endpoint.ifname
                );
                let drift = Drift {
                    sandbox: sandbox.clone(),
                    ..Drift::of(id, Part::Endpoint, should, how)
                };
                found.push((drift, remedy));
            }
        }
        found
    }

    fn leg_drift(&mut self, id: &str, links: &Links, mtu: u32) -> Result<Option<(Drift, Remedy)>> {
        let Some(mesh) = self.mesh.as_ref().filter(|mesh| mesh.network_id() == id) else {
            return Ok(None);
        };
        let Some(address) = mesh.address() else {
            return Ok(None);
        };
        let should = format!("link {} with {address}", mesh::LEG);
        let drift = |how: &str| Drift::of(id, Part::Mesh, should, how);
        let (Some(inner), Some(outer)) = (links.0.get(mesh::LEG), self.route.link(mesh::LEG)?) else {
            return Ok(Some((drift("nothing"), Remedy::MakeLeg)));
        };
        let flags = overlay::endpoint_flags();
        if let Some(how) = port_differences(inner, mtu, flags) {
            let (link, index) = (inner.name.clone(), inner.index);
            return Ok(Some((drift(&how), Remedy::Join { link, index, flags })));
        }
        if self.route.addresses_of(outer.index)?.contains(&address.into()) && outer.running {
            return Ok(None);
        }
        Ok(Some((
            drift("a link without its address, or down"),
            Remedy::SetLeg,
        )))
    }

    pub(super) fn mend_link(&mut self, id: &str, remedy: Remedy) -> Result<()> {
        let not_found = || Error::NetworkNotFound { id: id.into() };
        match remedy {
            Remedy::MakeEndpoint { sandbox, record } => {
                let Attachment::Overlay { index } = record.attachment else {
                    return Ok(());
                };
                return self.program_overlay(&sandbox, &record, index);
            }
            Remedy::MakeLeg => {
                // One end may be left, in either namespace.
                let mut batch = Batch::default();
                batch.remove_link(mesh::LEG);
                self.route.transact(batch)?;
                return self.make_leg();
            }
            Remedy::SetLeg => return self.set_leg(),
            Remedy::MakeTunnel => return self.remake_tunnel(id),
            _ => {}
        }
        let overlay = self.overlays.get_mut(id).ok_or_else(not_found)?;
        let mut batch = Batch::default();
        match remedy {
            Remedy::MakeBridge => overlay.make_bridge(&mut batch),
            Remedy::SetBridge { mac } => overlay.set_bridge(&mut batch, mac),
            Remedy::Join { link, index, flags } => {
                let mtu = overlay.mtu;
                batch
                    .enslave(index, BRIDGE_INDEX)
                    .set_port(&link, flags)
                    .set_mtu(index, mtu);
            }
            _ => {}
        }
        overlay.route.transact(batch)
    }

    fn remake_tunnel(&mut self, id: &str) -> Result<()> {
        let Some(mut overlay) = self.overlays.remove(id) else {
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.remove_link(overlay::VXLAN);
        let made = overlay
            .route
            .transact(batch)
            .and_then(|()| match overlay.spec.driver {
                Driver::Overlay { vni } => self.add_tunnel(&mut overlay, vni),
                _ => Ok(()),
            });
        self.overlays.insert(id.into(), overlay);
        made
    }
}

impl Overlay {
    fn bridge_text(&self) -> String {
        format!(
            "a bridge, up, with MTU {} and {}",
            self.mtu,
            self.bridge_address()
        )
    }

    fn bridge_differences(&self, bridge: &LinkState, has_address: bool) -> Option<String> {
        let mut all = Vec::new();
        if !bridge.up {
            all.push("down".to_owned());
        }
        if bridge.mtu != self.mtu {
            all.push(format!("with MTU {}", bridge.mtu));
        }
        if bridge.mac != Some(self.bridge_mac()) {
            all.push("with another MAC".to_owned());
        }
        if !has_address {
            all.push("without its address".to_owned());
        }
        (!all.is_empty()).then(|| format!("a bridge, {}", all.join(", ")))
    }

    fn set_bridge(&self, batch: &mut Batch, mac: bool) {
        if mac {
            batch.set_mac(BRIDGE_INDEX, self.bridge_mac());
        }
        batch
            .set_mtu(BRIDGE_INDEX, self.mtu)
            .set_up(BRIDGE_INDEX)
            .add_address(BRIDGE_INDEX, self.bridge_address());
    }

    fn tunnel_drift(&self, id: &str, links: &Links) -> Option<(Drift, Remedy)> {
        let Driver::Overlay { vni } = self.spec.driver else {
            return None;
        };
        let port = self.data_path_port;
        let wanted = Tunnel {
            vni,
            local: Some(self.local_vtep),
            port,
            learning: false,
        };
        let should = format!(
            "VXLAN device {} with id {vni} from {} on port {port}, MTU {}",
            overlay::VXLAN,
            self.local_vtep,
            self.mtu
        );
        let drift = |how: String| Drift::of(id, Part::Tunnel, should, how);
        let Some(link) = links.0.values().find(|link| link.index == VXLAN_INDEX) else {
            return Some((drift("nothing".into()), Remedy::MakeTunnel));
        };
        if link.vxlan != Some(wanted) || link.name != overlay::VXLAN {
            let how = link.vxlan.map_or_else(
                || format!("{} of kind {:?}", link.name, link.kind),
                |t| {
                    let local = t.local.map_or_else(|| "anywhere".into(), |ip| ip.to_string());
                    format!("{} with id {} from {local} on port {}", link.name, t.vni, t.port)
                },
            );
            return Some((drift(how), Remedy::MakeTunnel));
        }
        let flags = overlay::tunnel_flags();
        let how = port_differences(link, self.mtu, flags)?;
        let (name, index) = (link.name.clone(), link.index);
        Some((
            drift(how),
            Remedy::Join {
                link: name,
                index,
                flags,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_as_wished_or_it_is_said_how_it_is() {
        let wanted = overlay::endpoint_flags();
        let link = LinkState {
            mtu: 1450,
            up: true,
            master: Some(BRIDGE_INDEX),
            port: PortFlags {
                hairpin: Some(false),
                ..wanted
            },
            ..LinkState::default()
        };
        assert_eq!(port_differences(&link, 1450, wanted), None);
        let flooded = LinkState {
            port: PortFlags {
                flood: Some(true),
                ..wanted
            },
            ..link.clone()
        };
        let how = port_differences(&flooded, 1450, wanted);
        assert_eq!(how.as_deref(), Some("a port with other settings"));
        let loose = LinkState {
            master: None,
            up: false,
            mtu: 1500,
            ..link
        };
        let how = port_differences(&loose, 1450, wanted);
        assert_eq!(how.as_deref(), Some("no port of the bridge, down, with MTU 1500"));
    }
}
