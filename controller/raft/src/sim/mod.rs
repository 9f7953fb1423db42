//! Deterministic simulation: several cores with a virtual network and virtual disks, everything drawn from one seed.
//!
//! The network drops, duplicates, reorders and partitions; the disks crash at any operation, run full, fail to sync. The
//! oracle: acknowledged proposals are never lost, what members apply is the same at every index, one leader a term,
//! reads see what was acknowledged before them. Then everything is healed and must converge.
//!
//! `SEEDS=10000 cargo test -p pontoon-raft sim` goes further, `SEED=17` replays one.

use std::collections::{BTreeMap, BTreeSet};

use prost_raft::Message as _;
use raft::eraftpb::{ConfState, HardState, Message};

use crate::config::Config;
use crate::member::Member;
use crate::members::{Members, names};
use crate::node::MemberChange;
use crate::snapshot::SnapshotMeta;
use crate::start::join_records;
use crate::vfs::sim::Fault;
use crate::wal::{Marker, Record};

mod node;
#[cfg(test)]
mod tests;

use node::{Effect, SimNode};

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// True in `percent` of a hundred cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// How hostile the world is, in percent.
struct Weather {
    drop: usize,
    duplicate: usize,
    /// How many messages may overtake the oldest one.
    reorder: usize,
    crash: usize,
    membership: usize,
}

struct World {
    rng: Rng,
    nodes: BTreeMap<u64, SimNode>,
    network: Vec<(Message, Option<Vec<u8>>)>,
    /// Members that can't talk to the rest.
    cut: BTreeSet<u64>,
    weather: Weather,
    next_command: u64,
    /// Proposals by nonce, with the member that proposed and its life number.
    proposed: BTreeMap<Vec<u8>, (u64, u64)>,
    lives: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// What any member applied at an index.
    history: BTreeMap<u64, Vec<u8>>,
    leaders: BTreeMap<u64, u64>,
    /// Reads under way: member, and the highest acknowledged index when it was asked for.
    reads: BTreeMap<Vec<u8>, (u64, u64)>,
    answered_reads: usize,
}

fn config(id: u64) -> Config {
    Config {
        advertise: format!("host{id}:2377"),
        keep_entries: 5,
        segment_bytes: 16 << 10,
        ..Config::new(id, "cluster", format!("node{id}"), "/raft")
    }
}

