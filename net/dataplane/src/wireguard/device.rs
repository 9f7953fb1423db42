//! The tunnel as netd holds it: engine, threads, networks and the control socket.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
    time::{Instant, SystemTime},
};

use super::{
    control::Control,
    engine::Engine,
    frame::vxlan::VNI_LIMIT,
    keys::PublicKey,
    socket,
    spec::{EncryptedNetwork, Peer, Tunnel},
    tap,
    uapi::{self, Change, Errno, PeerChange},
    worker::{self, Port, Ports, Workers},
};
use crate::netns::Netns;

/// A running tunnel.
#[derive(Debug)]
pub(crate) struct Device {
    core: Rc<RefCell<Core>>,
    control: Option<Control>,
}

/// What the control socket works on as well.
#[derive(Debug)]
pub(crate) struct Core {
    engine: Arc<Engine>,
    /// Not there only while the sockets are replaced.
    workers: Option<Workers>,
    listen_port: u16,
    mark: u32,
    networks: BTreeMap<String, Network>,
}

#[derive(Debug)]
struct Network {
    spec: EncryptedNetwork,
    netns: Netns,
    port: Arc<Port>,
}

impl Device {
    /// Opens the sockets and begins.
    pub(crate) fn start(tunnel: &Tunnel) -> io::Result<Self> {
        let engine = Arc::new(Engine::new(tunnel.address));
        let mut core = Core {
            engine,
            workers: None,
            listen_port: tunnel.listen_port,
            mark: tunnel.mark,
            networks: BTreeMap::new(),
        };
        core.listen(Ports::new())?;
        let mut device = Self {
            core: Rc::new(RefCell::new(core)),
            control: None,
        };
        device.apply(tunnel)?;
        Ok(device)
    }

    /// Makes the tunnel what `tunnel` says; sessions stay where their keys do.
    pub(crate) fn apply(&mut self, tunnel: &Tunnel) -> io::Result<()> {
        {
            let mut core = self.core.borrow_mut();
            core.rebind(tunnel.listen_port, tunnel.mark)?;
            core.engine.apply(tunnel, Instant::now());
        }
        if self.control.as_ref().map(Control::path) != tunnel.control.as_deref() {
            self.control = None;
            if let Some(path) = &tunnel.control {
                self.control = Some(Control::serve(path, &self.core)?);
            }
        }
        Ok(())
    }

    /// The UDP port.
    pub(crate) fn listen_port(&self) -> u16 {
        self.core.borrow().listen_port
    }

    /// Carries a network's frames, or changes how.
    pub(crate) fn put_network(&self, id: &str, spec: &EncryptedNetwork) -> Result<(), String> {
        self.core.borrow_mut().put_network(id, spec)
    }

    /// Carries them no more. The TAP stays in its namespace.
    pub(crate) fn remove_network(&self, id: &str) {
        self.core.borrow_mut().remove_network(id);
    }

    /// Networks whose namespace is gone.
    pub(crate) fn lost(&self) -> Vec<String> {
        let core = self.core.borrow();
        let gone = |(id, network): (&String, &Network)| {
            (!network.netns.is_at(&network.spec.netns)).then(|| id.clone())
        };
        core.networks.iter().filter_map(gone).collect()
    }
}

impl Core {
    fn listen(&mut self, ports: Ports) -> io::Result<()> {
        let sockets = socket::open(self.listen_port, self.mark, worker::count())?;
        let workers = Workers::start(Arc::clone(&self.engine), sockets, ports)?;
        self.listen_port = workers.listen_port()?;
        self.workers = Some(workers);
        Ok(())
    }

    /// Moves to another port (0: it may stay) or mark. If that is not to be had, it stays where it was.
    fn rebind(&mut self, listen_port: u16, mark: u32) -> io::Result<()> {
        let listen_port = if listen_port == 0 {
            self.listen_port
        } else {
            listen_port
        };
        if (listen_port, mark) == (self.listen_port, self.mark) {
            return Ok(());
        }
        let before = (self.listen_port, self.mark);
        let ports = self.workers.take().map(Workers::stop).unwrap_or_default();
        (self.listen_port, self.mark) = (listen_port, mark);
        if let Err(error) = self.listen(ports.clone()) {
            (self.listen_port, self.mark) = before;
            self.listen(ports)?;
            return Err(error);
        }
        Ok(())
    }

