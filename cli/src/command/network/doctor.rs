//! `network doctor`: has every node compare its overlay networks with the committed state and reach the other nodes in them; shows who
//! reaches whom, what is not as it should be, and who did not answer.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use pontoon_proto::v1::{
    CheckNetworksRequest, CheckNetworksResponse, NetworkDrift, NetworkProbe, NodeNetworkCheck,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::Outcome;
use crate::output::{human, listing};

/// Exit status when something is wrong.
const WRONG: u8 = 1;
/// Space between columns counts.
const NARROWEST: usize = 10;

/// `network doctor [OPTIONS] [NETWORK...]`
#[derive(Args, Debug)]
#[command(
    after_help = "The exit status is 0 if all is well, and 1 if something is not as it should be (and was not repaired), \
                        a node is not reached, or a node did not answer. Needs a manager."
)]
pub struct Arguments {
    /// Format output: 'table' or 'json'
    #[arg(long, value_name = "string", value_enum, default_value_t = Format::Table, hide_possible_values = true)]
    format: Format,
    /// Put right what is found
    #[arg(long)]
    repair: bool,
    /// Overlay networks, by name or id; none: all of them
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Runs `network doctor`.
///
/// # Errors
/// The daemon's: no cluster, no manager, an unknown network.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let request = CheckNetworksRequest {
        networks: arguments.networks,
        repair: arguments.repair,
    };
    let found = client.control().check_networks(request).await?.into_inner();
    let text = match arguments.format {
        Format::Table => table(&found),
        Format::Json => format!("{}\n", as_json(&found)),
    };
    listing::write(&text);
    Ok(if is_well(&found) { 0 } else { WRONG })
}

fn drifts_of(node: &NodeNetworkCheck) -> &[NetworkDrift] {
    node.findings.as_ref().map_or(&[], |findings| &findings.drifts)
}

fn probes_of(node: &NodeNetworkCheck) -> &[NetworkProbe] {
    node.findings.as_ref().map_or(&[], |findings| &findings.probes)
}

/// Whether full-size packets come back.
fn is_whole(probe: &NetworkProbe) -> bool {
    probe.mtu != 0 && probe.mtu >= probe.wanted_mtu
}

fn is_well(found: &CheckNetworksResponse) -> bool {
    found.nodes.iter().all(|node| {
        let mended = |drift: &NetworkDrift| drift.repaired;
        node.findings.is_some() && drifts_of(node).iter().all(mended) && probes_of(node).iter().all(is_whole)
    })
}

/// Names of networks by id.
fn names(found: &CheckNetworksResponse) -> BTreeMap<&str, &str> {
    let networks = found.networks.iter();
    networks
        .map(|network| (network.id.as_str(), network.name.as_str()))
        .collect()
}

