//! The figures: one command each, progress on standard error, one JSON document on standard output, then one line for people.
//! Run by `make bench BENCH='name args'`; what was seen and under which conditions is in README.md.
//!
//! # Layout
//! - [`run_latency`], [`engine`], [`memory`], [`scale`], [`services`], [`failover`], [`overlay`], [`attach`], [`build`],
//!   [`unpack`], [`peers`]: one figure each
//! - [`pull`], [`push`]: images from and to a registry, set up by [`registries`]
//! - [`writes`]: the log beside etcd ([`kv`]: the calls, [`load`]: the clients, [`member`]: the processes); [`state`]: 1,000,000 tasks
//! - [`placement`]: the scheduler alone; [`million`]: a large cluster of [`simulated`] agents at real managers
//! - [`report`]: samples, ratios, conditions and the printed result
//! - [`timing`]: commands timed without polling, contestants run in turn
//! - [`clusters`]: Pontoon and Docker Swarm behind one set of questions
//! - [`docker`]: private Docker engines beside the fleet, the peer; [`floor`]: runc and crun, what is below any engine
//! - [`procs`]: memory and CPU time of processes; [`iperf`]: iperf3 between two network namespaces
//!
//! Two things are compared only within one run and in turn, because machines differ and their load changes.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::report::Report;

mod agents;
mod attach;
mod build;
mod clusters;
mod docker;
mod engine;
mod failover;
mod floor;
mod iperf;
mod kv;
mod load;
mod member;
mod memory;
mod million;
mod overlay;
mod peers;
mod placement;
mod procs;
mod pull;
mod push;
mod registries;
mod report;
mod run_latency;
mod scale;
mod services;
mod sessions;
mod simulated;
mod state;
mod timing;
mod unpack;
mod writes;

