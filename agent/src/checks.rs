//! Checks of overlay networks that managers ask for (`network doctor`): done beside the session, answered by a call. They end with the
//! session.

use std::sync::Arc;

use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{NetworkCheck, NetworkCheckReport};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::exec::Executor;

/// Checks of one session that may run at once; a manager asks for no more than that.
const AT_ONCE: usize = 8;

/// The checks of one session.
pub(crate) struct Checks {
    channel: Channel,
    executor: Arc<dyn Executor>,
    running: JoinSet<()>,
}

impl Checks {
    pub(crate) fn new(channel: Channel, executor: Arc<dyn Executor>) -> Self {
        Self {
            channel,
            executor,
            running: JoinSet::new(),
        }
    }

    /// Begins a check.
    pub(crate) fn handle(&mut self, check: NetworkCheck) {
        while self.running.try_join_next().is_some() {}
        if self.running.len() >= AT_ONCE {
            tracing::warn!(check = check.id, "too many checks of networks at once");
            return;
        }
        let (channel, executor) = (self.channel.clone(), self.executor.clone());
        self.running.spawn(async move {
            let NetworkCheck {
                id,
                network_ids,
                repair,
            } = check;
            let (findings, error) = match executor.check_networks(&network_ids, repair).await {
                Ok(findings) => (Some(findings), String::new()),
                Err(error) => (None, error),
            };
            let report = NetworkCheckReport {
                check_id: id,
                findings,
                error,
            };
            if let Err(status) = DispatcherClient::new(channel).report_network_check(report).await {
                tracing::debug!(
                    reason = status.message(),
                    "nobody takes the answer to a check of networks"
                );
            }
        });
    }
}
