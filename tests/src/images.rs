//! The images of tests and demo, made FROM scratch on this machine: there is no registry to pull from. `web:1` and `web:2` hold
//! the [`web`](../bin/web) program and differ in one variable, `busybox` holds Debian's static busybox.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pontoon_image::ContainerConfig;
use pontoon_image::Reference;
use pontoon_image::scratch::Builder;

use crate::process::tool;
use crate::programs;

const BUSYBOX: &str = "/bin/busybox";

/// Writes all test images as `docker load` archives into `folder` and returns their paths.
///
/// # Errors
/// When a program is missing or a file can't be written.
pub fn write_all(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut archives = vec![write_web(folder, 1)?, write_web(folder, 2)?];
    archives.push(write_busybox(folder)?);
    Ok(archives)
}

/// Writes `web:<version>`.
///
/// # Errors
/// As [`write_all`].
pub fn write_web(folder: &Path, version: u32) -> Result<PathBuf> {
    let config = ContainerConfig {
        entrypoint: Some(vec!["/web".to_owned()]),
        cmd: Some(vec!["serve".to_owned()]),
        env: vec!["PATH=/".to_owned(), format!("VERSION={version}")],
        ..ContainerConfig::default()
    };
    let image = Builder::new()
        .host_file("/web", 0o755, &programs::web()?)?
        .config(config);
    write(image, folder, &format!("web:{version}"))
}

/// Writes `busybox:latest`.
///
/// # Errors
/// As [`write_all`].
pub fn write_busybox(folder: &Path) -> Result<PathBuf> {
    let mut image = Builder::new()
        .host_file("/bin/busybox", 0o755, Path::new(BUSYBOX))?
        .file(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/www:/bin/false\n",
        )
        .file("/etc/group", 0o644, "root:x:0:\nwww:x:33:\nstaff:x:50:www\n")
        .dir("/root", 0o700)
        .dir("/tmp", 0o1777)
        .dir("/www", 0o755);
    for applet in tool(BUSYBOX, &["--list"])?
        .lines()
        .filter(|name| *name != "busybox")
    {
        image = image.symlink(&format!("/bin/{applet}"), "busybox");
    }
    let config = ContainerConfig {
        cmd: Some(vec!["sh".to_owned()]),
        env: vec!["PATH=/bin".to_owned()],
        ..ContainerConfig::default()
    };
    write(image.config(config), folder, "busybox:latest")
}

fn write(image: Builder, folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(format!("{}.tar", name.replace(':', "-")));
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let reference = Reference::parse(name)?;
    image.write(&[reference], std::io::BufWriter::new(file))?;
    Ok(path)
}
