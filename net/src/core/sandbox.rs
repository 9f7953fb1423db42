//! Sandboxes: a container's network namespace, its record and its table.
use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use pontoon_dataplane::DnsPorts;
use serde::{Deserialize, Serialize};

use super::{Core, check_id, endpoint::EndpointRecord, ports::PublishedPort};
use crate::{
    Error, NetworkEndpoint, Result, Sandbox, SandboxMode, SandboxSpec,
    firewall::{host, nft::Transaction, sandbox as table},
    netlink::{Batch, Protocol, Socket},
    netns, record,
};

/// Index of loopback, the first link of each namespace.
const LOOPBACK: u32 = 1;

/// What is stored of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// As asked for.
    pub spec: SandboxSpec,
    /// Endpoints in the order of attachment.
    pub endpoints: Vec<EndpointRecord>,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
}

/// A sandbox.
#[derive(Debug)]
pub struct SandboxState {
    /// What is stored.
    pub record: SandboxRecord,
    /// Its namespace; `None` in mode host, and when it vanished with a reboot.
    pub netns: Option<OwnedFd>,
    /// A socket to its table, once it has one. Closing it may wait for the kernel to free what was removed from
    /// tables (milliseconds), so that is left to the removing thread.
    pub nft: Option<Socket>,
    /// Whether it has our table.
    pub table: bool,
    /// Where netd listens for it.
    pub dns: Option<DnsPorts>,
    /// Whether netd was told about it, and not yet to forget it.
    pub is_served: bool,
    /// The ruleset's generation at which its table was found to be right.
    pub verified: Option<u32>,
}

impl SandboxState {
    /// One that is not there yet, or of which only the record is known.
    pub fn new(record: SandboxRecord, netns: Option<OwnedFd>) -> Self {
        Self {
            record,
            netns,
            nft: None,
            table: false,
            dns: None,
            is_served: false,
            verified: None,
        }
    }

    /// Its endpoints on a network.
    pub fn endpoints_on<'a>(&'a self, network: &'a str) -> impl Iterator<Item = NetworkEndpoint> + 'a {
        self.record
            .endpoints
            .iter()
            .filter(move |e| e.endpoint.network_id == network)
            .map(|e| NetworkEndpoint {
                sandbox_id: self.record.spec.id.clone(),
                endpoint: e.endpoint.clone(),
            })
    }

    /// Its published ports as rules.
    pub fn published(&self) -> Vec<host::Published> {
        self.record
            .ports
            .iter()
            .filter_map(PublishedPort::firewall)
            .collect()
    }
}

