//! Platforms: `linux/arm64/v8`, in Go's names and containerd's short forms.

use crate::{Error, Result};

/// Operating system, architecture, variant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub architecture: String,
    /// `v8`; may be empty.
    pub variant: String,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let host = pontoon_image::Platform::host();
        Self {
            os: host.os,
            architecture: host.architecture,
            variant: host.variant.unwrap_or_default(),
        }
    }

    /// Reads `os/arch[/variant]`, `arch` or `os`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self> {
        let host = Self::host();
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-()".contains(c))
        };
        if !parts.iter().all(plain) || parts.len() > 3 {
            let text = crate::quote::text(text);
            return Err(Error::new(format!(
                "{text}: invalid platform specifier: expected os/arch[/variant]"
            )));
        }
        let (os, arch, variant) = match parts[..] {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => (os, host.architecture.as_str(), ""),
            [arch] => ("linux", arch, ""),
            [os, arch] => (os, arch, ""),
            [os, arch, variant] => (os, arch, variant),
            _ => return Err(Error::new(format!("{text}: cannot parse platform specifier"))),
        };
        let (arch, variant) = match (arch, variant) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64", v) => ("arm64", v),
            ("i386", _) => ("386", ""),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            other => other,
        };
        Ok(Self {
            os: os.into(),
            architecture: arch.into(),
            variant: variant.into(),
        })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}
