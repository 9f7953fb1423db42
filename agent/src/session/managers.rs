//! Which manager to ask next: the one that was named as leader, else one after the other of all that are known.

use pontoon_proto::v1::ManagerPeer;
use rand::seq::SliceRandom;

/// A manager may name another as leader so often in a row; then they disagree, and the rest is asked again.
const REDIRECTS: u32 = 4;

/// Known managers' addresses.
#[derive(Debug, Default)]
pub(super) struct Managers {
    known: Vec<String>,
    queue: Vec<String>,
    leader: Option<String>,
    redirects: u32,
}

impl Managers {
    /// Knows these, in random order; duplicates count once.
    pub(super) fn new(peers: impl IntoIterator<Item = ManagerPeer>) -> Self {
        let mut known: Vec<String> = peers
            .into_iter()
            .map(|peer| peer.addr)
            .filter(|addr| !addr.is_empty())
            .collect();
        known.sort();
        known.dedup();
        Self {
            known,
            ..Self::default()
        }
    }

    /// The managers have told where they are. An empty list is not believed.
    pub(super) fn replace(&mut self, peers: &[ManagerPeer]) {
        let new = Self::new(peers.iter().cloned());
        if !new.known.is_empty() {
            self.known = new.known;
            self.queue.clear();
        }
    }

    /// Whom to ask now.
    pub(super) fn next(&mut self) -> Option<String> {
        if let Some(leader) = self.leader.take() {
            return Some(leader);
        }
        if self.queue.is_empty() {
            self.queue.clone_from(&self.known);
            self.queue.shuffle(&mut rand::rng());
        }
        self.queue.pop()
    }

    /// A manager named the leader. True if it is to be asked at once.
    pub(super) fn redirect(&mut self, leader: String) -> bool {
        self.redirects += 1;
        if self.redirects > REDIRECTS {
            self.redirects = 0;
            return false;
        }
        self.leader = Some(leader);
        true
    }

    /// A session with this manager was established: it is the first to ask when it breaks, for a moment's disturbance.
    pub(super) fn established(&mut self) {
        self.redirects = 0;
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(addr: &str) -> ManagerPeer {
        ManagerPeer {
            node_id: String::new(),
            addr: addr.into(),
        }
    }

    #[test]
    fn asks_all_and_follows_redirects_for_a_while() {
        let mut managers = Managers::new([peer("a"), peer("b"), peer("a"), peer("")]);
        let mut asked = [managers.next().unwrap(), managers.next().unwrap()];
        asked.sort();
        assert_eq!(asked, ["a", "b"]);
        assert!(managers.redirect("c".into()));
        assert_eq!(managers.next().unwrap(), "c");
        let followed = (0..10).filter(|_| managers.redirect("d".into())).count();
        assert!(followed < 10);
        managers.replace(&[]);
        assert_eq!(managers.known.len(), 2);
        assert!(Managers::default().next().is_none());
    }
}
