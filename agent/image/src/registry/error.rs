//! What goes wrong between us and a registry. Texts that users know from Docker are Docker's. The engine maps the variants to
//! status codes; `pull` decides by them whether another address of the registry is tried.

use std::time::Duration;

/// Result of the registry client's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation with a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused what came, or its disk failed.
    #[error(transparent)]
    Image(#[from] crate::Error),
    /// The registry has no such manifest.
    #[error("manifest for {name} not found: {reason}")]
    ManifestUnknown {
        /// The image as the user named it.
        name: String,
        /// What the registry said.
        reason: String,
    },
    /// The registry has no such repository.
    #[error("repository {name} not found: {reason}")]
    RepositoryUnknown {
        /// Repository as the user named it.
        name: String,
        /// What the registry said.
        reason: String,
    },
    /// The registry refuses access, or has no such repository: registries don't tell these apart.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'pontoon login': {reason}"
    )]
    Denied {
        /// Repository as the user named it.
        repository: String,
        /// What the registry said.
        reason: String,
    },
    /// Credentials are wanted and there are none.
    #[error("{method} {url:?}: no basic auth credentials; run 'pontoon login {host}' first")]
    NoCredentials {
        /// HTTP method.
        method: String,
        /// Asked for.
        url: String,
        /// Host to log in to.
        host: String,
    },
    /// The credentials are no good.
    #[error("{0}")]
    Unauthorized(String),
    /// The registry wants us to come back later than we are ready to wait.
    #[error("toomanyrequests: {reason}{}", wait(*.retry_after))]
    TooManyRequests {
        /// What the registry said.
        reason: String,
        /// When it will answer again, if it said so.
        retry_after: Option<Duration>,
    },
    /// An answer that makes no sense here.
    #[error("{method} {url:?}: received unexpected HTTP status: {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Status {
        /// HTTP method.
        method: String,
        /// Asked for.
        url: String,
        /// `500 Internal Server Error`
        status: String,
        /// What the registry said, may be empty.
        reason: String,
    },
    /// The request did not come through.
    #[error("{method} {url:?}")]
    Transport {
        /// HTTP method.
        method: String,
        /// Asked for.
        url: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The other side is connected and sends (or takes) next to nothing.
    #[error("{what}: no progress for {} seconds, giving up", window.as_secs())]
    Stalled {
        /// What was being transferred.
        what: String,
        /// How long we looked on.
        window: Duration,
    },
    /// No image of an index is for the platform.
    #[error("no matching manifest for {wanted} in the manifest list entries{}", also(.found))]
    NoMatchingManifest {
        /// The platform that was asked for.
        wanted: String,
        /// Those that there are.
        found: Vec<String>,
    },
    /// The image is for another platform than the one that was asked for.
    #[error(
        "image with reference {name} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    WrongPlatform {
        /// The image as the user named it.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// The image's.
        found: String,
    },
    /// What the name stands for is no container image that we can run.
    #[error("cannot use {name}")]
    Unusable {
        /// The image as the user named it.
        name: String,
        /// Why.
        #[source]
        source: crate::Error,
    },
    /// A layer arrived as its digest says, but is no archive that can be unpacked.
    #[error("failed to register layer {layer}")]
    Layer {
        /// The first twelve digits of its digest, as they were shown.
        layer: String,
        /// Why.
        #[source]
        source: crate::Error,
    },
    /// The registry breaks the protocol, or tries to make us read without end.
    #[error("{what}: {reason}")]
    Protocol {
        /// What was being done.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings or files of TLS are no good.
    #[error("{0}")]
    Settings(String),
    /// The call was given up: the client went away, or the daemon stops.
    #[error("the transfer was cancelled")]
    Cancelled,
}

/// Why a request did not come through.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The HTTP client's error; its own text only repeats the address.
    #[error("{}", root(.0))]
    Http(reqwest::Error),
    /// Nobody answered in time.
    #[error("no answer for {} seconds", .0.as_secs())]
    Silence(Duration),
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| {
        format!("; try again in {} seconds", wait.as_secs())
    })
}

fn also(found: &[String]) -> String {
    if found.is_empty() {
        return String::new();
    }
    format!(" (it has {})", found.join(", "))
}

/// The texts below reqwest's own, which repeats the address, in one line; Go's words where users know them.
fn root(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        // "client error (Connect)" says nothing that its cause does not.
        if !text.starts_with("client error") && !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        cause = inner.source();
    }
    let text = parts.join(": ");
    if text.contains("InvalidContentType") || text.contains("corrupt message of type InvalidContentType") {
        return "http: server gave HTTP response to HTTPS client; add the registry to insecure-registries if that is meant"
            .into();
    }
    if text.is_empty() { error.to_string() } else { text }
}

impl Error {
    pub(super) fn protocol(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Protocol {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// True if the same request may well succeed a little later: broken connections, silence, stalls.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Error::Transport { source, .. } => match source {
                Cause::Http(error) => !error.is_builder() && !error.is_redirect() && !is_tls(error),
                Cause::Silence(_) => true,
            },
            Error::Stalled { .. } => true,
            Error::Status { status, .. } => is_passing_status(status),
            _ => false,
        }
    }

    /// True if nobody could be talked to at all.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Error::Transport { .. })
    }
}

fn is_passing_status(status: &str) -> bool {
    ["500", "502", "503", "504"]
        .iter()
        .any(|code| status.starts_with(code))
}

/// A handshake that failed for what the other side is (plain HTTP, a bad certificate) fails again.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io
                .get_ref()
                .is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
        {
            return true;
        }
        if inner.downcast_ref::<rustls::Error>().is_some() {
            return true;
        }
        cause = inner.source();
    }
    false
}
