//! The connection to etcd, and what its errors mean to us. Used by all other modules; the only one that knows gRPC's codes.

use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error as ClientError, Identity, KvClient, TlsOptions, Txn,
    TxnResponse,
};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::config::EtcdConfig;
use crate::error::Error;

/// A member that died without a word is noticed after both; etcd refuses pings more often than each 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const OPEN_PAUSE: Duration = Duration::from_millis(200);
/// Chunks and entries come several to an answer.
const MAX_ANSWER: usize = 64 << 20;

/// A client that is cheap to clone; each call goes to one of the members that answer.
#[derive(Clone)]
pub(crate) struct Etcd {
    client: Client,
    kv: KvClient,
}

/// What a failed call says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request is larger than etcd takes.
    TooLarge,
    /// etcd takes no writes: its quota is used up.
    Full,
    /// Not allowed, or wrong in a way that trying again won't mend.
    Refused(String),
    /// It may or may not have been done: a time-out, a cut, no leader.
    Unclear(String),
}

impl Etcd {
    /// Connects and logs in. A request takes `timeout` at most.
    pub(crate) async fn connect(config: &EtcdConfig, timeout: Duration) -> Result<Self, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_timeout(timeout)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = tls(config)? {
            options = options.with_tls(tls);
        }
        if let (Some(user), Some(path)) = (&config.user, &config.password_file) {
            let password = read("the password of etcd's user", path)?;
            options = options.with_user(user, password.trim_end_matches(['\n', '\r']));
        }
        // Logs in if there is a user; else nothing is sent yet.
        let connect = || Client::connect(&config.endpoints, Some(options.clone()));
        let client = patiently(config, connect).await?;
        let kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
        Ok(Self { client, kv })
    }

    /// One transaction while the log is being opened: asked again while etcd is not ready, so it must bear being done twice.
    pub(crate) async fn ask(&self, config: &EtcdConfig, txn: Txn) -> Result<TxnResponse, Error> {
        patiently(config, || {
            let (mut kv, txn) = (self.kv(), txn.clone());
            async move { kv.txn(txn).await }
        })
        .await
    }

    /// Keys and values.
    pub(crate) fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    /// Leases.
    pub(crate) fn leases(&self) -> etcd_client::LeaseClient {
        self.client.lease_client()
    }

    /// Watches.
    pub(crate) fn watches(&self) -> etcd_client::WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_ANSWER)
    }
}

fn read(what: &'static str, path: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        what,
        path: path.to_owned(),
        source,
    })
}

fn tls(config: &EtcdConfig) -> Result<Option<TlsOptions>, Error> {
    let Some(cacert) = &config.cacert else {
        return Ok(None);
    };
    let roots = read("etcd's root certificates", cacert)?;
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(roots));
    if let Some((cert, key)) = &config.identity {
        let cert = read("the certificate for etcd", cert)?;
        let key = read("the key for etcd", key)?;
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Ok(Some(tls))
}

/// Does something until etcd answers, or says no, or the patience ends.
async fn patiently<T, F>(config: &EtcdConfig, mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let deadline = Instant::now() + config.patience;
    loop {
        let error = match call().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !matches!(classify(&error), Failure::Unclear(_)) || Instant::now() >= deadline {
            return Err(Error::Unavailable {
                endpoints: config.endpoints.join(","),
                reason: describe(&error),
            });
        }
        sleep(OPEN_PAUSE).await;
    }
}

/// What a client's error says, in one line.
pub(crate) fn describe(error: &ClientError) -> String {
    match error {
        ClientError::GRpcStatus(status) => {
            let mut text = status.message().to_owned();
            let mut source = std::error::Error::source(status);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
        other => other.to_string(),
    }
}

/// Sorts an error by what can be done about it.
pub(crate) fn classify(error: &ClientError) -> Failure {
    let ClientError::GRpcStatus(status) = error else {
        return Failure::Unclear(describe(error));
    };
    let message = status.message();
    let too_large = message.contains("request is too large") || message.contains("larger than max");
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted if too_large => Failure::TooLarge,
        Code::ResourceExhausted if message.contains("space exceeded") => Failure::Full,
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Unimplemented => Failure::Refused(describe(error)),
        _ => Failure::Unclear(describe(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn errors_are_sorted_by_what_can_be_done() {
        let of = |status: Status| classify(&ClientError::GRpcStatus(status));
        assert_eq!(
            of(Status::invalid_argument("etcdserver: request is too large")),
            Failure::TooLarge
        );
        let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        assert_eq!(of(full), Failure::Full);
        let denied = of(Status::permission_denied("etcdserver: permission denied"));
        assert_eq!(
            denied,
            Failure::Refused("etcdserver: permission denied".to_owned())
        );
        assert!(matches!(
            of(Status::unavailable("no leader")),
            Failure::Unclear(_)
        ));
        assert!(matches!(
            of(Status::deadline_exceeded("late")),
            Failure::Unclear(_)
        ));
    }
}
