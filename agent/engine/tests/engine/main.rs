//! The engine against the real kernel. Each case runs in a process and a network namespace of its own ("a host"), so that
//! cases neither see each other's bridges nor firewall; the binary is also the shim, netd and init of its containers.
//! Needs root. Arguments: a part of the names of the cases to run.
#![allow(clippy::unwrap_used)]

mod archive;
mod basics;
mod bed;
mod collect;
mod copy;
mod events;
#[path = "../../../runtime/tests/support/group.rs"]
mod group;
mod host;
mod isolation;
mod lifecycle;
mod limits;
mod logs;
mod network;
mod remap;
mod restart;
mod storage;
mod streams;
mod volumes;
mod watchdog;

use group::Group;
use std::process::ExitCode;
use std::sync::Mutex;

type Case = fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// How many cases run at once.
const PARALLEL: usize = 3;
const CASE: &str = "PONTOON_ENGINE_CASE";

fn cases() -> Vec<(&'static str, Case)> {
    [
        archive::cases(),
        basics::cases(),
        collect::cases(),
        copy::cases(),
        events::cases(),
        isolation::cases(),
        lifecycle::cases(),
        limits::cases(),
        logs::cases(),
        network::cases(),
        remap::cases(),
        restart::cases(),
        storage::cases(),
        streams::cases(),
        volumes::cases(),
        watchdog::cases(),
    ]
    .concat()
}

fn main() -> ExitCode {
    if let Some(code) = host::helper() {
        return code;
    }
    if !host::is_able() {
        return ExitCode::SUCCESS;
    }
    if let Ok(name) = std::env::var(CASE) {
        return run_here(&name);
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let queue: Vec<&str> = cases()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())))
        .collect();
    run_all(queue)
}

fn run_all(queue: Vec<&'static str>) -> ExitCode {
    let total = queue.len();
    let queue = Mutex::new(queue.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let Some(name) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let outcome = host::run(&Group::of_case("engine", name), (CASE, name), host::DEADLINE);
                    let verdict = if outcome.is_good() { "ok" } else { "FAILED" };
                    println!("case {name} ... {verdict}");
                    if !outcome.is_good() {
                        println!("---- {name}\n{}", outcome.report());
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{} of {total} cases passed", total - failed.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_here(name: &str) -> ExitCode {
    if name == watchdog::FROZEN {
        watchdog::leave_a_frozen_process();
        return ExitCode::SUCCESS;
    }
    let Some((_, case)) = cases().into_iter().find(|(known, _)| *known == name) else {
        return ExitCode::FAILURE;
    };
    host::block_on(case());
    ExitCode::SUCCESS
}
