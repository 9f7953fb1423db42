//! `pontoon node inspect --pretty`.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use pontoon_proto::v1::NodeDescription;

use super::{capitalized, named};
use crate::client::Client;
use crate::command::inspect::{availability_name, reachability_name};
use crate::error::Outcome;
use crate::output::{human, listing};

/// The drivers that the node tells of, a line a kind.
fn plugins(description: &NodeDescription) -> String {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let engine = description.engine.as_ref();
    for plugin in engine.map_or(&[][..], |engine| &engine.plugins) {
        kinds.entry(&plugin.r#type).or_default().push(&plugin.name);
    }
    if kinds.is_empty() {
        return String::new();
    }
    let line = |(kind, names): (&str, Vec<&str>)| format!(" {kind}:\t\t{}\n", names.join(", "));
    let lines: String = kinds.into_iter().map(line).collect();
    format!("Plugins:\n{lines}")
}

/// A list of labels, sorted; nothing if there are none.
fn labels(title: &str, labels: HashMap<String, String>) -> String {
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    let line = |(key, value): (&String, &String)| format!(" - {key}={value}\n");
    let lines: String = labels.iter().map(line).collect();
    if lines.is_empty() {
        lines
    } else {
        format!("{title}:\n{lines}")
    }
}

/// Prints what there is to say of nodes, for people.
pub(super) async fn print(client: &Client, names: &[String]) -> Outcome {
    for name in names {
        let node = named(client, name).await?;
        let spec = node.spec.clone().unwrap_or_default();
        let description = node.description.clone().unwrap_or_default();
        let platform = description.platform.clone().unwrap_or_default();
        let resources = description.resources.unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let mut text = format!("ID:\t\t\t{}\n", node.id);
        text.push_str(&labels(
            "Labels",
            spec.annotations.clone().unwrap_or_default().labels,
        ));
        text.push_str(&format!("Hostname:              \t{}\n", description.hostname));
        let joined = human::rfc3339(node.meta.unwrap_or_default().created_at);
        text.push_str(&format!("Joined at:             \t{joined}\n"));
        text.push_str(&format!(
            "Status:\n State:\t\t\t{}\n",
            capitalized(status.state().name())
        ));
        text.push_str(&format!(
            " Availability:         \t{}\n",
            capitalized(availability_name(spec.availability()))
        ));
        text.push_str(&format!(" Address:\t\t{}\n", status.addr));
        if let Some(manager) = &node.manager_status {
            text.push_str(&format!("Manager Status:\n Address:\t\t{}\n", manager.addr));
            text.push_str(&format!(
                " Raft Status:\t\t{}\n",
                capitalized(reachability_name(manager.reachability()))
            ));
            text.push_str(&format!(
                " Leader:\t\t{}\n",
                if manager.leader { "Yes" } else { "No" }
            ));
        }
        text.push_str(&format!(
            "Platform:\n Operating System:\t{}\n Architecture:\t\t{}\n",
            platform.os, platform.architecture
        ));
        let memory = human::binary_size(resources.memory_bytes);
        text.push_str(&format!(
            "Resources:\n CPUs:\t\t\t{}\n Memory:\t\t{memory}\n",
            resources.nano_cpus / 1_000_000_000
        ));
        text.push_str(&plugins(&description));
        let engine = description.engine.clone().unwrap_or_default();
        text.push_str(&format!("Engine Version:\t\t{}\n", engine.engine_version));
        text.push_str(&labels("Engine Labels", engine.labels));
        if let Some(info) = &description.tls_info {
            text.push_str(&format!(
                "TLS Info:\n TrustRoot:\n{}\n Issuer Subject:\t{}\n Issuer Public Key:\t{}\n",
                String::from_utf8_lossy(&info.trust_root).trim(),
                STANDARD.encode(&info.issuer_subject),
                STANDARD.encode(&info.issuer_public_key),
            ));
        }
        listing::write(&text);
    }
    Ok(0)
}
