//! How sandboxes and their links go. Rules, ports and neighbours are taken back by the network thread. Links take the
//! kernel long (it waits for all its readers before it forgets one), so they are left to a second thread:
//!
//! - A near end on the host is *retired*: set down, so that nothing passes by it any more, and put into a group. Its
//!   address, ports and names are free at once; the second thread removes the group, however many are in it by then.
//!   Nobody waits. What a killed daemon leaves of it is found when the next one starts ([`super::recover`]).
//! - Links in hidden namespaces and below an interface of the host have MACs that their successors get: those are
//!   waited for.
use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use super::{
    Core,
    endpoint::{Attachment, EndpointRecord},
    mac,
    ports::PublishedPort,
};
use crate::{
    Error, Result,
    firewall::{Stale, forget, host},
    netlink::{Batch, Neighbour, Protocol, Socket},
    netns, record,
};

/// What the second thread has to do.
#[derive(Debug, Default)]
pub struct Removal {
    /// Links in the daemon's namespace.
    pub links: Vec<String>,
    /// Links in hidden namespaces.
    pub hidden: Vec<(OwnedFd, String)>,
    /// Whether links were retired.
    pub retired: bool,
    /// A socket to be closed.
    pub socket: Option<Socket>,
}

impl Removal {
    /// Whether something has to be gone before its address may be given to others.
    pub fn must_wait(&self) -> bool {
        !self.links.is_empty() || !self.hidden.is_empty()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.must_wait() && !self.retired && self.socket.is_none()
    }
}

/// How far a removal got on the network thread.
#[derive(Debug, Default)]
pub struct Begun {
    /// What the second thread must do next.
    pub removal: Removal,
    /// The sandbox is gone already, as nothing has to be waited for.
    pub ended: Option<Bereaved>,
    /// What went wrong on the way.
    pub errors: Vec<Error>,
}

/// Whom netd has to be told about when a sandbox has gone.
#[derive(Debug, Default)]
pub struct Bereaved {
    /// Networks with names on which it was.
    pub networks: Vec<String>,
    /// Sandboxes with names of their own for it.
    pub sandboxes: Vec<String>,
}

impl Core {
    /// Removes a sandbox: rules, ports and neighbours go, links are retired; what the second thread must do next is
    /// returned. If links have to be waited for, the record stays until [`finish_removal`](Self::finish_removal).
    pub fn begin_removal(&mut self, id: &str) -> Begun {
        let mut begun = Begun::default();
        let Some(sandbox) = self.sandboxes.get_mut(id) else {
            return begun;
        };
        let Begun { removal, errors, .. } = &mut begun;
        removal.socket = sandbox.nft.take();
        let ports = std::mem::take(&mut sandbox.record.ports);
        let endpoints = sandbox.record.endpoints.clone();
        let rules: Vec<_> = ports.iter().filter_map(PublishedPort::firewall).collect();
        if !rules.is_empty() && self.table {
            errors.extend(self.firewall(|tx| host::remove_ports(tx, &rules)).err());
        }
        self.release_ports(&ports);
        for endpoint in &endpoints {
            self.withdraw(endpoint, removal, errors);
        }
        self.retire(removal);
        if !removal.must_wait() {
            let (bereaved, more) = self.finish_removal(id);
            errors.extend(more);
            begun.ended = Some(bereaved);
        } else if !ports.is_empty() {
            errors.extend(self.save_sandbox(id).err());
        }
        begun
    }

    /// Retires the links in the daemon's namespace; if the kernel refuses, they are removed one by one and waited for.
    fn retire(&mut self, removal: &mut Removal) {
        if removal.links.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        for link in &removal.links {
            batch.retire_link(link);
        }
        removal.retired = true;
        if self.route.transact(batch).is_ok() {
            removal.links.clear();
        }
    }

    /// Second half of a removal: addresses become free, the namespace and the record go.
    pub fn finish_removal(&mut self, id: &str) -> (Bereaved, Vec<Error>) {
        let mut errors = Vec::new();
        let mut bereaved = Bereaved::default();
        let Some(sandbox) = self.sandboxes.remove(id) else {
            return (bereaved, errors);
        };
        for endpoint in &sandbox.record.endpoints {
            self.withdrawn.remove(&endpoint.link);
            self.release_address(endpoint);
            let network = &endpoint.endpoint.network_id;
            bereaved.sandboxes.extend(self.linked_to(id, network));
            if self.has_names(network) {
                bereaved.networks.push(network.clone());
            }
        }
        if let Some(path) = self.netns_path(&sandbox.record) {
            errors.extend(netns::remove(&path).err());
        }
        errors.extend(record::remove(&self.sandbox_dir(), id).err());
        (bereaved, errors)
    }

