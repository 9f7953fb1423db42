//! What joins the hosts: a network namespace each, a switch in a namespace of its own (so that the machine's firewall and other
//! fleets play no part), cables that can be unplugged. Used by [`crate::fleet`] and [`crate::host`].

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::tool;

/// The hosts' network: host i is `192.168.77.i`, the switch has `.254`.
pub const SUBNET: &str = "192.168.77";
/// The cable's end in a host.
pub const HOST_LINK: &str = "eth0";

/// The switch of a fleet and the names of its namespaces.
#[derive(Clone, Debug)]
pub struct Wire {
    suffix: String,
}

impl Wire {
    /// Names only; nothing is made yet.
    pub fn named(suffix: &str) -> Self {
        Self {
            suffix: suffix.to_owned(),
        }
    }

    /// Makes the switch.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn up(&self) -> Result<()> {
        let switch = &self.switch();
        tool("ip", &["netns", "add", switch])?;
        // br_netfilter would send switched frames through iptables, here they are on the wire. Absent when the module is not loaded.
        let _ = self.in_switch(
            "sh",
            &[
                "-c",
                "for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do echo 0 >$f; done",
            ],
        );
        tool("ip", &["-n", switch, "link", "set", "lo", "up"])?;
        tool("ip", &["-n", switch, "link", "add", "br0", "type", "bridge"])?;
        tool(
            "ip",
            &[
                "-n",
                switch,
                "addr",
                "add",
                &format!("{SUBNET}.254/24"),
                "dev",
                "br0",
            ],
        )?;
        tool("ip", &["-n", switch, "link", "set", "br0", "up"])?;
        Ok(())
    }

    /// Makes host `number`'s namespace and plugs it in.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_host(&self, number: usize) -> Result<()> {
        let (switch, host) = (&self.switch(), &self.host(number));
        let port = &port(number);
        tool("ip", &["netns", "add", host])?;
        tool("ip", &["-n", host, "link", "set", "lo", "up"])?;
        tool(
            "ip",
            &[
                "link", "add", HOST_LINK, "netns", host, "type", "veth", "peer", "name", port, "netns",
                switch,
            ],
        )?;
        tool("ip", &["-n", switch, "link", "set", port, "master", "br0", "up"])?;
        let address = format!("{}/24", address(number));
        tool("ip", &["-n", host, "addr", "add", &address, "dev", HOST_LINK])?;
        tool("ip", &["-n", host, "link", "set", HOST_LINK, "up"])?;
        let gateway = format!("{SUBNET}.254");
        tool("ip", &["-n", host, "route", "add", "default", "via", &gateway])?;
        Ok(())
    }

    /// Pulls or plugs a host's cable: to the others it falls silent, no connection is reset.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn plug(&self, number: usize, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        tool("ip", &["-n", &self.switch(), "link", "set", &port(number), state])?;
        Ok(())
    }

    /// A command in the switch's namespace.
    ///
    /// # Errors
    /// When it fails.
    pub fn in_switch(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut all = vec!["--", program];
        all.extend(args);
        let net = format!("--net={}", path(&self.switch()).display());
        all.insert(0, &net);
        tool("nsenter", &all)
    }

    /// Name of the switch's namespace.
    pub fn switch(&self) -> String {
        format!("pt-{}-sw", self.suffix)
    }

    /// Name of a host's namespace.
    pub fn host(&self, number: usize) -> String {
        format!("pt-{}-h{number}", self.suffix)
    }

    /// Removes every namespace of this fleet; the links go with them.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn down(&self) -> Result<()> {
        let prefix = format!("pt-{}-", self.suffix);
        for name in namespaces() {
            if name.starts_with(&prefix) {
                tool("ip", &["netns", "del", &name])?;
            }
        }
        Ok(())
    }
}

/// Names of the machine's named network namespaces.
pub fn namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns");
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// A host's address on the switch.
pub fn address(number: usize) -> String {
    format!("{SUBNET}.{number}")
}

/// Name of a host's port on the switch.
pub fn port(number: usize) -> String {
    format!("p{number}")
}

/// The file of a named namespace.
pub fn path(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// A command that will run in a network namespace but keeps this process's mounts: `ip netns exec` would give it other ones,
/// and what the daemon mounts must be seen by the next daemon.
pub fn enter(namespace: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).arg("--");
    command
}

/// Does something in a network namespace, on a thread of its own: sockets that are made there stay in it.
///
/// # Errors
/// When the namespace can't be entered, or the work's own.
pub fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    use std::os::fd::AsFd;
    let file =
        std::fs::File::open(namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
    std::thread::scope(|scope| {
        let entered = scope.spawn(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
                .context("cannot enter the namespace")?;
            work()
        });
        match entered.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