fn member(id: u64) -> Member {
    Member::new(id, format!("node{id}"), format!("host{id}:2377"))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let voters = [1, 3, 3, 5][rng.below(4)];
        let spares = 2;
        let weather = Weather {
            drop: rng.below(15),
            duplicate: rng.below(15),
            reorder: [0, 3, 30][rng.below(3)],
            crash: rng.below(3),
            membership: rng.below(3),
        };
        let mut world = Self {
            rng,
            nodes: BTreeMap::new(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            weather,
            next_command: 0,
            proposed: BTreeMap::new(),
            lives: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            answered_reads: 0,
        };
        let ids: Vec<u64> = (1..=voters).collect();
        let conf_state = ConfState {
            voters: ids.clone(),
            ..ConfState::default()
        };
        let members = Members::of(&ids.iter().map(|id| member(*id)).collect::<Vec<_>>()).encode();
        let meta = SnapshotMeta {
            index: 1,
            term: 1,
            conf_state,
            members,
        };
        let marker = Marker {
            index: 1,
            term: 1,
            conf_state: meta.conf_state.clone(),
            members: meta.members.clone(),
            reset: true,
        };
        let first = vec![
            Record::HardState(HardState {
                term: 1,
                vote: 0,
                commit: 1,
            }),
            Record::Snapshot(marker),
        ];
        let shift = world.rng.below(10);
        for id in 1..=voters + spares {
            // All different: with pinned time-outs that are equal, members in step would split the vote for ever.
            let election = 10 + (3 * id as usize + shift) % 10;
            let mut node = SimNode::new(config(id), seed.wrapping_mul(31).wrapping_add(id), election);
            if id <= voters {
                node.create(Some(&meta), first.clone());
            } else {
                let known: Vec<Member> = ids.iter().map(|id| member(*id)).collect();
                node.create(None, join_records(&known));
            }
            world.nodes.insert(id, node);
        }
        world
    }

    fn up(&self) -> Vec<u64> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.is_up())
            .map(|(id, _)| *id)
            .collect()
    }

    fn pick_up(&mut self) -> Option<u64> {
        let up = self.up();
        (!up.is_empty()).then(|| up[self.rng.below(up.len())])
    }

    fn leader(&mut self) -> Option<u64> {
        let leads = |(id, node): (&u64, &mut SimNode)| {
            node.core()
                .filter(|core| core.is_leader())
                .map(|c| (c.term(), *id))
        };
        self.nodes.iter_mut().filter_map(leads).max().map(|(_, id)| id)
    }

    /// Takes a member's outputs and checks them.
    fn settle(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let effects = node.poll();
        if let Some(core) = node.core() {
            assert!(
                !core.has_stale_progress(),
                "a peer's next entry is one that it is known to have"
            );
            if core.is_leader() {
                let term = core.term();
                let first = *self.leaders.entry(term).or_insert(id);
                assert_eq!(first, id, "two leaders in term {term}");
            }
        }
        for effect in effects {
            match effect {
                Effect::Send(message, file) => self.network.push((*message, file)),
                Effect::Applied(index, nonce, data) => self.applied(id, index, nonce, data),
                Effect::Read(context) => self.read(id, &context),
            }
        }
    }

    fn applied(&mut self, id: u64, index: u64, nonce: Vec<u8>, data: Vec<u8>) {
        let known = self.history.entry(index).or_insert_with(|| data.clone());
        assert_eq!(*known, data, "member {id} applied something else at {index}");
        // The proposer's caller hears of it only if that process still lives.
        if self.proposed.get(&nonce) == Some(&(id, self.lives.get(&id).copied().unwrap_or(0))) {
            self.acknowledged.insert(index, data);
        }
    }

    fn read(&mut self, id: u64, context: &[u8]) {
        let Some((reader, floor)) = self.reads.remove(context) else {
            return;
        };
        assert_eq!(reader, id);
        let applied = self.nodes.get(&id).map_or(0, SimNode::applied);
        assert!(
            applied >= floor,
            "a read at {applied} misses what was acknowledged at {floor} before it began"
        );
        self.answered_reads += 1;
    }

    fn connected(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&a) == self.cut.contains(&b)
    }

    /// Delivers one message, maybe not the oldest, maybe twice, maybe never.
    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let reach = self.network.len().min(self.weather.reorder + 1);
        let at = self.rng.below(reach);
        let (message, file) = self.network.remove(at);
        let (from, to) = (message.from, message.to);
        let lost = self.rng.chance(self.weather.drop) || !self.connected(from, to);
        if self.rng.chance(self.weather.duplicate) && file.is_none() {
            let later = self.rng.below(self.network.len() + 1);
            self.network.insert(later, (message.clone(), None));
        }
        let mut arrived = false;
        if let Some(node) = self.nodes.get_mut(&to).filter(|node| node.is_up() && !lost) {
            // Through the same bytes and checks as on the wire.
            let message =
                crate::validate::decode(&message.encode_to_vec(), from, to).expect("honest messages pass");
            arrived = true;
            match &file {
                Some(file) => arrived = node.install(message, file).unwrap_or(false),
                None => {
                    if let Some(core) = node.core() {
                        core.step(message);
                    }
                }
            }
            self.settle(to);
        }
        if let Some(core) = self.nodes.get_mut(&from).and_then(SimNode::core) {
            if file.is_some() {
                core.report_snapshot(to, arrived);
            } else if !arrived {
                core.report_unreachable(to);
            }
            self.settle(from);
        }
    }

    fn nonce(&mut self) -> [u8; 16] {
        self.next_command += 1;
        let mut nonce = [0; 16];
        nonce[8..].copy_from_slice(&self.next_command.to_be_bytes());
        nonce
    }

    fn propose(&mut self) -> bool {
        let Some(id) = self.leader() else { return false };
        let nonce = self.nonce();
        let data = format!("command {}", self.next_command).into_bytes();
        let life = self.lives.get(&id).copied().unwrap_or(0);
        let Some(core) = self.nodes.get_mut(&id).and_then(SimNode::core) else {
            return false;
        };
        let taken = core.propose(vec![(nonce, data)]);
        if taken {
            self.proposed.insert(nonce.to_vec(), (id, life));
        }
        self.settle(id);
        taken
    }

    fn ask_read(&mut self) {
        let Some(id) = self.pick_up() else { return };
        let context = self.nonce().to_vec();
        let floor = self.acknowledged.keys().last().copied().unwrap_or(0);
        if self
            .nodes
            .get_mut(&id)
            .and_then(SimNode::core)
            .is_some_and(|core| core.read_index(context.clone()))
        {
            self.reads.insert(context, (id, floor));
        }
        self.settle(id);
    }

    fn change_members(&mut self) {
        let Some(id) = self.leader() else { return };
        let count = self.nodes.len() as u64;
        let target = 1 + self.rng.below(count as usize) as u64;
        let other = 1 + self.rng.below(count as usize) as u64;
        let changes = match self.rng.below(6) {
            0 | 1 => vec![MemberChange::AddLearner(member(target))],
            2 => vec![MemberChange::Promote(target)],
            3 => vec![MemberChange::Demote(target)],
            // Through joint consensus.
            4 => vec![MemberChange::Promote(target), MemberChange::Demote(other)],
            _ => Vec::new(),
        };
        let nonce = self.nonce();
        if let Some(core) = self.nodes.get_mut(&id).and_then(SimNode::core) {
            if changes.is_empty() {
                core.transfer(None);
            } else {
                // Most are refused, with reason.
                let _ = core.propose_change(nonce, &changes);
            }
        }
        self.settle(id);
    }

    /// Something bad happens to one member's machine, now or in a few disk operations.
    fn break_something(&mut self) {
        let Some(id) = self.pick_up() else { return };
        let (delay, kind) = (1 + self.rng.below(12) as u64, self.rng.below(5));
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        match kind {
            0 => node.kill(),
            1 => node.disk.fail_at(node.disk.operations() + delay, Fault::NoSpace),
            2 => node
                .disk
                .fail_at(node.disk.operations() + delay, Fault::SyncError),
            _ => node.disk.fail_at(node.disk.operations() + delay, Fault::Crash),
        }
    }

    fn restart(&mut self, id: u64) {
        let power_loss = self.rng.chance(70);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if power_loss || node.disk.is_crashed() {
            node.disk.restart()
        } else {
            node.disk.restart_process()
        }
        *self.lives.entry(id).or_default() += 1;
        node.start()
            .unwrap_or_else(|error| panic!("member {id} does not start: {}", crate::node::describe(&error)));
        self.settle(id);
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=29 => {
                if let Some(id) = self.pick_up() {
                    if let Some(core) = self.nodes.get_mut(&id).and_then(SimNode::core) {
                        core.tick();
                    }
                    self.settle(id);
                }
            }
            30..=69 => self.deliver(),
            70..=84 => self.persist_some(),
            85..=90 => drop(self.propose()),
            91..=92 => self.ask_read(),
            93 => {
                if let Some(id) = self.pick_up() {
                    self.nodes.get_mut(&id).map(SimNode::snapshot);
                    self.settle(id);
                }
            }
            94 if self.rng.chance(30 * self.weather.membership) => self.change_members(),
            95 if self.rng.chance(30 * self.weather.crash) => self.break_something(),
            96..=97 => {
                let down: Vec<u64> = self
                    .nodes
                    .keys()
                    .copied()
                    .filter(|id| !self.nodes[id].is_up())
                    .collect();
                if !down.is_empty() {
                    let id = down[self.rng.below(down.len())];
                    self.restart(id);
                }
            }
            98 if self.rng.chance(10) => {
                self.cut.clear();
                for id in self.nodes.keys() {
                    if self.rng.0.wrapping_mul(*id).is_multiple_of(3) {
                        self.cut.insert(*id);
                    }
                }
                self.rng.next();
            }
            99 if self.rng.chance(20) => self.cut.clear(),
            _ => {}
        }
    }

    fn persist_some(&mut self) {
        if let Some(id) = self.pick_up() {
            let count = 1 + self.rng.below(4);
            self.nodes.get_mut(&id).map(|node| node.persist(count));
            self.settle(id);
        }
    }

    /// Good weather for a while: everybody is up and everything arrives.
    fn heal(&mut self) {
        self.cut.clear();
        self.weather = Weather {
            drop: 0,
            duplicate: 0,
            reorder: 0,
            crash: 0,
            membership: 0,
        };
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in &ids {
            if !self.nodes[id].is_up() || self.nodes[id].disk.is_crashed() {
                self.restart(*id);
            }
            // A fault that was set but not reached.
            self.nodes[id].disk.restart_process();
        }
        let mut quiet = 0;
        for round in 0..3000 {
            for id in &ids {
                if let Some(core) = self.nodes.get_mut(id).and_then(SimNode::core) {
                    core.tick();
                }
                self.settle(*id);
                for _ in 0..3 {
                    let all = self.nodes[id].waiting_jobs();
                    self.nodes.get_mut(id).map(|node| node.persist(all));
                    self.settle(*id);
                }
            }
            for _ in 0..self.network.len() {
                self.deliver();
            }
            if self.is_converged() {
                // A leader that is handing over takes no proposals for an election timeout.
                quiet += u32::from(quiet > 0 || self.propose());
                if quiet > 3 {
                    return;
                }
            }
            if round == 2999 {
                panic!(
                    "the cluster does not converge after everything was healed: {}",
                    self.describe()
                );
            }
        }
    }

    /// Where everybody stands, for a failing seed.
    fn describe(&mut self) -> String {
        let describe = |(id, node): (&u64, &mut SimNode)| {
            let (applied, jobs) = (node.applied(), node.waiting_jobs());
            let core = node
                .core()
                .map(|core| (core.status(applied), core.conf_state().clone(), core.trouble()));
            format!("\n{id}: {jobs} jobs, {core:?}")
        };
        self.nodes.iter_mut().map(describe).collect()
    }

    /// A leader, and every member at its last entry with everything acknowledged.
    fn is_converged(&mut self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(core) = self.nodes.get_mut(&leader).and_then(SimNode::core) else {
            return false;
        };
        let status = core.status(0);
        let members: Vec<u64> = core.member_list().iter().map(|m| m.id).collect();
        status.committed == status.last_index
            && members
                .iter()
                .all(|id| self.nodes[id].applied() == status.last_index)
    }

    /// Every member of the present configuration has every acknowledged proposal.
    fn check_acknowledged(&mut self) {
        let Some(leader) = self.leader() else {
            panic!("no leader")
        };
        let conf = self
            .nodes
            .get_mut(&leader)
            .and_then(SimNode::core)
            .map(|core| core.conf_state().clone());
        let conf = conf.unwrap_or_default();
        for (id, node) in self.nodes.iter().filter(|(id, _)| names(&conf, **id)) {
            let state: BTreeMap<u64, &Vec<u8>> =
                node.state().iter().map(|(index, data)| (*index, data)).collect();
            for (index, data) in &self.acknowledged {
                assert_eq!(
                    state.get(index),
                    Some(&data),
                    "member {id} lost what was acknowledged at {index}"
                );
            }
            for (index, data) in &state {
                assert_eq!(
                    self.history.get(index),
                    Some(*data),
                    "member {id} differs at {index}"
                );
            }
        }
    }
}
