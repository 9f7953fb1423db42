//! A container's settings made complete at creation with what the daemon says (moby `adaptContainerSettings`), so that `inspect` shows
//! what holds; user namespace remapping's part in them; platforms. Called by `create`.

use std::fmt;

use pontoon_proto::v1::{ContainerSpec, HostConfig};
use pontoon_runtime::defaults;

use crate::config::{ContainerDefaults, NATIVE_RUNTIME};
use crate::spec::namespaces::{IpcMode, PidMode};
use crate::spec::remap::IdMap;
use crate::spec::security::{SecurityOptions, UNCONFINED_PATHS};
use crate::{Engine, Error, Result};

/// Fills in what the user left open. Values are not judged here.
pub(super) fn adapt(config: &mut ContainerSpec, host: &mut HostConfig, daemon: &ContainerDefaults) {
    let memory = host.resources.unwrap_or_default().memory_bytes;
    if memory > 0 && host.memory_swap == 0 {
        host.memory_swap = memory.saturating_mul(2);
    }
    if host.shm_size == 0 {
        host.shm_size = daemon.shm_size;
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode.clone_from(&daemon.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        let unified = crate::system::has_unified_cgroups();
        // Privileged containers of hosts with version 1 manage its hierarchies, whose paths they have to see.
        let mode = match daemon.cgroupns_mode.as_str() {
            _ if host.privileged && !unified => "host",
            "" if unified => "private",
            "" => "host",
            mode => mode,
        };
        mode.clone_into(&mut host.cgroupns_mode);
    }
    config.init |= daemon.init;
    for name in config.cap_add.iter_mut().chain(&mut config.cap_drop) {
        *name = capability(name);
    }
    paths(host);
    label(host);
}

/// A capability's full name: `chown` is CAP_CHOWN.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    }
}

/// Which paths are covered or read-only: Docker's lists unless the request has its own or wants none.
fn paths(host: &mut HostConfig) {
    let unconfined = host.security_opt.iter().any(|option| option == UNCONFINED_PATHS);
    host.security_opt.retain(|option| option != UNCONFINED_PATHS);
    if host.privileged || unconfined {
        host.masked_paths.clear();
        host.readonly_paths.clear();
        return;
    }
    let fill = |own: &mut Vec<String>, all: &[&str]| {
        if own.is_empty() {
            own.extend(all.iter().map(|&path| path.to_owned()));
        }
    };
    fill(&mut host.masked_paths, &defaults::MASKED_PATHS);
    fill(&mut host.readonly_paths, &defaults::READONLY_PATHS);
}

/// A container that is close to the host is not confined by labels, and Docker says so in its settings.
fn label(host: &mut HostConfig) {
    let close = host.privileged || host.ipc_mode == "host" || host.pid_mode == "host";
    let says = |option: &String| option.split(['=', ':']).next() == Some("label");
    if close && !host.security_opt.iter().any(says) {
        host.security_opt.push("label=disable".to_owned());
    }
}

impl Engine {
    /// The mappings of a container's user namespace; `None` if it has the host's users.
    pub(crate) fn remap(&self, host: &HostConfig) -> Option<&IdMap> {
        self.remap.as_ref().filter(|_| host.userns_mode != "host")
    }

    /// Refuses what can't be had in a user namespace; the words are Docker's.
    pub(super) fn check_remap(&self, host: &HostConfig) -> Result<()> {
        if self.remap(host).is_none() {
            return Ok(());
        }
        let writable = SecurityOptions::parse(&host.security_opt)?.writable_cgroups;
        let runtime = match host.runtime.as_str() {
            "" => self.config.default_runtime.as_str(),
            name => name,
        };
        let conflict = if host.privileged {
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode"
        } else if host.network_mode == "host" {
            "cannot share the host's network namespace when user namespaces are enabled"
        } else if PidMode::parse(&host.pid_mode)? == PidMode::Host {
            "cannot share the host PID namespace when user namespaces are enabled"
        } else if IpcMode::parse(&host.ipc_mode)? == IpcMode::Host {
            "cannot share the host IPC namespace when user namespaces are enabled"
        } else if writable.is_some() {
            "option WritableCgroups conflicts with user namespaces and rootless mode"
        } else if runtime != NATIVE_RUNTIME {
            "user namespaces need the built-in runtime: run the container with --userns host or without --runtime"
        } else {
            return Ok(());
        };
        Err(Error::Invalid(conflict.to_owned()))
    }
}

