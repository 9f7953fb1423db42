//! The load generator of the figure `writes`: clients that each wait for their answer before they ask again.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::kv::Client;
use super::member;

/// Connections that the clients share.
const CONNECTIONS: usize = 8;
/// Keys that a client writes in turn.
const KEYS: usize = 1000;
/// What is not counted, so that connections and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Write 256 bytes.
    Put,
    /// Read a key linearizably.
    Get,
}

/// What came of it.
pub struct Outcome {
    /// Answers a second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
}

/// Lets `clients` work at `addr` for `duration` after the warm-up.
///
/// # Errors
/// The first refusal: a system that drops requests would look fast.
pub async fn run(addr: &str, clients: usize, work: Work, duration: Duration) -> Result<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..clients.min(CONNECTIONS) {
        connections.push(Client::new(member::connect(addr).await?));
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + duration;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let client = connections[number % connections.len()].clone();
        tasks.spawn(one(client, number, work, begin, end));
    }
    let mut times: Vec<u32> = Vec::new();
    while let Some(result) = tasks.join_next().await {
        times.extend(result??);
    }
    times.sort_unstable();
    let at = |share: f64| {
        let rank = (share * times.len() as f64).ceil().max(1.0) as usize - 1;
        times.get(rank).map_or(0.0, |time| f64::from(*time) / 1000.0)
    };
    Ok(Outcome {
        rate: times.len() as f64 / duration.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    })
}

/// One client; the microseconds of each answer between `begin` and `end`.
async fn one(
    mut client: Client,
    number: usize,
    work: Work,
    begin: Instant,
    end: Instant,
) -> Result<Vec<u32>> {
    let mut times = Vec::new();
    for i in 0.. {
        let asked = Instant::now();
        if asked >= end {
            break;
        }
        let key = format!("client{number:05}/{:05}", i % KEYS).into_bytes();
        match work {
            Work::Put => client.put(key, vec![b'v'; 256]).await?,
            Work::Get => drop(client.get(key).await?),
        }
        let answered = Instant::now();
        if asked >= begin && answered <= end {
            times.push(u32::try_from((answered - asked).as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(times)
}
