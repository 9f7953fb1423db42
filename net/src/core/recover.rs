//! Start, reconciliation and the removal of everything.
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    io::Read as _,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
};

use super::{
    Core, Predefined,
    endpoint::is_link_name,
    local::{LocalNetwork, LocalRecord, Role},
    overlay::OverlayRecord,
    ports::Ports,
    sandbox::{SandboxRecord, SandboxState},
    short,
};
use crate::{
    Config, Error, Result,
    firewall::nft::Transaction,
    netlink::{Batch, Link, Protocol, Socket},
    netns,
    proxy::Proxies,
    record,
};

const PREDEFINED: &str = "predefined";
/// Interface indexes from here on are ours; the kernel counts from 1.
const FIRST_INDEX: u32 = 1_000_000;

impl Core {
    /// Reads what there was and finds it again in the kernel.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Record`], [`Error::Netlink`], [`Error::Namespace`].
    pub fn open(config: Config, home: Arc<OwnedFd>) -> Result<Self> {
        netns::enter(&home)?;
        let proxies = Proxies::start(&home)?;
        let network_dir = config.data_dir.join("network");
        let run = ["netns", "sandboxes", "overlays"].map(|name| config.run_dir.join(name));
        for dir in [&config.data_dir, &network_dir, &config.run_dir]
            .into_iter()
            .chain(&run)
        {
            record::make_dir(dir)?;
        }
        let predefined = match record::read(&network_dir, PREDEFINED)? {
            Some(predefined) => predefined,
            None => choose_ids(&network_dir)?,
        };
        let mut core = Self {
            home,
            route: Socket::open(Protocol::Route)?,
            nft: Socket::open(Protocol::Netfilter)?,
            table: false,
            next_index: FIRST_INDEX,
            predefined,
            networks: BTreeMap::new(),
            overlays: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            ports: Ports::default(),
            unmade: BTreeMap::new(),
            mesh: None,
            stale: Vec::new(),
            withdrawn: BTreeSet::new(),
            verified: None,
            mended: Vec::new(),
            has_ipv6: has_ipv6(),
            proxies,
            config,
        };
        let links = core.route.links()?;
        core.next_index = links
            .iter()
            .map(|l| l.index + 1)
            .chain([FIRST_INDEX])
            .max()
            .unwrap_or(FIRST_INDEX);
        core.recover_sandboxes()?;
        core.recover_networks()?;
        core.recover_overlays()?;
        core.recover_mesh()?;
        core.reserve()?;
        let bridges = |n: &LocalNetwork| n.live.is_some() && n.is_bridge();
        if core.mesh.is_some() || core.networks.values().any(bridges) {
            core.rebuild_firewall()?;
        }
        Ok(core)
    }

    fn recover_sandboxes(&mut self) -> Result<()> {
        for (id, record) in record::read_all::<SandboxRecord>(&self.sandbox_dir(), &[])? {
            let netns = match self.netns_path(&record) {
                Some(path) => netns::open(&path)?,
                None => None,
            };
            let mut sandbox = SandboxState::new(record, netns);
            // If it has none after all, the first change finds out.
            sandbox.table = true;
            self.sandboxes.insert(id, sandbox);
        }
        Ok(())
    }

    fn recover_networks(&mut self) -> Result<()> {
        let (bridge, gateway) = (&self.config.default_bridge, &self.config.gateway_bridge);
        let ids = self.predefined.clone();
        let mut records: Vec<(LocalRecord, bool)> = Vec::new();
        for (_, record) in record::read_all::<LocalRecord>(&self.network_dir(), &[PREDEFINED])? {
            records.push((record, true));
        }
        for (id, role, config) in [
            (&ids.bridge, Role::Default, bridge),
            (&ids.gateway, Role::Gateway, gateway),
        ] {
            // Settings may have changed since; what was chosen because nothing was set stays.
            let at = records.iter().position(|(r, _)| r.spec.id == *id);
            let stored = at.map(|at| records.remove(at).0);
            let record = LocalNetwork::predefined(id, role, config, stored.as_ref());
            records.push((record, stored.is_some()));
        }
        for (record, stored) in records {
            let id = record.spec.id.clone();
            let wanted = stored && (record.role == Role::User || self.route.link(&record.bridge)?.is_some());
            self.networks.insert(id.clone(), LocalNetwork::new(record)?);
            if wanted && let Err(error) = self.ensure_network(&id) {
                // One network that can't be made must not keep the daemon from starting.
                tracing::error!(network = id, %error, "a bridge network could not be restored");
            }
        }
        Ok(())
    }

    fn recover_overlays(&mut self) -> Result<()> {
        for (id, record) in record::read_all::<OverlayRecord>(&self.overlay_dir(), &[])? {
            if self.recover_overlay(record)?.is_none() {
                let _ = netns::remove(&self.netns_dir().join(format!("ov-{}", short(&id))));
                record::remove(&self.overlay_dir(), &id)?;
            }
        }
        Ok(())
    }

