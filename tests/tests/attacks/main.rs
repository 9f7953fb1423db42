//! Known attacks on container engines, by hostile images and by programs in containers, tried through the command line on a real
//! daemon. Each test names the CVE or the rule that it stands for. The runtime's and the image store's own suites try theirs below the engine.

mod files;
mod ports;
mod processes;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pontoon_image::scratch::Builder;
use pontoon_image::{ContainerConfig, Reference};
use pontoon_tests::{Fleet, Host, Output};

/// A shell in a fresh container.
fn sh(host: &Host, options: &[&str], script: &str) -> Result<Output> {
    let mut args = vec!["run", "--rm"];
    args.extend(options);
    args.extend(["busybox", "sh", "-c", script]);
    host.pontoon(&args)
}

/// Loads busybox with more files.
fn load(fleet: &Fleet, host: &Host, name: &str, change: impl FnOnce(Builder) -> Builder) -> Result<()> {
    let mut image = Builder::new().host_file("/bin/busybox", 0o755, Path::new("/bin/busybox"))?;
    for applet in [
        "sh", "cat", "ls", "stat", "id", "sleep", "readlink", "true", "mount",
    ] {
        image = image.symlink(&format!("/bin/{applet}"), "busybox");
    }
    let config = ContainerConfig {
        cmd: Some(vec!["sh".to_owned()]),
        env: vec!["PATH=/bin".to_owned()],
        ..ContainerConfig::default()
    };
    let path = fleet.folder().join(format!("{name}.tar"));
    let file = fs::File::create(&path).context("cannot make an archive")?;
    change(image)
        .config(config)
        .write(&[Reference::parse(name)?], file)?;
    host.ok(&["load", "--quiet", "--input", &path.display().to_string()])?;
    Ok(())
}
