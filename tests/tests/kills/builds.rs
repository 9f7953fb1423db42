//! Walks through builds: whatever the daemon was doing when it died, nothing but cache is left, the cache is sound, and the build can
//! be done again. The client has been sent a whole result or none.

use std::fs;

use anyhow::{Context, Result, ensure};
use pontoon_tests::Host;
use pontoon_tests::process::tool;

use crate::images::whole;
use crate::operation;
use crate::walk::filled;

/// Files alone: COPY, WORKDIR and what is told of an image.
const FILES: &str = "FROM busybox\nWORKDIR /app\nCOPY file .\nENV A=1\n";
/// A program, with a cache mount and a mount of the context.
const RUN: &str = "FROM busybox\nRUN --network=none --mount=type=cache,target=/c --mount=type=bind,target=/src cp /src/file /copied\n";

fn context(host: &Host, name: &str, dockerfile: &str) -> Result<()> {
    let dir = host.folder().join(name);
    fs::create_dir_all(&dir).context("cannot make a folder")?;
    fs::write(dir.join("file"), "text")?;
    fs::write(dir.join("Dockerfile"), dockerfile)?;
    Ok(())
}

fn files(host: &Host) -> Result<()> {
    context(host, "context", FILES)
}

/// Built once before the walk: what the first program of all needs stays, and is no leftover.
fn program(host: &Host) -> Result<()> {
    context(host, "context", RUN)?;
    host.line(&filled(host, BUILD))?;
    CLEAN.iter().try_for_each(|line| host.line(line).map(drop))
}

/// The image store is whole, no image is there that has no name, and the builder's folders are empty.
fn sound(host: &Host) -> Result<()> {
    whole(host)?;
    let dangling = host.line("images --quiet --filter dangling=true")?;
    ensure!(dangling.is_empty(), "an image without a name is left: {dangling}");
    for dir in [
        host.data_dir().join("engine/build/tmp"),
        host.run_dir().join("build"),
        host.data_dir().join("image/rootfs"),
    ] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // The bystander has a root file system.
            let running = host.line("ps --all --quiet --no-trunc")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(running.contains(&name), "{} is left", entry.path().display());
        }
    }
    Ok(())
}

const BUILD: &str = "build --quiet --tag made:1 {folder}/context";
const CLEAN: &[&str] = &["rmi made:1", "builder prune --all --force"];

/// Builds again, and runs what is built.
fn builds(host: &Host, script: &str) -> Result<()> {
    sound(host)?;
    host.line(&filled(host, BUILD))?;
    sound(host)?;
    host.line(&format!("run --rm --network none made:1 {script}"))?;
    Ok(())
}

#[test]
fn build_of_files() {
    operation(BUILD)
        .setup(files)
        .lasting()
        .check(|host| builds(host, "cat /app/file"))
        .clean(CLEAN)
        .walk();
}

#[test]
fn build_with_a_program() {
    operation(BUILD)
        .setup(program)
        .lasting()
        .check(|host| builds(host, "cat /copied"))
        .clean(CLEAN)
        .walk();
}

/// What came out is whole, or nothing came out; then it comes out.
fn hands_out(host: &Host, act: &str, out: &str, look: fn(&str) -> Result<String>) -> Result<()> {
    sound(host)?;
    let path = filled(host, out);
    if fs::symlink_metadata(&path).is_ok() {
        look(&path).context("what was begun is there")?;
    }
    for entry in fs::read_dir(host.folder())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(!name.contains(".part-"), "{name} is left");
    }
    host.line(&filled(host, act))?;
    let listed = look(&path)?;
    ensure!(
        listed.contains("app/file") || listed.contains("manifest.json"),
        "{listed}"
    );
    sound(host)?;
    tool("rm", &["-r", &path]).map(drop)
}

fn archive(path: &str) -> Result<String> {
    tool("tar", &["-tf", path])
}

const TAR: &str = "build --quiet --output type=tar,dest={folder}/out {folder}/context";

#[test]
fn build_to_an_archive_of_files() {
    operation(TAR)
        .setup(files)
        .lasting()
        .check(|host| hands_out(host, TAR, "{folder}/out", archive))
        .clean(&["builder prune --all --force"])
        .walk();
}

const DOCKER: &str = "build --quiet --tag made:1 --output type=docker,dest={folder}/out {folder}/context";

#[test]
fn build_to_an_archive_of_an_image() {
    operation(DOCKER)
        .setup(files)
        .lasting()
        .check(|host| {
            hands_out(host, DOCKER, "{folder}/out", archive)?;
            ensure!(
                host.pontoon(&["inspect", "made:1"])?.code != 0,
                "it is not in the store"
            );
            Ok(())
        })
        .clean(&["builder prune --all --force"])
        .walk();
}

const OCI: &str = "build --quiet --output type=oci,dest={folder}/out {folder}/context";

#[test]
fn build_to_an_oci_archive() {
    operation(OCI)
        .setup(files)
        .lasting()
        .check(|host| hands_out(host, OCI, "{folder}/out", archive))
        .clean(&["builder prune --all --force"])
        .walk();
}

const LOCAL: &str = "build --quiet --output {folder}/out {folder}/context";

#[test]
fn build_to_a_folder() {
    operation(LOCAL)
        .setup(files)
        .lasting()
        .check(|host| {
            // The folder is made first; what is to be in it comes at the end.
            let out = host.folder().join("out");
            let begun = fs::read_dir(&out).is_ok_and(|mut dir| dir.next().is_some());
            ensure!(
                !begun || out.join("app/file").is_file(),
                "a part of the files is there"
            );
            hands_out(host, LOCAL, "{folder}/out", |path| tool("find", &[path]))
        })
        .clean(&["builder prune --all --force"])
        .walk();
}

const CACHE: &str = "build --quiet --tag made:1 --cache-to type=local,dest={folder}/cache --cache-from type=local,src={folder}/seed {folder}/context";

/// A cache comes in as an image and goes out as one.
#[test]
fn build_with_caches() {
    operation(CACHE)
        .setup(|host| {
            files(host)?;
            let seed = "build --quiet --cache-to type=local,dest={folder}/seed {folder}/context";
            let image = host.line(&filled(host, seed))?;
            host.line(&format!("rmi {image}"))?;
            host.line("builder prune --all --force").map(drop)
        })
        .lasting()
        .check(|host| builds(host, "cat /app/file"))
        .clean(CLEAN)
        .walk();
}