impl Core {
    /// A sandbox by id.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub fn sandbox(&self, id: &str) -> Result<&SandboxState> {
        self.sandboxes
            .get(id)
            .ok_or_else(|| Error::SandboxNotFound { id: id.into() })
    }

    /// As [`sandbox`](Self::sandbox), to change it.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub fn sandbox_mut(&mut self, id: &str) -> Result<&mut SandboxState> {
        self.sandboxes
            .get_mut(id)
            .ok_or_else(|| Error::SandboxNotFound { id: id.into() })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], [`Error::File`].
    pub fn save_sandbox(&self, id: &str) -> Result<()> {
        record::write(&self.sandbox_dir(), id, &self.sandbox(id)?.record)
    }

    /// What callers see of a sandbox.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub fn inspect_sandbox(&self, id: &str) -> Result<Sandbox> {
        let record = &self.sandbox(id)?.record;
        Ok(Sandbox {
            id: id.into(),
            netns: self.netns_path(record),
            endpoints: record.endpoints.iter().map(|e| e.endpoint.clone()).collect(),
            ports: record
                .ports
                .iter()
                .filter(|p| p.target.is_some())
                .map(|p| p.mapping.clone())
                .collect(),
        })
    }

    /// Where the namespace of a sandbox is mounted.
    pub fn netns_path(&self, record: &SandboxRecord) -> Option<PathBuf> {
        (record.spec.mode != SandboxMode::Host).then(|| self.netns_dir().join(&record.spec.id))
    }

    /// Makes a sandbox: its namespace with loopback and settings.
    ///
    /// # Errors
    /// [`Error::SandboxExists`], [`Error::Sysctl`], [`Error::Namespace`].
    pub fn create_sandbox(&mut self, spec: SandboxSpec) -> Result<Sandbox> {
        check_id(&spec.id)?;
        let id = spec.id.clone();
        if id.starts_with("ov-") {
            return Err(Error::InvalidId { id });
        }
        if self.sandboxes.contains_key(&id) {
            return Err(Error::SandboxExists { id });
        }
        let record = SandboxRecord {
            spec,
            endpoints: Vec::new(),
            ports: Vec::new(),
        };
        record::write(&self.sandbox_dir(), &id, &record)?;
        let netns = match self.netns_path(&record) {
            None => None,
            Some(path) => {
                // A leftover of a daemon that was killed between two steps; the record says that it is nobody's.
                netns::remove(&path)?;
                let sysctls = record.spec.sysctls.clone();
                match netns::create(&self.home, &path, || set_up_namespace(&sysctls)) {
                    Ok((namespace, ())) => Some(namespace),
                    Err(error) => {
                        let _ = record::remove(&self.sandbox_dir(), &id);
                        return Err(error);
                    }
                }
            }
        };
        self.sandboxes
            .insert(id.clone(), SandboxState::new(record, netns));
        self.inspect_sandbox(&id)
    }

    /// Opens a socket in a sandbox's namespace.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Netlink`].
    pub fn socket_inside(&self, id: &str, protocol: Protocol) -> Result<Socket> {
        netns::inside(&self.home, self.netns_of(id)?, || Socket::open(protocol))
    }

    /// A sandbox's namespace.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`]; [`Error::Namespace`] if it has none, or it is gone.
    pub fn netns_of(&self, id: &str) -> Result<BorrowedFd<'_>> {
        let netns = self.sandbox(id)?.netns.as_ref();
        netns.map(AsFd::as_fd).ok_or_else(|| self.vanished(id))
    }

    /// The error for a sandbox whose namespace is gone.
    pub fn vanished(&self, id: &str) -> Error {
        Error::Namespace {
            operation: "open",
            path: self.netns_dir().join(id),
            source: std::io::Error::from_raw_os_error(libc::ENOENT),
        }
    }

    /// Changes a sandbox's table, making it first if need be; where it was flushed it is made anew.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::Namespace`].
    pub fn sandbox_table(&mut self, id: &str, change: impl Fn(&mut Transaction)) -> Result<()> {
        let mut socket = match self.sandbox_mut(id)?.nft.take() {
            Some(socket) => socket,
            None => self.socket_inside(id, Protocol::Netfilter)?,
        };
        let result = self.write_table(id, &mut socket, change);
        let sandbox = self.sandbox_mut(id)?;
        sandbox.nft = Some(socket);
        sandbox.table |= result.is_ok();
        result
    }

    fn write_table(&self, id: &str, socket: &mut Socket, change: impl Fn(&mut Transaction)) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        if sandbox.table {
            let mut tx = Transaction::default();
            change(&mut tx);
            match tx.commit(socket) {
                Err(Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
                other => return other,
            }
        }
        let mut tx = Transaction::default();
        if sandbox.table {
            tx.remove_table();
        }
        table::create(&mut tx);
        self.fill_table(id, &mut tx);
        tx.commit(socket)
    }

    /// Writes what belongs into a sandbox's table that has no elements.
    pub fn fill_table(&self, id: &str, tx: &mut Transaction) {
        let Ok(sandbox) = self.sandbox(id) else { return };
        if let Some(ports) = sandbox.dns {
            table::set_dns(tx, ports.udp, ports.tcp);
        }
        for endpoint in &sandbox.record.endpoints {
            if let Some(overlay) = self.overlays.get(&endpoint.endpoint.network_id) {
                overlay.write_services(tx);
            }
        }
    }

    /// Redirects a sandbox's DNS queries to netd.
    ///
    /// # Errors
    /// As [`sandbox_table`](Self::sandbox_table).
    pub fn set_dns_ports(&mut self, id: &str, ports: DnsPorts) -> Result<()> {
        let sandbox = self.sandbox_mut(id)?;
        if sandbox.dns.replace(ports) == Some(ports) && sandbox.table {
            return Ok(());
        }
        self.sandbox_table(id, |tx| table::set_dns(tx, ports.udp, ports.tcp))
    }

    /// No more redirect of DNS queries: netd does not serve the sandbox any more.
    ///
    /// # Errors
    /// As [`sandbox_table`](Self::sandbox_table).
    pub fn clear_dns_ports(&mut self, id: &str) -> Result<()> {
        let sandbox = self.sandbox_mut(id)?;
        sandbox.is_served = false;
        if sandbox.dns.take().is_none() {
            return Ok(());
        }
        self.sandbox_table(id, table::clear_dns)
    }

    /// As [`set_dns_ports`](Self::set_dns_ports) for ports that changed by themselves; a sandbox that is gone or not
    /// yet redirected is none of its business.
    ///
    /// # Errors
    /// As [`sandbox_table`](Self::sandbox_table).
    pub fn renew_dns_ports(&mut self, id: &str, ports: DnsPorts) -> Result<()> {
        match self.sandboxes.get(id).and_then(|s| s.dns) {
            Some(before) if before != ports => self.set_dns_ports(id, ports),
            _ => Ok(()),
        }
    }

    /// Ids of sandboxes with an endpoint on a network.
    pub fn sandboxes_on(&self, network: &str) -> Vec<String> {
        let on = |s: &&SandboxState| {
            s.record
                .endpoints
                .iter()
                .any(|e| e.endpoint.network_id == network)
        };
        self.sandboxes
            .values()
            .filter(on)
            .map(|s| s.record.spec.id.clone())
            .collect()
    }

    /// Whether `address` is an endpoint of this node on a network.
    pub fn is_local(&self, network: &str, address: Ipv4Addr) -> bool {
        self.sandboxes
            .values()
            .flat_map(|s| &s.record.endpoints)
            .any(|e| {
                e.endpoint.network_id == network && e.endpoint.address.is_some_and(|a| a.addr() == address)
            })
    }
}

fn set_up_namespace(sysctls: &std::collections::BTreeMap<String, String>) -> Result<()> {
    netns::set_sysctl_if_present("net.bridge.bridge-nf-call-iptables", "0")?;
    // No link-local addresses on links of networks without IPv6; the others' are told so when they are made.
    netns::set_sysctl_if_present("net.ipv6.conf.default.disable_ipv6", "1")?;
    let mut batch = Batch::default();
    batch.set_up(LOOPBACK);
    Socket::open(Protocol::Route)?.transact(batch)?;
    for (name, value) in sysctls {
        netns::set_sysctl(name, value)?;
    }
    Ok(())
}
