//! Blobs go on from host to host while they still arrive from the registry, which gives each byte once; and hosts of the chain, or the registry,
//! that are gone in the middle: the others go on with what they have.

use anyhow::{Context, Result, ensure};
use pontoon_tests::gate::Gate;
use pontoon_tests::registry::{Registry, User};
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, wait_until, with_fleet};

use super::registry::{create, push_app, reads, start_registry};
use super::{fetched, lines_with, number, partial};

const MIB: u64 = 1 << 20;
/// What the gate lets through at first, and what then must be on a host: the rest are answers' heads and small blobs.
const LET: u64 = 8 * MIB;
const ARRIVED: u64 = 6 * MIB;
/// Size of the image's large layer in MiB.
const LAYER: u32 = 24;

/// A service with a task on every host but the first; its image is held in the middle of its large layer.
struct Held {
    gate: Gate,
    _registry: Registry,
}

impl Held {
    fn new(fleet: &Fleet) -> Result<Self> {
        let first = fleet.host(1);
        let registry = start_registry(fleet, "")?;
        push_app(fleet, &User::new(first)?, &registry, LAYER)?;
        fleet.form_cluster(1)?;
        let gate = Gate::at(first, &format!("{}:5001", first.address()), &registry.address)?;
        gate.limit(LET);
        let options = ["--mode", "global", "--constraint", "node.hostname!=host1"];
        create(first, &gate.name("app:1"), &options)?;
        let held = Self {
            gate,
            _registry: registry,
        };
        // All have what has passed: more in all than has passed.
        for host in &fleet.hosts()[1..] {
            wait_until("the first part is on all hosts", LONG, || {
                ensure!(
                    partial(host) > ARRIVED,
                    "{}: {} bytes",
                    host.name(),
                    partial(host)
                );
                Ok(())
            })?;
        }
        held.gate.wait_held()?;
        let passed = held.gate.take_passed();
        ensure!(passed <= LET, "{passed} bytes have passed");
        Ok(held)
    }

    /// Lets the rest come, and says how many bytes that were, once so many tasks run.
    fn finish(&self, fleet: &Fleet, tasks: usize) -> Result<u64> {
        self.gate.open();
        wait_until("the tasks run", LONG, || {
            let running = view::tasks(fleet.host(1), "app")?;
            let running = running.iter().filter(|task| task.state.starts_with("Running"));
            ensure!(
                running.count() >= tasks,
                "{:?}",
                view::tasks(fleet.host(1), "app")
            );
            Ok(())
        })?;
        Ok(self.gate.take_passed())
    }
}

/// Where a host has gone for the image last: a node's id; nothing for the registry.
fn source(host: &Host) -> Result<Option<String>> {
    let lines = lines_with(host, &["fetches an image from"])?;
    let line = lines
        .last()
        .with_context(|| format!("{} fetches nothing", host.name()))?;
    let node = line
        .split_once("node=")
        .map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
    Ok(node.map(|node| node.trim_matches('"').to_owned()))
}

/// The hosts from the registry on, each before the one that it gives to.
fn chain(fleet: &Fleet) -> Result<Vec<&Host>> {
    let nodes = view::nodes(fleet.host(1))?;
    let mut chain: Vec<&Host> = Vec::new();
    let mut from = None;
    loop {
        let mut next = None;
        for host in &fleet.hosts()[1..] {
            if !chain.iter().any(|known| known.name() == host.name()) && source(host)? == from {
                next = Some(host);
            }
        }
        let Some(host) = next else { return Ok(chain) };
        let node = nodes.iter().find(|node| node.hostname == host.name());
        from = Some(node.context("no such node")?.id.clone());
        chain.push(host);
    }
}

#[test]
fn blobs_go_on_from_host_to_host_while_they_arrive() {
    with_fleet(4, |fleet| {
        let held = Held::new(fleet)?;
        let chain = chain(fleet)?;
        ensure!(chain.len() == 3, "the hosts don't hang on each other one by one");
        let passed = held.finish(fleet, 3)?;
        ensure!(
            passed < (u64::from(LAYER) + 4) * MIB - ARRIVED,
            "{passed} bytes passed"
        );
        let (blobs, manifests) = (reads(fleet, "blobs")?, reads(fleet, "manifests")?);
        ensure!(
            blobs.len() == 3 && blobs.values().all(|count| *count == 1),
            "{blobs:?}"
        );
        ensure!(manifests.values().sum::<usize>() == 1, "{manifests:?}");
        // Each from the one before it, all of it.
        ensure!(lines_with(chain[0], &["fetched an image from a node"])?.is_empty());
        for pair in chain.windows(2) {
            let line = fetched(pair[1])?;
            ensure!(
                number(&line, "blobs")? == 4 && number(&line, "bytes")? > 24 * MIB,
                "{line}"
            );
            let from = source(pair[1])?.context("not from a node")?;
            ensure!(line.contains(&from), "{line}, not from {from}");
        }
        for host in fleet.hosts() {
            ensure!(
                partial(host) == 0,
                "{} bytes stay on {}",
                partial(host),
                host.name()
            );
        }
        Ok(())
    });
}

#[test]
fn when_the_host_that_fetches_dies_another_goes_on_where_it_was() {
    with_fleet(4, |fleet| {
        let held = Held::new(fleet)?;
        let chain = chain(fleet)?;
        ensure!(chain.len() == 3, "the hosts don't hang on each other one by one");
        chain[0].kill()?;
        let passed = held.finish(fleet, 2)?;
        // What had come to the others is not asked for again.
        ensure!(
            passed < (u64::from(LAYER) + 4) * MIB - ARRIVED,
            "{passed} bytes passed"
        );
        ensure!(
            source(chain[1])?.is_none() || source(chain[2])?.is_none(),
            "nobody asked the registry"
        );
        Ok(())
    });
}

#[test]
fn when_a_host_in_the_middle_dies_the_next_one_goes_on_elsewhere() {
    with_fleet(4, |fleet| {
        let held = Held::new(fleet)?;
        let chain = chain(fleet)?;
        ensure!(chain.len() == 3, "the hosts don't hang on each other one by one");
        let dead = source(chain[2])?;
        chain[1].kill()?;
        // Before anything more has come: the last one hangs on the first one now.
        wait_until("the last one has another source", LONG, || {
            let now = source(chain[2])?;
            ensure!(now.is_some() && now != dead, "{now:?}");
            Ok(())
        })?;
        let passed = held.finish(fleet, 2)?;
        ensure!(
            passed < (u64::from(LAYER) + 4) * MIB - ARRIVED,
            "{passed} bytes passed"
        );
        let bytes = number(&fetched(chain[2])?, "bytes")?;
        ensure!(
            bytes < (u64::from(LAYER) + 4) * MIB - ARRIVED,
            "{bytes} bytes came from the first one"
        );
        Ok(())
    });
}

#[test]
fn when_the_registry_fails_in_the_middle_others_try_and_go_on_where_it_was() {
    with_fleet(3, |fleet| {
        let held = Held::new(fleet)?;
        let chain = chain(fleet)?;
        ensure!(chain.len() == 2, "the hosts don't hang on each other one by one");
        held.gate.cut();
        wait_until("the other one's turn has come", LONG, || {
            let now = source(chain[1])?;
            ensure!(now.is_none(), "it waits for {now:?}");
            Ok(())
        })?;
        let passed = held.finish(fleet, 2)?;
        ensure!(
            passed < (u64::from(LAYER) + 4) * MIB - ARRIVED,
            "{passed} bytes passed"
        );
        ensure_running(fleet.host(1), "app", 2).map(drop)
    });
}
