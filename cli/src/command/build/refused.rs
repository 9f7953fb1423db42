//! Flags of Docker's builders that ask for what this one does not do: they are known, so that they can be refused by name, and taken
//! where they ask for what is so anyway (`--provenance=false`, `--isolation default`).

use clap::{ArgAction, Args};

use super::lists;
use crate::error::Failure;

/// The flags.
#[derive(Args, Debug)]
pub struct Refused {
    /// Attestation parameters (format: "type=sbom,generator=image"): only ones that turn them off
    #[arg(long, value_name = "stringArray")]
    attest: Vec<String>,
    /// Skip image verification
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    disable_content_trust: bool,
    /// Container isolation technology
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    isolation: String,
    /// Shorthand for "--attest=type=provenance": only false
    #[arg(long, value_name = "string", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Shorthand for "--attest=type=sbom": only false
    #[arg(long, value_name = "string", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Security options: RUN --security has them
    #[arg(long, value_name = "strings")]
    security_opt: Vec<String>,
    /// Squash newly built layers into a single new layer: not supported
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    squash: bool,
}

impl Refused {
    /// Refuses what is asked for in vain.
    ///
    /// # Errors
    /// The first of them, in Docker's words where it refuses it too.
    pub fn check(&self) -> Result<(), Failure> {
        let refuse = |text: &str| Err(Failure::new(format!("ERROR: {text}")));
        let attested = self.attest.iter().any(|text| !is_off(text));
        let shorthand = |value: &Option<String>| value.as_deref().is_some_and(|value| !is_off(value));
        if attested || shorthand(&self.provenance) || shorthand(&self.sbom) {
            return refuse(
                "Attestation is not supported by this builder: leave out --attest, --provenance and --sbom, or turn them off",
            );
        }
        if !self.disable_content_trust {
            return refuse("--disable-content-trust=false is not supported: signatures are not checked");
        }
        if !matches!(self.isolation.as_str(), "" | "default") {
            return refuse(&format!(
                "Invalid isolation: {:?} - linux only supports 'default'",
                self.isolation
            ));
        }
        if !self.security_opt.is_empty() {
            return refuse(
                "--security-opt is not supported by this builder: \"RUN --security=insecure\" should be used instead",
            );
        }
        if self.squash {
            return refuse(
                "--squash is not supported by this builder: squash inside the build with a multi-stage Dockerfile",
            );
        }
        Ok(())
    }
}

/// `false`, or `type=sbom,disabled=true`.
fn is_off(text: &str) -> bool {
    let off = |(key, value): &(String, String)| match key.as_str() {
        "" => value == "false" || value == "0",
        "disabled" => value == "true" || value == "1",
        _ => false,
    };
    lists::fields(text).iter().any(off)
}
