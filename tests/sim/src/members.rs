//! Managers that are demoted and come back: what an operator and the daemon do about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pontoon_identity::PeerIdentity;
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::{Availability, IssueCertificateRequest, NodeRole, NodeSpec, UpdateNodeRequest};
use tokio::time::Instant;

use crate::CLUSTER;
use crate::manager::ManagerNode;
use crate::net::{Net, place_of};
use crate::rng::Rng;

const CALL_TIMEOUT: Duration = Duration::from_secs(6);
/// A certificate that is renewed so many times and says worker still will not say manager.
const RENEWALS: u32 = 20;

/// A manager that was taken out of the group and is to be in it again.
pub(crate) struct Return {
    due: Instant,
    /// Its certificate says manager again; none while nobody has asked for that.
    promoted: Option<Arc<AtomicBool>>,
}

impl Return {
    pub(crate) fn new(rng: &Rng) -> Self {
        Self {
            due: Instant::now() + rng.millis(200, 3000),
            promoted: None,
        }
    }

    /// Goes on; true once it may join.
    pub(crate) fn may_join(&mut self, node: &ManagerNode, office: &Office) -> bool {
        if self.due > Instant::now() {
            return false;
        }
        let promoted = self.promoted.get_or_insert_with(|| {
            let done = Arc::new(AtomicBool::new(false));
            let (office, told) = (office.clone(), done.clone());
            let (name, node_id) = (node.name().to_owned(), node.identity.node_id());
            tokio::spawn(async move {
                // A wish of before, whose sender is gone, may still be granted after this one.
                loop {
                    office.set_role(&node_id, NodeRole::Manager).await;
                    if office.renew(&name, &node_id).await {
                        return told.store(true, Ordering::Relaxed);
                    }
                }
            });
            done
        });
        promoted.load(Ordering::Relaxed)
    }
}

/// Who calls the other managers until one has done it.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) net: Net,
    pub(crate) rng: Rng,
    /// The managers' cluster ports.
    pub(crate) managers: Vec<String>,
    pub(crate) csr: String,
}

impl Office {
    /// Wishes a role for a node.
    pub(crate) async fn set_role(&self, node_id: &str, role: NodeRole) {
        loop {
            let request = UpdateNodeRequest {
                target: node_id.to_owned(),
                version: 0,
                spec: Some(NodeSpec {
                    role: role.into(),
                    availability: Availability::Active.into(),
                    ..NodeSpec::default()
                }),
            };
            let call = async {
                let place = place_of(self.rng.pick(&self.managers)?).to_owned();
                let channel = self
                    .net
                    .connect(&place, &format!("{place}:local"), None)
                    .await
                    .ok()?;
                ControlClient::new(channel).update_node(request).await.ok()
            };
            if let Ok(Some(_)) = tokio::time::timeout(CALL_TIMEOUT, call).await {
                return;
            }
            tokio::time::sleep(self.rng.millis(100, 500)).await;
        }
    }

    /// Renews a node's certificate until it says manager; false when it does not come to that.
    async fn renew(&self, name: &str, node_id: &str) -> bool {
        for _ in 0..RENEWALS {
            let request = IssueCertificateRequest {
                csr: self.csr.as_bytes().to_vec().into(),
                token: String::new(),
                availability: Availability::Active.into(),
            };
            let peer = PeerIdentity {
                node_id: node_id.to_owned(),
                role: NodeRole::Worker,
                cluster_id: CLUSTER.to_owned(),
            };
            let call = async {
                let addr = self.rng.pick(&self.managers)?;
                let channel = self.net.connect(name, addr, Some(peer)).await.ok()?;
                CaClient::new(channel).issue_certificate(request).await.ok()
            };
            let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
            if answer
                .is_ok_and(|answer| answer.is_some_and(|answer| answer.get_ref().role() == NodeRole::Manager))
            {
                return true;
            }
            tokio::time::sleep(self.rng.millis(100, 500)).await;
        }
        false
    }
}
