//! Who takes part and who leads, as the watch and the own lease say; shown to the controller in raft's terms.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_raft::watch;
use pontoon_raft::{Leadership, Member, StopReason};

pub(crate) struct View {
    own: String,
    known: Mutex<Known>,
    leadership: watch::Sender<Leadership>,
    members: watch::Sender<Arc<Vec<Member>>>,
    stopped: watch::Sender<Option<StopReason>>,
}

#[derive(Default)]
struct Known {
    members: BTreeMap<String, Member>,
    alive: BTreeSet<String>,
    /// Holder of the leader's key and the revision that made it.
    leader: Option<(Member, i64)>,
    /// Our own term, while we are sure of it.
    reign: Option<i64>,
    /// The newest term that was seen.
    term: i64,
}

/// Everything at one revision.
#[derive(Default)]
pub(crate) struct Listed {
    pub(crate) members: Vec<Member>,
    pub(crate) alive: Vec<String>,
    pub(crate) leader: Option<(Member, i64)>,
    pub(crate) revision: i64,
}

impl View {
    pub(crate) fn new(own: &Member) -> Self {
        let own = Member {
            reachable: true,
            ..own.clone()
        };
        let known = Known {
            members: BTreeMap::from([(own.node_id.clone(), own.clone())]),
            ..Known::default()
        };
        Self {
            own: own.node_id.clone(),
            known: Mutex::new(known),
            leadership: watch::channel(Leadership::default()).0,
            members: watch::channel(Arc::new(vec![own])).0,
            stopped: watch::channel(None).0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(crate) fn members(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.subscribe()
    }

    pub(crate) fn stopped(&self) -> watch::Receiver<Option<StopReason>> {
        self.stopped.subscribe()
    }

    /// Notes why this member ends; the first reason stays.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            if first {
                *stopped = Some(reason);
            }
            first
        });
    }

    /// Our term, while we lead.
    pub(crate) fn reign(&self) -> Option<i64> {
        self.lock().reign
    }

    /// Changes what is known and shows it.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.lock();
        change(&mut known);
        if let Some((_, term)) = &known.leader {
            known.term = known.term.max(*term);
        }
        let members: Vec<Member> = {
            let with_reach = known.members.values().map(|member| Member {
                reachable: member.node_id == self.own || known.alive.contains(&member.node_id),
                ..member.clone()
            });
            let mut members: Vec<_> = with_reach.collect();
            members.sort_by_key(|member| member.id);
            members
        };
        let leadership = Leadership {
            term: u64::try_from(known.term).unwrap_or(0),
            leader: known.leader.as_ref().map(|(leader, _)| Member {
                reachable: true,
                ..leader.clone()
            }),
            is_leader: known
                .reign
                .is_some_and(|reign| known.leader.as_ref().is_some_and(|(_, term)| *term == reign)),
        };
        // Sent under the lock, so that nobody shows older knowledge after newer.
        self.members
            .send_if_modified(|shown| replace(shown, Arc::new(members)));
        self.leadership
            .send_if_modified(|shown| replace(shown, leadership));
    }

    /// Takes over what was read at one revision. True when this member is among them.
    pub(crate) fn list(&self, listed: Listed) -> bool {
        let mut present = false;
        self.change(|known| {
            known.members = listed
                .members
                .into_iter()
                .map(|m| (m.node_id.clone(), m))
                .collect();
            known.alive = listed.alive.into_iter().collect();
            if known.reign.is_none_or(|reign| listed.revision >= reign) {
                known.leader = listed.leader;
            }
            present = known.members.contains_key(&self.own);
        });
        present
    }

    pub(crate) fn put_member(&self, member: Member) {
        self.change(|known| {
            known.members.insert(member.node_id.clone(), member);
        });
    }

    pub(crate) fn remove_member(&self, node: &str) {
        self.change(|known| {
            known.members.remove(node);
        });
        if node == self.own {
            self.stop(StopReason::Removed);
        }
    }

    pub(crate) fn set_alive(&self, node: &str, alive: bool) {
        self.change(|known| {
            if alive {
                known.alive.insert(node.to_owned());
            } else {
                known.alive.remove(node);
            }
        });
    }

    /// Someone else than us that runs.
    pub(crate) fn another_is_alive(&self) -> bool {
        let known = self.lock();
        known
            .alive
            .iter()
            .any(|node| *node != self.own && known.members.contains_key(node))
    }

    /// The leader's key as the watch shows it: who made it at `revision`, or that it was deleted then.
    pub(crate) fn set_leader(&self, leader: Option<Member>, revision: i64) {
        self.change(|known| {
            // The watch may be behind our own campaign: what was before it must not hide that we lead.
            if known.reign.is_none_or(|reign| revision >= reign) {
                known.leader = leader.map(|leader| (leader, revision));
            }
        });
    }

    /// We lead from now on: the state is complete.
    pub(crate) fn begin_reign(&self, own: &Member, term: i64) {
        self.change(|known| {
            known.leader = Some((own.clone(), term));
            known.reign = Some(term);
        });
    }

    /// We lead no more.
    pub(crate) fn end_reign(&self) {
        self.change(|known| {
            if let Some(reign) = known.reign.take() {
                known.leader.take_if(|(_, term)| *term == reign);
            }
        });
    }
}

