//! Three hundred containers at once: they start ten at a time, all run, the daemon's descriptors stay few, a daemon that is killed finds all
//! of them again, and nothing is left at the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Host, LONG, wait_until, with_fleet};

const CONTAINERS: usize = 300;
const AT_ONCE: usize = 10;

/// Does something for every number, some at a time; the first error counts.
fn each(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        return;
                    }
                    if let Err(error) = work(number) {
                        next.store(count, Ordering::SeqCst);
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(()),
    }
}

fn descriptors(host: &Host) -> Result<usize> {
    let pid = host.daemon_pid().context("no daemon")?;
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))
        .context("cannot list descriptors")?
        .count())
}

fn running(host: &Host) -> Result<usize> {
    Ok(host.ok(&["ps", "--quiet"])?.lines().count())
}

#[test]
fn three_hundred_containers() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        let host = fleet.host(1);
        host.ok(&["run", "--rm", "--publish", "7070:7070", "busybox", "true"])?;
        let before = host.footprint()?;
        let idle = descriptors(host)?;
        let start = Instant::now();
        each(CONTAINERS, |number| {
            let name = format!("c{number}");
            // Every third on the bridge, the others with nothing.
            let network = if number % 3 == 0 { "bridge" } else { "none" };
            let args = [
                "run",
                "--detach",
                "--name",
                &name,
                "--network",
                network,
                "busybox",
                "sleep",
                "10000",
            ];
            host.ok(&args).map(drop)
        })?;
        eprintln!("{CONTAINERS} started in {:?}", start.elapsed());
        ensure!(running(host)? == CONTAINERS);
        let busy = descriptors(host)?;
        eprintln!("descriptors of the daemon: {idle} before, {busy} with {CONTAINERS} containers");
        ensure!(busy <= idle + 4 * CONTAINERS, "{busy} descriptors");
        each(30, |number| {
            host.ok(&["exec", &format!("c{}", number * 10), "true"]).map(drop)
        })?;
        host.kill()?;
        let start = Instant::now();
        host.start()?;
        ensure!(
            running(host)? == CONTAINERS,
            "{} were found again",
            running(host)?
        );
        eprintln!("a new daemon found them after {:?}", start.elapsed());
        each(30, |number| {
            host.ok(&["exec", &format!("c{}", number * 10 + 3), "true"])
                .map(drop)
        })?;
        ensure!(descriptors(host)? <= idle + 4 * CONTAINERS);
        let start = Instant::now();
        each(CONTAINERS, |number| {
            host.ok(&["stop", "--time", "0", &format!("c{number}")]).map(drop)
        })?;
        eprintln!("stopped in {:?}", start.elapsed());
        ensure!(running(host)? == 0);
        each(CONTAINERS, |number| {
            host.ok(&["rm", &format!("c{number}")]).map(drop)
        })?;
        wait_until("the host is as before", LONG, || {
            host.footprint()?.ensure_nothing_since(&before)?;
            let now = descriptors(host)?;
            ensure!(now <= idle + 20, "{now} descriptors, {idle} before");
            Ok(())
        })
    });
}
