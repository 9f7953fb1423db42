//! Errors of the crate: one variant per operation that failed. Teardown gathers several in [`Errors`].
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

use crate::Protocol;

/// An error of a neighbouring crate.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An id that can't be used in file and interface names.
    #[error("invalid id {id:?}: use letters, digits, '-' and '_', at most 64")]
    InvalidId {
        /// The id.
        id: String,
    },
    /// A spec that can't be carried out.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What was given.
        what: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// An overlay of the cluster that this node could not make.
    #[error("overlay network {name} can't be made on this node: {reason}")]
    NotProgrammed {
        /// Name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Second network of that name or id.
    #[error("network with name {name} already exists")]
    NetworkExists {
        /// Name.
        name: String,
    },
    /// No such network.
    #[error("network {id} not found")]
    NetworkNotFound {
        /// Id or name.
        id: String,
    },
    /// The network still has endpoints.
    #[error("network {name} has active endpoints: {}", endpoints.join(", "))]
    NetworkInUse {
        /// Name.
        name: String,
        /// Sandbox ids.
        endpoints: Vec<String>,
    },
    /// Predefined networks can't be removed or made.
    #[error("{name} is a pre-defined network and cannot be {action}")]
    Predefined {
        /// Name.
        name: String,
        /// created, removed.
        action: &'static str,
    },
    /// The subnet overlaps another network or a route of the host.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} overlaps {other}"
    )]
    SubnetOverlap {
        /// The wished one.
        subnet: IpNet,
        /// What it overlaps.
        other: String,
    },
    /// Second sandbox with that id.
    #[error("sandbox {id} already exists")]
    SandboxExists {
        /// Id.
        id: String,
    },
    /// No such sandbox.
    #[error("sandbox {id} not found")]
    SandboxNotFound {
        /// Id.
        id: String,
    },
    /// Second endpoint of a sandbox on a network.
    #[error("sandbox {sandbox} is already attached to network {network}")]
    AlreadyAttached {
        /// Sandbox id.
        sandbox: String,
        /// Network name.
        network: String,
    },
    /// The endpoint is not there.
    #[error("sandbox {sandbox} is not attached to network {network}")]
    NotAttached {
        /// Sandbox id.
        sandbox: String,
        /// Network id.
        network: String,
    },
    /// Sandbox of mode none or host.
    #[error("sandbox {sandbox} has mode {mode} and takes no endpoints")]
    NotManaged {
        /// Sandbox id.
        sandbox: String,
        /// none or host.
        mode: &'static str,
    },
    /// Address pool said no.
    #[error("assign an address on network {network}")]
    Address {
        /// Network name.
        network: String,
        /// Why.
        #[source]
        source: BoxedError,
    },
    /// The wished address has somebody. Docker's text.
    #[error("Address already in use: {address}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
    },
    /// The pool is empty. Docker's text.
    #[error("no available {family} addresses on this network's address pools: {network}")]
    NoAddress {
        /// IPv4 or IPv6.
        family: &'static str,
        /// Name and id.
        network: String,
    },
    /// No default pool is left.
    #[error("find a free subnet for network {network}")]
    NoSubnet {
        /// Network name.
        network: String,
        /// Why.
        #[source]
        source: BoxedError,
    },
    /// The port is published by us already. Docker's text.
    #[error("Bind for {} failed: port is already allocated", SocketAddr::new(*ip, *port))]
    PortAllocated {
        /// Host address.
        ip: IpAddr,
        /// Host port.
        port: u16,
    },
    /// Another process has the port, or the address is not ours. Docker's text.
    #[error("failed to bind host port for {}{}/{protocol}: {}", SocketAddr::new(*ip, *port), leads(*target), errno_text(cause))]
    PortBind {
        /// Protocol.
        protocol: Protocol,
        /// Host address.
        ip: IpAddr,
        /// Host port.
        port: u16,
        /// Container and port to which it was to lead.
        target: Option<(IpAddr, u16)>,
        /// Part of the text above, which is Docker's, and therefore not a source.
        cause: io::Error,
    },
    /// All ephemeral ports are taken.
    #[error("no free {protocol} port is left between 32768 and 60999")]
    NoEphemeralPort {
        /// Protocol.
        protocol: Protocol,
    },
    /// A netlink request was refused.
    #[error("{operation}")]
    Netlink {
        /// What was asked, with operands.
        operation: String,
        /// The kernel's answer, with its explanation if it gave one.
        #[source]
        source: io::Error,
    },
    /// A namespace operation failed.
    #[error("{operation} network namespace {path}")]
    Namespace {
        /// create, enter, open, remove.
        operation: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of ours could not be read or written.
    #[error("{operation} {path}")]
    File {
        /// read, write, remove.
        operation: &'static str,
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record on disk can't be understood.
    #[error("record {path} is not readable: move it away to go on without it")]
    Record {
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A kernel setting was refused.
    #[error("set {name} to {value}")]
    Sysctl {
        /// Dotted name.
        name: String,
        /// Wished value.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name server process.
    #[error("{operation} with netd")]
    Dns {
        /// What was asked.
        operation: &'static str,
        /// Why.
        #[source]
        source: BoxedError,
    },
    /// No interface of this host has the address that other nodes are told.
    #[error("no interface has the data path address {address}: check --data-path-addr")]
    NoUnderlay {
        /// The address.
        address: IpAddr,
    },
    /// The thread that talks to the kernel is gone.
    #[error("the network thread has ended")]
    ThreadGone,
}

fn leads(target: Option<(IpAddr, u16)>) -> String {
    target.map_or_else(String::new, |(ip, port)| {
        format!(":{}", SocketAddr::new(ip, port))
    })
}

fn errno_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

impl Error {
    /// Whether the error says that something asked for is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::NetworkNotFound { .. } | Self::SandboxNotFound { .. } | Self::NotAttached { .. }
        )
    }

    /// Whether the error says that something is there already or is in use.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::NetworkExists { .. }
                | Self::NetworkInUse { .. }
                | Self::SandboxExists { .. }
                | Self::AlreadyAttached { .. }
                | Self::SubnetOverlap { .. }
                | Self::PortAllocated { .. }
                | Self::PortBind { .. }
                | Self::AddressInUse { .. }
        )
    }
}

/// Everything that went wrong in a teardown, which never stops at the first failure. Never empty.
#[derive(Debug)]
pub struct Errors(pub Vec<Error>);

impl Errors {
    /// `Ok` if nothing was gathered.
    ///
    /// # Errors
    /// The gathered ones.
    pub fn check(errors: Vec<Error>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