    fn put_network(&mut self, id: &str, spec: &EncryptedNetwork) -> Result<(), String> {
        if spec.vni >= VNI_LIMIT {
            return Err(format!("{} is no VXLAN network identifier", spec.vni));
        }
        let twin = self
            .networks
            .iter()
            .find(|(other, network)| *other != id && network.spec.vni == spec.vni);
        if let Some((other, _)) = twin {
            return Err(format!("the network identifier {} is that of {other}", spec.vni));
        }
        if let Some(network) = self.networks.get_mut(id)
            && network.serves(spec)
        {
            self.engine.put_network(spec.vni, &spec.endpoints);
            network.spec = spec.clone();
            return Ok(());
        }
        self.remove_network(id);
        let path = spec.netns.display();
        let netns = Netns::open(&spec.netns)
            .map_err(|error| format!("the network namespace {path} cannot be opened: {error}"))?;
        let queues = tap::open(&netns, &spec.device, spec.mtu, worker::count())
            .map_err(|error| format!("cannot open the TAP {} in {path}: {error}", spec.device))?;
        let port = Arc::new(Port {
            queues,
            lost: AtomicBool::new(false),
        });
        if let Some(workers) = &self.workers {
            let added = workers.add(spec.vni, Arc::clone(&port));
            added.map_err(|error| format!("cannot wait for frames of {}: {error}", spec.device))?;
        }
        self.engine.put_network(spec.vni, &spec.endpoints);
        let spec = spec.clone();
        self.networks.insert(id.to_owned(), Network { spec, netns, port });
        Ok(())
    }

    fn remove_network(&mut self, id: &str) {
        if let Some(network) = self.networks.remove(id) {
            self.engine.remove_network(network.spec.vni);
            if let Some(workers) = &self.workers {
                workers.remove(network.spec.vni);
            }
        }
    }

    /// The answer to a client that asks.
    pub(crate) fn describe(&self, now: SystemTime) -> String {
        uapi::describe(&self.engine.view(), self.listen_port, self.mark, now)
    }

    /// Does what a client asks for.
    pub(crate) fn change(&mut self, change: Change, now: Instant) -> Result<(), Errno> {
        let listen_port = change.listen_port.unwrap_or(self.listen_port);
        let mark = change.mark.unwrap_or(self.mark);
        self.rebind(listen_port, mark).map_err(|_| Errno::InUse)?;
        if let Some(key) = &change.private_key {
            self.engine.set_private_key(key.as_ref(), now);
        }
        if change.replace_peers {
            self.engine.clear_peers();
        }
        change
            .peers
            .into_iter()
            .for_each(|peer| self.change_peer(peer, now));
        Ok(())
    }

    fn change_peer(&self, change: PeerChange, now: Instant) {
        let known = self.engine.peer(change.public_key);
        if change.remove {
            if let Some((name, _)) = known {
                self.engine.remove_peer(&name);
            }
            return;
        }
        let (name, mut spec) = match known {
            Some(known) => known,
            None if change.update_only => return,
            None => (change.public_key.to_string(), stranger(change.public_key)),
        };
        if let Some(key) = change.preshared_key {
            spec.preshared_key = key;
        }
        spec.endpoint = change.endpoint.or(spec.endpoint);
        spec.keepalive = change.keepalive.unwrap_or(spec.keepalive);
        if change.replace_allowed {
            spec.allowed.clear();
        }
        for (prefix, added) in change.allowed {
            spec.allowed.retain(|known| *known != prefix);
            if added {
                spec.allowed.push(prefix);
            }
        }
        self.engine.put_peer(&name, spec, now);
        if let Some(endpoint) = change.endpoint {
            self.engine.set_endpoint(&name, endpoint);
        }
    }
}

/// A peer that only a client of the control socket knows of.
fn stranger(public_key: PublicKey) -> Peer {
    Peer {
        public_keys: vec![public_key],
        preshared_key: None,
        endpoint: None,
        keepalive: 0,
        allowed: Vec::new(),
    }
}

impl Network {
    /// Whether it has the device that is asked for.
    fn serves(&self, spec: &EncryptedNetwork) -> bool {
        let same = self.spec.vni == spec.vni
            && self.spec.device == spec.device
            && self.spec.mtu == spec.mtu
            && self.netns.is_at(&spec.netns);
        same && !self.port.lost.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Whether a network fits into the tunnel, and why not.
pub(crate) fn fits(tunnel: &Tunnel, network: &EncryptedNetwork) -> Result<(), String> {
    let most = tunnel.frame_mtu();
    if network.mtu > most {
        return Err(format!(
            "an MTU of {} does not fit: with {} between the nodes, encrypted networks have at most {most}",
            network.mtu, tunnel.mtu
        ));
    }
    if network
        .endpoints
        .values()
        .any(|node| *node == Ipv4Addr::UNSPECIFIED)
    {
        return Err("an endpoint has no node".to_owned());
    }
    Ok(())
}
