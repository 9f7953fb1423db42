//! Bugs that the simulation's tests plant, to see that its oracles find them. Only with the feature `planted-bugs`, which
//! no program that users get has.
//!
//! A bug is planted for one thread: a simulation runs in one.

use std::cell::Cell;

/// A mistake that somebody might make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The log calls entries durable that were not synced.
    SkipSync,
    /// Term and vote are not written.
    ForgetVote,
    /// A change is answered when it is proposed.
    AnswerBeforeCommit,
    /// Each entry reaches the state machine twice.
    ApplyTwice,
    /// A leader begins before it has applied all that there is, and its entries are applied on whatever state there is,
    /// not on the one that they were made on.
    ForgetVersion,
    /// Writers are not kept from replacing what they have not read.
    ForgetLock,
    /// A new leader does not know which addresses are taken.
    ForgetAddresses,
    /// Reads do not ask whether the state is the newest.
    ReadOldState,
    /// Agents' reports are confirmed before they are written.
    ConfirmEarly,
    /// Updates don't count the slots that are being moved already.
    ForgetBudget,
    /// Start-first: the old task goes as soon as the new one is made.
    LeaveEarly,
    /// Tasks are made without a reason.
    ForgetCause,
    /// All slots of a job are opened at once.
    ForgetLimit,
    /// Constraints are not asked when tasks are placed.
    ForgetConstraint,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread, or pulls it out.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// True where this bug is to be made.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Does something soundly.
pub fn without<T>(work: impl FnOnce() -> T) -> T {
    let bug = PLANTED.take();
    let result = work();
    PLANTED.set(bug);
    result
}
