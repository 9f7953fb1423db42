//! The encrypted data path beside others: `cargo run --release -p pontoon-dataplane --example encrypted [SECONDS [ROUNDS]]`. Needs root,
//! iperf3 and wireguard-go.
//!
//! Two namespaces joined by a veth pair are the hosts. The paths take turns within each round: the hosts' own link, the
//! kernel's VXLAN, ours (container, bridge, TAP, netd, and back), wireguard-go alone, and the kernel's VXLAN over
//! wireguard-go, which is what ours replaces. Prints JSON: medians in Gbit/s at the receiver, and their share of the link.
//! The budget for ours is 0.25 with one TCP stream. Both ends, netd and iperf3 share this machine's cores, so shares of
//! the same run are what counts.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::File,
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use pontoon_dataplane::{EncryptedNetwork, Mac, NetdClient, Peer, Prefix, PrivateKey, Tunnel};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MTU: u16 = 1500;
/// Path, the namespaces that iperf3 runs in (c: the container), and the receiver's address.
const PATHS: [(&str, &str, &str); 5] = [
    ("link", "h", "192.168.77.2"),
    ("kernel VXLAN", "h", "10.78.0.2"),
    ("ours", "c", "10.77.0.2"),
    ("wireguard-go", "h", "100.65.0.2"),
    ("kernel VXLAN over wireguard-go", "h", "10.79.0.2"),
];

fn main() -> Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, verb, run_dir] = arguments.as_slice()
        && verb == "netd"
    {
        return Ok(pontoon_dataplane::netd_main(run_dir));
    }
    let number = |at: usize, default: u32| -> Result<u32> {
        let text = arguments.get(at).map(|text| text.to_string_lossy().into_owned());
        Ok(text.map(|text| text.parse()).transpose()?.unwrap_or(default))
    };
    let (seconds, rounds) = (number(1, 3)?, number(2, 5)?);
    let hosts = Hosts {
        prefix: format!("ptwg{}", std::process::id()),
        children: Vec::new(),
    };
    measure(hosts, seconds, rounds)?;
    Ok(ExitCode::SUCCESS)
}

/// The namespaces and processes; they go with this.
struct Hosts {
    prefix: String,
    children: Vec<Child>,
}

impl Hosts {
    /// A namespace's name: `kind` is h (host), b (bridge's) or c (container).
    fn ns(&self, kind: &str, number: u8) -> String {
        format!("{}{kind}{number}", self.prefix)
    }

    /// The name of wireguard-go's device; all namespaces share its folder.
    fn device(&self, number: u8) -> String {
        format!("g{}x{number}", std::process::id())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for number in [1, 2] {
            for kind in ["c", "b", "h"] {
                let _ = run(&format!("ip netns del {}", self.ns(kind, number)));
            }
            let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.device(number)));
        }
    }
}

