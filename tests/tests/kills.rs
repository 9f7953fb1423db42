//! SIGKILL at every step: the daemon, a shim or a container in the making dies right before each change that an operation makes
//! outside its memory (system calls, counted by the `killer` program). After a new start nothing is leaked, nothing that ran before is lost, and the
//! operation can be done again.
//!
//! Each test walks through all steps. `PONTOON_FAULTS_STRIDE=7` takes every seventh only.

use anyhow::{Context, Result, ensure};
use pontoon_tests::footprint::Footprint;
use pontoon_tests::killer::{Killer, Outcome, Victim};
use pontoon_tests::{Host, LONG, SHORT, process, wait_until, with_fleet};

/// An operation to be interrupted. Its container is called `box`.
struct Operation {
    /// Commands that make what the operation works on.
    before: &'static [&'static [&'static str]],
    /// The operation.
    act: &'static [&'static str],
    /// States that the container may be in after the interruption and a new start; `gone` is none.
    after: &'static [&'static str],
    /// What must succeed then, except on a container that is gone.
    again: &'static [&'static [&'static str]],
    /// What the operation makes may stay as it is, made or half removed, until `clean`.
    lasting: bool,
    /// Removes what is left; may find nothing.
    clean: &'static [&'static [&'static str]],
}

const RM: &[&str] = &["rm", "--force", "--volumes", "box"];

/// What runs all the time beside the operation, and must not be touched.
struct Bystander {
    pid: String,
}

impl Bystander {
    fn start(host: &Host) -> Result<Self> {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "bystander",
            "--publish",
            "9090:8080",
            "web:1",
        ])?;
        Ok(Self { pid: pid(host)? })
    }

    fn check(&self, host: &Host) -> Result<()> {
        let now = pid(host)?;
        ensure!(now == self.pid, "the bystander was {} and is {now}", self.pid);
        wait_until("the bystander answers", SHORT, || {
            host.get("http://127.0.0.1:9090/")
        })?;
        Ok(())
    }
}

fn pid(host: &Host) -> Result<String> {
    host.ok(&[
        "inspect",
        "--format",
        "{{.State.Status}} {{.State.Pid}}",
        "bystander",
    ])
}

fn state(host: &Host) -> Result<String> {
    let listed = host.ok(&["ps", "--all", "--filter", "name=box", "--format", "{{.State}}"])?;
    Ok(if listed.is_empty() {
        "gone".to_owned()
    } else {
        listed
    })
}

fn stride() -> usize {
    let wanted = std::env::var("PONTOON_FAULTS_STRIDE").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

fn as_before(host: &Host, before: &Footprint) -> Result<()> {
    wait_until("the host is as before", LONG, || {
        host.footprint()?.ensure_nothing_since(before)
    })
}

fn clean(host: &Host, operation: &Operation) -> Result<()> {
    for command in operation.clean {
        host.pontoon(command)?;
    }
    Ok(())
}

/// A host with images, everything warm, and a bystander.
fn scene(test: impl FnOnce(&Host, &Bystander) -> Result<()>) {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("skipped: the killer knows the registers of x86-64 only");
        return;
    }
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.ok(&["run", "--rm", "--publish", "7070:7070", "busybox", "true"])?;
        // netd stays once there was a network with names.
        host.ok(&["network", "create", "warm"])?;
        host.ok(&["run", "--rm", "--network", "warm", "busybox", "true"])?;
        host.ok(&["network", "rm", "warm"])?;
        let bystander = Bystander::start(host)?;
        test(host, &bystander)
    });
}

