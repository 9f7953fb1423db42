//! A DNS question to the server in `/etc/resolv.conf`, by hand (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// The name of an address.
    Ptr = 12,
    /// IPv6 addresses.
    Aaaa = 28,
}

const PATIENCE: Duration = Duration::from_secs(2);

/// Prints what a name resolves to, sorted, one a line.
pub async fn print(name: &str, kind: Kind) -> Result<()> {
    let mut answers = look_up(name, kind).await?;
    answers.sort();
    for answer in answers {
        println!("{answer}");
    }
    Ok(())
}

/// A name's records, in the answer's order.
pub async fn look_up(name: &str, kind: Kind) -> Result<Vec<String>> {
    let name = match kind {
        Kind::Ptr => reverse(name)?,
        _ => name.trim_end_matches('.').to_owned(),
    };
    let server = server()?;
    let socket = UdpSocket::bind(match server {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    })
    .await
    .context("no socket")?;
    socket
        .connect((server, 53))
        .await
        .context("no way to the name server")?;
    let question = question(&name, kind);
    let mut answer = vec![0; 4096];
    for _ in 0..2 {
        socket
            .send(&question)
            .await
            .context("cannot ask the name server")?;
        if let Ok(read) = timeout(PATIENCE, socket.recv(&mut answer)).await {
            let count = read.context("the name server can't be reached")?;
            return records(&answer[..count], &name, kind);
        }
    }
    bail!("name server {server} does not answer")
}

fn server() -> Result<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").context("no /etc/resolv.conf")?;
    text.lines()
        .find_map(|line| line.strip_prefix("nameserver "))
        .context("/etc/resolv.conf names no server")?
        .trim()
        .parse()
        .context("/etc/resolv.conf names no address")
}

fn reverse(address: &str) -> Result<String> {
    let address: Ipv4Addr = address.parse().context("that is no IPv4 address")?;
    let [a, b, c, d] = address.octets();
    Ok(format!("{d}.{c}.{b}.{a}.in-addr.arpa"))
}

fn question(name: &str, kind: Kind) -> Vec<u8> {
    // Id, recursion desired, one question.
    let mut message = vec![0x50, 0x54, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len().min(63)).unwrap_or(63);
        message.push(length);
        message.extend(&label.as_bytes()[..usize::from(length)]);
    }
    message.extend([0, 0, kind as u8, 0, 1]);
    message
}

fn records(message: &[u8], name: &str, kind: Kind) -> Result<Vec<String>> {
    ensure!(message.len() >= 12, "a short answer");
    match message[3] & 15 {
        0 => {}
        3 => bail!("{name}: no such name (NXDOMAIN)"),
        code => bail!("{name}: the name server answers with code {code}"),
    }
    let count = u16::from_be_bytes([message[6], message[7]]);
    let (_, at) = read_name(message, 12)?;
    let mut at = at + 4;
    let mut found = Vec::new();
    for _ in 0..count {
        let (_, after) = read_name(message, at)?;
        let fixed = message.get(after..after + 10).context("an answer cut off")?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let start = after + 10;
        let data = message.get(start..start + length).context("an answer cut off")?;
        if fixed[1] == kind as u8 {
            found.push(match kind {
                Kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data).context("no IPv4 address")?).to_string(),
                Kind::Aaaa => {
                    Ipv6Addr::from(<[u8; 16]>::try_from(data).context("no IPv6 address")?).to_string()
                }
                Kind::Ptr => read_name(message, start)?.0,
            });
        }
        at = start + length;
    }
    Ok(found)
}

/// The name at `at`, and where what follows it begins (RFC 1035 section 4.1.4).
fn read_name(message: &[u8], mut at: usize) -> Result<(String, usize)> {
    let mut labels = Vec::new();
    let mut end = None;
    for _ in 0..128 {
        let length = usize::from(*message.get(at).context("a name cut off")?);
        if length == 0 {
            return Ok((labels.join("."), end.unwrap_or(at + 1)));
        }
        if length >= 0xc0 {
            let low = usize::from(*message.get(at + 1).context("a name cut off")?);
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | low;
        } else {
            let label = message.get(at + 1..at + 1 + length).context("a name cut off")?;
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += 1 + length;
        }
    }
    bail!("a name that never ends")
}
