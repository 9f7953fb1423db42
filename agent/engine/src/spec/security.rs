//! `--security-opt` values.

use oci_spec::runtime::LinuxSeccomp;

use crate::{Error, Result};

/// Which system call filter a container gets.
#[derive(Clone, Debug, Default)]
pub(crate) enum Seccomp {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The user's own.
    Custom(Box<LinuxSeccomp>),
}

/// What the options say.
#[derive(Clone, Debug, Default)]
pub(crate) struct SecurityOptions {
    /// No process can gain privileges by execve.
    pub no_new_privileges: bool,
    /// The filter.
    pub seccomp: Seccomp,
    /// Leave `/proc` and `/sys` uncovered.
    pub system_paths_unconfined: bool,
}

impl SecurityOptions {
    /// Reads the options, in Docker's forms `key`, `key=value`, `key:value`.
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
                Some(pair) => pair,
                None => (option.as_str(), "true"),
            };
            match (key, value) {
                ("no-new-privileges", "true") => parsed.no_new_privileges = true,
                ("no-new-privileges", "false") => parsed.no_new_privileges = false,
                ("seccomp", "unconfined") => parsed.seccomp = Seccomp::Unconfined,
                ("seccomp", "builtin") => parsed.seccomp = Seccomp::Default,
                ("seccomp", profile) => parsed.seccomp = Seccomp::Custom(Box::new(custom(profile)?)),
                ("systempaths", "unconfined") => parsed.system_paths_unconfined = true,
                // There is no such confinement here, so that its absence is what one gets.
                ("apparmor", "unconfined") | ("label", "disable") => {}
                _ => return Err(Error::Invalid(format!("invalid --security-opt: {option:?}"))),
            }
        }
        Ok(parsed)
    }
}

/// A profile as JSON, in the OCI's form or Docker's as long as no rule depends on capabilities or the kernel.
fn custom(profile: &str) -> Result<LinuxSeccomp> {
    let invalid = |reason: String| Error::Invalid(format!("Decoding seccomp profile failed: {reason}"));
    let json: serde_json::Value = serde_json::from_str(profile).map_err(|e| invalid(e.to_string()))?;
    let conditional = json["syscalls"].as_array().is_some_and(|rules| {
        rules.iter().any(|rule| {
            ["includes", "excludes"]
                .iter()
                .any(|key| rule[key].as_object().is_some_and(|o| !o.is_empty()))
        })
    });
    if conditional {
        return Err(invalid(
            "rules with \"includes\" or \"excludes\" are not supported".to_owned(),
        ));
    }
    serde_json::from_value(json).map_err(|e| invalid(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dockers_forms() {
        let parse = |options: &[&str]| {
            SecurityOptions::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(parse(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(parse(&["no-new-privileges:true"]).unwrap().no_new_privileges);
        assert!(matches!(
            parse(&["seccomp=unconfined"]).unwrap().seccomp,
            Seccomp::Unconfined
        ));
        let own = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}"#;
        assert!(matches!(parse(&[own]).unwrap().seccomp, Seccomp::Custom(_)));
        assert!(parse(&["seccomp={"]).is_err());
        assert!(parse(&["apparmor=docker-default"]).is_err());
    }
}
