//! Faults of processes, disks and the network while clients write and read ([`super::load`] says what must hold). Which host is asked
//! and which faults come in which order follows from fixed seeds.

use anyhow::{Context, Result, bail, ensure};
use pontoon_tests::view;
use pontoon_tests::{Fleet, Host, LONG, wait_until, with_fleet};
use rustix::process::Signal;

use super::load::{Load, Seed, under_load};
use super::{all_but, label, written};

/// What can be done to the host of a manager and undone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Killed,
    PoweredOff,
    Stopped,
    /// Nothing comes in or goes out.
    Unplugged,
    /// It hears nobody, but is heard.
    Deaf,
    /// It hears, but nobody hears it.
    Mute,
}

const FAULTS: [Fault; 6] = [
    Fault::Killed,
    Fault::PoweredOff,
    Fault::Stopped,
    Fault::Unplugged,
    Fault::Deaf,
    Fault::Mute,
];

impl Fault {
    fn begin(self, host: &Host) -> Result<()> {
        match self {
            Self::Killed => host.kill(),
            Self::PoweredOff => host.power_off(),
            Self::Stopped => host.signal(Signal::STOP),
            Self::Unplugged => host.unplug(),
            Self::Deaf => drop_packets(host, "input", "iifname"),
            Self::Mute => drop_packets(host, "output", "oifname"),
        }
    }

    fn end(self, host: &Host) -> Result<()> {
        match self {
            Self::Killed | Self::PoweredOff => host.start(),
            Self::Stopped => host.signal(Signal::CONT),
            Self::Unplugged => host.plug(),
            Self::Deaf | Self::Mute => host.exec(&["nft", "delete table inet fault"])?.ok().map(drop),
        }
    }
}

fn drop_packets(host: &Host, hook: &str, interface: &str) -> Result<()> {
    let rules = format!(
        "add table inet fault; add chain inet fault cut {{ type filter hook {hook} priority -300; }}; \
         add rule inet fault cut {interface} eth0 drop"
    );
    host.exec(&["nft", &rules])?.ok().map(drop)
}

/// The leader as any of the hosts sees it.
fn leader<'a>(fleet: &'a Fleet, asked: &[&Host]) -> Result<&'a Host> {
    wait_until("somebody leads", LONG, || {
        let found = asked.iter().find_map(|host| fleet.leader(host).ok());
        found.context("nobody leads")
    })
}

/// Waits until a host follows or leads: it accepts a write.
fn takes_part(host: &Host) -> Result<()> {
    wait_until(&format!("{} takes part again", host.name()), LONG, || {
        label(host, "again").map(drop)
    })
}

#[test]
fn each_fault_of_the_leader_under_load() {
    with_fleet(3, |fleet| {
        fleet.ready(3)?;
        under_load(fleet, |load| {
            let mut seed = Seed(5);
            for fault in seed.shuffled(FAULTS.to_vec()) {
                let hosts: Vec<&Host> = fleet.hosts().iter().collect();
                let victim = leader(fleet, &hosts)?;
                let others = all_but(fleet, victim);
                let undo = |error| fault.end(victim).map_or_else(Err, |()| Err(error));
                fault.begin(victim)?;
                let during = (|| {
                    let next = leader_other_than(fleet, &others, victim)?;
                    // A stopped process has been away for longer than an election once another leads.
                    ensure!(next.name() != victim.name());
                    takes_part(others[0])?;
                    load.goes_on()
                })();
                during
                    .with_context(|| format!("{fault:?} of {}", victim.name()))
                    .or_else(undo)?;
                fault.end(victim)?;
                takes_part(victim).with_context(|| format!("after {fault:?}"))?;
            }
            Ok(())
        })
    });
}

fn leader_other_than<'a>(fleet: &'a Fleet, asked: &[&Host], old: &Host) -> Result<&'a Host> {
    wait_until("another leads", LONG, || {
        let now = leader(fleet, asked)?;
        ensure!(now.name() != old.name(), "{} still leads", now.name());
        Ok(now)
    })
}

