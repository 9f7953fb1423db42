//! What befalls the machines: one misfortune after the other, several at the same time, each with its end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pontoon_proto::v1::NodeRole;
use pontoon_raft::Fault;
use tokio::time::Instant;

use crate::world::World;

/// A manager that is still one so long after it was to be demoted is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Which faults a simulation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Partitions (one-way too), delays, resets.
    pub network: bool,
    /// Kills and power losses of managers and agents.
    pub crashes: bool,
    /// Crashes within a write or sync, full disks, failed syncs, slow disks.
    pub disk: bool,
    /// Clocks jump.
    pub clocks: bool,
    /// Tasks fail.
    pub tasks: bool,
    /// Managers are demoted and promoted again.
    pub members: bool,
}

impl Faults {
    /// None.
    pub const NONE: Self = Self {
        network: false,
        crashes: false,
        disk: false,
        clocks: false,
        tasks: false,
        members: false,
    };
    /// All of them.
    pub const ALL: Self = Self {
        network: true,
        crashes: true,
        disk: true,
        clocks: true,
        tasks: true,
        members: true,
    };
}

/// The end of a misfortune.
enum End {
    Open(String, String),
    Fast(String, String),
    Order,
    QuickDisk(usize),
    Room(usize),
    Agent(usize),
}

impl World {
    /// Misfortunes for as long as the options say.
    pub(crate) async fn storm(&mut self) -> Result<(), String> {
        let until = Instant::now() + self.options.storm;
        let mut ends: BTreeMap<(Instant, u64), End> = BTreeMap::new();
        let mut count = 0;
        if self.options.faults.tasks {
            for (agent, _) in &self.agents {
                agent.set_failing(self.rng.below(12), self.rng.below(6));
            }
        }
        while Instant::now() < until {
            let pause = self.rng.millis(50, 900);
            self.pass(pause).await?;
            while let Some(entry) = ends.first_entry()
                && entry.key().0 <= Instant::now()
            {
                let end = entry.remove();
                self.end(&end);
            }
            for (lasting, end) in self.misfortune() {
                count += 1;
                ends.insert((Instant::now() + lasting, count), end);
            }
        }
        Ok(())
    }

    fn end(&mut self, end: &End) {
        match end {
            End::Open(from, to) => self.net.block(from, to, false),
            End::Fast(from, to) => self.net.slow(from, to, 3),
            End::Order => self.disorder.set(0),
            End::QuickDisk(at) => self.managers[*at]
                .hardware
                .disk_millis
                .store(1, Ordering::Relaxed),
            End::Room(at) => self.managers[*at].hardware.disk.fill(false),
            End::Agent(at) => self.start_agent(*at),
        }
    }

    /// All misfortunes end, except that clocks stay as they are.
    pub(crate) fn calm(&mut self) {
        self.net.heal();
        self.disorder.set(0);
        for node in &self.managers {
            node.hardware.disk_millis.store(1, Ordering::Relaxed);
            node.hardware.disk.fill(false);
            if node.is_up() && !node.hardware.disk.is_crashed() {
                node.hardware.disk.restart_process();
            }
        }
        for at in 0..self.agents.len() {
            self.agents[at].0.set_failing(0, 0);
            self.start_agent(at);
        }
    }

    /// The leader half of the time, else any manager.
    fn victim(&self) -> usize {
        let leader = self.managers.iter().position(|node| {
            node.manager()
                .is_some_and(|manager| manager.leadership().borrow().is_leader)
        });
        match leader {
            Some(at) if self.rng.chance(500) => at,
            _ => self.rng.below(self.managers.len() as u64) as usize,
        }
    }

