//! Pulls and pushes that come to no good end: nothing of them is seen, and the next one goes on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pontoon_tests::gate::Gate;
use pontoon_tests::process::{self, tool};
use pontoon_tests::registry::{Registry, User};
use pontoon_tests::{Host, SHORT, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::bed;

/// Bytes of the large layer: more than sockets and proxies hold on their way.
const LARGE: u64 = 24 << 20;
/// Where a pull of it is stopped.
const PART: u64 = 8 << 20;

/// Makes an image of 24 MiB that don't compress.
fn import_large(host: &Host, user: &User<'_>, name: &str) -> Result<()> {
    let folder = host.folder().join("large");
    fs::create_dir_all(&folder)?;
    let (path, archive) = (folder.join("noise"), host.folder().join("large.tar"));
    let count = format!("count={}", LARGE >> 20);
    let of = format!("of={}", path.display());
    tool("dd", &["if=/dev/urandom", &of, "bs=1M", &count])?;
    let (folder, archive) = (folder.display().to_string(), archive.display().to_string());
    tool("tar", &["-C", &folder, "-cf", &archive, "."])?;
    user.ok(&["import", &archive, name]).map(drop)
}

/// Pushes `large:1` and forgets it here.
fn push_large(host: &Host, registry: &Registry, user: &User<'_>) -> Result<()> {
    let name = registry.name("large:1");
    import_large(host, user, &name)?;
    user.ok(&["push", "-q", &name])?;
    user.ok(&["rmi", &name]).map(drop)
}

/// Starts a command that something else ends. Whoever runs the tests may ignore Ctrl-C, and what it starts would, too.
fn start(user: &User<'_>, arguments: &[&str]) -> Result<std::process::Child> {
    let command = user.command(arguments);
    Command::new("env")
        .arg("--default-signal=INT")
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {arguments:?}"))
}

/// Names in a folder of the image store.
fn names(host: &Host, folder: &str) -> Result<Vec<String>> {
    let path = host.data_dir().join("image").join(folder);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What there is to see of images, but for their age.
fn seen(host: &Host) -> Result<String> {
    let columns = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}} {{.Size}}";
    let images = host.ok(&["images", "--all", "--digests", "--no-trunc", "--format", columns])?;
    let blobs = names(host, "blobs/sha256")?.join(" ");
    let layers = names(host, "layers")?.join(" ");
    Ok(format!("{images}\n{blobs}\n{layers}"))
}

