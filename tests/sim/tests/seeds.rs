//! Seeds of the simulation: the same one gives the same run, and none may find anything. `SEEDS=n` runs more of them,
//! `SEED=n` replays one with its trace.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pontoon_sim::{Faults, Options, run};

/// Seeds that CI runs.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a seed finds; a panic counts.
fn finding(options: &Options) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(options))) {
        Ok(report) => report.complaint,
        Err(panic) => Some(
            panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "a panic".to_owned()),
        ),
    }
}

#[test]
fn a_cluster_in_peace_comes_to_rest() {
    let mut options = Options::new(1);
    options.faults = Faults::NONE;
    options.storm = Duration::from_secs(10);
    let report = run(&options);
    assert_eq!(report.complaint, None);
    assert!(report.answered > 20, "{report:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3, 4] {
        let reports = [run(&Options::new(seed)), run(&Options::new(seed))];
        assert_eq!(reports[0], reports[1], "seed {seed}");
    }
}

#[test]
fn no_seed_finds_anything() {
    if let Some(seed) = number("SEED") {
        let mut options = Options::new(seed);
        options.print = true;
        assert_eq!(finding(&options), None, "seed {seed}");
        return;
    }
    let first = number("FIRST").unwrap_or(1);
    let end = first + number("SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let done = seed - first;
                    if done > 0 && done.is_multiple_of(500) {
                        println!("{done} seeds");
                    }
                    if let Some(what) = finding(&Options::new(seed)) {
                        println!("seed {seed}: {what}");
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(
        found.is_empty(),
        "seeds {found:?} found something; replay one with SEED=n make sim"
    );
}
