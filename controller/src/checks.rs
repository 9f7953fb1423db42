//! Checks of overlay networks (`network doctor`): all nodes with a session are asked at once, each compares what it has with what it
//! should have and answers by a call of its own. Works at the leader, nothing is kept. Called by the API and the Dispatcher service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::manager_message::Message;
use pontoon_proto::v1::{
    CheckNetworksRequest, CheckNetworksResponse, CheckedNetwork, NetworkCheck, NetworkCheckReport, Node,
    NodeNetworkCheck,
};
use pontoon_store::Snapshot;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use crate::core::Core;
use crate::dispatcher::Sessions;
use crate::{ids, status};

/// So long nodes may take; they look and probe for a few seconds at most.
const PATIENCE: Duration = Duration::from_secs(15);
/// Checks that run at once: each makes all nodes work.
const AT_ONCE: usize = 8;

/// Who has answered with what.
type Answers = mpsc::UnboundedSender<(String, NetworkCheckReport)>;

/// The checks that wait for answers.
#[derive(Default)]
pub(crate) struct Checks(Mutex<BTreeMap<String, Answers>>);

/// Forgets a check when nobody waits for it any more.
struct Open<'a> {
    checks: &'a Checks,
    id: String,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.checks.lock().remove(&self.id);
    }
}

impl Checks {
    /// Takes in what a node has found.
    pub(crate) fn report(&self, node_id: &str, report: NetworkCheckReport) -> Result<(), Status> {
        let answers = self.lock().get(&report.check_id).cloned();
        let sent = answers.map(|answers| answers.send((node_id.to_owned(), report)));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Status::not_found("nobody waits for this check any more")),
        }
    }

    fn open(
        &self,
        id: String,
    ) -> Result<(Open<'_>, mpsc::UnboundedReceiver<(String, NetworkCheckReport)>), Status> {
        let mut open = self.lock();
        if open.len() >= AT_ONCE {
            return Err(Status::resource_exhausted(format!(
                "{AT_ONCE} checks of networks run already: try again when one has ended"
            )));
        }
        let (answers, received) = mpsc::unbounded_channel();
        open.insert(id.clone(), answers);
        drop(open);
        Ok((Open { checks: self, id }, received))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Answers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all nodes and gathers what they answer in time.
pub(crate) async fn run(core: &Core, request: CheckNetworksRequest) -> Result<CheckNetworksResponse, Status> {
    let leading = core.leading().ok_or_else(status::not_leader)?;
    let snapshot = core.read().await?;
    let networks = named(&snapshot, &request.networks)?;
    let (open, mut received) = leading.checks.open(ids::new_id(&core.host))?;
    let question = NetworkCheck {
        id: open.id.clone(),
        network_ids: match request.networks.is_empty() {
            true => Vec::new(),
            false => networks.iter().map(|network| network.id.clone()).collect(),
        },
        repair: request.repair,
    };
    let deadline = Instant::now() + PATIENCE;
    let mut nodes: BTreeMap<String, NodeNetworkCheck> = snapshot
        .nodes()
        .map(|node| (node.id.clone(), unasked(node)))
        .collect();
    let mut waiting = ask(&leading.sessions, &question, &mut nodes, deadline).await;
    while !waiting.is_empty() {
        let (node_id, report) = tokio::select! {
            biased;
            () = leading.stop.cancelled() => return Err(status::not_leader()),
            Some(answer) = received.recv() => answer,
            () = tokio::time::sleep_until(deadline) => break,
        };
        waiting.remove(&node_id);
        if let Some(node) = nodes.get_mut(&node_id) {
            node.error = report.error;
            node.findings = report.findings.filter(|_| node.error.is_empty());
        }
    }
    for node_id in waiting {
        if let Some(node) = nodes.get_mut(&node_id) {
            node.error = format!("it gave no answer within {} s", PATIENCE.as_secs());
        }
    }
    Ok(CheckNetworksResponse {
        networks,
        nodes: nodes.into_values().collect(),
    })
}

/// The networks of these names or ids, or all.
fn named(snapshot: &Snapshot, targets: &[String]) -> Result<Vec<CheckedNetwork>, Status> {
    let checked = |network: &pontoon_proto::v1::Network| {
        let spec = network.spec.as_ref();
        let annotations = spec.and_then(|spec| spec.annotations.as_ref());
        CheckedNetwork {
            id: network.id.clone(),
            name: annotations.map_or_else(String::new, |annotations| annotations.name.clone()),
        }
    };
    if targets.is_empty() {
        return Ok(snapshot.networks().map(|network| checked(network)).collect());
    }
    let mut networks: Vec<CheckedNetwork> = Vec::new();
    for target in targets {
        let network = checked(snapshot.find_network(target).map_err(status::from_store)?);
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}

fn unasked(node: &Arc<Node>) -> NodeNetworkCheck {
    let description = node.description.clone().unwrap_or_default();
    NodeNetworkCheck {
        node_id: node.id.clone(),
        hostname: description.hostname,
        data_path_addr: description.data_path_addr,
        findings: None,
        error: "it has no session with the managers".to_owned(),
    }
}

/// Sends the question; returns who has it.
async fn ask(
    sessions: &Sessions,
    question: &NetworkCheck,
    nodes: &mut BTreeMap<String, NodeNetworkCheck>,
    deadline: Instant,
) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for (id, node) in nodes {
        let Some(session) = sessions.get(id) else { continue };
        // One that does not read must not hold up the others.
        let sent = session.send(Message::NetworkCheck(question.clone()));
        match tokio::time::timeout_at(deadline.min(Instant::now() + Duration::from_secs(1)), sent).await {
            Ok(true) => {
                node.error.clear();
                asked.insert(id.clone());
            }
            _ => node.error = "its session does not take messages".to_owned(),
        }
    }
    asked
}