/// A figure that can be asked for.
struct Figure {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<Report>,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "run-latency",
        arguments: "[rounds=20] [--no-docker]",
        about: "`run --rm IMG true` and `exec`, whole command, beside docker (a private dockerd), runc and crun",
        run: run_latency::run,
    },
    Figure {
        name: "engine",
        arguments: "[rounds=10] [containers=100] [--no-docker]",
        about: "one engine beside docker: stop, starts one by one and ten at a time, `ps` of 200, memory a container, restart with 200",
        run: engine::run,
    },
    Figure {
        name: "build",
        arguments: "[rounds=5] [--no-docker]",
        about: "a Dockerfile of seven steps and 200 files, cold and cached, beside docker's builder",
        run: build::run,
    },
    Figure {
        name: "memory",
        arguments: "[containers=20] [seconds=20]",
        about: "shim of an idle container; daemon (memory, CPU) as manager with one service; netd",
        run: memory::run,
    },
    Figure {
        name: "scale",
        arguments: "[replicas=100] [rounds=3] [--peer] | --nodes 5000 [--tasks 1000000] [--every-state]",
        about: "`service create` on 3 hosts to all running, `service rm` to nothing left, without and with an overlay; \
                with --nodes: so many simulated agents at three managers, to all tasks running, and what the loss of 5,000 of them costs; \
                --every-state: each state of each task is reported, not only the newest when an agent's turn comes",
        run: scale::run,
    },
    Figure {
        name: "services",
        arguments: "[rounds=3] [replicas=10 50 100 200] [create|scale|update|drain|crash|kill]... [plain|overlay] [--peer]",
        about: "services on 3 managers and 2 workers: replicas made, scaled, updated, a node drained, a container and a worker killed; \
                --peer: in turn with a Docker Swarm of the same size",
        run: services::run,
    },
    Figure {
        name: "failover",
        arguments: "[rounds=10]",
        about: "the leader's host killed: next accepted write, and its tasks running elsewhere",
        run: failover::run,
    },
    Figure {
        name: "overlay",
        arguments: "[seconds=5] [rounds=3]",
        about: "iperf3 between containers of two hosts beside the hosts' own link, and on a bridge",
        run: overlay::run,
    },
    Figure {
        name: "attach",
        arguments: "[rounds=20]",
        about: "what an endpoint costs: `run` on bridge and overlay beside network none",
        run: attach::run,
    },
    Figure {
        name: "sessions",
        arguments: "[agents=1000] [seconds=20]",
        about: "idle agents: memory and processor time that each costs its manager",
        run: sessions::run,
    },
    Figure {
        name: "unpack",
        arguments: "[rounds=10] [megabytes=200] [--disk]",
        about: "a layer of this machine's files unpacked, beside the decompressor alone and tar; gzip and zstd",
        run: unpack::run,
    },
    Figure {
        name: "pull",
        arguments: "[rounds=5] [--no-docker]",
        about: "`pull` of 200 MB in 5 layers and of 1,000 small files from a registry, beside docker",
        run: pull::run,
    },
    Figure {
        name: "push",
        arguments: "[rounds=5] [--no-docker]",
        about: "`push` of 200 MB in 5 layers to an empty registry and to one that has it, beside docker",
        run: push::run,
    },
    Figure {
        name: "writes",
        arguments: "[rounds=5] [seconds=3]",
        about: "committed 256-byte writes by 1, 64 and 1,000 writers and linearizable reads, 1 and 3 members, beside etcd",
        run: writes::run,
    },
    Figure {
        name: "state",
        arguments: "[tasks=1000000] [rounds=3]",
        about: "so many tasks: memory a task, snapshot under writes, restore (time and memory)",
        run: state::run,
    },
    Figure {
        name: "placement",
        arguments: "[tasks=1000000]",
        about: "the scheduler alone: placements a second on 100, 1,000 and 5,000 nodes while so many tasks get theirs",
        run: placement::run,
    },
    Figure {
        name: "peers",
        arguments: "[MiB=500] [rounds=3] [Mbit/s of a link]",
        about: "3 hosts want one image of a registry: as a service (read once), beside one pull, three pulls and curl",
        run: peers::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match figure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn figure(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        return help();
    };
    if name == "help" || name == "--help" {
        return help();
    }
    if name == member::MEMBER {
        return member::run(arguments);
    }
    if name == state::PROCESS {
        return state::process(arguments);
    }
    if name == sessions::AGENTS {
        return sessions::process(arguments);
    }
    if name == simulated::AGENTS {
        return simulated::process(arguments);
    }
    if [unpack::UNPACK, unpack::DECOMPRESS, unpack::DIGEST].contains(&name.as_str()) {
        return unpack::step(arguments);
    }
    let Some(figure) = FIGURES.iter().find(|figure| figure.name == name.as_str()) else {
        bail!("no figure is named {name:?}; `help` lists them");
    };
    if !rustix::process::geteuid().is_root() {
        bail!("needs root for namespaces and control groups");
    }
    (figure.run)(rest)?.print(name)
}

fn help() -> Result<()> {
    println!("make bench BENCH='name args'\n");
    for figure in FIGURES {
        println!("  {} {}\n      {}", figure.name, figure.arguments, figure.about);
    }
    println!("\nProgress on standard error, one JSON document on standard output, then a summary line.");
    Ok(())
}

/// The argument at `position` among those that are no options, or `default`.
///
/// # Errors
/// When it is no positive number.
fn number(arguments: &[String], position: usize, default: usize) -> Result<usize> {
    let mut plain = arguments.iter().filter(|argument| !argument.starts_with("--"));
    match plain.nth(position) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => bail!("{text:?} is no positive number"),
        },
    }
}

/// Whether the option is given.
fn option(arguments: &[String], name: &str) -> bool {
    arguments.iter().any(|argument| argument == name)
}

/// Refuses options other than `known` and more than `plain` other arguments.
///
/// # Errors
/// With the argument that is not understood.
fn check(arguments: &[String], plain: usize, known: &[&str]) -> Result<()> {
    let mut others = 0;
    for argument in arguments {
        let fine = if argument.starts_with("--") {
            known.contains(&argument.as_str())
        } else {
            others += 1;
            others <= plain
        };
        if !fine {
            bail!("argument {argument:?} is not understood; `help` lists the figures");
        }
    }
    Ok(())
}
