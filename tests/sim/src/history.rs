//! What clients asked and were told, and whether one order explains all of it (Wing and Gong's search, with memory).
//!
//! Each service name is a register of its own: nothing, or the value of a label. Linearizability is local, so the
//! registers are checked one by one.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Make it, with this value.
    Create(u64),
    /// What is it?
    Get,
    /// From this value to that one; refused if it has changed.
    Update(u64, u64),
    /// Remove it.
    Remove,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Done; the value for a `Get`.
    Value(u64),
    /// Done.
    Done,
    /// It is there already.
    Exists,
    /// It is not there.
    Missing,
}

/// A call; without an answer it may have been done, or be done later, or never.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    client: usize,
    ask: Ask,
    told: Option<Told>,
    begin: u64,
    end: u64,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            ask,
            told,
            begin,
            end,
        } = self;
        match told {
            Some(told) => write!(f, "[{begin}..{end}] client {client}: {ask:?} -> {told:?}"),
            None => write!(f, "[{begin}..  ] client {client}: {ask:?} -> ?"),
        }
    }
}

#[derive(Default)]
struct Inner {
    clock: u64,
    calls: BTreeMap<String, Vec<Call>>,
}

/// All calls so far; clones are the same.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Inner>>);

/// A call under way.
pub struct Open {
    key: String,
    at: usize,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins.
    pub fn begin(&self, client: usize, key: &str, ask: Ask) -> Open {
        let mut inner = self.lock();
        inner.clock += 1;
        let call = Call {
            client,
            ask,
            told: None,
            begin: inner.clock,
            end: u64::MAX,
        };
        let calls = inner.calls.entry(key.to_owned()).or_default();
        calls.push(call);
        Open {
            key: key.to_owned(),
            at: calls.len() - 1,
        }
    }

    /// It was answered.
    pub fn end(&self, open: &Open, told: Told) {
        let mut inner = self.lock();
        inner.clock += 1;
        let end = inner.clock;
        let call = inner
            .calls
            .get_mut(&open.key)
            .and_then(|calls| calls.get_mut(open.at));
        if let Some(call) = call {
            call.told = Some(told);
            call.end = end;
        }
    }

    /// It was refused for a reason that says nothing about the state, and nothing was done.
    pub fn void(&self, open: &Open) {
        let mut inner = self.lock();
        let call = inner
            .calls
            .get_mut(&open.key)
            .and_then(|calls| calls.get_mut(open.at));
        if let Some(call) = call {
            // A read without an answer is no evidence.
            call.ask = Ask::Get;
        }
    }

    /// What is there in the end counts as one more read of everything: nobody may have read the last writes.
    pub fn conclude(&self, value: impl Fn(&str) -> Option<u64>) {
        let mut inner = self.lock();
        let Inner { clock, calls } = &mut *inner;
        for (key, calls) in calls {
            *clock += 2;
            calls.push(Call {
                client: 0,
                ask: Ask::Get,
                told: Some(value(key).map_or(Told::Missing, Told::Value)),
                begin: *clock - 1,
                end: *clock,
            });
        }
    }

    /// Calls that were answered.
    pub fn answered(&self) -> usize {
        let inner = self.lock();
        inner
            .calls
            .values()
            .flatten()
            .filter(|call| call.told.is_some())
            .count()
    }

    /// Checks all registers.
    ///
    /// # Errors
    /// The calls of one that no order explains.
    pub fn check(&self) -> Result<(), String> {
        let inner = self.lock();
        for (key, calls) in &inner.calls {
            let calls: Vec<Call> = calls
                .iter()
                .filter(|call| call.told.is_some() || call.ask != Ask::Get)
                .copied()
                .collect();
            if !explain(&calls) {
                let lines: Vec<String> = calls.iter().map(|call| format!("  {call}")).collect();
                return Err(format!(
                    "no order explains the answers about {key}:\n{}",
                    lines.join("\n")
                ));
            }
        }
        Ok(())
    }
}