    fn misfortune(&mut self) -> Vec<(Duration, End)> {
        let faults = self.options.faults;
        match self.rng.below(12) {
            0..=3 if faults.network => self.network_trouble(),
            4..=5 if faults.crashes => {
                let (at, power) = (self.victim(), self.rng.chance(500));
                self.managers[at].crash(power);
                Vec::new()
            }
            6 if faults.crashes => self.agent_trouble(),
            7..=9 if faults.disk => self.disk_trouble(),
            10 if faults.clocks => {
                let at = self.victim();
                let seconds = self.rng.below(7200) as i64 - 3600;
                let hardware = &self.managers[at].hardware;
                self.trace.event(format_args!(
                    "the clock of {} jumps to {seconds} s off",
                    hardware.name
                ));
                hardware.skew.store(seconds * 1_000_000_000, Ordering::Relaxed);
                Vec::new()
            }
            11 if faults.members => {
                self.demote();
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// One manager at a time, so that it can come back.
    fn demote(&mut self) {
        let all_in = self.managers.iter().all(|node| node.manager().is_some());
        if !all_in || self.demoting.is_some() {
            return;
        }
        let at = self.victim();
        let (office, node) = (self.office(at), &self.managers[at]);
        self.trace.event(format_args!("{} is to be demoted", node.name()));
        let node_id = node.identity.node_id();
        let asking = tokio::spawn(async move {
            // A wish of before, whose sender is gone, may still be granted after this one.
            loop {
                office.set_role(&node_id, NodeRole::Worker).await;
                tokio::time::sleep(ASK_AGAIN).await;
            }
        });
        self.demoting = Some(asking.abort_handle());
    }

    fn agent_trouble(&mut self) -> Vec<(Duration, End)> {
        let at = self.rng.below(self.agents.len() as u64) as usize;
        let (agent, task) = &mut self.agents[at];
        let Some(task) = task.take() else {
            return Vec::new();
        };
        self.trace.event(format_args!("the agent {} dies", agent.name));
        task.abort();
        vec![(self.rng.millis(500, 8000), End::Agent(at))]
    }

    fn disk_trouble(&mut self) -> Vec<(Duration, End)> {
        let at = self.victim();
        let hardware = &self.managers[at].hardware;
        if self.rng.chance(300) {
            let millis = 20 + self.rng.below(400);
            self.trace.event(format_args!(
                "the disk of {} takes up to {millis} ms",
                hardware.name
            ));
            hardware.disk_millis.store(millis, Ordering::Relaxed);
            return vec![(self.rng.millis(500, 4000), End::QuickDisk(at))];
        }
        if self.rng.chance(150) {
            self.trace
                .event(format_args!("the disk of {} is full", hardware.name));
            hardware.disk.fill(true);
            return vec![(self.rng.millis(500, 6000), End::Room(at))];
        }
        let fault = match self.rng.below(4) {
            0 => Fault::NoSpace,
            1 => Fault::SyncError,
            _ => Fault::Crash,
        };
        let operation = hardware.disk.operations() + 1 + self.rng.below(40);
        self.trace.event(format_args!(
            "the disk of {} will fail: {fault:?} at operation {operation}",
            hardware.name
        ));
        hardware.disk.fail_at(operation, fault);
        Vec::new()
    }

    fn network_trouble(&mut self) -> Vec<(Duration, End)> {
        let victim = self.managers[self.victim()].name().to_owned();
        let managers: Vec<String> = self.managers.iter().map(|node| node.name().to_owned()).collect();
        let lasting = self.rng.millis(200, 6000);
        match self.rng.below(8) {
            0..=3 => self.partition(&victim, &managers, lasting),
            4..=5 => {
                let rate = 10 + self.rng.below(200);
                self.trace.event(format_args!(
                    "{rate} of 1000 messages are lost, late or come twice"
                ));
                self.disorder.set(rate);
                vec![(lasting, End::Order)]
            }
            6 => {
                let millis = 20 + self.rng.below(400);
                self.trace
                    .event(format_args!("what {victim} sends takes up to {millis} ms"));
                let others = managers.into_iter().filter(|other| *other != victim);
                others
                    .map(|other| {
                        self.net.slow(&victim, &other, millis);
                        (lasting, End::Fast(victim.clone(), other))
                    })
                    .collect()
            }
            _ => {
                if let Some(other) = self.rng.pick(&managers) {
                    self.net.reset(&victim, other);
                }
                Vec::new()
            }
        }
    }

    /// Cuts some machines from others, in one direction or both.
    fn partition(&mut self, victim: &String, managers: &[String], lasting: Duration) -> Vec<(Duration, End)> {
        let workers: Vec<String> = self
            .agents
            .iter()
            .map(|(agent, _)| agent.name.clone())
            .filter(|name| !managers.contains(name))
            .collect();
        let (inward, outward) = match self.rng.below(3) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        let mut blocked: Vec<(String, String)> = Vec::new();
        let mut cut = |a: &String, b: &String| {
            if a != b && outward {
                blocked.push((a.clone(), b.clone()));
            }
            if a != b && inward {
                blocked.push((b.clone(), a.clone()));
            }
        };
        match self.rng.below(4) {
            // From the other managers, perhaps from all.
            0..=1 => {
                let all = self.rng.chance(300);
                for other in managers.iter().chain(workers.iter().filter(|_| all)) {
                    cut(victim, other);
                }
            }
            // From one of them, or a worker from it.
            2 => {
                let others = if self.rng.chance(500) { managers } else { &workers };
                if let Some(other) = self.rng.pick(others) {
                    cut(victim, other);
                }
            }
            // Everybody is on one of two sides.
            _ => {
                let (left, right): (Vec<_>, Vec<_>) = managers
                    .iter()
                    .chain(&workers)
                    .partition(|_| self.rng.chance(500));
                for a in left {
                    for b in &right {
                        cut(a, b);
                    }
                }
            }
        }
        let mut ends = Vec::new();
        for (from, to) in blocked {
            self.net.block(&from, &to, true);
            ends.push((lasting, End::Open(from, to)));
        }
        ends
    }
}
