//! Hosts for encrypted networks: an underlay of veth pairs into a switch, a netd in each host's namespace, and a container behind a bridge.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use pontoon_dataplane::{EncryptedNetwork, Mac, NetdClient, Peer, Prefix, PrivateKey, PublicKey, Tunnel};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Host, Namespace, eventually, run};

/// The network of all tests here.
pub const VNI: u32 = 4097;
/// The port of all nodes.
pub const PORT: u16 = 51_820;
/// What a capture's last datagram says.
const END: &[u8] = b"this is the end of the capture";
/// The TAP's name.
pub const DEVICE: &str = "vxlan0";

/// The switch between hosts.
pub struct Underlay {
    pub switch: Namespace,
    pub mtu: u16,
}

/// A host with a netd.
pub struct Node {
    pub number: u8,
    pub ns: Namespace,
    pub hidden: Namespace,
    pub container: Namespace,
    pub host: Arc<Host>,
    pub client: NetdClient,
    pub tunnel: Tunnel,
    pub network: EncryptedNetwork,
    pub runtime: Option<tokio::runtime::Runtime>,
}

pub fn key(number: u8) -> PrivateKey {
    PrivateKey::new([number; 32])
}

pub fn tunnel_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, number)
}

pub fn outer(number: u8) -> String {
    format!("192.168.77.{number}")
}

/// The container's address.
pub fn inner(number: u8) -> String {
    format!("10.77.0.{number}")
}

pub fn mac(number: u8) -> Mac {
    Mac([2, 0x42, 10, 77, 0, number])
}

pub fn peer(number: u8, keys: &[PublicKey]) -> Peer {
    Peer {
        public_keys: keys.to_vec(),
        preshared_key: None,
        endpoint: Some(SocketAddr::new(outer(number).parse().unwrap(), PORT)),
        keepalive: 0,
        allowed: vec![Prefix::host(tunnel_address(number))],
    }
}

impl Underlay {
    pub fn new(mtu: u16) -> Self {
        let switch = Namespace::new();
        ip(&switch, "link add br0 type bridge");
        ip(&switch, &format!("link set br0 mtu {mtu} up"));
        Self { switch, mtu }
    }

    /// A namespace on the switch.
    pub fn host(&self, number: u8) -> Namespace {
        let ns = Namespace::new();
        let far = format!("h{number}");
        ip(
            &self.switch,
            &format!(
                "link add {far} mtu {} type veth peer name up0 mtu {} netns {}",
                self.mtu, self.mtu, ns.name
            ),
        );
        ip(&self.switch, &format!("link set {far} master br0 up"));
        ip(&ns, &format!("addr add {}/24 dev up0", outer(number)));
        ip(&ns, "link set up0 up");
        ns
    }
}

/// Runs `ip` inside a namespace.
pub fn ip(ns: &Namespace, arguments: &str) {
    let mut all = vec!["-n", &ns.name];
    all.extend(arguments.split(' '));
    run("ip", &all);
}

/// Gives a container a leg: what all ends have, also those that are not ours.
pub fn neighbours(ns: &Namespace, device: &str, others: &[u8]) {
    for other in others {
        ip(
            ns,
            &format!(
                "neigh add {} lladdr {} dev {device} nud permanent",
                inner(*other),
                mac(*other)
            ),
        );
    }
}

impl Node {
    /// A host whose network has endpoints on `others` too.
    pub fn new(underlay: &Underlay, number: u8, others: &[u8]) -> Self {
        let ns = underlay.host(number);
        let (hidden, container) = (Namespace::new(), Namespace::new());
        let namespace = ns.path();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            // The netd that a client starts is in its namespace.
            .on_thread_start(move || {
                let file = File::open(&namespace).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            })
            .build()
            .unwrap();
        let host = Arc::new(Host::new());
        let starter = Arc::clone(&host);
        let started = runtime.spawn(async move { starter.client().await });
        let client = runtime.block_on(started).unwrap();
        let peers = others
            .iter()
            .map(|other| (other.to_string(), peer(*other, &[key(*other).public()])));
        let tunnel = Tunnel {
            private_keys: vec![key(number)],
            listen_port: PORT,
            mark: 0,
            address: tunnel_address(number),
            mtu: underlay.mtu,
            control: None,
            peers: peers.collect(),
        };
        let network = EncryptedNetwork {
            vni: VNI,
            netns: hidden.path(),
            device: DEVICE.to_owned(),
            mtu: tunnel.frame_mtu(),
            endpoints: others
                .iter()
                .map(|other| (mac(*other), tunnel_address(*other)))
                .collect::<BTreeMap<_, _>>(),
        };
        let node = Self {
            number,
            ns,
            hidden,
            container,
            host,
            client,
            tunnel,
            network,
            runtime: Some(runtime),
        };
        node.apply();
        node.call(|client, node| {
            let network = node.network.clone();
            async move { client.put_encrypted("net", network).await.unwrap() }
        });
        node.wire(others);
        node
    }

    /// Bridge, TAP, and the container's link.
    fn wire(&self, others: &[u8]) {
        let mtu = self.network.mtu;
        ip(
            &self.hidden,
            &format!("link add br0 mtu {mtu} type bridge mcast_snooping 0"),
        );
        ip(&self.hidden, "link set br0 up");
        ip(&self.hidden, &format!("link set {DEVICE} master br0"));
        ip(
            &self.hidden,
            &format!(
                "link add c0 mtu {mtu} type veth peer name eth0 mtu {mtu} address {} netns {}",
                mac(self.number),
                self.container.name
            ),
        );
        ip(&self.hidden, "link set c0 master br0 up");
        ip(
            &self.container,
            &format!("addr add {}/24 dev eth0", inner(self.number)),
        );
        ip(&self.container, "link set eth0 up");
        neighbours(&self.container, "eth0", others);
    }

