//! `stats`: what containers use, one sample of each a second. A sample holds the one before it too, from which clients reckon
//! the share of the processors (moby `daemon/stats`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::{ContainerStatsRequest, ContainerStatsResponse, InterfaceStats};
use pontoon_runtime::cgroup::{Cgroup, Hierarchies, Stats, Version};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Container;
use super::record::has_process;
use crate::engine::blocking;
use crate::{Engine, Error, Result, id, system};

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Samples that wait for a slow client.
const UNREAD: usize = 64;

/// What a later sample is compared with.
#[derive(Clone, Copy, Default)]
struct Before {
    cpu: u64,
    system: u64,
    at: i64,
}

/// One client's view: which containers, and their last samples.
struct Watcher {
    engine: Arc<Engine>,
    /// None: those that run, or all.
    targets: Option<Vec<Arc<Container>>>,
    all: bool,
    before: HashMap<String, Before>,
    /// Those that the client knows, and whether they ran when it last heard of them.
    told: BTreeMap<String, bool>,
}

impl Engine {
    /// Samples of containers: a first one at once, then each second if `stream` is set; otherwise one only, a second
    /// after the first (which serves to compare). A container that does not run has `read_at` 0; one that is gone
    /// has no name either.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] of a named one.
    pub fn stats(
        self: &Arc<Self>,
        request: &ContainerStatsRequest,
    ) -> Result<mpsc::Receiver<Result<ContainerStatsResponse>>> {
        let targets = match request.targets.as_slice() {
            [] => None,
            names => Some(
                names
                    .iter()
                    .map(|name| self.containers.find(name))
                    .collect::<Result<Vec<_>>>()?,
            ),
        };
        let mut watcher = Watcher {
            engine: self.clone(),
            targets,
            all: request.all,
            before: HashMap::new(),
            told: BTreeMap::new(),
        };
        let (sender, receiver) = mpsc::channel(UNREAD);
        let (stream, stop) = (request.stream, self.stop.clone());
        tokio::spawn(async move {
            let samples = async {
                if stream {
                    watcher.stream(&sender).await
                } else {
                    watcher.once(&sender).await
                }
            };
            tokio::select! {
                result = samples => {
                    if let Err(error) = result {
                        // A client that has gone does not want to know.
                        sender.send(Err(error)).await.ok();
                    }
                }
                () = sender.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(receiver)
    }
}

type Sender = mpsc::Sender<Result<ContainerStatsResponse>>;

impl Watcher {
    async fn once(&mut self, to: &Sender) -> Result<()> {
        let first = self.round().await?;
        if first.iter().any(|sample| sample.read_at != 0) {
            tokio::time::sleep(PERIOD).await;
            self.told.clear();
            self.send(to).await?;
        } else {
            for sample in first {
                to.send(Ok(sample)).await.ok();
            }
        }
        Ok(())
    }

    async fn stream(&mut self, to: &Sender) -> Result<()> {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.send(to).await? {
                return Ok(());
            }
        }
    }

    /// False if the client has gone.
    async fn send(&mut self, to: &Sender) -> Result<bool> {
        for sample in self.round().await? {
            if to.send(Ok(sample)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A sample of each container that runs, and word of those that have ended or gone since the last round.
    async fn round(&mut self) -> Result<Vec<ContainerStatsResponse>> {
        let mut containers = match &self.targets {
            Some(targets) => targets.clone(),
            None => self.engine.containers.all(),
        };
        if self.targets.is_none() {
            let created = |c: &Arc<Container>| std::cmp::Reverse(c.read(|record| record.view().created_at));
            containers.sort_by_key(created);
        }
        let mut samples = Vec::new();
        let mut seen = BTreeMap::new();
        for container in containers {
            let removed = container.watch().borrow().removed;
            let runs = !removed && has_process(container.state());
            let wanted = self.all || self.targets.is_some();
            let knew = self.told.get(&container.id).copied();
            if removed || (!runs && !wanted && knew.is_none()) {
                continue;
            }
            let sample = if runs {
                self.sample(&container).await?
            } else {
                None
            };
            let is_live = sample.is_some();
            // One that rests is told of once.
            if is_live || knew != Some(false) {
                samples.push(sample.unwrap_or_else(|| at_rest(&container)));
            }
            if is_live || wanted {
                seen.insert(container.id.clone(), is_live);
            }
            if !is_live {
                self.before.remove(&container.id);
            }
        }
        let gone = self.told.keys().filter(|id| !seen.contains_key(*id));
        let known: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
        let gone: Vec<ContainerStatsResponse> = gone
            .filter(|id| !known.contains(&id.as_str()))
            .map(|id| ContainerStatsResponse {
                id: id.clone(),
                ..ContainerStatsResponse::default()
            })
            .collect();
        samples.extend(gone);
        self.told = seen;
        Ok(samples)
    }

    /// `None` if it has ended meanwhile.
    async fn sample(&mut self, container: &Arc<Container>) -> Result<Option<ContainerStatsResponse>> {
        let before = self.before.get(&container.id).copied().unwrap_or_default();
        let cgroup = self.engine.cgroup(&container.id);
        let (name, pid, own_network) = container.read(|record| {
            let view = record.view();
            (view.name.clone(), view.pid, record.host().network_mode != "host")
        });
        let read = blocking(move || {
            let failed = |error| Error::runtime("read statistics", error);
            let cgroup = Hierarchies::detect()
                .and_then(|all| Cgroup::find(&all, &cgroup))
                .map_err(failed)?;
            let version = cgroup.version();
            let Ok(stats) = cgroup.stats() else {
                return Ok(None);
            };
            let networks = if own_network { interfaces(pid) } else { Vec::new() };
            Ok(Some((stats, version, networks, system_cpu())))
        });
        let Some((stats, version, networks, (system, online))) = read.await? else {
            return Ok(None);
        };
        let now = Before {
            cpu: stats.cpu.usage_ns,
            system,
            at: id::now(),
        };
        self.before.insert(container.id.clone(), now);
        let mut sample = usage(stats, version);
        sample.id.clone_from(&container.id);
        sample.name = name;
        sample.read_at = now.at;
        sample.system_cpu = now.system;
        sample.online_cpus = online;
        sample.previous_cpu_total = before.cpu;
        sample.previous_system_cpu = before.system;
        sample.previous_read_at = before.at;
        sample.networks = networks;
        Ok(Some(sample))
    }
}

fn at_rest(container: &Container) -> ContainerStatsResponse {
    ContainerStatsResponse {
        id: container.id.clone(),
        name: container.read(|record| record.view().name.clone()),
        ..ContainerStatsResponse::default()
    }
}

fn usage(stats: Stats, version: Version) -> ContainerStatsResponse {
    let total = u64::try_from(system::memory_total()).unwrap_or_default();
    let sum = |read: fn(&pontoon_runtime::cgroup::BlkioEntry) -> u64| stats.blkio.iter().map(read).sum();
    ContainerStatsResponse {
        cpu_total: stats.cpu.usage_ns,
        cpu_user: stats.cpu.user_ns,
        cpu_kernel: stats.cpu.system_ns,
        memory_usage: without_cache(&stats, version),
        memory_limit: match total {
            0 => stats.memory.limit,
            total => stats.memory.limit.min(total),
        },
        pids: stats.pids.current,
        pids_limit: stats.pids.limit.unwrap_or_default(),
        blkio_read: sum(|entry| entry.read_bytes),
        blkio_write: sum(|entry| entry.write_bytes),
        throttled_periods: stats.cpu.throttled_periods,
        throttled_time: stats.cpu.throttled_ns,
        memory_stats: stats.memory.stat.into_iter().collect(),
        ..ContainerStatsResponse::default()
    }
}

/// Memory in use without the page cache that the kernel would take back first, as Docker's client reckons it.
fn without_cache(stats: &Stats, version: Version) -> u64 {
    let key = match version {
        Version::V1 => "total_inactive_file",
        Version::V2 => "inactive_file",
    };
    let cache = stats.memory.stat.get(key).copied().unwrap_or_default();
    if cache < stats.memory.usage {
        stats.memory.usage - cache
    } else {
        stats.memory.usage
    }
}

/// Counters of the interfaces in a process's network namespace, but for the loopback.
fn interfaces(pid: u32) -> Vec<InterfaceStats> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    parse_interfaces(&text)
}

/// Lines like `eth0: 1 2 3 4 5 6 7 8  9 10 11 12 13 14 15 16`: eight counters each way, proc_pid_net(5).
fn parse_interfaces(text: &str) -> Vec<InterfaceStats> {
    let mut interfaces: Vec<InterfaceStats> = text
        .lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters
                .split_whitespace()
                .map(|word| word.parse().unwrap_or_default())
                .collect();
            let at = |place: usize| counters.get(place).copied().unwrap_or_default();
            Some(InterfaceStats {
                name: name.trim().to_owned(),
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
            })
        })
        .filter(|interface| interface.name != "lo")
        .collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces
}

/// The host's processor time in nanoseconds, idle time included, and the number of its processors (proc_stat(5)).
fn system_cpu() -> (u64, u32) {
    parse_system_cpu(
        &std::fs::read_to_string("/proc/stat").unwrap_or_default(),
        rustix::param::clock_ticks_per_second(),
    )
}

fn parse_system_cpu(text: &str, per_second: u64) -> (u64, u32) {
    // user, nice, system, idle, iowait, irq, softirq: what Docker adds up.
    let ticks: u64 = text.lines().next().map_or(0, |line| {
        let counters = line.split_whitespace().skip(1).take(7);
        counters.filter_map(|word| word.parse::<u64>().ok()).sum()
    });
    let online = text
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("cpu"))
        .count();
    let nanoseconds = ticks.saturating_mul(1_000_000_000 / per_second.max(1));
    (nanoseconds, u32::try_from(online).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_kernel() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  \
                    eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n";
        let interfaces = parse_interfaces(text);
        assert_eq!(interfaces.len(), 1);
        let eth = &interfaces[0];
        assert_eq!(
            (eth.name.as_str(), eth.rx_bytes, eth.rx_dropped),
            ("eth0", 100, 4)
        );
        assert_eq!((eth.tx_bytes, eth.tx_packets, eth.tx_errors), (500, 6, 7));
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\ncpu1 1 2\nintr 1\ncpufreq 1\n";
        assert_eq!(parse_system_cpu(stat, 100), (280_000_000, 2));
    }

    #[test]
    fn cache_is_not_counted() {
        let mut stats = Stats::default();
        stats.memory.usage = 100;
        stats.memory.stat = BTreeMap::from([
            ("total_inactive_file".to_owned(), 30),
            ("inactive_file".to_owned(), 10),
        ]);
        assert_eq!(without_cache(&stats, Version::V1), 70);
        assert_eq!(without_cache(&stats, Version::V2), 90);
        stats.memory.usage = 20;
        assert_eq!(without_cache(&stats, Version::V1), 20);
    }
}