/// Replaces a shown value; true if it differs.
fn replace<T: PartialEq>(shown: &mut T, now: T) -> bool {
    let differs = *shown != now;
    if differs {
        *shown = now;
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, node: &str) -> Member {
        Member::new(id, node, format!("{node}:1"))
    }

    #[test]
    fn one_leads_from_its_own_term_until_it_ends() {
        let own = member(1, "a");
        let view = View::new(&own);
        view.set_leader(Some(member(2, "b")), 5);
        let shown = view.leadership().borrow().clone();
        assert_eq!((shown.term, shown.is_leader), (5, false));
        assert_eq!(shown.leader.unwrap().node_id, "b");
        view.begin_reign(&own, 9);
        assert!(view.leadership().borrow().is_leader);
        // The watch is behind: it shows what was before us.
        view.set_leader(Some(member(2, "b")), 5);
        view.set_leader(None, 8);
        assert!(view.leadership().borrow().is_leader);
        view.end_reign();
        let shown = view.leadership().borrow().clone();
        assert_eq!((shown.term, shown.leader, shown.is_leader), (9, None, false));
    }

    #[test]
    fn another_leader_ends_what_is_shown_of_our_reign() {
        let own = member(1, "a");
        let view = View::new(&own);
        view.begin_reign(&own, 9);
        view.set_leader(Some(member(2, "b")), 12);
        let shown = view.leadership().borrow().clone();
        assert_eq!((shown.term, shown.is_leader), (12, false));
    }

    #[test]
    fn a_member_without_its_lease_is_unreachable() {
        let view = View::new(&member(1, "a"));
        let present = view.list(Listed {
            members: vec![member(2, "b"), member(1, "a")],
            alive: vec!["b".to_owned()],
            leader: None,
            revision: 3,
        });
        assert!(present && view.another_is_alive());
        view.set_alive("b", false);
        let shown = view.members().borrow().clone();
        let reach: Vec<_> = shown.iter().map(|m| (m.id, m.reachable)).collect();
        assert_eq!(reach, [(1, true), (2, false)]);
        assert!(!view.another_is_alive());
    }

    #[test]
    fn being_taken_off_the_list_is_the_end() {
        let view = View::new(&member(1, "a"));
        view.remove_member("b");
        assert_eq!(*view.stopped().borrow(), None);
        view.remove_member("a");
        view.stop(StopReason::Shutdown);
        assert_eq!(*view.stopped().borrow(), Some(StopReason::Removed));
    }
}
