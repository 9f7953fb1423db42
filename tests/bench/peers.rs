//! One image that no host has, wanted by three hosts at once: as a service, which reads it from its registry once and hands it on from
//! node to node while it arrives, beside one pull, and three pulls at once; and the floor: curl, which reads the same blobs once and then
//! twice at the same time. Links of a bounded rate show what the network costs, unbounded ones what three hosts on one machine do.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_tests::registry::{Registry, Settings};
use pontoon_tests::{Fleet, Host, images, process, wait_until, wire};
use serde_json::json;

use crate::report::{Report, Samples, progress, round};

const HOSTS: usize = 3;
const LAYERS: usize = 5;
/// Megabits a second of a link that is not bounded.
const UNBOUNDED: usize = usize::MAX;
/// What a service on all hosts may take, measured by one pull.
const BUDGET: f64 = 1.3;
const SERVICE: &str = "peers";
const PATIENCE: Duration = Duration::from_secs(600);

/// What one way of getting the image took.
#[derive(Default)]
struct Taken {
    seconds: Samples,
    /// Bytes of blobs that the registry gave.
    bytes: Samples,
    /// Reads of a blob.
    reads: Samples,
}

/// A cluster with a registry on a host that wants nothing itself: its link carries nothing else.
struct Bed<'f> {
    fleet: &'f Fleet,
    registry: Registry,
    image: String,
}

/// Runs the figure.
///
/// # Errors
/// When docker-registry or curl is missing, or a host does not get the image.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 3, &[])?;
    let mebibytes = crate::number(arguments, 0, 500)?;
    let rounds = crate::number(arguments, 1, 3)?;
    let mbits = crate::number(arguments, 2, UNBOUNDED)?;
    let mut report = Report::start()?;
    report.condition("image_mib", json!(mebibytes));
    report.condition("layers", json!(LAYERS));
    report.condition("hosts", json!(HOSTS));
    let fleet = Fleet::new(HOSTS + 1)?;
    if mbits != UNBOUNDED {
        report.condition("link_mbits", json!(mbits));
        for host in fleet.hosts() {
            host.throttle(&format!("{mbits}mbit"))?;
        }
    }
    let bed = Bed::new(&fleet, mebibytes)?;
    let blobs = bed.blobs()?;
    let mut all: [(&str, Taken); 4] = [
        ("service on 3 hosts", Taken::default()),
        ("1 pull", Taken::default()),
        ("3 pulls at once", Taken::default()),
        ("floor: curl, one and then two at once", Taken::default()),
    ];
    for number in 0..rounds {
        for turn in 0..all.len() {
            let which = (number + turn) % all.len();
            let (bytes, reads) = bed.given()?;
            let time = match which {
                0 => bed.serve()?,
                1 => bed.pull(&fleet.hosts()[1..2])?,
                2 => bed.pull(bed.takers())?,
                _ => bed.floor(&blobs)?,
            };
            let taken = &mut all[which].1;
            taken.seconds.push(time.as_secs_f64());
            let (bytes_after, reads_after) = bed.given()?;
            taken
                .bytes
                .push((bytes_after - bytes) as f64 / f64::from(1 << 20));
            taken.reads.push((reads_after - reads) as f64);
            bed.forget()?;
        }
        progress(&format!("round {} of {rounds}", number + 1));
    }
    judge(&mut report, &all, blobs.len());
    Ok(report)
}

fn judge(report: &mut Report, all: &[(&str, Taken); 4], blobs: usize) {
    report.result("blobs of the image", json!(blobs));
    for (name, taken) in all {
        report.samples(name, "s", &taken.seconds);
        report.samples(&format!("{name}, bytes of the registry"), "MiB", &taken.bytes);
        report.samples(&format!("{name}, blobs of the registry"), "", &taken.reads);
    }
    let [(_, service), (_, pull), (_, pulls), (_, floor)] = all;
    let median = |taken: &Taken| taken.seconds.median();
    for (beside, of) in [("1 pull", pull), ("3 pulls", pulls), ("floor", floor)] {
        if median(of) > 0.0 {
            report.result(
                &format!("service / {beside}"),
                json!(round(median(service) / median(of))),
            );
        }
    }
    report.budget(crate::report::budget(
        "blobs that the registry gave, as a share of the image's",
        1.0,
        service.reads.max() / blobs as f64,
        true,
    ));
    report.budget(crate::report::budget(
        "a service on three hosts, in the time of one pull",
        BUDGET,
        median(service) / median(pull),
        true,
    ));
    report.summary(format!(
        "three hosts have the image after {} s, {} MiB of it from the registry; one pull {} s; three pulls {} s, {} MiB; floor {} s",
        round(median(service)),
        round(service.bytes.median()),
        round(median(pull)),
        round(median(pulls)),
        round(pulls.bytes.median()),
        round(median(floor)),
    ));
}

impl<'f> Bed<'f> {
    fn new(fleet: &'f Fleet, mebibytes: usize) -> Result<Self> {
        let (first, last) = (fleet.host(1), fleet.host(HOSTS + 1));
        let address = format!("{}:5000", last.address());
        fleet.trust_registry(&last.address())?;
        let settings = Settings {
            address,
            ..Settings::default()
        };
        let registry = Registry::start(last, "registry", &settings)?;
        let image = registry.name("bench:1");
        progress("making and pushing the image");
        let archive = images::write_busybox(fleet.folder())?.display().to_string();
        first.ok(&["load", "--quiet", "--input", &archive])?;
        let bytes = mebibytes.saturating_mul(1 << 20) / LAYERS;
        let mut below = "busybox".to_owned();
        for layer in 1..=LAYERS {
            let script = format!("head -c {bytes} /dev/urandom >/data{layer}");
            first.ok(&["run", "--name", "maker", &below, "sh", "-c", &script])?;
            first.ok(&["commit", "maker", &image])?;
            first.ok(&["rm", "maker"])?;
            below.clone_from(&image);
        }
        first.ok(&["push", "--quiet", &image])?;
        let bed = Self {
            fleet,
            registry,
            image,
        };
        bed.forget()?;
        fleet.form_cluster(1)?;
        Ok(bed)
    }

