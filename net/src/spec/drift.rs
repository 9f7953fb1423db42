//! What a check of the network found to be other than the committed state wants it, and what became of it.
use std::fmt;

/// The part of a node's network that a [`Drift`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The bridge of an overlay on this node.
    Bridge,
    /// The device through which an overlay's frames reach other nodes.
    Tunnel,
    /// The link of a container to an overlay.
    Endpoint,
    /// The routing mesh's link to its overlay.
    Mesh,
    /// Where on the underlay an overlay's address is.
    Forwarding,
    /// By which port of the bridge an overlay's address is reached.
    PortEntry,
    /// The MAC of an overlay's address.
    Neighbour,
    /// A table of ours in the firewall, as a whole.
    Table,
    /// A chain of it with its rules.
    Chain,
    /// A set or map of it: published ports, virtual addresses with their backends, the redirect of DNS.
    Set,
    /// The names that netd answers.
    Names,
}

impl Part {
    /// Its name, as events and listings tell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Tunnel => "tunnel",
            Self::Endpoint => "endpoint",
            Self::Mesh => "mesh",
            Self::Forwarding => "forwarding",
            Self::PortEntry => "port-entry",
            Self::Neighbour => "neighbour",
            Self::Table => "table",
            Self::Chain => "chain",
            Self::Set => "set",
            Self::Names => "names",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of a [`Drift`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing was to be done about it.
    No,
    /// It is as it should be again.
    Yes,
    /// It could not be mended, and why.
    Failed(String),
}

/// One thing that is not as the committed state wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The overlay network; empty for what belongs to the host or to a container as a whole.
    pub network: String,
    /// The container, by the id of its sandbox; empty for what is the network's or the host's.
    pub sandbox: String,
    /// What is not as it should be.
    pub part: Part,
    /// How it should be.
    pub expected: String,
    /// How it was found.
    pub found: String,
    /// What became of it.
    pub mended: Mended,
}

impl Drift {
    /// One of a network, not mended yet.
    pub(crate) fn of(
        network: &str,
        part: Part,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            network: network.into(),
            sandbox: String::new(),
            part,
            expected: expected.into(),
            found: found.into(),
            mended: Mended::No,
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.part, self.expected, self.found
        )?;
        match &self.mended {
            Mended::No => Ok(()),
            Mended::Yes => f.write_str(" (mended)"),
            Mended::Failed(reason) => write!(f, " (not mended: {reason})"),
        }
    }
}
