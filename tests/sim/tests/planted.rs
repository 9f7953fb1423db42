//! Mutation tests: bugs of every kind, planted on purpose, are found by one of the first seeds, by the oracle that should.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pontoon_sim::{Bug, Options, run};

/// Within so many seeds: far fewer than CI runs.
const SEEDS: u64 = 40;

/// The first seed that finds the bug, and what it says. A panic of the product's own counts: some bugs break its assumptions.
fn found(bug: Bug) -> (u64, String) {
    for seed in 1..=SEEDS {
        let mut options = Options::new(seed);
        options.planted = Some(bug);
        let complaint = match catch_unwind(AssertUnwindSafe(|| run(&options))) {
            Ok(report) => report.complaint,
            Err(_) => Some("a panic".to_owned()),
        };
        if let Some(what) = complaint {
            println!("{bug:?}: seed {seed}: {what}");
            return (seed, what);
        }
    }
    panic!("{bug:?} was not found by {SEEDS} seeds");
}

fn assert_found(bug: Bug, by: &[&str]) {
    let (seed, what) = found(bug);
    assert!(
        by.iter().any(|words| what.contains(words)),
        "{bug:?}, seed {seed}: found by another oracle than {by:?}: {what}"
    );
}

#[test]
fn a_skipped_sync() {
    assert_found(
        Bug::SkipSync,
        &[
            "applied another entry",
            "no order explains",
            "does not come to rest",
            "panic",
        ],
    );
}

#[test]
fn a_forgotten_vote() {
    assert_found(
        Bug::ForgetVote,
        &[
            "applied another entry",
            "which no other manager has",
            "no order explains",
            "does not come to rest",
            "panic",
        ],
    );
}

#[test]
fn an_answer_before_the_commit() {
    assert_found(
        Bug::AnswerBeforeCommit,
        &["no order explains", "was told that task", "does not come to rest"],
    );
}

#[test]
fn an_entry_applied_twice() {
    assert_found(Bug::ApplyTwice, &["applied entry"]);
}

#[test]
fn an_entry_applied_on_another_version() {
    assert_found(
        Bug::ForgetVersion,
        &[
            "no order explains",
            "was given to",
            "went from",
            "went back",
            "or another state",
            "was told that task",
        ],
    );
}

#[test]
fn a_forgotten_lock() {
    assert_found(Bug::ForgetLock, &["no order explains"]);
}

#[test]
fn addresses_that_a_new_leader_forgot() {
    assert_found(Bug::ForgetAddresses, &["was given to"]);
}

#[test]
fn reads_of_an_old_state() {
    assert_found(Bug::ReadOldState, &["no order explains"]);
}

#[test]
fn reports_confirmed_too_early() {
    assert_found(Bug::ConfirmEarly, &["was told that task"]);
}

#[test]
fn an_update_that_forgets_its_budget() {
    assert_found(Bug::ForgetBudget, &["are down for its update"]);
}

#[test]
fn a_task_that_leaves_before_its_successor_runs() {
    assert_found(Bug::LeaveEarly, &["left before its successor ran"]);
}

#[test]
fn a_successor_without_a_cause() {
    assert_found(Bug::ForgetCause, &["was made without a cause"]);
}

#[test]
fn a_job_beyond_its_limit() {
    assert_found(Bug::ForgetLimit, &["has live tasks in"]);
}

#[test]
fn a_task_on_a_node_that_does_not_suit() {
    assert_found(Bug::ForgetConstraint, &["against its constraints"]);
}
