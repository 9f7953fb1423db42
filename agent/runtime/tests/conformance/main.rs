//! The conformance suite: one case for each sentence of the OCI runtime specification that concerns Linux, on
//! our own runtime (`oci`, through its command line) and on runc, with the same bundles. `make conformance` runs it.
//!
//! A case that fails on ours fails the suite; what runc fails is named. Arguments that are no flags pick cases by
//! a part of their name. Cases are tables by chapter of the specification: [`case::Case`]; a new one is a line there.

#![allow(clippy::unwrap_used)]
// Tables are long.
#![allow(clippy::too_many_lines)]

mod bed;
#[path = "../support/bundle.rs"]
mod bundle;
mod capabilities;
mod case;
mod cgroup_limits;
mod cgroups;
mod commands;
mod config;
mod defects;
mod devices;
#[path = "../support/group.rs"]
mod group;
mod hooks;
mod lifecycle;
mod mount_attributes;
mod mounts;
mod namespaces;
mod operations;
mod process;
mod rootfs;
mod seccomp;
mod seccomp_more;
mod terminal;
mod tuning;
mod users;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use bed::{Bed, RUNC, Runtime};
use case::{Case, Skip, Verdict};

/// Cases at a time: most of a case is waiting for processes to start.
const THREADS: usize = 4;

fn all() -> Vec<Case> {
    [
        ("config", config::cases()),
        ("process", process::cases()),
        ("capabilities", capabilities::cases()),
        ("tuning", tuning::cases()),
        ("terminal", terminal::cases()),
        ("lifecycle", lifecycle::cases()),
        ("operations", operations::cases()),
        ("hooks", hooks::cases()),
        ("rootfs", rootfs::cases()),
        ("mounts", mounts::cases()),
        ("mount attributes", mount_attributes::cases()),
        ("devices", devices::cases()),
        ("namespaces", namespaces::cases()),
        ("user and time namespaces", users::cases()),
        ("cgroups", cgroups::cases()),
        ("cgroup limits", cgroup_limits::cases()),
        ("seccomp", seccomp::cases()),
        ("seccomp, more", seccomp_more::cases()),
        ("known defects", defects::cases()),
    ]
    .into_iter()
    .flat_map(|(chapter, cases)| {
        cases.into_iter().map(move |mut case| {
            case.chapter = chapter;
            case
        })
    })
    .collect()
}

fn main() -> ExitCode {
    if std::env::args().any(|a| a == "--list") {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    // Containers' inits become our children, as they would a supervisor's.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    let mut words = std::env::args().skip(1).peekable();
    let mut filters = Vec::new();
    while let Some(word) = words.next() {
        if word == "--test-threads" {
            words.next();
        } else if !word.starts_with('-') {
            filters.push(word);
        }
    }
    let mut cases = all();
    let mut names: Vec<&str> = cases.iter().map(|c| c.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "a name is used twice");
    cases.retain(|c| {
        filters.is_empty()
            || filters
                .iter()
                .any(|f| c.name.contains(f) || c.chapter.contains(f))
    });
    let results = run_all(&cases);
    report(&cases, &results)
}

type Results = BTreeMap<(usize, Runtime), Verdict>;

fn run_all(cases: &[Case]) -> Results {
    println!("ours is {} oci, runc is {RUNC}", bed::ours().display());
    let runtimes: &[Runtime] = if std::path::Path::new(RUNC).exists() {
        &[Runtime::Ours, Runtime::Runc]
    } else {
        println!("{RUNC} is not installed: no comparison");
        &[Runtime::Ours]
    };
    let queue: Vec<(usize, Runtime)> = (0..cases.len())
        .flat_map(|i| runtimes.iter().map(move |&r| (i, r)))
        .collect();
    let next = Mutex::new(queue.into_iter());
    let results = Mutex::new(Results::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let Some((index, runtime)) = next.lock().unwrap().next() else {
                        break;
                    };
                    let verdict = run_one(&cases[index], runtime);
                    results.lock().unwrap().insert((index, runtime), verdict);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

fn run_one(case: &Case, runtime: Runtime) -> Verdict {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut bed = Bed::new(runtime);
        case.run(&mut bed);
        bed.finish();
    }));
    match outcome {
        Ok(()) => Verdict::Passed,
        Err(payload) => {
            if let Some(Skip(reason)) = payload.downcast_ref::<Skip>() {
                return Verdict::Skipped(reason.clone());
            }
            let text = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Verdict::Failed(text.unwrap_or_else(|| "panic".to_owned()))
        }
    }
}

fn report(cases: &[Case], results: &Results) -> ExitCode {
    let mut chapter = "";
    let mut counts: BTreeMap<(Runtime, &str), usize> = BTreeMap::new();
    let mut details = Vec::new();
    let mut regressions = 0;
    for (index, case) in cases.iter().enumerate() {
        if case.chapter != chapter {
            chapter = case.chapter;
            println!("\n{chapter:<52} {:<8} runc", "ours");
        }
        let of = |runtime| results.get(&(index, runtime));
        let word = |runtime| of(runtime).map_or("-", Verdict::word);
        println!(
            "  {:<50} {:<8} {}",
            case.name,
            word(Runtime::Ours),
            word(Runtime::Runc)
        );
        for runtime in [Runtime::Ours, Runtime::Runc] {
            let Some(verdict) = of(runtime) else { continue };
            *counts.entry((runtime, verdict.word())).or_default() += 1;
            match verdict {
                Verdict::Passed => {}
                Verdict::Skipped(why) => {
                    details.push(format!("{} {}: skipped: {why}", runtime.name(), case.name))
                }
                Verdict::Failed(why) => details.push(format!(
                    "{} {}: FAILED\n    the specification: {}\n    {}",
                    runtime.name(),
                    case.name,
                    case.says,
                    why.replace('\n', "\n    ")
                )),
            }
        }
        let failed = |runtime| matches!(of(runtime), Some(Verdict::Failed(_)));
        if failed(Runtime::Ours) {
            regressions += 1;
        }
    }
    println!();
    for line in &details {
        println!("{line}");
    }
    println!("\n{} cases", cases.len());
    for runtime in [Runtime::Ours, Runtime::Runc] {
        let count = |word| counts.get(&(runtime, word)).copied().unwrap_or(0);
        println!(
            "{:<5} {} pass, {} fail, {} skipped",
            runtime.name(),
            count("pass"),
            count("FAIL"),
            count("skip")
        );
    }
    if regressions == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
