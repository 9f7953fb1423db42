//! Static entries of an overlay: on which node an address is, by which port of the bridge, with which MAC.
use std::{collections::BTreeSet, net::Ipv4Addr};

use super::Found;
use crate::{
    Drift, Part, Result,
    core::{Core, Overlay, endpoint::Attachment, mac, mesh, overlay},
    netlink::{Batch, Neighbour},
};

/// Entries to be put back and to be taken away.
#[derive(Debug, Default)]
pub(super) struct Entries {
    missing: Vec<Neighbour>,
    extra: Vec<Neighbour>,
}

/// The part of the network that an entry is.
fn part(entry: &Neighbour) -> Part {
    match entry {
        Neighbour::Tunnel { .. } => Part::Forwarding,
        Neighbour::Port { .. } => Part::PortEntry,
        Neighbour::Address { .. } => Part::Neighbour,
    }
}

fn address(ip: Ipv4Addr) -> Neighbour {
    Neighbour::Address {
        index: overlay::BRIDGE_INDEX,
        ip: ip.into(),
        mac: mac(ip.into()),
    }
}

fn port(index: u32, ip: Ipv4Addr) -> Neighbour {
    Neighbour::Port {
        index,
        mac: mac(ip.into()),
    }
}

/// The first and how many more.
fn text(entries: &[Neighbour]) -> String {
    match entries {
        [] => "nothing".into(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first} and {} more", more.len()),
    }
}

impl Overlay {
    /// Entries for endpoints on other nodes.
    fn peer_entries(&self) -> impl Iterator<Item = Neighbour> + '_ {
        let has_vxlan = self.has_vxlan();
        self.peers.iter().flat_map(move |(ip, vtep)| {
            let tunnel = Neighbour::Tunnel {
                index: overlay::VXLAN_INDEX,
                mac: mac((*ip).into()),
                vtep: *vtep,
            };
            let remote = [tunnel, port(overlay::VXLAN_INDEX, *ip)];
            remote
                .into_iter()
                .filter(move |_| has_vxlan)
                .chain([address(*ip)])
        })
    }

    /// Which entries of the kernel are looked at.
    fn is_checked(&self, entry: &Neighbour) -> bool {
        match entry {
            Neighbour::Tunnel { index, .. } => *index == overlay::VXLAN_INDEX && self.has_vxlan(),
            Neighbour::Port { index, .. } => *index != overlay::VXLAN_INDEX || self.has_vxlan(),
            Neighbour::Address { index, .. } => *index == overlay::BRIDGE_INDEX,
        }
    }
}

impl Core {
    /// What is wrong about an overlay's entries. None if there is no such overlay, or its state is not known yet.
    pub(super) fn entry_drifts(&mut self, id: &str) -> Result<Found<Entries>> {
        let mut ignored = BTreeSet::new();
        let Some(overlay) = self.overlays.get(id).filter(|overlay| overlay.synced()) else {
            return Ok(Vec::new());
        };
        let mut wanted: BTreeSet<Neighbour> = overlay.peer_entries().collect();
        for endpoint in self.sandboxes.values().flat_map(|s| &s.record.endpoints) {
            let (Attachment::Overlay { index }, Some(ip)) = (endpoint.attachment, endpoint.address()) else {
                continue;
            };
            if endpoint.endpoint.network_id != id {
                continue;
            }
            if self.withdrawn.contains(&endpoint.link) {
                ignored.insert(mac(ip.into()));
            } else {
                wanted.extend([port(index, ip), address(ip)]);
            }
        }
        let leg = self.mesh.as_ref().filter(|mesh| mesh.network_id() == id);
        let leg = leg.and_then(mesh::Mesh::address);
        let Some(overlay) = self.overlays.get_mut(id) else {
            return Ok(Vec::new());
        };
        if let (Some(ip), Some(link)) = (leg, overlay.route.link(mesh::LEG)?) {
            wanted.extend([port(link.index, ip), address(ip)]);
        }
        let mut found: BTreeSet<Neighbour> = overlay.route.forwarding_entries()?.into_iter().collect();
        found.extend(overlay.route.neighbours()?);
        let is_ignored = |entry: &Neighbour| match entry {
            Neighbour::Tunnel { mac, .. } | Neighbour::Port { mac, .. } | Neighbour::Address { mac, .. } => {
                ignored.contains(mac)
            }
        };
        found.retain(|entry| overlay.is_checked(entry) && !is_ignored(entry));
        Ok(differences(id, &wanted, &found))
    }

    /// Puts back what is missing after taking away what is too much: an entry that leads elsewhere is both.
    pub(super) fn mend_entries(&mut self, id: &str, entries: &Entries) -> Result<()> {
        let Some(overlay) = self.overlays.get_mut(id) else {
            return Ok(());
        };
        let mut batch = Batch::default();
        for entry in &entries.extra {
            batch.remove_neighbour(*entry);
        }
        for entry in &entries.missing {
            batch.add_neighbour(*entry);
        }
        overlay.route.transact(batch)
    }
}

/// One drift for each part: what is missing and what is there instead.
fn differences(id: &str, wanted: &BTreeSet<Neighbour>, found: &BTreeSet<Neighbour>) -> Found<Entries> {
    let mut all = Vec::new();
    for of in [Part::Forwarding, Part::PortEntry, Part::Neighbour] {
        let entries = Entries {
            missing: wanted
                .difference(found)
                .filter(|e| part(e) == of)
                .copied()
                .collect(),
            extra: found
                .difference(wanted)
                .filter(|e| part(e) == of)
                .copied()
                .collect(),
        };
        if !entries.missing.is_empty() || !entries.extra.is_empty() {
            let drift = Drift::of(id, of, text(&entries.missing), text(&entries.extra));
            all.push((drift, entries));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_there_instead_is_one_drift_a_part() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        let wanted = BTreeSet::from([address(ip(1)), address(ip(2)), address(ip(3)), port(1002, ip(1))]);
        let found = BTreeSet::from([address(ip(1)), address(ip(9)), port(1002, ip(1))]);
        let drifts = differences("n", &wanted, &found);
        let texts: Vec<_> = drifts.iter().map(|(drift, _)| drift.to_string()).collect();
        assert_eq!(
            texts,
            [
                "neighbour: expected 10.0.0.2 at 02:42:0a:00:00:02 and 1 more, found 10.0.0.9 at 02:42:0a:00:00:09"
            ]
        );
        assert!(differences("n", &wanted, &wanted).is_empty());
    }
}
