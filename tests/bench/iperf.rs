//! iperf3 between two network namespaces of this machine. Used by `overlay`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pontoon_tests::{process, wire};
use serde_json::Value;

/// Two ends that shall talk.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The sender's namespace.
    pub from: PathBuf,
    /// The receiver's namespace.
    pub to: PathBuf,
    /// The receiver's address.
    pub address: String,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP with this many streams.
    Tcp(u32),
    /// Datagrams of this many bytes, as fast as the sender can.
    Udp(u32),
}

impl Load {
    /// For reports.
    pub fn name(self) -> String {
        match self {
            Self::Tcp(1) => "TCP 1 stream".to_owned(),
            Self::Tcp(streams) => format!("TCP {streams} streams"),
            Self::Udp(size) => format!("UDP {size} B"),
        }
    }

    fn arguments(self) -> Vec<String> {
        match self {
            Self::Tcp(streams) => vec!["-P".to_owned(), streams.to_string()],
            Self::Udp(size) => ["-u", "-b", "0", "-l", &size.to_string()]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// What came through.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Gbit/s at the receiver.
    pub gbits: f64,
    /// Datagrams lost, percent; 0 for TCP.
    pub lost: f64,
}

/// Runs one test.
///
/// # Errors
/// When iperf3 fails.
pub fn run(path: &Pair, load: Load, seconds: usize) -> Result<Received> {
    let mut server = serve(&path.to)?;
    let mut command = wire::enter(&path.from);
    command
        .args([
            "iperf3",
            "--json",
            "--client",
            &path.address,
            "--time",
            &seconds.to_string(),
        ])
        .args(load.arguments());
    let output = process::run(command);
    let ended = process::end(&mut server, Duration::from_secs(10));
    let output = output?.ok()?;
    ended.context("the iperf3 server did not end")?;
    let result: Value = serde_json::from_str(&output).context("iperf3 printed no JSON")?;
    let end = &result["end"];
    let number = |value: &Value| value.as_f64().context("iperf3's result has no such figure");
    match load {
        Load::Tcp(_) => Ok(Received {
            gbits: number(&end["sum_received"]["bits_per_second"])? / 1e9,
            lost: 0.0,
        }),
        Load::Udp(_) => {
            let lost = number(&end["sum"]["lost_percent"])?;
            let sent = number(&end["sum"]["bits_per_second"])? / 1e9;
            Ok(Received {
                gbits: sent * (1.0 - lost / 100.0),
                lost,
            })
        }
    }
}

/// Starts a server that ends after one test; returns when it listens.
fn serve(namespace: &Path) -> Result<Child> {
    let mut command = wire::enter(namespace);
    command
        .args(["iperf3", "--server", "--one-off", "--forceflush"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("cannot start iperf3 (package iperf3)")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        let read = lines.read_line(&mut line);
        if !matches!(read, Ok(count) if count > 0) {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the iperf3 server does not listen");
        }
    }
    // It goes on printing, and a closed pipe would end it.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Ok(child)
}
