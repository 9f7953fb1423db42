//! `web serve`: HTTP/1.1, one request a connection.
//!
//! `/` says who answers; `/health` says ok until `/sick` was asked; `/exit/N` ends the program with status N; `/env` is the environment;
//! `/peer` the address of the caller.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Serves until the program ends.
pub async fn run(port: u16) -> Result<()> {
    // Both families where the container has IPv6.
    let listener = match TcpListener::bind(("::", port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", port))
            .await
            .context("cannot listen")?,
    };
    println!("listening on port {port}");
    let sick = Arc::new(AtomicBool::new(false));
    loop {
        let (stream, peer) = listener.accept().await.context("cannot accept")?;
        let sick = Arc::clone(&sick);
        tokio::spawn(async move {
            // A caller that hangs up early harms nobody else.
            let _ = answer(stream, peer, &sick).await;
        });
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, sick: &AtomicBool) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (status, body) = match path {
        "/" => ("200 OK", identity()),
        "/health" if sick.load(Ordering::Relaxed) => ("503 Service Unavailable", "sick\n".to_owned()),
        "/health" => ("200 OK", "ok\n".to_owned()),
        "/sick" => {
            sick.store(true, Ordering::Relaxed);
            ("200 OK", "from now on /health fails\n".to_owned())
        }
        "/env" => (
            "200 OK",
            std::env::vars()
                .map(|(key, value)| format!("{key}={value}\n"))
                .collect(),
        ),
        "/peer" => ("200 OK", format!("{}\n", peer.ip().to_canonical())),
        _ => ("404 Not Found", format!("no {path} here\n")),
    };
    let exit = path.strip_prefix("/exit/").and_then(|code| code.parse().ok());
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    if let Some(code) = exit {
        std::process::exit(code);
    }
    Ok(())
}

/// Who answers: what the container was told by its environment, and what it sees of itself.
fn identity() -> String {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let mut text = String::new();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let addresses: Vec<String> = addresses().into_iter().collect();
    // Writing to a String can't fail.
    let _ = writeln!(text, "hostname: {name}");
    let _ = writeln!(text, "task: {}", variable("PONTOON_TASK"));
    let _ = writeln!(text, "node: {}", variable("PONTOON_NODE"));
    let _ = writeln!(text, "version: {}", variable("VERSION"));
    let _ = writeln!(text, "addresses: {}", addresses.join(" "));
    text
}

/// The container's IPv4 addresses: the local /32 routes in the kernel's table (proc_net(5)).
fn addresses() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut leaf = "";
    for line in table.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address;
        } else if line == "/32 host LOCAL" && !leaf.starts_with("127.") {
            found.insert(leaf.to_owned());
        }
    }
    found
}
