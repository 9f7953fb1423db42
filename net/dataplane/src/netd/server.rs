//! What netd serves, and the operations on it. Every operation is done when it returns: the next query sees it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use super::{sandbox::Sandbox, tunnel::Tunnels};
use crate::{
    DnsPorts, SandboxDns, State, Zone,
    dns::{table::Table, view::SharedTable, view::View},
    netns::Netns,
    protocol::{Operation, Outcome},
};

/// All sandboxes and zones.
#[derive(Debug, Default)]
pub(crate) struct Server {
    specs: BTreeMap<String, SandboxDns>,
    zones: BTreeMap<String, Zone>,
    /// Prepared zones, by network; shared with the sandboxes, which may wait for a zone that is yet to come.
    tables: HashMap<String, SharedTable>,
    sandboxes: HashMap<String, Sandbox>,
    tunnels: Tunnels,
    revision: u64,
}

impl Server {
    /// Number of changes so far.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Does an operation.
    pub(crate) fn apply(&mut self, operation: Operation) -> Outcome {
        let before = self.revision;
        self.revision += 1;
        match operation {
            Operation::PutSandbox { sandbox, ports } => match self.put_sandbox(sandbox, ports) {
                Ok(ports) => Outcome::Ports(ports),
                Err(reason) => Outcome::Refused(reason),
            },
            Operation::RemoveSandbox { id } => {
                self.remove_sandbox(&id);
                Outcome::Done
            }
            Operation::PutZone { network, zone } => {
                self.put_zone(network, zone);
                Outcome::Done
            }
            Operation::PatchZone { revision, .. } if revision != before => {
                self.revision = before;
                Outcome::Stale
            }
            Operation::PatchZone {
                network, set, unset, ..
            } => {
                self.patch_zone(network, set, &unset);
                Outcome::Done
            }
            Operation::RemoveZone { network } => {
                self.remove_zone(&network);
                Outcome::Done
            }
            Operation::PutTunnel { tunnel } => match self.tunnels.put(*tunnel) {
                Ok(port) => Outcome::Listens(port),
                Err(reason) => Outcome::Refused(reason),
            },
            Operation::RemoveTunnel => {
                self.tunnels.remove();
                Outcome::Done
            }
            Operation::PutEncrypted { network, spec } => match self.tunnels.put_network(network, spec) {
                Ok(()) => Outcome::Done,
                Err(reason) => Outcome::Refused(reason),
            },
            Operation::RemoveEncrypted { network } => {
                self.tunnels.remove_network(&network);
                Outcome::Done
            }
            Operation::Sync { state } => {
                self.sync(state);
                Outcome::AllPorts(self.ports())
            }
            Operation::State => {
                self.revision = before;
                Outcome::State(State {
                    sandboxes: self.specs.clone(),
                    zones: self.zones.clone(),
                    ports: self.ports(),
                    tunnel: self.tunnels.spec().cloned(),
                    encrypted: self.tunnels.networks().clone(),
                })
            }
            // The connection sees to it.
            Operation::Shutdown => Outcome::Done,
        }
    }

    /// Drops the sandboxes whose namespace is gone.
    pub(crate) fn sweep(&mut self) {
        let lost = |(id, spec): (&String, &SandboxDns)| {
            let served = self
                .sandboxes
                .get(id)
                .is_some_and(|sandbox| sandbox.is_at(&spec.netns));
            (!served).then(|| id.clone())
        };
        let lost: Vec<_> = self.specs.iter().filter_map(lost).collect();
        for id in lost {
            tracing::info!(
                sandbox = id,
                "the network namespace is gone, its sandbox is dropped"
            );
            self.remove_sandbox(&id);
            self.revision += 1;
        }
        if self.tunnels.sweep() {
            self.revision += 1;
        }
    }

