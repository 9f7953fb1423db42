//! `web echo`, `web tcp`, `web udp`: probes for what is not HTTP.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use tokio::time::timeout;

use crate::call::resolve;

const PATIENCE: Duration = Duration::from_secs(3);

/// Echoes on a port, TCP and UDP, until the program ends.
pub async fn run(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .context("cannot listen")?;
    let socket = UdpSocket::bind(("0.0.0.0", port)).await.context("cannot bind")?;
    println!("echo on port {port}");
    tokio::spawn(async move {
        let mut bytes = vec![0; 65536];
        // An ICMP error of an earlier answer is reported by a receive: it concerns one peer only.
        loop {
            if let Ok((count, peer)) = socket.recv_from(&mut bytes).await {
                let _ = socket.send_to(&bytes[..count], peer).await;
            }
        }
    });
    loop {
        let (mut stream, _) = listener.accept().await.context("cannot accept")?;
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await
        });
    }
}

/// Sends one datagram and prints the answer.
pub async fn udp(target: &str, text: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.context("no socket")?;
    socket
        .connect(resolve(target, 7).await?)
        .await
        .context("no way there")?;
    socket.send(text.as_bytes()).await.context("cannot send")?;
    let mut answer = vec![0; 65536];
    let count = timeout(PATIENCE, socket.recv(&mut answer))
        .await
        .context("no answer")?
        .context("cannot receive")?;
    println!("{}", String::from_utf8_lossy(&answer[..count]));
    Ok(())
}

/// Sends text on a new connection and prints the answer.
pub async fn tcp(target: &str, text: &str) -> Result<()> {
    let connect = async {
        let stream = TcpStream::connect(resolve(target, 7).await?).await;
        ask(stream.context("cannot connect")?, text).await
    };
    timeout(PATIENCE, connect).await.context("no answer")?
}

/// The same on a socket in the file system.
pub async fn unix(path: &str, text: &str) -> Result<()> {
    let connect = async {
        let stream = UnixStream::connect(path).await;
        ask(stream.context("cannot connect")?, text).await
    };
    timeout(PATIENCE, connect).await.context("no answer")?
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> Result<()> {
    stream.write_all(text.as_bytes()).await.context("cannot send")?;
    stream.shutdown().await.context("cannot end")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .context("cannot receive")?;
    println!("{answer}");
    Ok(())
}
