//! Answers per second of netd: `cargo run --release -p pontoon-dataplane --example throughput`. Needs root.
//!
//! One client in a network namespace asks for names of a zone of 1,000 services with 3 addresses each, keeping 32
//! queries under way. Prints JSON: answers per second of netd's own CPU time (the budget is 50,000), per second of
//! wall-clock time with the client on the same machine, the same for one query at a time, and netd's memory. One query
//! at a time mostly measures how fast the machine wakes a sleeping process, and varies widely with where the
//! scheduler puts the two.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, UdpSocket},
    os::fd::AsFd,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use pontoon_dataplane::{NetdClient, SandboxDns, Zone};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NAMES: u32 = 1_000;
const TIME: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    if let [_, verb, run_dir] = std::env::args_os().collect::<Vec<_>>().as_slice()
        && verb == "netd"
    {
        return pontoon_dataplane::netd_main(run_dir);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let name = format!("ptdpbench{}", std::process::id());
    ip(&["netns", "add", &name]);
    ip(&["-n", &name, "link", "set", "lo", "up"]);
    runtime.block_on(measure(&name));
    ip(&["netns", "del", &name]);
    ExitCode::SUCCESS
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success());
}

async fn measure(name: &str) {
    let run_dir = tempfile::tempdir().unwrap();
    let client = NetdClient::start_or_connect(run_dir.path()).await.unwrap();
    let netns = format!("/run/netns/{name}");
    let sandbox = SandboxDns {
        id: "bench".into(),
        netns: netns.clone().into(),
        networks: vec!["net".into()],
        ..SandboxDns::default()
    };
    let ports = client.put_sandbox(sandbox).await.unwrap();
    let address = |i: u32, k: u32| IpAddr::from((0x0a00_0000 + i * 4 + k).to_be_bytes());
    let records: BTreeMap<_, _> = (0..NAMES)
        .map(|i| (format!("service-{i}"), (1..4).map(|k| address(i, k)).collect()))
        .collect();
    let begun = Instant::now();
    client
        .put_zone(
            "net",
            Zone {
                records: records.clone(),
            },
        )
        .await
        .unwrap();
    let full = begun.elapsed();
    let mut changed = records;
    changed.insert("service-7".into(), vec![address(7, 9)]);
    let begun = Instant::now();
    client.put_zone("net", Zone { records: changed }).await.unwrap();
    let patch = begun.elapsed();
    let pid = std::fs::read_to_string(run_dir.path().join("netd.lock"))
        .unwrap()
        .trim()
        .to_owned();
    let load = move |window: usize, pid: String| {
        let file = File::open(&netns).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        drive(ports.udp, window, &pid)
    };
    let (single, windowed) = (load.clone(), load);
    let other = pid.clone();
    let (closed, closed_cpu) = std::thread::spawn(move || single(1, other)).join().unwrap();
    let other = pid.clone();
    let (wall, cpu) = std::thread::spawn(move || windowed(32, other)).join().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = |field: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(field))
            .unwrap_or("0 0");
        line.split_whitespace().nth(1).unwrap_or("0").to_owned()
    };
    println!(
        "{{\"answers_per_cpu_second\":{cpu:.0},\"answers_per_second_window_32\":{wall:.0},\
         \"answers_per_second_closed_loop\":{closed:.0},\
         \"answers_per_cpu_second_closed_loop\":{closed_cpu:.0},\"rss_kib\":{},\"rss_anon_kib\":{},\
         \"put_zone_1000_us\":{},\"put_zone_one_changed_us\":{}}}",
        memory("VmRSS"),
        memory("RssAnon"),
        full.as_micros(),
        patch.as_micros()
    );
    client.shutdown().await.unwrap();
}

/// CPU seconds that a process of one thread has used (first field of schedstat, in nanoseconds). Not the ticks of
/// /proc/PID/stat: a server that works in short bursts between ticks is charged wrongly there.
fn cpu_seconds(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let used: u64 = stat.split_whitespace().next().unwrap().parse().unwrap();
    Duration::from_nanos(used).as_secs_f64()
}

/// Answers per second of time, and of netd's CPU time.
fn drive(port: u16, window: usize, pid: &str) -> (f64, f64) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.connect(("127.0.0.11", port)).unwrap();
    let queries: Vec<Vec<u8>> = (0..NAMES).map(|i| query(&format!("service-{i}"))).collect();
    let mut next = queries.iter().cycle();
    let mut buffer = [0; 512];
    let (begun, cpu, mut answers) = (Instant::now(), cpu_seconds(pid), 0u32);
    (0..window).for_each(|_| drop(socket.send(next.next().unwrap())));
    while begun.elapsed() < TIME {
        let len = socket.recv(&mut buffer).unwrap();
        assert!(len > 40 && buffer[3] & 0x0f == 0, "an answer with addresses");
        answers += 1;
        socket.send(next.next().unwrap()).unwrap();
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds(pid) - cpu);
    (f64::from(answers) / wall, f64::from(answers) / cpu)
}

fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.push(u8::try_from(name.len()).unwrap());
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    packet
}
