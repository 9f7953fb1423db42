//! Platforms in Go's names: which one this node is, what users write, and which image runs where.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// `os/architecture[/variant]` in Go's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64` …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This node's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: None,
        }
    }

    /// Reads `os[/architecture[/variant]]` or an architecture alone, with containerd's aliases.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn parse(text: &str) -> Result<Self> {
        let host = Platform::host();
        let invalid = || {
            Error::InvalidArgument(format!(
                "platform {text:?}: expected linux/<arch>[/<variant>], for instance {host}"
            ))
        };
        let plain = |p: &&str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => ("linux", host.architecture.as_str(), None),
            ["windows" | "darwin" | "freebsd"] => (parts[0], host.architecture.as_str(), None),
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(invalid()),
        };
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" | "arm64" => ("arm64", None),
            "i386" | "i686" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        // containerd's normalisation: these variants are what the architecture means alone.
        let variant = variant
            .or(implied)
            .filter(|v| (architecture, *v) != ("amd64", "v1"));
        Ok(Platform {
            architecture: architecture.into(),
            os: os.into(),
            variant: variant.map(|v| {
                if v.starts_with('v') {
                    v.to_owned()
                } else {
                    format!("v{v}")
                }
            }),
        })
    }

    /// Runs on this node.
    pub fn runs_here(&self) -> bool {
        Platform::host().is_met_by(self)
    }

    /// An image for `other` is what a user who asks for this platform gets. A variant counts only when it is asked for.
    pub fn is_met_by(&self, other: &Platform) -> bool {
        let os = if other.os.is_empty() { "linux" } else { &other.os };
        let variant = |p: &Platform| {
            p.variant
                .clone()
                .filter(|v| !(p.architecture == "arm64" && v == "v8"))
        };
        self.os == os
            && (self.architecture == other.architecture || other.architecture.is_empty())
            && (variant(self).is_none() || variant(self) == variant(other))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_containerd_does() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("linux/arm/7", "linux/arm/v7"),
            ("armhf", "linux/arm/v7"),
            ("Linux/AArch64", "linux/arm64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variant_counts_when_it_is_asked_for() {
        let arm = |text| Platform::parse(text).unwrap();
        assert!(arm("linux/arm").is_met_by(&arm("linux/arm/v6")));
        assert!(!arm("linux/arm/v7").is_met_by(&arm("linux/arm/v6")));
        assert!(arm("linux/arm64").is_met_by(&arm("linux/arm64/v8")));
        assert!(!arm("linux/amd64").is_met_by(&arm("linux/arm64")));
    }
}