    fn ports(&self) -> BTreeMap<String, DnsPorts> {
        self.sandboxes
            .iter()
            .map(|(id, sandbox)| (id.clone(), sandbox.ports()))
            .collect()
    }

    fn table(&mut self, network: &str) -> SharedTable {
        if let Some(table) = self.tables.get(network) {
            return Rc::clone(table);
        }
        let table = Rc::new(RefCell::new(Table::default()));
        self.tables.insert(network.to_owned(), Rc::clone(&table));
        table
    }

    /// Forgets prepared zones that are empty and that no sandbox waits for.
    fn prune_tables(&mut self) {
        let zones = &self.zones;
        self.tables
            .retain(|network, table| zones.contains_key(network) || Rc::strong_count(table) > 1);
    }

    fn put_sandbox(&mut self, spec: SandboxDns, ports: Option<DnsPorts>) -> Result<DnsPorts, String> {
        let networks = spec.networks.iter().map(|network| self.table(network)).collect();
        let view = View::new(&spec, networks);
        let id = spec.id.clone();
        let ports = match self.sandboxes.get(&id) {
            Some(sandbox) if sandbox.is_at(&spec.netns) => {
                sandbox.set_view(view);
                sandbox.ports()
            }
            _ => {
                self.remove_sandbox(&id);
                let path = spec.netns.display();
                let netns = Netns::open(&spec.netns)
                    .map_err(|error| format!("the network namespace {path} cannot be opened: {error}"))?;
                let sandbox = Sandbox::start(netns, view, ports).map_err(|error| {
                    format!(
                        "cannot listen on 127.0.0.11 in {path} ({error}): its loopback interface must be up"
                    )
                })?;
                let ports = sandbox.ports();
                self.sandboxes.insert(id.clone(), sandbox);
                ports
            }
        };
        self.specs.insert(id, spec);
        self.prune_tables();
        Ok(ports)
    }

    fn remove_sandbox(&mut self, id: &str) {
        self.specs.remove(id);
        self.sandboxes.remove(id);
        self.prune_tables();
    }

    fn put_zone(&mut self, network: String, zone: Zone) {
        self.table(&network).replace(Table::new(&zone.records));
        self.zones.insert(network, zone);
    }

    fn patch_zone(
        &mut self,
        network: String,
        set: BTreeMap<String, Vec<std::net::IpAddr>>,
        unset: &[String],
    ) {
        let table = self.table(&network);
        let mut table = table.borrow_mut();
        let records = &mut self.zones.entry(network).or_default().records;
        for name in unset {
            table.unset(name);
            records.remove(name);
        }
        for (name, addresses) in set {
            table.set(&name, &addresses);
            records.insert(name, addresses);
        }
    }

    fn remove_zone(&mut self, network: &str) {
        self.zones.remove(network);
        if let Some(table) = self.tables.get(network) {
            table.replace(Table::default());
        }
        self.prune_tables();
    }

    fn sync(&mut self, state: State) {
        let State {
            sandboxes,
            zones,
            ports,
            tunnel,
            encrypted,
        } = state;
        self.tunnels.sync(tunnel, encrypted);
        let gone: Vec<_> = self
            .zones
            .keys()
            .filter(|network| !zones.contains_key(*network))
            .cloned()
            .collect();
        gone.iter().for_each(|network| self.remove_zone(network));
        for (network, zone) in zones {
            if self.zones.get(&network) != Some(&zone) {
                self.put_zone(network, zone);
            }
        }
        let gone: Vec<_> = self
            .specs
            .keys()
            .filter(|id| !sandboxes.contains_key(*id))
            .cloned()
            .collect();
        gone.iter().for_each(|id| self.remove_sandbox(id));
        for (id, mut spec) in sandboxes {
            spec.id.clone_from(&id);
            if let Err(reason) = self.put_sandbox(spec, ports.get(&id).copied()) {
                tracing::warn!(sandbox = id, reason, "a sandbox cannot be served");
            }
        }
    }
}
