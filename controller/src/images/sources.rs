//! The table: who has which image, who fetches it from where. Decides whom an asking node goes to.
//!
//! ```text
//! asks ─► nodes have it, or get it ─► PEERS: the least busy first. Blobs go on from hop to hop while they arrive:
//!    │         registry ─► a ─► b ─► c …   each gives to one other, deep chains branch near their beginning
//!    ├─► all of these serve enough others ─► LATER
//!    └─► nobody ─► REGISTRY: a lease; it ends with the fetch, the session, or by silence
//! ```
//! A node that fetches counts as a source only as long as its own source does, back to one that has the image or to the lease: so no two
//! nodes ever wait for each other, and what hangs on a lease that has ended finds a new beginning.
//!
//! Time comes in as an argument. Every answer but PEERS and REGISTRY ends what the node did before: a node that asks is not fetching.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_raft::watch;
use tokio::time::Instant;

/// A fetch that nothing is heard of for this long has ended. Agents report every two seconds.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// Nodes that one node serves an image to at the same time.
const SERVED_AT_ONCE: usize = 4;
/// Hops from the registry, or from a node that has the image, to one that gets it while it arrives: each adds some delay and one more
/// that may fail.
const DEEPEST: usize = 8;
/// So long a new leader waits for agents to say what they have before it sends one to the registry.
const SETTLING: Duration = Duration::from_secs(5);

/// What a node asks.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ask {
    /// The digest that the image is pinned to.
    pub(crate) image: String,
    /// The asking node.
    pub(crate) node: String,
    /// Nodes that could not give it.
    pub(crate) failed: BTreeSet<String>,
    /// The registry could not give it.
    pub(crate) registry_failed: bool,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Ids of nodes: the one to ask first, which may be getting it itself, then all others that have it.
    Peers(Vec<String>),
    /// It is the one that asks the registry.
    Registry,
    /// Others are bringing it.
    Later,
    /// There is nothing more to try.
    Nowhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Registry,
    /// The node that was named first.
    Peer(String),
}

#[derive(Debug)]
struct Fetch {
    from: From,
    heard: Instant,
}

#[derive(Debug, Default)]
struct Table {
    /// What each node has.
    held: HashMap<String, BTreeSet<String>>,
    /// What tags stand for on each node.
    names: HashMap<String, BTreeMap<String, String>>,
    /// Fetches under way, by image and node.
    fetches: HashMap<String, BTreeMap<String, Fetch>>,
}

/// One leader's table.
#[derive(Debug)]
pub(crate) struct Sources {
    table: Mutex<Table>,
    began: Instant,
    changed: watch::Sender<u64>,
}