    /// Takes an endpoint out of its network and names the link to be removed.
    pub fn withdraw(&mut self, endpoint: &EndpointRecord, removal: &mut Removal, errors: &mut Vec<Error>) {
        self.withdrawn.insert(endpoint.link.clone());
        match endpoint.attachment {
            Attachment::Bridge | Attachment::Egress => {
                removal.links.push(endpoint.link.clone());
                return;
            }
            Attachment::Below => {
                let name = &endpoint.endpoint.ifname;
                let sandboxes = self.sandboxes.values();
                let mut own =
                    sandboxes.filter(|s| s.record.endpoints.iter().any(|e| e.link == endpoint.link));
                match own.next().and_then(|s| s.netns.as_ref()).map(duplicate) {
                    Some(Ok(netns)) => removal.hidden.push((netns, name.clone())),
                    Some(Err(error)) => errors.push(error),
                    None => {}
                }
                return;
            }
            Attachment::Overlay { .. } => {}
        }
        let Some(overlay) = self.overlays.get_mut(&endpoint.endpoint.network_id) else {
            return;
        };
        if let Some(ip) = endpoint.address() {
            let mut batch = Batch::default();
            let index = super::overlay::BRIDGE_INDEX;
            batch.remove_neighbour(Neighbour::Address {
                index,
                ip: ip.into(),
                mac: mac(ip.into()),
            });
            errors.extend(overlay.route.transact_all(batch));
        }
        match duplicate(&overlay.netns) {
            Ok(netns) => removal.hidden.push((netns, endpoint.link.clone())),
            Err(error) => errors.push(error),
        }
    }
}

/// The second thread: it does what takes the kernel long.
#[derive(Debug)]
pub struct Remover {
    home: OwnedFd,
    route: Socket,
    /// Netfilter sockets whose closing takes the kernel long: left to the next job, as somebody waits for this one.
    spent: Vec<Socket>,
}

impl Remover {
    /// Opens its socket in `home`.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Netlink`].
    pub fn open(home: &OwnedFd) -> Result<Self> {
        netns::enter(home)?;
        Ok(Self {
            home: duplicate(home)?,
            route: Socket::open(Protocol::Route)?,
            spent: Vec::new(),
        })
    }

    /// Forgets connections.
    pub fn forget(&mut self, stale: Vec<(Option<OwnedFd>, Stale)>) -> Vec<Error> {
        self.spent.clear();
        let mut errors = Vec::new();
        for (netns, stale) in stale {
            let netns = netns.as_ref().unwrap_or(&self.home);
            let socket = netns::inside(&self.home, netns.as_fd(), || Socket::open(Protocol::Netfilter));
            let forgotten = socket.and_then(|mut socket| {
                let forgotten = forget(&mut socket, &stale);
                self.spent.push(socket);
                forgotten
            });
            errors.extend(forgotten.err());
        }
        errors
    }

    /// Removes links of which somebody waits for the end; absent ones are fine.
    pub fn remove(&mut self, removal: Removal) -> Vec<Error> {
        self.spent.clear();
        self.spent.extend(removal.socket);
        let mut batch = Batch::default();
        for name in &removal.links {
            batch.remove_link(name);
        }
        if removal.retired {
            batch.remove_retired();
        }
        let mut errors = self.route.transact_all(batch);
        for (netns, name) in removal.hidden {
            let removed = netns::inside(&self.home, netns.as_fd(), || {
                let mut batch = Batch::default();
                batch.remove_link(&name);
                Socket::open(Protocol::Route)?.transact(batch)
            });
            errors.extend(removed.err());
        }
        errors
    }

    /// Does what nobody waits for. All links that were retired until now go together: when several removals come while
    /// one is under way, the next takes them all, and those after it find nothing.
    pub fn clear_up(&mut self, removal: Removal) {
        for error in self.remove(removal) {
            tracing::warn!(%error, "links of a removed container may be left until the daemon starts again");
        }
        self.spent.clear();
    }
}

/// Duplicates a namespace descriptor.
///
/// # Errors
/// [`Error::Namespace`].
pub fn duplicate(netns: &OwnedFd) -> Result<OwnedFd> {
    netns.try_clone().map_err(|source| Error::Namespace {
        operation: "open",
        path: PathBuf::from("(open descriptor)"),
        source,
    })
}
