//! What a check of this node's networks has found, in the wire's form.

use std::collections::BTreeSet;
use std::sync::Arc;

use pontoon_engine::Engine;
use pontoon_net::{Drift, Mended, Probe};
use pontoon_proto::v1::{NetworkDrift, NetworkFindings, NetworkProbe};

use crate::error::chain;

/// More than that is not told: nobody reads on, and a message has its limit.
const MOST: usize = 200;
/// Nodes that are reached or not, over all networks: as many as a message holds.
const PEERS: usize = 20_000;

/// Checks these networks, or all.
pub(super) async fn check(
    engine: &Arc<Engine>,
    ids: &[String],
    repair: bool,
) -> Result<NetworkFindings, String> {
    let networks = (!ids.is_empty()).then(|| ids.iter().cloned().collect::<BTreeSet<_>>());
    let found = engine
        .check_networks(networks.clone(), repair)
        .await
        .map_err(|error| error.chain())?;
    // Last: what was repaired is reached again.
    let probes = engine
        .network()
        .probe(networks)
        .await
        .map_err(|error| chain(&error))?;
    Ok(NetworkFindings {
        drifts: found.iter().take(MOST).map(drift).collect(),
        probes: probes.iter().take(PEERS).map(probe).collect(),
    })
}

fn probe(probe: &Probe) -> NetworkProbe {
    NetworkProbe {
        network_id: probe.network.clone(),
        peer: probe.peer.to_string(),
        mtu: probe.mtu,
        wanted_mtu: probe.wanted_mtu,
        round_trip: i64::try_from(probe.round_trip.as_nanos()).unwrap_or(i64::MAX),
    }
}

fn drift(drift: &Drift) -> NetworkDrift {
    NetworkDrift {
        network_id: drift.network.clone(),
        container_id: drift.sandbox.clone(),
        what: drift.part.name().to_owned(),
        expected: drift.expected.clone(),
        found: drift.found.clone(),
        repaired: drift.mended == Mended::Yes,
        error: match &drift.mended {
            Mended::Failed(reason) => reason.clone(),
            Mended::No | Mended::Yes => String::new(),
        },
    }
}
