//! What the tests of netd stand on: network namespaces of their own, a DNS client in them, and a fake upstream server.
// Each test file uses its part.
#![allow(dead_code, clippy::unwrap_used)]

pub mod node;

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use pontoon_dataplane::{DnsPorts, NetdClient, NetdOptions, Zone};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up; it goes when the value does.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        let name = format!(
            "ptdp-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        run("ip", &["-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    /// One whose loopback was never up. (Going down later does not matter: its addresses stay.)
    pub fn without_loopback() -> Self {
        let name = format!(
            "ptdp-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Asks the sandbox's resolver by UDP.
    pub fn ask(&self, ports: DnsPorts, name: &str, kind: RecordType) -> Option<Message> {
        self.enter(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
            socket.connect(("127.0.0.11", ports.udp)).unwrap();
            let query = query(name, kind);
            socket.send(&query.to_vec().unwrap()).ok()?;
            let mut buffer = [0; 65_535];
            let len = socket.recv(&mut buffer).ok()?;
            let reply = Message::from_vec(&buffer[..len]).unwrap();
            assert_eq!(reply.metadata.id, query.metadata.id);
            Some(reply)
        })
    }

    /// Asks the sandbox's resolver by TCP, several names on one connection.
    pub fn ask_tcp(&self, ports: DnsPorts, names: &[&str]) -> Vec<Message> {
        self.enter(|| {
            let mut stream = TcpStream::connect(("127.0.0.11", ports.tcp)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
            names
                .iter()
                .for_each(|name| write_framed(&mut stream, &query(name, RecordType::A)));
            names
                .iter()
                .map(|_| Message::from_vec(&read_framed(&mut stream).unwrap()).unwrap())
                .collect()
        })
    }

    /// The addresses of a name.
    pub fn resolve(&self, ports: DnsPorts, name: &str) -> Result<Vec<IpAddr>, ResponseCode> {
        let reply = self.ask(ports, name, RecordType::A).expect("an answer");
        match reply.metadata.response_code {
            ResponseCode::NoError => Ok(addresses(&reply)),
            code => Err(code),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn addresses(reply: &Message) -> Vec<IpAddr> {
    let ip = |record: &Record| match &record.data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(a) => IpAddr::V6(a.0),
        other => panic!("unexpected {other:?}"),
    };
    reply.answers.iter().map(ip).collect()
}

pub fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

pub fn zone(records: &[(&str, &[&str])]) -> Zone {
    Zone {
        records: records
            .iter()
            .map(|(name, list)| (name.to_string(), ips(list)))
            .collect(),
    }
}

fn write_framed(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream
        .write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes())
        .unwrap();
    stream.write_all(&bytes).unwrap();
}

fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut bytes = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Waits until `met` holds.
pub fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !met() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A run directory with a netd that ends with it.
pub struct Host {
    pub run_dir: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        Self {
            run_dir: tempfile::Builder::new().prefix("ptdp").tempdir().unwrap(),
        }
    }

    pub async fn client(&self) -> NetdClient {
        let options = NetdOptions {
            exe: env!("CARGO_BIN_EXE_pontoon-netd").into(),
        };
        NetdClient::start_or_connect_with(self.run_dir.path(), options)
            .await
            .unwrap()
    }

    /// The process id of the running netd.
    pub fn netd(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.run_dir.path().join("netd.lock")).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        (!status.contains("State:\tZ")).then_some(pid)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.run_dir.path().join("netd.log")).unwrap_or_default()
    }

    pub fn kill(&self) -> u32 {
        let pid = self.netd().unwrap();
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        pid
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("netd.log:\n{}", self.log());
        }
        if self.netd().is_some() {
            self.kill();
        }
    }
}

/// A DNS server at 10.77.0.2:53 in a namespace of its own, joined to a sandbox that has 10.77.0.1.
pub struct Upstream {
    pub namespace: Namespace,
    pub queries: Arc<AtomicUsize>,
}

impl Upstream {
    pub fn joined_to(sandbox: &Namespace) -> Self {
        let namespace = Namespace::new();
        let link: Vec<&str> = vec![
            "-n",
            &sandbox.name,
            "link",
            "add",
            "up0",
            "type",
            "veth",
            "peer",
            "name",
            "up0",
            "netns",
            &namespace.name,
        ];
        run("ip", &link);
        for (ns, address) in [(&sandbox.name, "10.77.0.1/24"), (&namespace.name, "10.77.0.2/24")] {
            run("ip", &["-n", ns, "addr", "add", address, "dev", "up0"]);
            run("ip", &["-n", ns, "link", "set", "up0", "up"]);
        }
        let queries = Arc::new(AtomicUsize::new(0));
        let (udp, tcp) = namespace.enter(|| {
            let address: SocketAddr = "10.77.0.2:53".parse().unwrap();
            (
                UdpSocket::bind(address).unwrap(),
                TcpListener::bind(address).unwrap(),
            )
        });
        let counter = Arc::clone(&queries);
        // The threads end with the test process.
        std::thread::spawn(move || serve_udp(&udp, &counter));
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                while let Ok(bytes) = read_framed(&mut stream) {
                    let asked = Message::from_vec(&bytes).unwrap();
                    write_framed(&mut stream, &reply(&asked, 100));
                }
            }
        });
        Self { namespace, queries }
    }

    pub fn count(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

fn serve_udp(socket: &UdpSocket, counter: &AtomicUsize) {
    let mut buffer = [0; 4096];
    while let Ok((len, client)) = socket.recv_from(&mut buffer) {
        counter.fetch_add(1, Ordering::Relaxed);
        let asked = Message::from_vec(&buffer[..len]).unwrap();
        let name = asked.queries[0].name().to_ascii().to_ascii_lowercase();
        let mut answer = reply(&asked, 1);
        match name.as_str() {
            "silent.example." => continue,
            "missing.example." => {
                answer.answers.clear();
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            "large.example." => {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
            "spoofed.example." => {
                // Wrong id, then wrong question, then the truth.
                let mut forged = reply(&asked, 2);
                forged.metadata.id = !asked.metadata.id;
                socket.send_to(&forged.to_vec().unwrap(), client).unwrap();
                let mut other = reply(&query("other.example.", RecordType::A), 2);
                other.metadata.id = asked.metadata.id;
                socket.send_to(&other.to_vec().unwrap(), client).unwrap();
            }
            _ => {}
        }
        socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
    }
}

/// An answer with that many addresses from 192.0.2.1 on.
fn reply(asked: &Message, count: u8) -> Message {
    let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
    let question = asked.queries[0].clone();
    for last in 1..=count {
        let data = RData::A(rdata::A::new(192, 0, 2, last));
        answer.add_answer(Record::from_rdata(question.name().clone(), 60, data));
    }
    answer.add_query(question);
    answer
}