    /// Takes the addresses and ports of known sandboxes.
    fn reserve(&mut self) -> Result<()> {
        for sandbox in self.sandboxes.values() {
            for endpoint in &sandbox.record.endpoints {
                let network = self.networks.get_mut(&endpoint.endpoint.network_id);
                let Some(live) = network.and_then(|n| n.live.as_mut()) else {
                    continue;
                };
                for address in endpoint.endpoint.addresses() {
                    if let Some(subnet) = live.subnets[usize::from(address.is_ipv6())].as_mut()
                        && let Err(error) = subnet.pool.reserve(address)
                    {
                        // The settings of the default bridge were changed under a running container.
                        tracing::warn!(%address, %error, "an endpoint's address is not its network's any more");
                    }
                }
            }
            for port in &sandbox.record.ports {
                if let Some((ip, number)) = port.host() {
                    self.ports.retake(port.mapping.protocol, ip, number);
                }
                self.ports.serve(&self.proxies, port);
            }
        }
        Ok(())
    }

    /// Ids of sandboxes that are not in `live`, or whose namespace vanished.
    pub fn stale_sandboxes(&self, live: &HashSet<String>) -> Vec<String> {
        let vanished = |s: &SandboxState| self.netns_path(&s.record).is_some() && s.netns.is_none();
        let stale = |(id, s): &(&String, &SandboxState)| !live.contains(*id) || vanished(s);
        self.sandboxes
            .iter()
            .filter(stale)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Removes namespaces and links of ours that belong to nothing.
    pub fn remove_strays(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        let dir = self.netns_dir();
        let hidden: HashSet<String> = self
            .overlays
            .keys()
            .map(|id| format!("ov-{}", short(id)))
            .collect();
        match record::entries(&dir) {
            Ok(names) => {
                let stray = names
                    .iter()
                    .filter(|n| !self.sandboxes.contains_key(*n) && !hidden.contains(*n));
                errors.extend(stray.filter_map(|name| netns::remove(&dir.join(name)).err()));
            }
            Err(error) => errors.push(error),
        }
        let endpoints = self.sandboxes.values().flat_map(|s| &s.record.endpoints);
        let known: HashSet<&str> = endpoints.map(|e| e.link.as_str()).collect();
        match self.route.links() {
            Ok(links) => {
                let stray = |link: &&Link| {
                    link.kind == "veth" && is_link_name(&link.name) && !known.contains(link.name.as_str())
                };
                let mut batch = Batch::default();
                for link in links.iter().filter(stray) {
                    batch.retire_link(&link.name);
                }
                // Those that a killed daemon had retired, too.
                batch.remove_retired();
                errors.extend(self.route.transact_all(batch));
            }
            Err(error) => errors.push(error),
        }
        errors
    }

    /// Ids of all sandboxes.
    pub fn sandbox_ids(&self) -> Vec<String> {
        self.sandboxes.keys().cloned().collect()
    }

    /// Ids of all networks with names.
    pub fn named_networks(&self) -> Vec<String> {
        self.networks
            .keys()
            .chain(self.overlays.keys())
            .filter(|id| self.has_names(id))
            .cloned()
            .collect()
    }

    /// Whether a network is an overlay.
    pub fn is_overlay(&self, id: &str) -> bool {
        self.overlays.contains_key(id)
    }

    /// Removes everything that no sandbox holds: overlays, mesh, bridges, the table. Definitions of local networks
    /// stay on disk.
    pub fn remove_everything(&mut self) -> Vec<Error> {
        let mut errors = self.remove_mesh();
        for id in self.overlays.keys().cloned().collect::<Vec<_>>() {
            errors.extend(self.remove_overlay(&id));
        }
        for id in self.networks.keys().cloned().collect::<Vec<_>>() {
            errors.extend(self.take_down(&id).err());
        }
        errors.extend(self.remove_strays());
        let mut tx = Transaction::default();
        crate::firewall::host::remove(&mut tx, self.families());
        errors.extend(tx.commit(&mut self.nft).err());
        self.table = false;
        errors
    }
}

/// Whether the kernel has IPv6 and it is not switched off as a whole.
fn has_ipv6() -> bool {
    let off = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    off.is_ok_and(|text| text.trim() == "0")
}

/// Ids of 64 hexadecimal digits, as Docker's.
fn choose_ids(dir: &std::path::Path) -> Result<Predefined> {
    let source = PathBuf::from("/dev/urandom");
    let mut bytes = [0; 128];
    fs::File::open(&source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::File {
            operation: "read",
            path: source,
            source: error,
        })?;
    let id = |at: usize| {
        bytes[at * 32..(at + 1) * 32]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let predefined = Predefined {
        bridge: id(0),
        gateway: id(1),
        host: id(2),
        none: id(3),
    };
    record::write(dir, PREDEFINED, &predefined)?;
    Ok(predefined)
}