#[test]
fn faults_at_once_under_load_and_a_manager_replaced() {
    with_fleet(4, |fleet| {
        fleet.load_images()?;
        // The fourth is a stranger until it takes a manager's place.
        fleet
            .host(1)
            .ok(&["swarm", "init", "--advertise-addr", &fleet.host(1).address()])?;
        for number in [2, 3] {
            fleet.join(fleet.host(number), "manager")?;
        }
        fleet.join(fleet.host(4), "worker")?;
        fleet.host(1).ok(&["node", "promote", "host4"])?;
        wait_until("four managers", LONG, || {
            let nodes = view::nodes(fleet.host(1))?;
            ensure!(nodes.iter().all(|node| node.is_manager()), "{nodes:?}");
            Ok(())
        })?;
        under_load(fleet, |load| {
            let mut seed = Seed(11);
            for round in 0..3 {
                // Two at once: four managers lose their majority, and have it again when the first of them is back.
                let hosts = seed.shuffled(fleet.hosts().iter().collect::<Vec<_>>());
                let faults = seed.shuffled(FAULTS.to_vec());
                let pairs: Vec<(Fault, &Host)> = faults.into_iter().zip(hosts).take(2).collect();
                for (fault, host) in &pairs {
                    fault.begin(host)?;
                }
                let standing: Vec<&Host> = fleet
                    .hosts()
                    .iter()
                    .filter(|host| pairs.iter().all(|(_, victim)| victim.number() != host.number()))
                    .collect();
                let refused = wait_until("the others refuse without a majority", LONG, || {
                    let output = standing[0].pontoon(&[
                        "node",
                        "update",
                        "--label-add",
                        "written=minority",
                        "host1",
                    ])?;
                    output.fails(1, &["leader"]).map(drop)
                });
                let mut ended = Vec::new();
                for (fault, host) in &pairs {
                    ended.push(fault.end(host));
                }
                refused.with_context(|| format!("round {round}: {pairs:?}"))?;
                for outcome in ended {
                    outcome?;
                }
                for (_, host) in &pairs {
                    takes_part(host).with_context(|| format!("round {round}"))?;
                }
                load.goes_on()?;
            }
            replace(fleet, load)
        })
    });
}

/// The leader is demoted, leaves and comes back as another node.
fn replace(fleet: &Fleet, load: &Load) -> Result<()> {
    let hosts: Vec<&Host> = fleet.hosts().iter().collect();
    let old = leader(fleet, &hosts)?;
    let others = all_but(fleet, old);
    let id = old.ok(&["node", "inspect", "--format", "{{.ID}}", "self"])?;
    others[0].ok(&["node", "demote", &id])?;
    wait_until("it is a worker", LONG, || {
        ensure!(view::node(others[0], &old.name())?.manager.is_empty());
        old.pontoon(&["node", "ls"])?
            .fails(1, &["not a swarm manager"])
            .map(drop)
    })?;
    load.goes_on()?;
    old.ok(&["swarm", "leave"])?;
    wait_until("its old node is removed", LONG, || {
        others[0].ok(&["node", "rm", "--force", &id])
    })?;
    let asked = others[0];
    let token = asked.ok(&["swarm", "join-token", "--quiet", "manager"])?;
    let remote = format!("{}:2377", asked.address());
    let join = [
        "swarm",
        "join",
        "--token",
        &token,
        "--advertise-addr",
        &old.address(),
        &remote,
    ];
    wait_until("it is taken in", LONG, || old.ok(&join).map(drop))?;
    takes_part(old)?;
    load.goes_on()
}

#[test]
fn a_managers_disk_is_full() {
    with_fleet(3, |fleet| {
        fleet.load_images()?;
        let small = fleet.host(3);
        small.stop()?;
        // A file system of its own for the log, which the daemon alone sees.
        let (image, folder) = (small.folder().join("disk"), small.data_dir().join("cluster"));
        std::fs::create_dir_all(&folder)?;
        let file = std::fs::File::create(&image)?;
        file.set_len(512 << 20)?;
        pontoon_tests::process::tool(
            "mkfs.ext4",
            &["-q", "-O", "^has_journal", &image.display().to_string()],
        )?;
        small.start_with(&format!("mount -o loop {} {}", image.display(), folder.display()))?;
        fleet.form_cluster(3)?;
        under_load(fleet, |load| {
            let pid = small.daemon_pid().context("no daemon")?;
            let inside =
                std::path::PathBuf::from(format!("/proc/{pid}/root")).join(folder.strip_prefix("/")?);
            let filler = inside.join("filler");
            fill(&filler)?;
            // It may have room in its segment for a while; in the end it says what is wrong, and the others go on.
            let big = "x".repeat(64 << 10);
            let mut number = 0;
            wait_until("the manager notices", LONG, || {
                number += 1;
                let annotation = format!("big={number}{big}");
                fleet
                    .host(1)
                    .ok(&["node", "update", "--label-add", &annotation, "host1"])?;
                let log = std::fs::read_to_string(small.log())?;
                ensure!(
                    log.contains("disk failed") || log.contains("No space left"),
                    "{}",
                    small.log_tail(3)
                );
                Ok(())
            })?;
            load.goes_on()?;
            std::fs::remove_file(&filler).context("make room")?;
            if label(small, "again").is_err() {
                small.stop()?;
                small.start_with(&format!("mount -o loop {} {}", image.display(), folder.display()))?;
            }
            takes_part(small)
        })?;
        ensure!(written(small)? == "again");
        Ok(())
    });
}

/// Takes all room of a file system.
fn fill(path: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for size in [1 << 20, 4 << 10, 1] {
        let block = vec![1_u8; size];
        loop {
            match file.write_all(&block).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(28) => break,
                Err(error) => bail!("fill {}: {error}", path.display()),
            }
        }
    }
    Ok(())
}
