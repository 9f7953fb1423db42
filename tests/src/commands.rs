//! Commands on a host: `pontoon`'s own, which talk to its daemon, and programs of the machine in its network. Used by every suite.

use std::process::Command;

use anyhow::Result;

use crate::host::Host;
use crate::process::{self, Output};
use crate::{programs, wire};

impl Host {
    /// A `pontoon` command that talks to this host's daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_remove("PONTOON_HOST")
            .arg("--host")
            .arg(self.socket())
            .args(args);
        command
    }

    /// Runs a `pontoon` command against this host.
    ///
    /// # Errors
    /// When it hangs; a bad exit status is in the output.
    pub fn pontoon(&self, args: &[&str]) -> Result<Output> {
        process::run(self.command(args))
    }

    /// Runs a `pontoon` command that must succeed; returns its trimmed standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.pontoon(args)?.ok()
    }

    /// Runs a `pontoon` command line that must succeed, words apart by blanks; returns its trimmed standard output.
    ///
    /// # Errors
    /// When it fails.
    pub fn line(&self, line: &str) -> Result<String> {
        self.ok(&words(line))
    }

    /// Runs a program of the machine in the host's network namespace.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn exec(&self, args: &[&str]) -> Result<Output> {
        let mut command = wire::enter(&self.netns());
        command.args(args);
        process::run(command)
    }

    /// Fetches a URL from the host, as a user on it would.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, url: &str) -> Result<String> {
        let web = programs::web()?;
        self.exec(&[&web.display().to_string(), "get", url])?.ok()
    }

    /// Makes what stays once it was needed, before a test counts what others leave: the default bridge, and netd, which comes
    /// with the first network that has names. Wants the image `busybox`.
    ///
    /// # Errors
    /// When a container can't be run.
    pub fn warm_up(&self) -> Result<()> {
        self.line("run --rm --publish 7070:7070 busybox true")?;
        self.line("network create warm")?;
        self.line("run --rm --network warm busybox true")?;
        self.line("network rm warm").map(drop)
    }
}

/// The words of a command line without quotes.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