/// Kills the victim at each step of the operation.
fn walk(victim: Victim, operation: &Operation) {
    scene(|host, bystander| {
        let before = host.footprint()?;
        let mut step = 1;
        loop {
            for command in operation.before {
                host.ok(command)?;
            }
            let killer = Killer::aim(host, victim, step)?;
            let output = host.pontoon(operation.act)?;
            match killer.outcome()? {
                Outcome::Survived(steps) => {
                    output.ok()?;
                    clean(host, operation)?;
                    as_before(host, &before)?;
                    ensure!(steps > 0, "no steps were seen");
                    eprintln!("{:?}: {steps} steps", operation.act);
                    return Ok(());
                }
                Outcome::Killed(what) => {
                    let at = format!("{victim:?} killed at step {what} of {:?}", operation.act);
                    eprintln!("{at}");
                    if victim == Victim::Daemon {
                        host.wait_killed()?;
                        host.start().with_context(|| at.clone())?;
                    }
                    after_kill(host, bystander, operation, &before)
                        .with_context(|| format!("{at}\n{output}"))?;
                }
            }
            step += stride();
        }
    });
}

fn after_kill(host: &Host, bystander: &Bystander, operation: &Operation, before: &Footprint) -> Result<()> {
    let settled = wait_until("the container settles", LONG, || {
        let state = state(host)?;
        ensure!(operation.after.contains(&state.as_str()), "it is {state}");
        Ok(state)
    })?;
    if settled != "running" && !operation.lasting {
        // What does not run holds nothing but its record and its files.
        wait_until("nothing is left of the interrupted work", LONG, || {
            let mut left = host.footprint()?.since(before);
            left.retain(|thing| !thing.starts_with("file ") || thing.contains("/run/"));
            ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
            Ok(())
        })?;
    }
    bystander.check(host)?;
    if settled != "gone" {
        for command in operation.again {
            host.ok(command)?;
        }
    }
    clean(host, operation)?;
    as_before(host, before)
}

const CREATED: &[&str] = &[
    "create",
    "--name",
    "box",
    "--publish",
    "8080:8080",
    "busybox",
    "sleep",
    "1000",
];

#[test]
fn create() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[],
            act: CREATED,
            after: &["created", "gone"],
            again: &[&["start", "box"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn start() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED],
            act: &["start", "box"],
            after: &["created", "exited", "running"],
            again: &[&["start", "box"], &["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn stop() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED, &["start", "box"]],
            act: &["stop", "--time", "0", "box"],
            after: &["exited", "running"],
            again: &[&["start", "box"], &["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn remove() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED],
            act: &["rm", "box"],
            after: &["created", "gone"],
            again: &[&["start", "box"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn forced_remove() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED, &["start", "box"]],
            act: RM,
            after: &["exited", "running", "gone"],
            again: &[&["start", "box"], &["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn exec() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED, &["start", "box"]],
            act: &["exec", "box", "true"],
            after: &["running"],
            again: &[&["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn run_and_remove() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[],
            act: &["run", "--rm", "--name", "box", "busybox", "true"],
            after: &["created", "gone"],
            again: &[&["start", "--attach", "box"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn networks() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[],
            act: &["network", "create", "netbox"],
            after: &["gone"],
            again: &[],
            lasting: true,
            clean: &[&["network", "rm", "netbox"]],
        },
    );
}

#[test]
fn network_remove() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[&["network", "create", "netbox"]],
            act: &["network", "rm", "netbox"],
            after: &["gone"],
            again: &[],
            lasting: true,
            clean: &[&["network", "rm", "netbox"]],
        },
    );
}

#[test]
fn volume_create() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[],
            act: &["volume", "create", "volbox"],
            after: &["gone"],
            again: &[],
            lasting: true,
            clean: &[&["volume", "rm", "volbox"]],
        },
    );
}

#[test]
fn volume_remove() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[
                &["volume", "create", "volbox"],
                &[
                    "run",
                    "--rm",
                    "--volume",
                    "volbox:/data",
                    "busybox",
                    "touch",
                    "/data/file",
                ],
            ],
            act: &["volume", "rm", "volbox"],
            after: &["gone"],
            again: &[],
            lasting: true,
            clean: &[&["volume", "rm", "volbox"]],
        },
    );
}

