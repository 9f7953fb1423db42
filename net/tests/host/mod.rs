//! Hosts made of network namespaces: each test builds its own, runs managers in them and sends real packets.
#![allow(dead_code, reason = "each test binary uses a part")]
pub mod cluster;
pub mod specs;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pontoon_net::{
    Config, DATA_PATH_PORT, Driver, EndpointSpec, IpamConfig, NetworkManager, NetworkSpec, OverlayPeer,
    OverlayState, SandboxMode, SandboxSpec,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Runs a program and returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("programs print UTF-8")
}

/// `ip` with words split at spaces.
pub fn ip(line: &str) -> String {
    run("ip", &line.split_whitespace().collect::<Vec<_>>())
}

/// Runs `work` on a thread in the namespace at `path`.
pub fn inside<T: Send + 'static>(path: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let enter = move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("tests run as root");
        work()
    };
    thread::spawn(enter).join().expect("the work does not panic")
}

/// A program in a namespace.
pub fn run_inside(path: &Path, line: &str) -> String {
    let net = format!("--net={}", path.display());
    let mut words = vec![net.as_str()];
    words.extend(line.split_whitespace());
    run("nsenter", &words)
}

/// Whether a program in a namespace succeeds.
pub fn succeeds(path: &Path, line: &str) -> bool {
    let net = format!("--net={}", path.display());
    let output = Command::new("nsenter")
        .arg(net)
        .args(line.split_whitespace())
        .output()
        .expect("nsenter is there");
    output.status.success()
}

