//! Builds by the command line: every instruction in real containers, what the cache knows, what is left behind, what mistakes say.
//!
//! # Layout
//! - [`steps`], [`mounts`]: instructions; [`contexts`]: files; [`cache`]: what is not made again; [`ends`]: results and mistakes
//! - [`registries`]: what is pulled and pushed; [`examples`]: Dockerfiles as users write them

mod cache;
mod contexts;
mod ends;
mod examples;
mod mounts;
mod registries;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use pontoon_tests::process::Output;
use pontoon_tests::{Fleet, Host, with_fleet};

/// One host with the test images.
fn host(test: impl FnOnce(&Host, &Fleet) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        test(fleet.host(1), fleet)
    });
}

/// A context with these files.
fn context(host: &Host, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let dir = host.folder().join(name);
    for (path, content) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&dir))?;
        fs::write(path, content)?;
    }
    Ok(dir)
}

fn build(host: &Host, dir: &Path, flags: &[&str]) -> Result<Output> {
    let dir = dir.display().to_string();
    host.pontoon(&[&["build", "--progress", "plain"], flags, &[&dir]].concat())
}

/// Builds `name`, which has to succeed; gives what was said.
fn built(host: &Host, dir: &Path, name: &str, flags: &[&str]) -> Result<String> {
    let output = build(host, dir, &[&["-t", name], flags].concat())?;
    ensure!(output.code == 0, "{output}");
    Ok(output.stderr)
}

fn run(host: &Host, image: &str, script: &str) -> Result<String> {
    host.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", script])
}

/// How many steps came out of the cache.
fn cached(said: &str) -> usize {
    said.lines().filter(|line| line.ends_with(" CACHED")).count()
}
