//! Image references: parsing, normalising and printing as Docker does (github.com/distribution/reference: `regexp.go`,
//! `normalize.go`). `busybox` is `docker.io/library/busybox:latest` inside and `busybox` again for the eye.

use std::{fmt, str::FromStr};

use crate::{Digest, Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest name (domain and path) that distribution accepts.
const NAME_MAX: usize = 255;

/// A normalised image name: domain, path, and a tag or a digest or both or none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a user's input. Adds the domain and `library/`, but no tag: see [`Reference::with_default_tag`].
    pub fn parse(input: &str) -> Result<Self> {
        let err = |reason: &str| Error::InvalidReference {
            name: input.into(),
            reason: reason.into(),
        };
        if Digest::from_hex(input).is_some() {
            return Err(err(&format!(
                "invalid repository name ({input}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, rest) = split_domain(input);
        let (rest, digest) = match rest.split_once('@') {
            None => (rest.as_str(), None),
            Some((name, d)) => (name, Some(parse_digest(d).map_err(err)?)),
        };
        let (path, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((path, tag)) => (path, Some(tag)),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(err(&format!("repository name ({path}) must be lowercase")));
        }
        if !is_domain(&domain) || !is_path(path) || tag.is_some_and(|t| !is_tag(t)) {
            return Err(err(""));
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(err(&format!(
                "repository name must not be more than {NAME_MAX} characters"
            )));
        }
        Ok(Reference {
            domain,
            path: path.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }

    /// The same with `latest` when there is neither tag nor digest (Docker's `TagNameOnly`).
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.into());
        }
        self
    }

    /// The same name with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::InvalidReference {
                name: tag.into(),
                reason: "invalid tag".into(),
            });
        }
        Ok(Reference {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same name with a digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Reference {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same name with neither tag nor digest.
    #[must_use]
    pub fn name_only(&self) -> Self {
        Reference {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// Registry host, with port (`docker.io`, `localhost:5000`).
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository path in the registry (`library/busybox`).
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `domain/path`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Name without what Docker adds by itself: `busybox`, `user/app`, `registry:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let short = self
            .path
            .strip_prefix(OFFICIAL)
            .filter(|p| !p.contains('/'))
            .unwrap_or(&self.path);
        // `docker.io/foo.bar/baz` would read back as a registry called foo.bar, and 64 hex digits as an id.
        let reads_back = split_domain(short) == (DEFAULT_DOMAIN.to_owned(), self.path.clone());
        if reads_back && Digest::from_hex(short).is_none() {
            short.to_owned()
        } else {
            self.name()
        }
    }

    /// [`Reference::familiar_name`] with tag and digest: what listings print.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// The canonical form, with domain.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl FromStr for Reference {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Reference::parse(s)
    }
}

/// distribution's `splitDockerDomain`: the first component is a registry if it has a dot or a port, is `localhost`,
/// or has upper-case letters (which no path may have).
fn split_domain(input: &str) -> (String, String) {
    let (domain, rest) = match input.split_once('/') {
        Some((d, rest))
            if d.contains(['.', ':']) || d == "localhost" || d.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (d, rest)
        }
        _ => (DEFAULT_DOMAIN, input),
    };
    let domain = if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    // Only the path counts here: `busybox@sha256:…` and `busybox:a` have no slash either.
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        return (domain.into(), format!("{OFFICIAL}{rest}"));
    }
    (domain.into(), rest.into())
}

fn parse_digest(s: &str) -> Result<Digest, &'static str> {
    match s.split_once(':') {
        Some(("sha256", hex)) => Digest::from_hex(hex).ok_or("invalid checksum digest format"),
        Some(("sha384" | "sha512", _)) => Err("unsupported digest algorithm, only sha256 is"),
        _ => Err(""),
    }
}

fn is_domain(s: &str) -> bool {
    let (host, port) = match s.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (s, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|c| {
        !c.is_empty()
            && !c.starts_with('-')
            && !c.ends_with('-')
            && c.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

fn is_path(s: &str) -> bool {
    s.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    s.split(|c: char| c.is_ascii() && alnum(c as u8))
        .all(|sep| sep.is_empty() || matches!(sep, "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

/// `[\w][\w.-]{0,127}`
fn is_tag(s: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&s.len())
        && word(s.as_bytes()[0])
        && s.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests;