    /// Lets all hosts forget every image.
    fn forget(&self) -> Result<()> {
        for host in self.fleet.hosts() {
            host.ok(&["image", "prune", "--all", "--force"])?;
            let left = host.ok(&["images", "--all", "--quiet"])?;
            ensure!(left.is_empty(), "{} has images: {left}", host.name());
        }
        Ok(())
    }

    /// URLs of the image's blobs, found by a pull; the registry has read them once then.
    fn blobs(&self) -> Result<Vec<String>> {
        self.fleet.host(2).ok(&["pull", "--quiet", &self.image])?;
        let paths = self.log()?.into_iter().map(|(path, _)| path);
        let mut blobs: Vec<String> = paths
            .map(|path| format!("http://{}{path}", self.registry.address))
            .collect();
        blobs.sort();
        blobs.dedup();
        self.forget()?;
        Ok(blobs)
    }

    /// Path and bytes of every read of a blob, by the registry's access log.
    fn log(&self) -> Result<Vec<(String, u64)>> {
        let log = self.fleet.host(HOSTS + 1).folder().join("registry/log");
        let log = fs::read(log).context("no log of the registry")?;
        let log = String::from_utf8_lossy(&log);
        let read = |line: &str| {
            let (_, rest) = line.split_once("\"GET ")?;
            let (request, answer) = rest.split_once("\" ")?;
            let path = request.split(' ').next()?;
            let bytes = answer.split(' ').nth(1)?.parse().ok()?;
            path.contains("/blobs/").then(|| (path.to_owned(), bytes))
        };
        Ok(log.lines().filter_map(read).collect())
    }

    /// Bytes of blobs that the registry has given, and how many.
    fn given(&self) -> Result<(u64, usize)> {
        let log = self.log()?;
        Ok((log.iter().map(|(_, bytes)| bytes).sum(), log.len()))
    }

    /// A service with a task on each host, until all run; then it is removed again.
    fn serve(&self) -> Result<Duration> {
        let first = self.fleet.host(1);
        let start = Instant::now();
        let replicas = HOSTS.to_string();
        let constraint = format!("node.hostname!={}", self.fleet.host(HOSTS + 1).name());
        let mut arguments = vec!["service", "create", "--detach", "--quiet", "--name", SERVICE];
        arguments.extend(["--replicas", &replicas, "--replicas-max-per-node", "1"]);
        arguments.extend(["--constraint", &constraint]);
        arguments.extend(["--stop-grace-period", "100ms", &self.image, "sleep", "100000"]);
        first.ok(&arguments)?;
        self.until("all tasks run", |host| {
            Ok(!host.ok(&["ps", "--quiet"])?.is_empty())
        })?;
        let time = start.elapsed();
        first.ok(&["service", "rm", SERVICE])?;
        self.until("no container is left", |host| {
            Ok(host.ok(&["ps", "--all", "--quiet"])?.is_empty())
        })?;
        Ok(time)
    }

    fn takers(&self) -> &[Host] {
        &self.fleet.hosts()[..HOSTS]
    }

    fn until(&self, what: &str, condition: impl Fn(&Host) -> Result<bool>) -> Result<()> {
        for host in self.takers() {
            wait_until(what, PATIENCE, || {
                ensure!(condition(host)?, "not yet on host {}", host.number());
                Ok(())
            })?;
        }
        Ok(())
    }

    fn pull(&self, hosts: &[Host]) -> Result<Duration> {
        let start = Instant::now();
        let pulls = hosts.iter();
        at_once(pulls.map(|host| host.command(&["pull", "--quiet", &self.image])))?;
        Ok(start.elapsed())
    }

    /// Host 2 reads all blobs to its disk, then hosts 1 and 3 do.
    fn floor(&self, blobs: &[String]) -> Result<Duration> {
        let read = |number: usize| {
            let host = self.fleet.host(number);
            let mut command = wire::enter(&host.netns());
            command.args(["curl", "--silent", "--fail", "--parallel", "--parallel-max", "3"]);
            for (index, blob) in blobs.iter().enumerate() {
                let file = host.folder().join(format!("floor{index}"));
                command.arg("--output").arg(file).arg(blob);
            }
            command
        };
        let start = Instant::now();
        at_once([read(2)].into_iter())?;
        at_once([read(1), read(3)].into_iter())?;
        let time = start.elapsed();
        for host in self.takers() {
            for index in 0..blobs.len() {
                fs::remove_file(host.folder().join(format!("floor{index}")))?;
            }
        }
        Ok(time)
    }
}

/// Runs commands at the same time, to the end of the last one.
fn at_once(commands: impl Iterator<Item = Command>) -> Result<()> {
    let commands: Vec<Command> = commands.collect();
    std::thread::scope(|scope| {
        let running: Vec<_> = commands
            .into_iter()
            .map(|command| scope.spawn(move || process::run(command)?.ok()))
            .collect();
        for one in running {
            one.join()
                .map_err(|_| anyhow::anyhow!("a command's thread panicked"))??;
        }
        Ok(())
    })
}