/// Whether `target` answers a ping from the namespace.
pub fn pings(path: &Path, target: &str) -> bool {
    succeeds(path, &format!("busybox ping -c 1 -W 1 {target}"))
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A namespace that goes with its value.
pub struct Namespace {
    pub name: String,
    pub path: PathBuf,
}

impl Namespace {
    pub fn new(kind: &str) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pn{}-{kind}{number}", std::process::id());
        ip(&format!("netns add {name}"));
        let path = PathBuf::from(format!("/run/netns/{name}"));
        ip(&format!("-n {name} link set lo up"));
        inside(&path, || {
            std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").ok()
        });
        Self { name, path }
    }

    pub fn ip(&self, line: &str) -> String {
        ip(&format!("-n {} {line}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A switch with hosts on it, 10.99.0.1 and so on.
pub struct Fleet {
    pub switch: Namespace,
    pub hosts: Vec<Host>,
}

impl Fleet {
    pub fn new(hosts: usize) -> Self {
        let switch = Namespace::new("s");
        switch.ip("link add br0 type bridge mcast_snooping 0");
        switch.ip("link set br0 up");
        switch.ip("addr add 10.99.0.254/24 dev br0");
        let hosts = (1..=hosts).map(|n| Host::on(&switch, n)).collect();
        Self { switch, hosts }
    }
}

/// A host: namespace, directories, manager.
pub struct Host {
    pub ns: Namespace,
    pub dir: tempfile::TempDir,
    pub address: IpAddr,
    pub manager: Option<Arc<NetworkManager>>,
}

impl Host {
    /// One without a link to anywhere.
    pub fn alone() -> Self {
        let ns = Namespace::new("h");
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        Self {
            ns,
            dir,
            address: Ipv4Addr::LOCALHOST.into(),
            manager: None,
        }
        .opened()
    }

    fn on(switch: &Namespace, number: usize) -> Self {
        let ns = Namespace::new("h");
        switch.ip(&format!(
            "link add p{number} type veth peer name eth0 netns {}",
            ns.name
        ));
        switch.ip(&format!("link set p{number} master br0 up"));
        ns.ip(&format!("addr add 10.99.0.{number}/24 dev eth0"));
        ns.ip("link set eth0 up");
        ns.ip("route add default via 10.99.0.254");
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        let address = IpAddr::from([10, 99, 0, u8::try_from(number).expect("few hosts")]);
        Self {
            ns,
            dir,
            address,
            manager: None,
        }
        .opened()
    }

    pub fn config(&self) -> Config {
        let mut config = Config::new(self.dir.path().join("run"), self.dir.path().join("data"));
        config.netd = None;
        config
    }

    fn opened(mut self) -> Self {
        self.reopen(self.config());
        self
    }

    /// Forgets the manager as a killed daemon would, and opens another one.
    pub fn reopen(&mut self, config: Config) {
        self.manager = None;
        let open = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(NetworkManager::open(config))
        };
        self.manager = Some(inside(&self.ns.path, open).expect("the manager opens"));
    }

    pub fn net(&self) -> &NetworkManager {
        self.manager.as_ref().expect("it is open")
    }

    pub fn netns(&self, sandbox: &str) -> PathBuf {
        self.dir.path().join("run/netns").join(sandbox)
    }

    /// A sandbox on a network.
    pub async fn sandbox(&self, id: &str, network: &str, ip: Option<&str>) -> IpAddr {
        self.net()
            .create_sandbox(SandboxSpec::new(id, SandboxMode::Managed))
            .await
            .expect("a sandbox");
        self.attach(id, network, ip).await
    }

    pub async fn attach(&self, id: &str, network: &str, ip: Option<&str>) -> IpAddr {
        let spec = EndpointSpec {
            network_id: network.into(),
            ip: ip.map(|ip| ip.parse().expect("an address")),
            aliases: vec![format!("name-{id}")],
            is_default_route: true,
            ..EndpointSpec::default()
        };
        self.net()
            .attach(id, spec)
            .await
            .expect("an endpoint")
            .ip()
            .expect("an address")
    }

    /// The address of a sandbox's first endpoint.
    pub async fn address_of(&self, id: &str) -> IpAddr {
        let sandbox = self.net().inspect_sandbox(id).await.expect("it is there");
        sandbox.endpoints[0].ip().expect("an address")
    }

    /// What is on the host: links, rules, our mounts and namespaces. Retired links don't count: they are waited for.
    pub fn inventory(&self) -> BTreeMap<&'static str, String> {
        eventually("retired links are gone", || {
            !run_inside(&self.ns.path, "ip -o link").contains("group 1886350964")
        });
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("there are mounts");
        let own = self.dir.path().display().to_string();
        let mounts: Vec<_> = mounts.lines().filter(|l| l.contains(&own)).collect();
        let names = std::fs::read_dir(self.dir.path().join("run/netns"))
            .map(|d| d.flatten().count())
            .unwrap_or(0);
        BTreeMap::from([
            ("links", run_inside(&self.ns.path, "ip -j link")),
            ("addresses", run_inside(&self.ns.path, "ip -j -4 route")),
            ("rules", run_inside(&self.ns.path, "nft list ruleset")),
            ("mounts", mounts.join("\n")),
            ("namespaces", names.to_string()),
        ])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Namespaces that a failed test left mounted.
        for kind in std::fs::read_dir(self.dir.path().join("run/netns"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = rustix::mount::unmount(kind.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A TCP server that tells its name and the client's address, and echoes lines, until dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(ns: &Path, port: u16, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let listener = inside(ns, move || TcpListener::bind(("0.0.0.0", port))).expect("the port is free");
        listener.set_nonblocking(true).expect("sockets can be that");
        let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let name = name.clone();
                        thread::spawn(move || serve(stream, &name, peer));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { stop }
    }
}

fn serve(mut stream: TcpStream, name: &str, peer: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    writeln!(stream, "{name} {}", peer.ip())?;
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Opens a connection from a namespace.
pub fn connect(ns: &Path, target: &str) -> io::Result<TcpStream> {
    let target: SocketAddr = target.parse().expect("an address and port");
    let stream = inside(ns, move || {
        TcpStream::connect_timeout(&target, Duration::from_secs(2))
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// Reads one line.
pub fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Connects and returns the server's name and how it sees the client.
pub fn ask(ns: &Path, target: &str) -> io::Result<(String, String)> {
    let text = line(&mut connect(ns, target)?)?;
    let (name, peer) = text
        .split_once(' ')
        .ok_or_else(|| io::Error::other(format!("answered {text:?}")))?;
    Ok((name.into(), peer.into()))
}

/// An overlay network's state without services.
pub fn overlay(id: &str, vni: u32, subnet: &str, local: IpAddr, peers: &[(&str, IpAddr)]) -> OverlayState {
    let mut network = NetworkSpec::new(id, format!("net-{id}"), Driver::Overlay { vni });
    network.ipam = vec![IpamConfig {
        subnet: Some(subnet.parse().expect("a subnet")),
        ..IpamConfig::default()
    }];
    let peers = peers.iter().map(|(ip, vtep)| OverlayPeer {
        ip: ip.parse().expect("an address"),
        vtep: *vtep,
    });
    OverlayState {
        network,
        local_vtep: local,
        data_path_port: DATA_PATH_PORT,
        peers: peers.collect(),
        services: Vec::new(),
        tasks: Vec::new(),
    }
}