/// A pull that is stopped in the middle of its layer; then `end` ends it. Nothing of it may be seen, and the next pull only fetches
/// what is missing.
fn broken_off(end: impl FnOnce(&Host, std::process::Child) -> Result<()>) {
    bed(|host, registry, user| {
        push_large(host, registry, user)?;
        let gate = Gate::new(host, 5006, "127.0.0.1:5000")?;
        let name = gate.name("large:1");
        let before = seen(host)?;
        gate.limit(PART);
        let client = start(user, &["pull", &name])?;
        gate.wait_held()?;
        wait_until("what has passed is kept", SHORT, || {
            let mut bytes = 0;
            for name in names(host, "partial")? {
                bytes += fs::metadata(host.data_dir().join("image/partial").join(name))?.len();
            }
            ensure!(bytes > PART - (1 << 20), "{bytes} bytes");
            Ok(())
        })?;
        ensure!(seen(host)? == before, "something is seen of a pull under way");
        end(host, client)?;
        wait_until("the broken pull leaves nothing in staging", SHORT, || {
            let staging = names(host, "staging")?;
            ensure!(staging.is_empty(), "{staging:?}");
            Ok(())
        })?;
        ensure!(seen(host)? == before, "something is seen of a broken pull");
        host.ok(&["image", "check"])?;
        user.pontoon(&["run", "--rm", "--pull", "never", &name, "true"])?
            .fails(125, &["No such image"])?;

        gate.open();
        gate.take_passed();
        user.ok(&["pull", &name])?;
        let passed = gate.take_passed();
        ensure!(
            passed < LARGE - PART / 2,
            "{passed} bytes were fetched though a part was here"
        );
        ensure!(host.ok(&["images", "-q", &name])?.len() == 12);
        host.ok(&["image", "check"])?;
        let left = names(host, "partial")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_client_that_leaves() {
    broken_off(|_, mut client| {
        let pid = Pid::from_child(&client);
        kill_process(pid, Signal::INT).context("cannot interrupt the client")?;
        let code = process::end(&mut client, SHORT)?;
        ensure!(code == 130, "Ctrl-C ends it with {code}");
        Ok(())
    });
}

#[test]
fn a_daemon_that_is_killed() {
    broken_off(|host, mut client| {
        host.kill()?;
        let code = process::end(&mut client, SHORT)?;
        ensure!(code == 1, "the client ended with {code}");
        host.start()
    });
}

#[test]
fn a_daemon_that_is_stopped() {
    broken_off(|host, mut client| {
        let code = host.stop()?;
        ensure!(code == 0, "the daemon ended with {code}");
        let code = process::end(&mut client, SHORT)?;
        ensure!(code == 1, "the client ended with {code}");
        host.start()
    });
}

/// The registry shows nothing of a push that was not finished, and the daemon has lost nothing.
#[test]
fn a_push_whose_daemon_is_killed() {
    bed(|host, registry, user| {
        let gate = Gate::new(host, 5007, "127.0.0.1:5000")?;
        let (name, behind) = (gate.name("large:1"), registry.name("large:1"));
        import_large(host, user, &name)?;
        let before = seen(host)?;
        gate.limit_requests(PART);
        let mut client = start(user, &["push", &name])?;
        gate.wait_requests_held()?;
        host.kill()?;
        let code = process::end(&mut client, SHORT)?;
        ensure!(code == 1, "the client ended with {code}");
        host.start()?;
        ensure!(seen(host)? == before, "the daemon has not what it had");
        let staging = names(host, "staging")?;
        ensure!(staging.is_empty(), "{staging:?}");
        user.pontoon(&["pull", &behind])?.fails(1, &["not found"])?;

        gate.open();
        user.ok(&["push", "-q", &name])?;
        user.ok(&["rmi", &name])?;
        user.ok(&["pull", "-q", &behind])?;
        ensure!(seen(host)?.contains(&before.lines().last().unwrap_or_default().to_owned()));
        host.ok(&["image", "check"]).map(drop)
    });
}

#[test]
fn a_full_disk_in_mid_pull() {
    bed(|host, registry, user| {
        push_large(host, registry, user)?;
        let (large, small) = (registry.name("large:1"), registry.name("box:1"));
        user.ok(&["tag", "busybox", &small])?;
        user.ok(&["push", "-q", &small])?;
        host.stop()?;
        // A small disk below the images; gone with the daemon's own mounts.
        let image = host.data_dir().join("image").display().to_string();
        host.start_with(&format!("mount -t tmpfs -o size=16m none {image}"))?;
        user.pontoon(&["pull", &large])?
            .fails(1, &["No space left on device"])?;
        ensure!(host.ok(&["images", "-q"])?.is_empty());
        // The disk is free again: what fits is pulled.
        user.ok(&["pull", "-q", &small])?;
        ensure!(user.ok(&["run", "--rm", &small, "echo", "hi"])? == "hi");
        host.ok(&["image", "check"])?;
        host.stop()?;
        host.start()?;
        user.ok(&["pull", "-q", &large]).map(drop)
    });
}

#[test]
fn an_image_that_changes_under_way() {
    bed(|host, registry, user| {
        push_large(host, registry, user)?;
        let name = registry.name("large:1");
        // What the registry has of its layer is not what it says any more.
        let content = host.folder().join("registry/content");
        let blobs = tool(
            "find",
            &[&content.display().to_string(), "-name", "data", "-size", "+1M"],
        )?;
        let path = blobs.lines().next().context("the registry has no large blob")?;
        let mut bytes = fs::read(path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(Path::new(path), bytes)?;
        let before = seen(host)?;
        user.pontoon(&["pull", &name])?
            .fails(1, &["content of sha256:", "is corrupt"])?;
        ensure!(seen(host)? == before, "something is seen of a corrupt image");
        let left = names(host, "partial")?;
        ensure!(left.is_empty(), "the corrupt blob is kept: {left:?}");
        Ok(())
    });
}