fn table(found: &CheckNetworksResponse) -> String {
    let names = names(found);
    let mut text: String = names.iter().map(|(id, name)| matrix(found, id, name)).collect();
    let mut lines = vec![
        ["NODE", "NETWORK", "WHAT", "EXPECTED", "FOUND", "RESULT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for node in &found.nodes {
        for drift in drifts_of(node) {
            let network = names.get(drift.network_id.as_str()).copied();
            lines.push(vec![
                node.hostname.clone(),
                network.unwrap_or(&drift.network_id).to_owned(),
                what(drift),
                drift.expected.clone(),
                drift.found.clone(),
                result(drift),
            ]);
        }
    }
    if lines.len() > 1 {
        text += &listing::align(&lines, NARROWEST);
        text.push('\n');
    }
    for node in found.nodes.iter().filter(|node| node.findings.is_none()) {
        text += &format!("{} did not answer: {}\n", node.hostname, node.error);
    }
    let verdict = if is_well(found) {
        "All is well"
    } else {
        "Not all is well"
    };
    let nodes = found.nodes.len();
    text + &format!(
        "{verdict}: {nodes} node{}, {} overlay network{}\n",
        s(nodes),
        names.len(),
        s(names.len())
    )
}

fn s(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn what(drift: &NetworkDrift) -> String {
    match drift.container_id.as_str() {
        "" => drift.what.clone(),
        id => format!("{} of {}", drift.what, human::short_id(id)),
    }
}

fn result(drift: &NetworkDrift) -> String {
    match (drift.repaired, drift.error.as_str()) {
        (true, _) => "repaired".to_owned(),
        (false, "") => "not repaired".to_owned(),
        (false, error) => format!("not repaired: {error}"),
    }
}

/// Who reaches whom in a network: a line for each node that asks, a column for each that is asked. Empty if nobody asks anybody.
fn matrix(found: &CheckNetworksResponse, network: &str, name: &str) -> String {
    let mut rows: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    let mut columns: Vec<&str> = Vec::new();
    let by_address = |address: &str| {
        let node = found.nodes.iter().find(|node| node.data_path_addr == address);
        node.map(|node| node.hostname.as_str())
    };
    for node in &found.nodes {
        for probe in probes_of(node).iter().filter(|probe| probe.network_id == network) {
            let peer = by_address(&probe.peer).unwrap_or(&probe.peer);
            rows.entry(&node.hostname).or_default().insert(peer, cell(probe));
            columns.extend((!columns.contains(&peer)).then_some(peer));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    columns.sort_unstable();
    let heading = std::iter::once("FROM \\ TO").chain(columns.iter().copied());
    let mut lines = vec![heading.map(str::to_owned).collect::<Vec<_>>()];
    for (from, cells) in rows {
        let cells = columns.iter().map(|to| match cells.get(to) {
            Some(cell) => cell.clone(),
            None => "-".to_owned(),
        });
        lines.push(std::iter::once(from.to_owned()).chain(cells).collect());
    }
    format!("NETWORK {name}\n{}\n", listing::align(&lines, NARROWEST))
}

fn cell(probe: &NetworkProbe) -> String {
    if probe.mtu == 0 {
        return "unreachable".to_owned();
    }
    let time = format!(
        "{}.{:02} ms",
        probe.round_trip / 1_000_000,
        probe.round_trip / 10_000 % 100
    );
    if is_whole(probe) {
        format!("{time}, MTU {}", probe.mtu)
    } else {
        format!("{time}, MTU {} of {}", probe.mtu, probe.wanted_mtu)
    }
}

fn as_json(found: &CheckNetworksResponse) -> Value {
    let drift = |drift: &NetworkDrift| {
        json!({
            "NetworkID": drift.network_id, "ContainerID": drift.container_id, "What": drift.what, "Expected": drift.expected,
            "Found": drift.found, "Repaired": drift.repaired, "Error": drift.error,
        })
    };
    let probe = |probe: &NetworkProbe| {
        json!({
            "NetworkID": probe.network_id, "Peer": probe.peer, "Reachable": probe.mtu != 0, "MTU": probe.mtu,
            "WantedMTU": probe.wanted_mtu, "RoundTrip": probe.round_trip,
        })
    };
    let node = |node: &NodeNetworkCheck| {
        json!({
            "ID": node.node_id, "Hostname": node.hostname, "Addr": node.data_path_addr,
            "Answered": node.findings.is_some(), "Error": node.error,
            "Drifts": drifts_of(node).iter().map(drift).collect::<Vec<_>>(),
            "Probes": probes_of(node).iter().map(probe).collect::<Vec<_>>(),
        })
    };
    let networks = found
        .networks
        .iter()
        .map(|network| json!({"ID": network.id, "Name": network.name}));
    json!({
        "Well": is_well(found),
        "Networks": networks.collect::<Vec<_>>(),
        "Nodes": found.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{CheckedNetwork, NetworkFindings};

    use super::*;

    fn node(name: &str, address: &str, findings: Option<NetworkFindings>) -> NodeNetworkCheck {
        NodeNetworkCheck {
            node_id: format!("id-{name}"),
            hostname: name.to_owned(),
            data_path_addr: address.to_owned(),
            error: if findings.is_some() {
                ""
            } else {
                "it gave no answer"
            }
            .to_owned(),
            findings,
        }
    }

    fn probe(peer: &str, mtu: u32) -> NetworkProbe {
        NetworkProbe {
            network_id: "n1".to_owned(),
            peer: peer.to_owned(),
            mtu,
            wanted_mtu: 1450,
            round_trip: 310_000,
        }
    }

    fn found(first: NetworkFindings, second: Option<NetworkFindings>) -> CheckNetworksResponse {
        CheckNetworksResponse {
            networks: vec![CheckedNetwork {
                id: "n1".to_owned(),
                name: "app".to_owned(),
            }],
            nodes: vec![
                node("a", "192.0.2.1", Some(first)),
                node("b", "192.0.2.2", second),
            ],
        }
    }

    #[test]
    fn who_reaches_whom_is_a_matrix() {
        let findings = |probe| NetworkFindings {
            probes: vec![probe],
            drifts: Vec::new(),
        };
        let well = found(
            findings(probe("192.0.2.2", 1450)),
            Some(findings(probe("192.0.2.1", 1450))),
        );
        assert!(is_well(&well));
        let text = table(&well);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "NETWORK app");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["FROM", "\\", "TO", "a", "b"]
        );
        assert_eq!(
            lines[2]
                .split("   ")
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .collect::<Vec<_>>(),
            ["a", "-", "0.31 ms, MTU 1450"]
        );
        assert!(
            text.ends_with("All is well: 2 nodes, 1 overlay network\n"),
            "{text}"
        );
        let small = found(
            findings(probe("192.0.2.2", 1322)),
            Some(findings(probe("192.0.2.1", 0))),
        );
        assert!(!is_well(&small));
        let text = table(&small);
        assert!(
            text.contains("MTU 1322 of 1450") && text.contains("unreachable"),
            "{text}"
        );
    }

    #[test]
    fn drifts_and_who_is_silent_are_named() {
        let drift = NetworkDrift {
            network_id: "n1".to_owned(),
            what: "tunnel".to_owned(),
            expected: "a device".to_owned(),
            found: "nothing".to_owned(),
            ..NetworkDrift::default()
        };
        let with = |drift: NetworkDrift| NetworkFindings {
            drifts: vec![drift],
            probes: Vec::new(),
        };
        let broken = found(with(drift.clone()), None);
        let text = table(&broken);
        assert!(text.contains("b did not answer: it gave no answer\n"), "{text}");
        assert!(
            text.contains("not repaired") && text.contains("tunnel") && text.contains("app"),
            "{text}"
        );
        let repaired = NetworkDrift {
            repaired: true,
            ..drift
        };
        let mended = found(with(repaired), Some(NetworkFindings::default()));
        assert!(is_well(&mended), "what was repaired is well");
        let value = as_json(&mended);
        assert_eq!(value["Well"], true);
        assert_eq!(value["Nodes"][0]["Drifts"][0]["Repaired"], true);
        assert_eq!(as_json(&broken)["Nodes"][1]["Answered"], false);
    }
}
