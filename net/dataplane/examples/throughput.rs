//! Answers per second of netd: `cargo run --release -p pontoon-dataplane --example throughput`. Needs root.
//!
//! One client in a network namespace asks for names of a zone of 1,000 services with 3 addresses each, keeping 32
//! queries under way. Prints JSON: answers per second of netd's own CPU time (the budget is 50,000), per second of
//! wall-clock time with the client on the same machine, the same for one query at a time, and netd's memory. One query
//! at a time mostly measures how fast the machine wakes a sleeping process, and varies widely with where the
//! scheduler puts the two.

use std::{
    collections::BTreeMap,
    error::Error,
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

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<ExitCode> {
    if let [_, verb, run_dir] = std::env::args_os().collect::<Vec<_>>().as_slice()
        && verb == "netd"
    {
        return Ok(pontoon_dataplane::netd_main(run_dir));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let name = format!("ptdpbench{}", std::process::id());
    ip(&["netns", "add", &name])?;
    let measured =
        ip(&["-n", &name, "link", "set", "lo", "up"]).and_then(|()| runtime.block_on(measure(&name)));
    ip(&["netns", "del", &name])?;
    measured.map(|()| ExitCode::SUCCESS)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status()?;
    if !status.success() {
        return Err(format!("ip {}: {status}", arguments.join(" ")).into());
    }
    Ok(())
}

async fn measure(name: &str) -> Result<()> {
    let run_dir = tempfile::tempdir()?;
    let client = NetdClient::start_or_connect(run_dir.path()).await?;
    let netns = format!("/run/netns/{name}");
    let sandbox = SandboxDns {
        id: "bench".into(),
        netns: netns.clone().into(),
        networks: vec!["net".into()],
        ..SandboxDns::default()
    };
    let ports = client.put_sandbox(sandbox).await?;
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
        .await?;
    let full = begun.elapsed();
    let mut changed = records;
    changed.insert("service-7".into(), vec![address(7, 9)]);
    let begun = Instant::now();
    client.put_zone("net", Zone { records: changed }).await?;
    let patch = begun.elapsed();
    let pid = std::fs::read_to_string(run_dir.path().join("netd.lock"))?
        .trim()
        .to_owned();
    let load = move |window: usize, pid: String| -> Result<(f64, f64)> {
        let file = File::open(&netns)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        drive(ports.udp, window, &pid)
    };
    let (single, windowed) = (load.clone(), load);
    let other = pid.clone();
    let (closed, closed_cpu) = in_thread(move || single(1, other))?;
    let other = pid.clone();
    let (wall, cpu) = in_thread(move || windowed(32, other))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
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
    client.shutdown().await?;
    Ok(())
}

/// In a thread of its own, which may enter another namespace.
fn in_thread(work: impl FnOnce() -> Result<(f64, f64)> + Send + 'static) -> Result<(f64, f64)> {
    std::thread::spawn(work)
        .join()
        .map_err(|_| "the client's thread panicked")?
}

/// CPU seconds that a process of one thread has used (first field of schedstat, in nanoseconds). Not the ticks of
/// /proc/PID/stat: a server that works in short bursts between ticks is charged wrongly there.
fn cpu_seconds(pid: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let used = stat.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(used).as_secs_f64())
}

/// Answers per second of time, and of netd's CPU time.
fn drive(port: u16, window: usize, pid: &str) -> Result<(f64, f64)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(("127.0.0.11", port))?;
    let queries: Vec<Vec<u8>> = (0..NAMES).map(|i| query(&format!("service-{i}"))).collect();
    let mut next = (0..queries.len()).cycle();
    let mut send = || match next.next() {
        Some(at) => socket.send(&queries[at]).map(drop),
        None => Ok(()),
    };
    let mut buffer = [0; 512];
    let (begun, cpu, mut answers) = (Instant::now(), cpu_seconds(pid)?, 0u32);
    for _ in 0..window {
        send()?;
    }
    while begun.elapsed() < TIME {
        let len = socket.recv(&mut buffer)?;
        assert!(len > 40 && buffer[3] & 0x0f == 0, "an answer with addresses");
        answers += 1;
        send()?;
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds(pid)? - cpu);
    Ok((f64::from(answers) / wall, f64::from(answers) / cpu))
}

fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.push(u8::try_from(name.len()).expect("the names are short"));
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    packet
}