/// Volumes with and without names come and go with their container.
#[test]
fn create_with_volumes() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[],
            act: &[
                "create",
                "--name",
                "box",
                "--volume",
                "volbox:/data",
                "--volume",
                "/www",
                "busybox",
                "sleep",
                "1000",
            ],
            after: &["created", "gone"],
            again: &[&["start", "box"]],
            lasting: true,
            clean: &[
                RM,
                &["volume", "rm", "volbox"],
                &["volume", "prune", "--force", "--all"],
            ],
        },
    );
}

#[test]
fn start_with_volumes() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[&[
                "create",
                "--name",
                "box",
                "--volume",
                "volbox:/bin",
                "--volume",
                "/www",
                "--network",
                "none",
                "busybox",
                "sleep",
                "1000",
            ]],
            act: &["start", "box"],
            after: &["created", "exited", "running"],
            again: &[
                &["start", "box"],
                &["exec", "box", "/bin/busybox", "ls", "/bin/sh"],
            ],
            lasting: true,
            clean: &[
                RM,
                &["volume", "rm", "volbox"],
                &["volume", "prune", "--force", "--all"],
            ],
        },
    );
}

#[test]
fn remove_with_volumes() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[&[
                "create",
                "--name",
                "box",
                "--volume",
                "/www",
                "--network",
                "none",
                "busybox",
                "sleep",
                "1000",
            ]],
            act: RM,
            after: &["created", "gone"],
            again: &[&["start", "box"]],
            lasting: true,
            clean: &[RM, &["volume", "prune", "--force", "--all"]],
        },
    );
}

#[test]
fn commit() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[&[
                "run",
                "--name",
                "box",
                "--network",
                "none",
                "busybox",
                "sh",
                "-c",
                "echo new >/tmp/file",
            ]],
            act: &["commit", "box", "made:1"],
            after: &["exited"],
            again: &[
                &["commit", "box", "made:2"],
                &["run", "--rm", "--network", "none", "made:2", "cat", "/tmp/file"],
            ],
            lasting: true,
            clean: &[RM, &["rmi", "made:1"], &["rmi", "made:2"]],
        },
    );
}

#[test]
fn copy() {
    for state in [&[CREATED][..], &[CREATED, &["start", "box"]]] {
        walk(
            Victim::Daemon,
            &Operation {
                before: state,
                act: &["cp", "/bin/busybox", "box:/tmp/copied"],
                after: &["created", "running"],
                again: &[
                    &["cp", "/bin/busybox", "box:/tmp/copied"],
                    &["start", "box"],
                    &["exec", "box", "ls", "/tmp/copied"],
                ],
                lasting: true,
                clean: &[RM],
            },
        );
    }
}

#[test]
fn rename_and_update() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[&[
                "create",
                "--name",
                "old",
                "--network",
                "none",
                "busybox",
                "sleep",
                "1000",
            ]],
            act: &["rename", "old", "box"],
            after: &["created", "gone"],
            again: &[&["start", "box"]],
            lasting: true,
            clean: &[RM, &["rm", "--force", "old"]],
        },
    );
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED, &["start", "box"]],
            act: &[
                "update",
                "--memory",
                "64m",
                "--memory-swap",
                "64m",
                "--restart",
                "on-failure",
                "box",
            ],
            after: &["running"],
            again: &[
                &["update", "--memory", "32m", "--memory-swap", "32m", "box"],
                &["exec", "box", "true"],
            ],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn pause_and_unpause() {
    for (before, act) in [
        (&[CREATED, &["start", "box"]][..], &["pause", "box"][..]),
        (
            &[CREATED, &["start", "box"], &["pause", "box"]],
            &["unpause", "box"],
        ),
    ] {
        walk(
            Victim::Daemon,
            &Operation {
                before,
                act,
                after: &["running", "paused"],
                again: &[&["restart", "--time", "0", "box"], &["exec", "box", "true"]],
                lasting: true,
                clean: &[RM],
            },
        );
    }
}

