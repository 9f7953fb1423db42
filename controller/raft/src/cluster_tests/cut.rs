//! A snapshot on its way to a new member, and a connection that breaks in the middle of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Cluster, eventually};
use crate::seal::{DataKey, Keyring};

/// Passes connections on to `to`. The first that carries more than `cut_after` bytes towards it is broken there.
async fn proxy(listener: TcpListener, to: String, cut_after: u64, carried: Arc<AtomicU64>) {
    let cut = Arc::new(AtomicU64::new(0));
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&to).await else {
            continue;
        };
        let (carried, cut) = (carried.clone(), cut.clone());
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut buffer = vec![0; 64 << 10];
            let mut here = 0;
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                here += count as u64;
                carried.fetch_add(count as u64, Ordering::Relaxed);
                if here > cut_after && cut.fetch_add(1, Ordering::Relaxed) == 0 {
                    break;
                }
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
            back.abort();
        });
    }
}

/// Data that does not compress.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..1 << 20).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_goes_on_where_it_was_cut() {
    const SIZE: u64 = 8 << 20;
    let mut cluster = Cluster::new(1, |config| {
        config.keys = Some(Keyring::new(DataKey::random(), []))
    })
    .await;
    for i in 0..SIZE >> 20 {
        let data = noise(i + 1);
        cluster.nodes[&1]
            .handle
            .propose(data.into())
            .await
            .expect("write");
    }
    let carried = Arc::new(AtomicU64::new(0));
    let behind = cluster.prepare(2).await;
    let front = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addr = front.local_addr().expect("a bound socket").to_string();
    let to = behind.addr();
    tokio::spawn(proxy(front, to, SIZE * 6 / 10, carried.clone()));
    cluster.join_at(2, behind, &addr).await;
    let carried = carried.load(Ordering::Relaxed);
    assert!(carried > SIZE, "all of it came through: {carried}");
    assert!(
        carried < SIZE * 13 / 10,
        "what had come was sent again: {carried} bytes of {SIZE}"
    );
    assert_eq!(cluster.converge().await.len() as u64, SIZE >> 20);
    eventually("no part of the transfer is left", || async {
        let dir = std::fs::read_dir(&cluster.nodes[&2].config.dir).expect("its folder");
        dir.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().ends_with(".tmp"))
    })
    .await;
}