/// What kind of machine an image is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Platform {
    /// "linux"
    pub os: String,
    /// In Go's names.
    pub architecture: String,
    /// "v7"; mostly empty.
    pub variant: String,
}

impl Platform {
    /// Reads `OS`, `ARCHITECTURE`, `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`, with the usual other names of architectures.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::Invalid(format!("{text:?}: {why}: invalid argument"));
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let known = |part: &&str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        };
        if !parts.iter().all(known) {
            return Err(bad(
                "platform specifier component must match \"^[A-Za-z0-9_.-]+$\"",
            ));
        }
        let platform = |os: &str, architecture: &str, variant: &str| {
            let (architecture, variant) = normal(architecture, variant);
            Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.to_owned(),
            }
        };
        match parts.as_slice() {
            ["linux"] => Ok(platform("linux", crate::system::architecture(), "")),
            [one] if is_architecture(one) => Ok(platform("linux", one, "")),
            [_] => Err(bad("unknown operating system or architecture")),
            [os, architecture] => Ok(platform(os, architecture, "")),
            [os, architecture, variant] => Ok(platform(os, architecture, variant)),
            _ => Err(bad("cannot parse platform specifier")),
        }
    }

    /// True if an image for `other` is one for this; a variant that one of them leaves open fits.
    pub(super) fn accepts(&self, other: &Self) -> bool {
        let (architecture, variant) = normal(&other.architecture, &other.variant);
        self.os == other.os
            && self.architecture == architecture
            && (self.variant.is_empty() || variant.is_empty() || self.variant == variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

fn is_architecture(text: &str) -> bool {
    let known = [
        "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x",
    ];
    known.contains(&normal(text, "").0)
}

/// One name for each architecture, and no variant where it is the usual one (containerd `platforms`).
fn normal<'a>(architecture: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    match (architecture, variant) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64", variant) | ("amd64", variant) => {
            ("amd64", if variant == "v1" { "" } else { variant })
        }
        ("aarch64", "8" | "v8" | "") | ("arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_compared_as_containerd_does() {
        let parse = |text: &str| Platform::parse(text).unwrap();
        let own = parse("linux/amd64");
        for fits in ["linux/x86_64", "amd64", "LINUX/AMD64", "linux/amd64/v1"] {
            assert!(parse(fits).accepts(&own), "{fits}");
        }
        for other in ["linux/arm64", "windows/amd64", "linux/amd64/v3/x"] {
            let fits = Platform::parse(other).is_ok_and(|platform| platform.accepts(&own));
            assert!(!fits, "{other}");
        }
        for bad in ["", "linux/", "plan9x", "a/b/c/d", "linux/am d"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("linux/aarch64/v8").to_string(), "linux/arm64");
    }

    #[test]
    fn capabilities_are_kept_by_their_full_names() {
        let names = ["chown", "CAP_KILL", "all"].map(capability);
        assert_eq!(names, ["CAP_CHOWN", "CAP_KILL", "ALL"]);
    }

    #[test]
    fn defaults_are_dockers() {
        let (mut config, mut host) = (ContainerSpec::default(), HostConfig::default());
        host.resources.get_or_insert_default().memory_bytes = 8 << 20;
        adapt(&mut config, &mut host, &ContainerDefaults::default());
        assert_eq!((host.memory_swap, host.shm_size), (16 << 20, 64 << 20));
        assert_eq!(host.ipc_mode, "private");
        assert_eq!(host.masked_paths.len(), defaults::MASKED_PATHS.len());
        assert!(host.security_opt.is_empty());
        let mut host = HostConfig {
            security_opt: vec![UNCONFINED_PATHS.to_owned()],
            pid_mode: "host".to_owned(),
            ..HostConfig::default()
        };
        adapt(&mut config, &mut host, &ContainerDefaults::default());
        assert!(host.masked_paths.is_empty() && host.readonly_paths.is_empty());
        assert_eq!(host.security_opt, ["label=disable"]);
    }
}
