//! `--security-opt` values (moby `parseSecurityOpt`) and the system call filter that follows from them. Called by `spec::build` and by the
//! checks at creation.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use pontoon_proto::v1::{ContainerSpec, HostConfig};
use pontoon_runtime::defaults;

use super::{capabilities, profile};
use crate::{Error, Result};

/// The option that leaves `/proc` and `/sys` uncovered; it is turned into empty lists of paths at creation.
pub(crate) const UNCONFINED_PATHS: &str = "systempaths=unconfined";

/// Which system call filter a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// Not said: the daemon's, and none for a privileged container.
    #[default]
    Unset,
    /// Docker's default profile.
    Builtin,
    /// None.
    Unconfined,
    /// The user's own, as JSON.
    Custom(String),
}

impl Seccomp {
    /// Reads an option's value.
    pub(crate) fn parse(value: &str) -> Self {
        match value {
            "" => Self::Unset,
            "builtin" => Self::Builtin,
            "unconfined" => Self::Unconfined,
            profile => Self::Custom(profile.to_owned()),
        }
    }

    /// As `info` shows it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unset | Self::Builtin => "builtin",
            Self::Unconfined => "unconfined",
            Self::Custom(_) => "custom profile",
        }
    }

    /// Tries to read a profile of the daemon's.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Custom(text) => profile::read(text, &HashSet::new()).map(drop),
            _ => Ok(()),
        }
    }
}

/// What the options say.
#[derive(Clone, Debug, Default)]
pub(crate) struct SecurityOptions {
    /// No process can gain privileges by execve; `None`: the daemon's default.
    pub no_new_privileges: Option<bool>,
    /// The filter.
    pub seccomp: Seccomp,
    /// The cgroup file system can be written; `None`: only of a privileged container.
    pub writable_cgroups: Option<bool>,
    /// AppArmor's profile.
    pub apparmor: Option<String>,
}

impl SecurityOptions {
    /// Reads the options, in Docker's forms `key`, `key=value`, `key:value`.
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            let bad = || Error::Invalid(format!("invalid --security-opt: {option:?}"));
            let boolean = |value: &str| match value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(bad()),
            };
            let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
                Some(pair) => pair,
                None if matches!(option.as_str(), "no-new-privileges" | "writable-cgroups") => {
                    (option.as_str(), "true")
                }
                // The old name of label=disable.
                None if option == "disable" => ("label", "disable"),
                None => return Err(bad()),
            };
            match (key, value) {
                ("no-new-privileges", value) => parsed.no_new_privileges = Some(boolean(value)?),
                ("writable-cgroups", value) => parsed.writable_cgroups = Some(boolean(value)?),
                ("seccomp", value) => parsed.seccomp = Seccomp::parse(value),
                ("apparmor", profile) => parsed.apparmor = Some(profile.to_owned()),
                // SELinux' labels: without it they mean nothing, whatever they are, as in Docker.
                ("label", _) => {}
                _ if option == UNCONFINED_PATHS => {}
                _ => return Err(bad()),
            }
        }
        Ok(parsed)
    }

    /// Checks what the options need from the host, and that a profile can be read.
    pub(crate) fn check(&self, config: &ContainerSpec, host: &HostConfig) -> Result<()> {
        if let Some(profile) = &self.apparmor
            && profile != "unconfined"
            && !has_apparmor()
        {
            return Err(Error::Invalid(format!(
                "AppArmor is not enabled on the host: the profile {profile:?} can't be applied"
            )));
        }
        if let Seccomp::Custom(text) = &self.seccomp {
            profile::read(text, &capabilities::resolve(config, host)?)?;
        }
        Ok(())
    }

    /// AppArmor's profile for the process, where the host has AppArmor.
    pub(super) fn apparmor_profile(&self) -> Option<String> {
        self.apparmor.clone().filter(|_| has_apparmor())
    }

    /// The filter of a container, with the daemon's own choice for those that say nothing.
    pub(super) fn filter(
        &self,
        config: &ContainerSpec,
        host: &HostConfig,
        daemon: &Seccomp,
    ) -> Result<Option<LinuxSeccomp>> {
        let chosen = match &self.seccomp {
            Seccomp::Unset if host.privileged => return Ok(None),
            Seccomp::Unset => daemon,
            own => own,
        };
        let capabilities = capabilities::resolve(config, host)?;
        match chosen {
            Seccomp::Unset | Seccomp::Builtin => Ok(Some(defaults::seccomp_profile(&capabilities))),
            Seccomp::Unconfined => Ok(None),
            Seccomp::Custom(text) => profile::read(text, &capabilities),
        }
    }
}

/// Whether the kernel confines processes by AppArmor.
pub(crate) fn has_apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    enabled.starts_with('Y') && Path::new("/sys/kernel/security/apparmor").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<SecurityOptions> {
        SecurityOptions::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn reads_dockers_forms() {
        for (option, expected) in [
            ("no-new-privileges", true),
            ("no-new-privileges:true", true),
            ("no-new-privileges=1", true),
            ("no-new-privileges=false", false),
        ] {
            assert_eq!(
                parse(&[option]).unwrap().no_new_privileges,
                Some(expected),
                "{option}"
            );
        }
        assert_eq!(
            parse(&["seccomp=unconfined"]).unwrap().seccomp,
            Seccomp::Unconfined
        );
        assert_eq!(parse(&["seccomp:builtin"]).unwrap().seccomp, Seccomp::Builtin);
        assert_eq!(parse(&["writable-cgroups"]).unwrap().writable_cgroups, Some(true));
        for fine in [
            "label=disable",
            "label=level:s0",
            "disable",
            "apparmor=unconfined",
            UNCONFINED_PATHS,
        ] {
            assert!(parse(&[fine]).is_ok(), "{fine}");
        }
        for bad in ["seccomp", "x=y", "no-new-privileges=maybe", "systempaths=x", ""] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn profiles_are_checked_before_anything_is_made() {
        let check = |option: &str| {
            parse(&[option])
                .unwrap()
                .check(&ContainerSpec::default(), &HostConfig::default())
        };
        assert!(check(r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}"#).is_ok());
        assert!(check("seccomp={").is_err());
        if !has_apparmor() {
            assert!(check("apparmor=docker-default").is_err());
            assert!(check("apparmor=unconfined").is_ok());
        }
    }
}
