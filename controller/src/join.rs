//! Asking the managers of a cluster to take this one into their group. Called by `Manager::join`.

use std::time::Duration;

use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_proto::v1::{RaftJoinRequest, RaftJoinResponse};
use tonic::Code;

use crate::config::ManagerConfig;
use crate::connector::network;
use crate::error::Error;
use crate::status;

/// The cluster may be electing a leader meanwhile.
const TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(200);

/// What is told when the cluster has no log of its own to take part in.
const EXTERNAL: &str = "this cluster's state lies in an external store: start this daemon with the same --store (and --store-opt) as its managers', then try again";

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
                    Err(refused) => {
                        last = format!("{addr}: {}", refused.text);
                        if refused.for_good {
                            return Err(());
                        }
                        addrs.extend(refused.leader.filter(|leader| !addrs.contains(leader)));
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

/// Why a manager did not take this node in.
struct Refused {
    text: String,
    /// Whom it names as the leader.
    leader: Option<String>,
    /// Asking again would not help.
    for_good: bool,
}

async fn join_at(
    config: &ManagerConfig,
    addr: &str,
    request: &RaftJoinRequest,
) -> Result<RaftJoinResponse, Refused> {
    let channel = network(config).connect(addr).await.map_err(|error| Refused {
        text: error.to_string(),
        leader: None,
        for_good: false,
    })?;
    match RaftClient::new(channel).join(request.clone()).await {
        Ok(answer) => Ok(answer.into_inner()),
        // Managers that keep their state elsewhere don't have this service.
        Err(refused) if refused.code() == Code::Unimplemented => Err(Refused {
            text: EXTERNAL.to_owned(),
            leader: None,
            for_good: true,
        }),
        Err(refused) => {
            let leader = refused
                .metadata()
                .get(status::LEADER)
                .and_then(|addr| addr.to_str().ok());
            Err(Refused {
                text: refused.message().to_owned(),
                leader: leader.map(str::to_owned),
                for_good: refused.code() == Code::InvalidArgument,
            })
        }
    }
}