fn run(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()?;
    if !output.status.success() {
        return Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One `ip -n NS` command a line.
fn ip(ns: &str, lines: &[String]) -> Result<()> {
    lines
        .iter()
        .try_for_each(|line| run(&format!("ip -n {ns} {line}")).map(drop))
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::new([number; 32])
}

fn measure(mut hosts: Hosts, seconds: u32, rounds: u32) -> Result<()> {
    for number in [1, 2] {
        for kind in ["h", "b", "c"] {
            run(&format!("ip netns add {}", hosts.ns(kind, number)))?;
        }
    }
    let (one, two) = (hosts.ns("h", 1), hosts.ns("h", 2));
    ip(
        &one,
        &[format!(
            "link add up0 mtu {MTU} type veth peer name up0 mtu {MTU} netns {two}"
        )],
    )?;
    let mut kept = Vec::new();
    for (number, other) in [(1u8, 2u8), (2, 1)] {
        let ns = hosts.ns("h", number);
        ip(
            &ns,
            &[
                format!("addr add 192.168.77.{number}/24 dev up0"),
                "link set up0 up".to_owned(),
            ],
        )?;
        vxlan(&ns, "vx0", 4000, "10.78.0", "192.168.77", MTU - 50, number, other)?;
        wireguard_go(&mut hosts, number, other)?;
        kept.push(ours(&hosts, number, other)?);
    }
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for streams in [1, 4] {
            for (path, kind, address) in PATHS {
                let gbits = iperf(&hosts.ns(kind, 1), &hosts.ns(kind, 2), address, streams, seconds)?;
                eprintln!("{path}, {streams} streams: {gbits:.2} Gbit/s");
                figures
                    .entry(format!("{path}, TCP {streams}"))
                    .or_default()
                    .push(gbits);
            }
        }
    }
    let median = |name: &str| -> f64 {
        let mut all = figures.get(name).cloned().unwrap_or_default();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let mut report = serde_json::Map::new();
    for streams in [1, 4] {
        let link = median(&format!("link, TCP {streams}"));
        for (path, ..) in PATHS {
            let gbits = median(&format!("{path}, TCP {streams}"));
            let round = |value: f64| (value * 1000.0).round() / 1000.0;
            report.insert(
                format!("{path}, TCP {streams}"),
                json!({"Gbit/s": round(gbits), "share": round(gbits / link)}),
            );
        }
    }
    println!("{}", serde_json::to_string_pretty(&Value::Object(report))?);
    for (runtime, client, run_dir) in kept {
        runtime.block_on(client.shutdown())?;
        drop(run_dir);
    }
    Ok(())
}

/// A VXLAN device with one remote endpoint.
#[allow(clippy::too_many_arguments)]
fn vxlan(
    ns: &str,
    name: &str,
    vni: u32,
    subnet: &str,
    local: &str,
    mtu: u16,
    number: u8,
    other: u8,
) -> Result<()> {
    let mac = |number: u8| format!("02:42:00:00:00:{number:02x}");
    ip(
        ns,
        &[
            format!(
                "link add {name} address {} mtu {mtu} type vxlan id {vni} local {local}.{number} dstport 4789 nolearning",
                mac(number)
            ),
            format!("addr add {subnet}.{number}/24 dev {name}"),
            format!("link set {name} up"),
            format!(
                "neigh add {subnet}.{other} lladdr {} dev {name} nud permanent",
                mac(other)
            ),
        ],
    )?;
    run(&format!(
        "bridge -n {ns} fdb append {} dev {name} dst {local}.{other}",
        mac(other)
    ))?;
    Ok(())
}

fn wireguard_go(hosts: &mut Hosts, number: u8, other: u8) -> Result<()> {
    let (ns, name) = (hosts.ns("h", number), hosts.device(number));
    let child = Command::new("ip")
        .args(["netns", "exec", &ns, "wireguard-go", "--foreground", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    hosts.children.push(child);
    let socket = format!("/var/run/wireguard/{name}.sock");
    while !Path::new(&socket).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(
        secret.path(),
        serde_json::to_value(key(number))?.as_str().unwrap_or_default(),
    )?;
    run(&format!(
        "wg set {name} listen-port 51999 private-key {} peer {} endpoint 192.168.77.{other}:51999 allowed-ips 100.65.0.{other}/32",
        secret.path().display(),
        key(other).public()
    ))?;
    ip(
        &ns,
        &[
            format!("addr add 100.65.0.{number}/24 dev {name}"),
            format!("link set {name} mtu {} up", MTU - 80),
        ],
    )?;
    vxlan(&ns, "vx1", 4001, "10.79.0", "100.65.0", MTU - 130, number, other)
}

/// netd with a container behind a bridge.
fn ours(hosts: &Hosts, number: u8, other: u8) -> Result<(Runtime, NetdClient, tempfile::TempDir)> {
    let path = format!("/run/netns/{}", hosts.ns("h", number));
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        // netd starts where its client is.
        .on_thread_start(move || {
            let inside = File::open(&path)
                .map(|file| move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)));
            assert!(
                matches!(inside, Ok(Ok(()))),
                "the host's namespace can't be entered"
            );
        })
        .build()?;
    let run_dir = tempfile::tempdir()?;
    let folder = run_dir.path().to_owned();
    let started = runtime.spawn(async move { NetdClient::start_or_connect(&folder).await });
    let client = runtime.block_on(started)??;
    let tunnel_address = |number: u8| [100, 64, 0, number].into();
    let mac = |number: u8| Mac([2, 0x42, 10, 77, 0, number]);
    let peer = Peer {
        public_keys: vec![key(other).public()],
        preshared_key: None,
        endpoint: Some(format!("192.168.77.{other}:51820").parse()?),
        keepalive: 0,
        allowed: vec![Prefix::host(std::net::IpAddr::V4(tunnel_address(other)))],
    };
    let tunnel = Tunnel {
        private_keys: vec![key(number)],
        listen_port: 51_820,
        mark: 0,
        address: tunnel_address(number),
        mtu: MTU,
        control: None,
        peers: BTreeMap::from([(other.to_string(), peer)]),
    };
    let mtu = tunnel.frame_mtu();
    let (bridge, container) = (hosts.ns("b", number), hosts.ns("c", number));
    let network = EncryptedNetwork {
        vni: 4097,
        netns: format!("/run/netns/{bridge}").into(),
        device: "vxlan0".to_owned(),
        mtu,
        endpoints: BTreeMap::from([(mac(other), tunnel_address(other))]),
    };
    runtime.block_on(async {
        client.put_tunnel(tunnel).await?;
        client.put_encrypted("net", network).await
    })?;
    ip(
        &bridge,
        &[
            format!("link add br0 mtu {mtu} type bridge mcast_snooping 0"),
            "link set br0 up".to_owned(),
            "link set vxlan0 master br0".to_owned(),
            format!(
                "link add c0 mtu {mtu} type veth peer name eth0 mtu {mtu} address {} netns {container}",
                mac(number)
            ),
            "link set c0 master br0 up".to_owned(),
        ],
    )?;
    ip(
        &container,
        &[
            format!("addr add 10.77.0.{number}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!(
                "neigh add 10.77.0.{other} lladdr {} dev eth0 nud permanent",
                mac(other)
            ),
        ],
    )?;
    Ok((runtime, client, run_dir))
}

fn iperf(from: &str, to: &str, address: &str, streams: u32, seconds: u32) -> Result<f64> {
    let mut server = Command::new("ip")
        .args(["netns", "exec", to, "iperf3", "--server", "--one-off"])
        .stdout(Stdio::null())
        .spawn()?;
    let client =
        format!("ip netns exec {from} iperf3 --json --client {address} --time {seconds} -P {streams}");
    // It answers with an error, and not always with a code, until the server listens.
    let figure = || -> Result<f64> {
        let answer: Value = serde_json::from_str(&run(&client)?)?;
        let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64();
        bits.ok_or_else(|| format!("iperf3 tells no figure: {}", answer["error"]).into())
    };
    let mut result = figure();
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        result = figure();
    }
    // One that has ended by itself can't be killed.
    drop(server.kill());
    server.wait()?;
    Ok(result? / 1e9)
}
