//! Who a node is: the cluster's root, node certificates, join tokens, and TLS on both sides of the cluster port.
//!
//! # Layout
//! - [`RootCa`]: makes and holds the root, issues node certificates, signs the root that replaces it. [`JoinToken`]: pins the root, carries a secret.
//! - [`Identity`]: this node's certificate and key on disk, with live reload; gives the TLS configurations.
//! - [`TlsListener`], [`serve`]: the accept loop of the cluster port; [`PeerIdentity`] of each request,
//!   [`Connections`] to cut those of a removed node.
//! - [`UnlockKey`]: what seals a manager's keys on disk when the cluster has autolock.
//! - [`connect`]: a gRPC channel to another node; [`request_certificate`], [`fetch_root_pinned`]: joining;
//!   [`renew`], [`renew_forever`]: renewal.
//!
//! A certificate says: CN node id, OU role (`swarm-manager`, `swarm-worker`), O cluster id; its SANs are the role's
//! name and the node id, so that a client dials the server name `swarm-manager` whatever the address, and a worker
//! can't pose as a manager. All of it uses one crypto provider, ring.
//!
//! Called by the controller (CA, dispatcher, forwarding), the agent (sessions, renewal) and the daemon.

mod connect;
mod connections;
mod cross;
mod error;
mod files;
mod identity;
mod listener;
mod peer;
mod renewal;
mod request;
mod resolve;
mod root;
mod stream;
mod tls;
mod token;
mod unlock;

pub use connect::{Endpoint, NotConnected, connect, connect_lazy, never_connected, probe};
pub use connections::{Connections, Registration};
pub use error::{Error, Refusal, describe};
pub use identity::{Credentials, Identity};
pub use listener::{TlsListener, serve};
pub use peer::{PeerIdentity, role_name};
pub use renewal::{renew_forever, renewal_time};
pub use request::{CertificateRequest, Issued, JoinRequest, fetch_root_pinned, renew, request_certificate};
pub use root::{DEFAULT_EXPIRY, LEAST_EXPIRY, RootCa};
pub use stream::{ConnectionInfo, TlsStream};
pub use token::{JoinToken, TokenError, generate_secret};
pub use unlock::{UnlockError, UnlockKey};