    /// Tells netd the tunnel as it is now.
    pub fn apply(&self) {
        self.call(|client, node| {
            let tunnel = node.tunnel.clone();
            async move { assert_eq!(client.put_tunnel(tunnel).await.unwrap(), PORT) }
        });
    }

    /// Runs a call on the client's own runtime.
    pub fn call<T, F>(&self, work: impl FnOnce(NetdClient, &Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let runtime = self.runtime.as_ref().unwrap();
        let future = work(self.client.clone(), self);
        runtime.block_on(runtime.spawn(future)).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The keeper must not start another netd when this one ends.
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

/// Two of ours.
pub fn pair(mtu: u16) -> (Underlay, Node, Node) {
    let underlay = Underlay::new(mtu);
    let one = Node::new(&underlay, 1, &[2]);
    let two = Node::new(&underlay, 2, &[1]);
    (underlay, one, two)
}

/// Pings with packets of exactly the network's MTU that may not be cut.
pub fn ping_full(from: &Namespace, to: u8, mtu: u16) {
    let size = (mtu - 28).to_string();
    let arguments = [
        "netns", "exec", &from.name, "ping", "-q", "-M", "do", "-s", &size, "-c", "3", "-i", "0.05", "-W",
        "5",
    ];
    let mut all = arguments.to_vec();
    let to = inner(to);
    all.push(&to);
    run("ip", &all);
}

/// A stream of pings, some milliseconds apart.
pub struct Pings {
    child: Child,
    output: BufReader<ChildStdout>,
    text: String,
}

impl Pings {
    /// Begins to send `count` of them.
    pub fn start(from: &Namespace, to: u8, count: u32) -> Self {
        let (count, to) = (count.to_string(), inner(to));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &from.name, "ping", "-i", "0.004", "-s", "1000"]);
        command.args(["-W", "5", "-c", &count, &to]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let text = String::new();
        Self { child, output, text }
    }

    /// Waits until so many more are answered.
    pub fn pass(&mut self, count: usize) {
        let mut answers = 0;
        while answers < count {
            let begin = self.text.len();
            let read = self.output.read_line(&mut self.text).unwrap();
            assert!(read > 0, "they ended before: {}", self.text);
            answers += usize::from(self.text[begin..].contains(" bytes from "));
        }
    }

    /// Waits for all, the last answer too, and expects that none was lost.
    pub fn end(mut self) {
        self.output.read_to_string(&mut self.text).unwrap();
        self.child.wait().unwrap();
        assert!(self.text.contains(" 0% packet loss"), "{}", self.text);
    }
}

/// Sends `bytes` through a TCP connection and checks what arrives.
pub fn transfer(from: &Namespace, to: &Namespace, to_number: u8, bytes: &[u8]) {
    let listener = to.enter(|| TcpListener::bind((inner(to_number), 9000)).unwrap());
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .set_read_timeout(Some(std::time::Duration::from_secs(20)))
                .unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        from.enter(|| {
            let address: SocketAddr = format!("{}:9000", inner(to_number)).parse().unwrap();
            let mut stream =
                TcpStream::connect_timeout(&address, std::time::Duration::from_secs(20)).unwrap();
            stream
                .set_write_timeout(Some(std::time::Duration::from_secs(20)))
                .unwrap();
            stream.write_all(bytes).unwrap();
        });
        assert!(
            receiver.join().unwrap() == bytes,
            "the bytes that arrive are others"
        );
    });
}

/// tcpdump on a host's way out, until it is asked for what it saw.
pub struct Capture<'a> {
    ns: &'a Namespace,
    child: Child,
    file: tempfile::NamedTempFile,
}

impl<'a> Capture<'a> {
    pub fn start(ns: &'a Namespace, filter: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &ns.name,
            "tcpdump",
            "-Z",
            "root",
            "-i",
            "up0",
            "-s",
            "0",
            "-U",
            "--immediate-mode",
            "-w",
            path,
        ]);
        let mut child = command.arg(filter).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 1];
        let (stderr, mut line) = (child.stderr.as_mut().unwrap(), String::new());
        while !line.contains("listening on") {
            assert_eq!(stderr.read(&mut said).unwrap(), 1, "tcpdump: {line}");
            line.push(said[0] as char);
        }
        Self { ns, child, file }
    }

    /// The frames so far. The last that it sees is sent by this: then all before it have come by.
    pub fn end(mut self) -> Vec<Vec<u8>> {
        let path = self.file.path().to_owned();
        let is_end = |bytes: &[u8]| bytes.windows(END.len()).any(|window| window == END);
        self.ns.enter(|| {
            let socket = std::net::UdpSocket::bind((outer(1), 0)).unwrap();
            socket.send_to(END, (outer(2), 9)).unwrap();
        });
        eventually("tcpdump has seen the end", || {
            is_end(&std::fs::read(&path).unwrap())
        });
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
        let bytes = std::fs::read(self.file.path()).unwrap();
        let mut rest = &bytes[24..];
        let mut frames = Vec::new();
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
            if is_end(&rest[16..16 + length]) {
                break;
            }
            frames.push(rest[16..16 + length].to_vec());
            rest = &rest[16 + length..];
        }
        frames
    }
}
