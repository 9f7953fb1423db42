//! Walks through what makes and removes images, and what changes a container's files. After each death the image store is whole: no
//! blob is lost, none is left over, and every layer is held as often as it is needed (`image check`).

use std::any::Any;
use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_tests::Host;
use pontoon_tests::process::tool;
use pontoon_tests::registry::{Registry, Settings};

use crate::walk::filled;
use crate::{CREATED, RM, operation};

const LOAD: &str = "load --quiet --input {folder}/seed.tar";
const IMPORT: &str = "import {folder}/plain.tar made:1";

/// Makes archives for `load` and `import`: busybox with one more layer, and a plain tar.
fn archives(host: &Host) -> Result<()> {
    let script = "mkdir /seed && touch /seed/file";
    host.ok(&[
        "run",
        "--name",
        "seed",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    host.ok(&["commit", "--change", "LABEL seed=yes", "seed", "seed:1"])?;
    host.line(&filled(host, "save --output {folder}/seed.tar seed:1"))?;
    host.line("rmi seed:1")?;
    host.line("rm seed")?;
    let folder = host.folder().join("plain");
    fs::create_dir_all(&folder).context("cannot make a folder")?;
    fs::write(folder.join("file"), "text").context("cannot write a file")?;
    let (folder, archive) = (folder.display().to_string(), filled(host, "{folder}/plain.tar"));
    tool("tar", &["-C", &folder, "-cf", &archive, "file"]).map(drop)
}

/// Every blob, layer and count is as it should be.
pub fn whole(host: &Host) -> Result<()> {
    let said = host.ok(&["image", "check"])?;
    ensure!(said.ends_with("0 problems, 0 repaired"), "{said}");
    Ok(())
}

/// The archive can be loaded, or was; nothing of the image is missing then.
fn loads(host: &Host) -> Result<()> {
    whole(host)?;
    host.line(&filled(host, LOAD))?;
    whole(host)
}

/// A registry that has the image.
fn registry(host: &Host) -> Result<Box<dyn Any>> {
    let registry = Registry::start(host, "registry", &Settings::default())?;
    archives(host)?;
    host.line(&filled(host, LOAD))?;
    host.line("tag seed:1 localhost:5000/seed:1")?;
    host.line("push --quiet localhost:5000/seed:1")?;
    host.line("rmi seed:1 localhost:5000/seed:1")?;
    Ok(Box::new(registry))
}

#[test]
fn pull() {
    operation("pull --quiet localhost:5000/seed:1")
        .beside(registry)
        .lasting()
        .check(|host| {
            whole(host)?;
            host.line("pull --quiet localhost:5000/seed:1")?;
            whole(host)
        })
        .clean(&["rmi localhost:5000/seed:1"])
        .walk();
}

#[test]
fn load() {
    operation(LOAD)
        .setup(archives)
        .lasting()
        .check(loads)
        .clean(&["rmi seed:1"])
        .walk();
}

#[test]
fn import() {
    operation(IMPORT)
        .setup(archives)
        .lasting()
        .check(|host| {
            whole(host)?;
            host.line(&filled(host, IMPORT))?;
            whole(host)
        })
        .clean(&["rmi made:1", "image prune --force"])
        .walk();
}

#[test]
fn remove_image() {
    operation("rmi seed:1")
        .setup(archives)
        .before(&[LOAD])
        .lasting()
        .check(loads)
        .clean(&["rmi seed:1"])
        .walk();
}

#[test]
fn prune_images() {
    operation("image prune --force --all --filter label=seed=yes")
        .setup(archives)
        .before(&[LOAD, "tag seed:1 seed:2"])
        .lasting()
        .check(loads)
        .clean(&["rmi seed:1", "rmi seed:2"])
        .walk();
}

#[test]
fn tag() {
    operation("tag busybox made:1")
        .lasting()
        .check(|host| {
            whole(host)?;
            host.line("tag busybox made:1")?;
            host.line("run --rm --network none made:1 true").map(drop)
        })
        .clean(&["rmi made:1"])
        .walk();
}

#[test]
fn commit() {
    operation("commit box made:1")
        .before(&["run --name box --network none busybox touch /tmp/file"])
        .leaves(&["exited"])
        .again(&["commit box made:2", "run --rm --network none made:2 ls /tmp/file"])
        .lasting()
        .check(whole)
        .clean(&[RM, "rmi made:1", "rmi made:2"])
        .walk();
}

const COPY: &str = "cp /bin/busybox box:/tmp/copied";
const COPIED: &[&str] = &[COPY, "start box", "exec box cmp /bin/busybox /tmp/copied"];

#[test]
fn copy_into_a_created_container() {
    operation(COPY)
        .before(&[CREATED])
        .leaves(&["created"])
        .again(COPIED)
        .lasting()
        .walk();
}

#[test]
fn copy_into_a_running_container() {
    operation(COPY)
        .before(&[CREATED, "start box"])
        .leaves(&["running"])
        .again(COPIED)
        .lasting()
        .walk();
}
