//! Debian's `docker-registry` on a host of the fleet, with or without TLS, passwords and tokens. Tests of pulls and pushes start it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::{self, Output};
use crate::wait::{SHORT, wait_until};
use crate::wire;

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A running registry; it ends with the value.
#[derive(Debug)]
pub struct Registry {
    /// `host:port`, as images are named.
    pub address: String,
    child: Child,
}

/// What a registry is started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `host:port`; the host's own loopback at 5000 if empty.
    pub address: String,
    /// Certificate and key (PEM files).
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Roots of client certificates, which are demanded then.
    pub client_roots: Option<PathBuf>,
    /// The `auth:` section.
    pub auth: String,
}

impl Registry {
    /// Starts a registry in the host's network and waits until it listens.
    ///
    /// # Errors
    /// When the program is missing or does not listen, with its log.
    pub fn start(host: &Host, name: &str, settings: &Settings) -> Result<Self> {
        let address = match settings.address.as_str() {
            "" => "127.0.0.1:5000",
            address => address,
        };
        let folder = host.folder().join(name);
        fs::create_dir_all(&folder).context("cannot make the registry's folder")?;
        let mut text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n  secret: s\n",
            folder.join("content").display()
        );
        if let Some((certificate, key)) = &settings.tls {
            text += &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            );
            if let Some(roots) = &settings.client_roots {
                text += &format!("    clientcas:\n      - {}\n", roots.display());
            }
        }
        text += &settings.auth;
        let config = folder.join("config.yml");
        fs::write(&config, text).context("cannot write the registry's settings")?;
        let log = File::create(folder.join("log")).context("cannot make the registry's log")?;
        let child = wire::enter(&host.netns())
            .args([PROGRAM, "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry")?;
        let registry = Self {
            address: address.replace("127.0.0.1", "localhost"),
            child,
        };
        let (ip, port) = address.rsplit_once(':').context("an address without a port")?;
        wait_until("the registry listens", SHORT, || {
            // bash, as sh has no /dev/tcp.
            let connect = format!("exec 3<>/dev/tcp/{ip}/{port}");
            host.exec(&["bash", "-c", &connect])?.ok().map(drop)
        })
        .with_context(|| fs::read_to_string(folder.join("log")).unwrap_or_default())?;
        Ok(registry)
    }

    /// `host:port/name`
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A user with a folder of Docker's own settings.
#[derive(Debug)]
pub struct User<'h> {
    host: &'h Host,
    folder: PathBuf,
}

impl<'h> User<'h> {
    /// One who has nothing yet.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn new(host: &'h Host) -> Result<Self> {
        let folder = host.folder().join("docker");
        fs::create_dir_all(&folder).context("cannot make the user's folder")?;
        Ok(Self { host, folder })
    }

    /// The user's `config.json`.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// A folder that is searched for programs first.
    pub fn programs(&self) -> &Path {
        &self.folder
    }

    /// A `pontoon` command of this user.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(args);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("DOCKER_CONFIG", &self.folder)
            .env("PATH", format!("{}:{path}", self.folder.display()));
        command
    }

    /// Runs a `pontoon` command of this user.
    ///
    /// # Errors
    /// When it hangs; a bad exit status is in the output.
    pub fn pontoon(&self, args: &[&str]) -> Result<Output> {
        process::run(self.command(args))
    }

    /// Runs one that must succeed; returns its trimmed standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.pontoon(args)?.ok()
    }

    /// Runs one with something on its standard input.
    ///
    /// # Errors
    /// When it hangs; a bad exit status is in the output.
    pub fn with_input(&self, args: &[&str], input: &str) -> Result<Output> {
        process::run_with_input(self.command(args), input.as_bytes())
    }
}
