//! Docker's flags that services don't have here: known, so that each is refused by its own name instead of as a mistake.

use clap::Args;

use crate::error::Failure;

/// Refused by `create` and `update` alike.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Refused {
    /// Credential spec for managed service account (Windows only)
    #[arg(long, value_name = "credential-spec")]
    credential_spec: Option<String>,
    /// Service container isolation mode (Windows only)
    #[arg(long, value_name = "string")]
    isolation: Option<String>,
    /// Tune host's OOM preferences (not in this version)
    #[arg(long, value_name = "int")]
    oom_score_adj: Option<String>,
}

/// Refused by `create`.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct RefusedInCreate {
    /// Specify configurations to expose to the service (not in this version)
    #[arg(long, value_name = "config")]
    config: Vec<String>,
    /// Specify secrets to expose to the service (not in this version)
    #[arg(long, value_name = "secret")]
    secret: Vec<String>,
}

/// Refused by `update`.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct RefusedInUpdate {
    /// Add or update a config file on a service (not in this version)
    #[arg(long, value_name = "config")]
    config_add: Vec<String>,
    /// Remove a configuration file (not in this version)
    #[arg(long, value_name = "list")]
    config_rm: Vec<String>,
    /// Add or update a secret on a service (not in this version)
    #[arg(long, value_name = "secret")]
    secret_add: Vec<String>,
    /// Remove a secret (not in this version)
    #[arg(long, value_name = "list")]
    secret_rm: Vec<String>,
}

impl Refused {
    /// Refuses what is given.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        none(&[
            (
                "credential-spec",
                self.credential_spec.is_some(),
                "is for Windows",
            ),
            ("isolation", self.isolation.is_some(), "is for Windows"),
            ("oom-score-adj", self.oom_score_adj.is_some(), LATER),
        ])
    }
}

impl RefusedInCreate {
    /// Refuses what is given.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        none(&[
            ("config", !self.config.is_empty(), LATER),
            ("secret", !self.secret.is_empty(), LATER),
        ])
    }
}

impl RefusedInUpdate {
    /// Refuses what is given.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        none(&[
            ("config-add", !self.config_add.is_empty(), LATER),
            ("config-rm", !self.config_rm.is_empty(), LATER),
            ("secret-add", !self.secret_add.is_empty(), LATER),
            ("secret-rm", !self.secret_rm.is_empty(), LATER),
        ])
    }
}

const LATER: &str = "is not supported for services by this version";

fn none(flags: &[(&str, bool, &str)]) -> Result<(), Failure> {
    match flags.iter().find(|(_, is_given, _)| *is_given) {
        Some((flag, _, why)) => Err(Failure::new(format!("--{flag} {why}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_named() {
        let given = Refused {
            oom_score_adj: Some("5".into()),
            ..Refused::default()
        };
        let failure = given.check().unwrap_err();
        assert_eq!(
            failure.message,
            "--oom-score-adj is not supported for services by this version"
        );
        assert!(Refused::default().check().is_ok());
        let given = RefusedInCreate {
            secret: vec!["key".into()],
            ..RefusedInCreate::default()
        };
        assert!(given.check().unwrap_err().message.starts_with("--secret is not"));
        let given = RefusedInUpdate {
            config_rm: vec!["a".into()],
            ..RefusedInUpdate::default()
        };
        assert!(
            given
                .check()
                .unwrap_err()
                .message
                .starts_with("--config-rm is not")
        );
    }
}
