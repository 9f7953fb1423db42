//! Asking the managers of a cluster to take this one into their group. Called by `Manager::join`.

use std::time::Duration;

use pontoon_identity::{Endpoint, connect};
use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_proto::v1::{RaftJoinRequest, RaftJoinResponse};

use crate::config::ManagerConfig;
use crate::error::Error;
use crate::status;

/// The cluster may be electing a leader meanwhile.
const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

/// Asks the remote managers, and the leader that they name, until one takes this node in.
pub(crate) async fn ask_to_join(
    config: &ManagerConfig,
    remote_managers: &[String],
) -> Result<RaftJoinResponse, Error> {
    let mut last = String::from("no manager's address is known");
    let request = RaftJoinRequest {
        node_id: config.identity.node_id(),
        addr: config.advertise.clone(),
    };
    let attempts = async {
        loop {
            let mut addrs = remote_managers.to_vec();
            let mut next = 0;
            while next < addrs.len() {
                let addr = addrs[next].clone();
                next += 1;
                match join_at(config, &addr, &request).await {
                    Ok(answer) => return Ok(answer),
                    Err((text, leader)) => {
                        last = format!("{addr}: {text}");
                        addrs.extend(leader.filter(|leader| !addrs.contains(leader)));
                    }
                }
            }
            if addrs.is_empty() {
                return Err(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let outcome = tokio::time::timeout(TIMEOUT, attempts).await;
    outcome.unwrap_or(Err(())).map_err(|()| Error::Join(last))
}

/// One manager's answer, or why not and whom it names as the leader.
async fn join_at(
    config: &ManagerConfig,
    addr: &str,
    request: &RaftJoinRequest,
) -> Result<RaftJoinResponse, (String, Option<String>)> {
    let channel = connect(&config.identity, &Endpoint::manager(addr))
        .await
        .map_err(|error| (pontoon_identity::describe(&error), None))?;
    match RaftClient::new(channel).join(request.clone()).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(refused) => {
            let leader = refused
                .metadata()
                .get(status::LEADER)
                .and_then(|addr| addr.to_str().ok());
            Err((refused.message().to_owned(), leader.map(str::to_owned)))
        }
    }
}
