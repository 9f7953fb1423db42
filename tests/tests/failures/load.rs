//! Clients that write and read by the command line while faults happen, and what they were told: the oracle of `faults`.
//!
//! - every service whose creation was acknowledged is there at the end, once, and none that nobody asked for;
//! - a counter that one client increases never goes back, wherever it is read, and no read misses what was acknowledged before it.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::{self, Output};
use pontoon_tests::{Fleet, Host, LONG, wait_until};

/// Clients that create services.
const CREATORS: usize = 2;
/// Acknowledged writes that every fault is to be met with.
const WRITES: u64 = 3;

/// Seconds after which a client gives an answer up: a stopped daemon never gives one, and takes connections all the same.
const PATIENCE: &str = "10";

/// A sequence that is the same in each run (Knuth's MMIX generator).
pub struct Seed(pub u64);

impl Seed {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    pub fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        let mut out = Vec::new();
        while !items.is_empty() {
            let at = self.below(items.len());
            out.push(items.swap_remove(at));
        }
        out
    }
}

/// What clients were told.
#[derive(Default)]
struct Told {
    created: Vec<String>,
    attempted: Vec<String>,
}

pub struct Load<'a> {
    fleet: &'a Fleet,
    done: AtomicBool,
    /// Acknowledged writes so far.
    writes: AtomicU64,
    /// The counter's highest acknowledged value.
    counted: AtomicU64,
}

impl<'a> Load<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        Self {
            fleet,
            done: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            counted: AtomicU64::new(0),
        }
    }

    /// A host whose daemon can be asked.
    fn host(&self, seed: &mut Seed) -> &'a Host {
        let hosts = self.fleet.hosts();
        let at = seed.below(hosts.len());
        &hosts[at]
    }

    fn create(&self, client: usize) -> Result<Told> {
        let mut seed = Seed(client as u64 + 1);
        let mut told = Told::default();
        while !self.done.load(Ordering::Relaxed) {
            let name = format!("s{client}-{}", told.attempted.len());
            let host = self.host(&mut seed);
            let create = [
                "service",
                "create",
                "--detach",
                "--replicas",
                "0",
                "--no-resolve-image",
                "--name",
                &name,
                "web:1",
            ];
            let output = ask(host, &create)?;
            if output.code == 0 {
                told.created.push(name.clone());
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            told.attempted.push(name);
        }
        Ok(told)
    }

    /// Increases the counter, a label of a service.
    fn count(&self) -> Result<()> {
        let mut seed = Seed(77);
        let mut next = 1;
        while !self.done.load(Ordering::Relaxed) {
            let label = format!("n={next}");
            let host = self.host(&mut seed);
            let update = ["service", "update", "--detach", "--label-add", &label, "counter"];
            if ask(host, &update)?.code == 0 {
                self.counted.store(next, Ordering::SeqCst);
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            // One of unknown outcome may have been made: each value is tried once.
            next += 1;
        }
        Ok(())
    }

    /// Reads the counter here and there.
    fn read(&self) -> Result<u64> {
        let mut seed = Seed(99);
        let (mut version, mut value, mut reads) = (0, 0, 0);
        while !self.done.load(Ordering::Relaxed) {
            let host = self.host(&mut seed);
            let acknowledged = self.counted.load(Ordering::SeqCst);
            let Some((now_version, now_value)) = counter(host)? else {
                continue;
            };
            ensure!(
                now_version >= version && now_value >= value,
                "{} says version {now_version}, value {now_value} after {version}, {value} were read",
                host.name()
            );
            ensure!(
                now_value >= acknowledged,
                "{} says {now_value} after {acknowledged} was acknowledged",
                host.name()
            );
            (version, value) = (now_version, now_value);
            reads += 1;
        }
        Ok(reads)
    }

    /// Waits until some more writes have been acknowledged.
    pub fn goes_on(&self) -> Result<()> {
        let wanted = self.writes.load(Ordering::Relaxed) + WRITES;
        wait_until("writes are acknowledged", LONG, || {
            let now = self.writes.load(Ordering::Relaxed);
            ensure!(now >= wanted, "{now} of {wanted}");
            Ok(())
        })
    }
}

/// A client's command; one without an answer fails as any other, of unknown outcome.
fn ask(host: &Host, args: &[&str]) -> Result<Output> {
    let client = host.command(args);
    let mut command = Command::new("timeout");
    command
        .env_remove("PONTOON_HOST")
        .arg(PATIENCE)
        .arg(client.get_program())
        .args(client.get_args());
    process::run(command)
}

/// Version and value of the counter; none when the host can't tell now.
fn counter(host: &Host) -> Result<Option<(u64, u64)>> {
    let format = "{{.Version.Index}} {{index .Spec.Labels \"n\"}}";
    let output = ask(host, &["service", "inspect", "--format", format, "counter"])?;
    if output.code != 0 {
        return Ok(None);
    }
    let text = output.ok()?;
    let (version, value) = text
        .split_once(' ')
        .with_context(|| format!("the answer {text:?}"))?;
    Ok(Some((version.parse()?, value.parse()?)))
}

/// Runs faults under load and looks whether everybody was told the truth.
pub fn under_load(fleet: &Fleet, faults: impl FnOnce(&Load) -> Result<()>) -> Result<()> {
    let load = Load::new(fleet);
    let first = fleet.host(1);
    let create = "service create --detach --replicas 0 --no-resolve-image --label n=0 --name counter web:1";
    first.line(create)?;
    let mut all = Told::default();
    std::thread::scope(|scope| {
        let load = &load;
        let creators: Vec<_> = (0..CREATORS)
            .map(|client| scope.spawn(move || load.create(client)))
            .collect();
        let (count, read) = (scope.spawn(|| load.count()), scope.spawn(|| load.read()));
        let outcome = load.goes_on().and_then(|()| faults(load));
        load.done.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow::anyhow!("a client panicked");
        for creator in creators {
            let told = creator.join().map_err(panicked)??;
            all.created.extend(told.created);
            all.attempted.extend(told.attempted);
        }
        count.join().map_err(panicked)??;
        let reads = read.join().map_err(panicked)??;
        outcome?;
        ensure!(reads > 0, "nothing was read");
        Ok(())
    })?;
    let counted = load.counted.load(Ordering::SeqCst);
    let (created, attempted): (BTreeSet<_>, BTreeSet<_>) = (
        all.created.into_iter().collect(),
        all.attempted.into_iter().collect(),
    );
    for host in fleet.hosts() {
        wait_until("the host answers with everything", LONG, || {
            let (_, value) = counter(host)?.context("no answer")?;
            ensure!(
                value >= counted,
                "the counter is {value}, {counted} was acknowledged"
            );
            let listed = host.ok(&["service", "ls", "--format", "{{.Name}}"])?;
            let mut names: Vec<&str> = listed.lines().filter(|name| *name != "counter").collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            ensure!(names.len() == count, "a service is there twice: {listed}");
            let lost = created
                .iter()
                .find(|name| names.binary_search(&name.as_str()).is_err());
            ensure!(lost.is_none(), "{lost:?} was acknowledged and is lost");
            let stranger = names.iter().find(|name| !attempted.contains(**name));
            ensure!(stranger.is_none(), "nobody asked for {stranger:?}");
            Ok(())
        })?;
    }
    Ok(())
}