#[test]
fn restart_of_a_container() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED, &["start", "box"]],
            act: &["restart", "--time", "0", "box"],
            after: &["running", "exited"],
            again: &[&["start", "box"], &["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn shim_at_start() {
    walk(
        Victim::Shim,
        &Operation {
            before: &[CREATED],
            act: &["start", "box"],
            after: &["created", "exited"],
            again: &[&["start", "box"], &["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

#[test]
fn container_in_the_making() {
    walk(
        Victim::Child,
        &Operation {
            before: &[CREATED],
            act: &["start", "box"],
            after: &["created", "exited"],
            again: &[&["start", "box"], &["exec", "box", "true"]],
            lasting: false,
            clean: &[RM],
        },
    );
}

/// The daemon dies, with one container running, one half removed and one that has ended, and then dies again while it starts.
#[test]
fn restart() {
    scene(|host, bystander| {
        let before = host.footprint()?;
        let mut step = 1;
        loop {
            host.ok(&["create", "--name", "made", "busybox", "true"])?;
            host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
            host.ok(&[
                "run", "--detach", "--rm", "--name", "ends", "busybox", "sleep", "1000",
            ])?;
            let ends = host.ok(&["inspect", "--format", "{{.State.Pid}}", "ends"])?;
            host.kill()?;
            process::tool("kill", &["-KILL", &ends])?;
            host.start_stopped()?;
            let killer = Killer::aim(host, Victim::Daemon, step)?;
            wait_until("the daemon is up or dead", LONG, || {
                let is_up = || -> Result<bool> {
                    let listed = host.pontoon(&["ps", "--all", "--quiet", "--filter", "name=ends"])?;
                    Ok(listed.code == 0 && listed.stdout.is_empty())
                };
                ensure!(host.has_ended() || is_up()?);
                Ok(())
            })?;
            let killed = killer.outcome()?;
            if let Outcome::Killed(what) = &killed {
                eprintln!("killed at step {what} of the start");
                host.wait_killed()?;
                host.start().with_context(|| format!("after a kill at {what}"))?;
            }
            let check = || -> Result<()> {
                bystander.check(host)?;
                host.ok(&["exec", "box", "true"])?;
                host.ok(&["start", "made"])?;
                wait_until("what has ended is removed", LONG, || {
                    ensure!(
                        host.ok(&["ps", "--all", "--quiet", "--filter", "name=ends"])?
                            .is_empty()
                    );
                    Ok(())
                })?;
                host.ok(&["rm", "--force", "box", "made"])?;
                as_before(host, &before)
            };
            check().with_context(|| format!("{killed:?}"))?;
            match killed {
                Outcome::Survived(steps) => {
                    ensure!(steps > 0, "no steps were seen");
                    return Ok(());
                }
                Outcome::Killed(_) => step += stride(),
            }
        }
    });
}

/// The network that containers of the tests below join.
const NET: &[&str] = &["network", "create", "--ipv6", "net"];
const UNNET: &[&str] = &["network", "rm", "--force", "net"];

#[test]
fn network_connect() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[CREATED, &["start", "box"], NET],
            act: &["network", "connect", "net", "box"],
            after: &["running"],
            again: &[
                &["network", "disconnect", "--force", "net", "box"],
                &["network", "connect", "net", "box"],
                &["exec", "box", "true"],
            ],
            lasting: false,
            clean: &[RM, UNNET],
        },
    );
}

#[test]
fn network_disconnect() {
    walk(
        Victim::Daemon,
        &Operation {
            before: &[
                CREATED,
                &["start", "box"],
                NET,
                &["network", "connect", "net", "box"],
            ],
            act: &["network", "disconnect", "net", "box"],
            after: &["running"],
            again: &[
                &["network", "disconnect", "--force", "net", "box"],
                &["network", "connect", "net", "box"],
                &["exec", "box", "true"],
            ],
            lasting: false,
            clean: &[RM, UNNET],
        },
    );
}