/// The register after a call, if its answer fits.
fn step(state: Option<u64>, call: &Call) -> Option<Option<u64>> {
    let (done, fits) = match (call.ask, state) {
        (Ask::Create(value), None) => (Some(value), matches!(call.told, None | Some(Told::Done))),
        (Ask::Create(_), Some(_)) => (state, matches!(call.told, None | Some(Told::Exists))),
        (Ask::Get, None) => (None, call.told == Some(Told::Missing)),
        (Ask::Get, Some(value)) => (state, call.told == Some(Told::Value(value))),
        (Ask::Update(from, to), Some(value)) if from == value => {
            (Some(to), matches!(call.told, None | Some(Told::Done)))
        }
        (Ask::Update(..), Some(_)) => (state, call.told.is_none()),
        (Ask::Update(..) | Ask::Remove, None) => (None, matches!(call.told, None | Some(Told::Missing))),
        (Ask::Remove, Some(_)) => (None, matches!(call.told, None | Some(Told::Done))),
    };
    fits.then_some(done)
}

/// True when some order, in which no call takes effect before it began or after it was answered, explains all.
fn explain(calls: &[Call]) -> bool {
    let words = calls.len().div_ceil(64);
    let mut seen: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    let mut stack = vec![(vec![0_u64; words], None)];
    while let Some((done, state)) = stack.pop() {
        let is_done = |at: usize| done[at / 64] & 1 << (at % 64) != 0;
        let open = || (0..calls.len()).filter(|at| !is_done(*at));
        if open().all(|at| calls[at].told.is_none()) {
            return true;
        }
        // Whatever ended first must come before all that began later.
        let horizon = open().map(|at| calls[at].end).min().unwrap_or(u64::MAX);
        for at in open().filter(|at| calls[*at].begin < horizon) {
            let Some(next) = step(state, &calls[at]) else {
                continue;
            };
            let mut marked = done.clone();
            marked[at / 64] |= 1 << (at % 64);
            if seen.insert((marked.clone(), next)) {
                stack.push((marked, next));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(ask: Ask, told: Option<Told>, begin: u64, end: u64) -> Call {
        Call {
            client: 1,
            ask,
            told,
            begin,
            end,
        }
    }

    #[test]
    fn what_happened_one_after_the_other_has_one_order() {
        let create = call(Ask::Create(1), Some(Told::Done), 1, 2);
        let update = call(Ask::Update(1, 2), Some(Told::Done), 3, 4);
        let read = |value, begin| call(Ask::Get, Some(Told::Value(value)), begin, begin + 1);
        assert!(explain(&[create, update, read(2, 5)]));
        assert!(!explain(&[create, update, read(1, 5)]), "an old value");
        assert!(!explain(&[create, read(2, 5)]), "a value that nobody wrote");
        let gone = call(Ask::Get, Some(Told::Missing), 5, 6);
        assert!(!explain(&[create, gone]), "a lost write");
    }

    #[test]
    fn calls_at_the_same_time_may_be_in_any_order_but_all_readers_agree() {
        let create = call(Ask::Create(1), Some(Told::Done), 1, 2);
        let update = call(Ask::Update(1, 2), Some(Told::Done), 3, 10);
        let read = |value, begin| call(Ask::Get, Some(Told::Value(value)), begin, begin + 1);
        assert!(explain(&[create, update, read(1, 4), read(2, 6)]));
        assert!(
            !explain(&[create, update, read(2, 4), read(1, 6)]),
            "back in time"
        );
    }

    #[test]
    fn a_call_without_an_answer_may_count_or_not_and_late() {
        let create = call(Ask::Create(1), Some(Told::Done), 1, 2);
        let lost = call(Ask::Remove, None, 3, u64::MAX);
        let read = |told, begin| call(Ask::Get, Some(told), begin, begin + 1);
        assert!(explain(&[create, lost, read(Told::Value(1), 4)]));
        assert!(explain(&[
            create,
            lost,
            read(Told::Value(1), 4),
            read(Told::Missing, 6)
        ]));
        assert!(!explain(&[
            create,
            lost,
            read(Told::Missing, 4),
            read(Told::Value(1), 6)
        ]));
        let twice = call(Ask::Create(2), Some(Told::Done), 8, 9);
        assert!(explain(&[create, lost, twice]));
        assert!(!explain(&[create, twice]), "made twice");
    }
}
