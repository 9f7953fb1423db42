//! `web get` and `web call`: the HTTP client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dns;

const PATIENCE: Duration = Duration::from_secs(3);

/// Asks until the program ends or `count` answers came; one line an answer, failures too.
pub async fn repeat(url: &str, period: Duration, count: Option<u64>) -> Result<()> {
    let mut left = count;
    while left != Some(0) {
        match get(url).await {
            Ok(body) => {
                let line: Vec<&str> = body.lines().collect();
                println!("{}", line.join("; "));
                left = left.map(|left| left - 1);
            }
            Err(error) => println!("failed: {error:#}"),
        }
        tokio::time::sleep(period).await;
    }
    Ok(())
}

/// The body of one answer. The name is looked up anew, and the connection is a new one.
pub async fn get(url: &str) -> Result<String> {
    timeout(PATIENCE, request(url))
        .await
        .with_context(|| format!("no answer from {url} within {PATIENCE:?}"))?
}

async fn request(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("only http:// works here")?;
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let target = resolve(place, 80).await?;
    let mut stream = TcpStream::connect(target)
        .await
        .with_context(|| format!("cannot connect to {target}"))?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("cannot ask")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .context("the answer broke off")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("that was no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}: {}", body.trim());
    }
    Ok(body.to_owned())
}

/// `host[:port]` as an address; a name by DNS.
pub async fn resolve(place: &str, default_port: u16) -> Result<SocketAddr> {
    if let Ok(address) = place.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(address) = place.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, default_port));
    }
    let (name, port) = match place.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().context("the port is no number")?),
        None => (place, default_port),
    };
    if name == "localhost" {
        return Ok(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port));
    }
    let answers = dns::look_up(name, dns::Kind::A).await?;
    let first = answers
        .first()
        .with_context(|| format!("{name} has no address"))?;
    Ok(SocketAddr::new(
        first.parse().context("no address in the answer")?,
        port,
    ))
}