impl Sources {
    /// Empty; `now` is when the reign begins.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            table: Mutex::default(),
            began: now,
            changed: watch::Sender::new(0),
        }
    }

    /// Wakes whenever an answer may have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A node tells all that it has: digests, and digests by name.
    pub(crate) fn report(
        &self,
        node: &str,
        images: impl IntoIterator<Item = String>,
        names: impl IntoIterator<Item = (String, String)>,
    ) {
        let mut table = self.lock();
        table.held.insert(node.to_owned(), images.into_iter().collect());
        table.names.insert(node.to_owned(), names.into_iter().collect());
        drop(table);
        self.tell();
    }

    /// What a name stands for on the nodes that have it.
    ///
    /// # Errors
    /// They don't agree: the digests, with a node for each.
    pub(crate) fn named(&self, name: &str) -> Result<Option<String>, BTreeMap<String, String>> {
        let table = self.lock();
        let meant: BTreeMap<String, String> = table
            .names
            .iter()
            .filter_map(|(node, names)| Some((names.get(name)?.clone(), node.clone())))
            .collect();
        match meant.len() {
            0 => Ok(None),
            1 => Ok(meant.into_keys().next()),
            _ => Err(meant),
        }
    }

    /// A node's session has ended: what it has can't be asked for, what it fetched nobody hears of.
    pub(crate) fn forget(&self, node: &str) {
        let mut table = self.lock();
        table.held.remove(node);
        table.names.remove(node);
        table.fetches.retain(|_, fetches| {
            fetches.remove(node);
            !fetches.is_empty()
        });
        drop(table);
        self.tell();
    }

    /// A node is still fetching (from that node, or from the registry), or has ended. One that is not known was begun under another
    /// leader, or given up for silence: it counts again, unless another has its place by now.
    pub(crate) fn heard(&self, image: &str, node: &str, from: &str, end: Option<bool>, now: Instant) {
        let mut table = self.lock();
        match end {
            None => {
                let fetches = table.fetches.entry(image.to_owned()).or_default();
                let from = match from {
                    "" => From::Registry,
                    from => From::Peer(from.to_owned()),
                };
                let is_taken = from == From::Registry && fetches.values().any(|of| of.from == from);
                match fetches.get_mut(node) {
                    // It has gone on to the next of those that it was told.
                    Some(fetch) if fetch.from == from || !is_taken => *fetch = Fetch { from, heard: now },
                    Some(fetch) => fetch.heard = now,
                    None if is_taken => return,
                    None => drop(fetches.insert(node.to_owned(), Fetch { from, heard: now })),
                }
            }
            Some(complete) => {
                table.end(image, node);
                if complete {
                    table
                        .held
                        .entry(node.to_owned())
                        .or_default()
                        .insert(image.to_owned());
                }
            }
        }
        drop(table);
        self.tell();
    }

    /// Decides. `nodes` are those with an open session: only they can be asked. `expected` are all that should have one: they are
    /// waited for at the beginning.
    pub(crate) fn ask(
        &self,
        ask: &Ask,
        nodes: &BTreeSet<String>,
        expected: &BTreeSet<String>,
        now: Instant,
    ) -> Answer {
        let mut table = self.lock();
        let ended = table.end(&ask.image, &ask.node);
        table.end_silent(&ask.image, now);
        let answer = table.decide(ask, nodes);
        let mut awaited = nodes.union(expected);
        let settled = now >= self.began + SETTLING || awaited.all(|node| table.held.contains_key(node));
        let answer = match answer {
            Answer::Registry | Answer::Nowhere if !settled => Answer::Later,
            answer => answer,
        };
        let from = match &answer {
            Answer::Registry => Some(From::Registry),
            Answer::Peers(peers) => peers.first().cloned().map(From::Peer),
            _ => None,
        };
        if let Some(from) = from {
            let fetch = Fetch { from, heard: now };
            let fetches = table.fetches.entry(ask.image.clone()).or_default();
            fetches.insert(ask.node.clone(), fetch);
        } else if !ended {
            return answer;
        }
        // Those who wait: there is one more source, or a place has become free.
        drop(table);
        self.tell();
        answer
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends a node's fetch; false if there was none.
    fn end(&mut self, image: &str, node: &str) -> bool {
        let Some(fetches) = self.fetches.get_mut(image) else {
            return false;
        };
        let ended = fetches.remove(node).is_some();
        if fetches.is_empty() {
            self.fetches.remove(image);
        }
        ended
    }

    fn end_silent(&mut self, image: &str, now: Instant) {
        if let Some(fetches) = self.fetches.get_mut(image) {
            fetches.retain(|_, fetch| now < fetch.heard + SILENCE);
            if fetches.is_empty() {
                self.fetches.remove(image);
            }
        }
    }

    fn has(&self, image: &str, node: &str) -> bool {
        self.held.get(node).is_some_and(|held| held.contains(image))
    }

    /// Hops from a node that has the image, or from the registry, to this one; `None` when it does not get it, or from one that does not.
    fn depth(&self, image: &str, node: &str) -> Option<usize> {
        let (fetches, mut node) = (self.fetches.get(image), node);
        // Chains that agents tell of may be anything, also circles.
        for depth in 0..=fetches.map_or(0, BTreeMap::len) {
            if self.has(image, node) {
                return Some(depth);
            }
            match &fetches?.get(node)?.from {
                From::Registry => return Some(depth + 1),
                From::Peer(next) => node = next,
            }
        }
        None
    }

    fn decide(&self, ask: &Ask, nodes: &BTreeSet<String>) -> Answer {
        let image = ask.image.as_str();
        let fetches = self.fetches.get(image);
        let load = |node: &str| {
            let from = From::Peer(node.to_owned());
            fetches.map_or(0, |of| of.values().filter(|fetch| fetch.from == from).count())
        };
        let others = nodes.iter().filter(|node| **node != ask.node);
        let sources: Vec<(usize, usize, &String)> = others
            .filter_map(|node| Some((load(node), self.depth(image, node)?, node)))
            .collect();
        let free = |(load, depth, node): &&(usize, usize, &String)| {
            *load < SERVED_AT_ONCE && *depth < DEEPEST && !ask.failed.contains(*node)
        };
        if let Some((_, _, first)) = sources.iter().filter(free).min() {
            // Only such as wait for nobody: between these and whoever asks there can't be a circle by the time that they are asked.
            let mut whole: Vec<_> = sources
                .iter()
                .filter(|(_, depth, node)| *depth == 0 && node != first && !ask.failed.contains(*node))
                .collect();
            whole.sort();
            let rest = whole.into_iter().map(|(_, _, node)| *node);
            return Answer::Peers([*first].into_iter().chain(rest).cloned().collect());
        }
        let arrives = |(_, depth, node): &(usize, usize, &String)| *depth > 0 || !ask.failed.contains(*node);
        // One whose source has failed is about to ask, and gets the lease.
        let waits = ask.registry_failed && fetches.is_some();
        match () {
            () if waits || sources.iter().any(arrives) => Answer::Later,
            () if ask.registry_failed => Answer::Nowhere,
            () => Answer::Registry,
        }
    }
}

#[cfg(test)]
mod tests;
