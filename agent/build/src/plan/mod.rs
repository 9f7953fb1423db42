//! From a Dockerfile and the settings of a build to a plan: the trees to be made, each by one step from others, and the image's
//! configuration. Only what the target needs is in it; steps that don't depend on each other may run at the same time.
//!
//! - [`Plan::make`] (`stages`): which stages are needed, base images, triggers;
//! - `dispatch`: one instruction after the other, changing a stage's state; `copy`, `run`: the two big ones;
//! - `platform`, `ports`: small languages of their own.

mod copy;
mod dispatch;
mod platform;
mod ports;
mod run;
mod stages;

use std::collections::{BTreeMap, BTreeSet};

use pontoon_image::{HistoryEntry, ImageConfig};

use crate::Lines;
use crate::dockerfile::Sharing;

pub use platform::Platform;

/// The comment of history entries, as BuildKit writes it.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// What a build was asked for.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The stage to build; empty: the last.
    pub target: String,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--platform`; `None`: this machine's.
    pub platform: Option<Platform>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: stages.
    pub no_cache_filter: BTreeSet<String>,
    /// `--build-context`: names and what they stand for.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--network`: of steps that don't say another.
    pub network: Network,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// Files that the client sends.
    Files,
    /// An image, by its name.
    Image(String),
}

/// Finds base images.
pub trait Images {
    /// An image by name, for a platform.
    ///
    /// # Errors
    /// Why there is none, for the user.
    fn image(&mut self, name: &str, platform: &Platform) -> Result<Base, String>;
}

/// A base image.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its full name, as it is shown: `docker.io/library/busybox:latest`.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its configuration.
    pub config: ImageConfig,
}

/// A tree of files: nothing, or what a step makes.
pub type Tree = Option<usize>;

/// What a build does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Steps; each comes after those it needs.
    pub steps: Vec<Step>,
    /// The tree that becomes the image.
    pub result: Tree,
    /// The image's configuration, without layers, times and history.
    pub config: ImageConfig,
    /// The history of the base image.
    pub base_history: Vec<HistoryEntry>,
    /// What this build adds to it.
    pub history: Vec<History>,
    /// Id of the image that the target begins with; `None`: nothing.
    pub base: Option<String>,
    /// When everything is said to have been made, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// Paths that are taken of each context; "/" stands for all. The main context has no name.
    pub context_paths: BTreeMap<String, BTreeSet<String>>,
    /// Likely mistakes.
    pub warnings: Vec<(String, Lines)>,
}

/// A history entry to be.
#[derive(Debug, Clone)]
pub struct History {
    /// What made it.
    pub created_by: String,
    /// Author so far.
    pub author: Option<String>,
    /// The step that made its layer; `None`: it has none.
    pub step: Option<usize>,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// What progress shows: `[stage 2/5] RUN make`.
    pub name: String,
    /// Where it stands in the Dockerfile.
    pub lines: Lines,
    /// What it does.
    pub action: Action,
    /// Its result is not taken from the cache.
    pub no_cache: bool,
}

/// What a step does. The first tree is the one that it changes.
#[derive(Debug, Clone)]
pub enum Action {
    /// Takes an image's files.
    Image {
        /// Its full name.
        name: String,
        /// Its id.
        id: String,
    },
    /// Takes a context's files.
    Context {
        /// Its name; empty: the main one.
        name: String,
    },
    /// Runs a program.
    Run(Box<Run>),
    /// Copies files.
    Copy(Box<Copy>),
    /// Makes a folder and those above it.
    Folder {
        /// In what.
        base: Tree,
        /// Absolute path.
        path: String,
        /// Who gets it; empty: root.
        user: String,
    },
}

impl Action {
    /// Steps whose trees it needs.
    pub fn needs(&self) -> Vec<usize> {
        let mut needs: Vec<Tree> = Vec::new();
        match self {
            Action::Image { .. } | Action::Context { .. } => {}
            Action::Run(run) => {
                needs.push(run.base);
                for mount in &run.mounts {
                    match &mount.what {
                        MountOf::Bind { tree, .. } => needs.push(*tree),
                        MountOf::Cache { from, .. } => needs.push(*from),
                        _ => {}
                    }
                }
            }
            Action::Copy(copy) => {
                needs.push(copy.base);
                needs.extend(copy.sources.iter().map(|source| match &source.what {
                    SourceOf::Tree { tree, .. } => *tree,
                    _ => None,
                }));
            }
            Action::Folder { base, .. } => needs.push(*base),
        }
        needs.into_iter().flatten().collect()
    }
}

/// The network of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The builder's bridge.
    #[default]
    Bridge,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// RUN.
#[derive(Debug, Clone)]
pub struct Run {
    /// In what.
    pub base: Tree,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The same for proxies, which the cache does not look at.
    pub proxy: Vec<String>,
    /// Where.
    pub dir: String,
    /// As whom; empty: root.
    pub user: String,
    /// What is mounted, in order.
    pub mounts: Vec<RunMount>,
    /// Its network.
    pub network: Network,
    /// Without a sandbox.
    pub is_insecure: bool,
}

/// A mount of RUN.
#[derive(Debug, Clone)]
pub struct RunMount {
    /// Where, absolute; of secrets and agents it may be empty: by default.
    pub target: String,
    /// What.
    pub what: MountOf,
}

/// Owner and mode of what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode; `None`: by default.
    pub mode: Option<u32>,
}

/// What RUN mounts.
#[derive(Debug, Clone)]
pub enum MountOf {
    /// Files of a tree.
    Bind {
        /// Which.
        tree: Tree,
        /// Path in it.
        source: String,
        /// Not writable; what is written is thrown away otherwise.
        read_only: bool,
    },
    /// A folder that stays.
    Cache {
        /// Its id.
        id: String,
        /// Who else may use it.
        sharing: Sharing,
        /// Not writable.
        read_only: bool,
        /// What a new one begins with.
        from: Tree,
        /// Path in there.
        source: String,
        /// Owner and mode of a new one.
        rights: Option<Rights>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0: no limit.
        size: u64,
    },
    /// A secret as a file or variable.
    Secret {
        /// Its id.
        id: String,
        /// The variable.
        env: Option<String>,
        /// It must be there.
        is_required: bool,
        /// Owner and mode of the file.
        rights: Rights,
    },
    /// A socket to an SSH agent.
    Ssh {
        /// Its id.
        id: String,
        /// It must be there.
        is_required: bool,
        /// Owner and mode of the socket.
        rights: Rights,
    },
    /// A here-document that is run as a program.
    Script {
        /// Its name.
        name: String,
        /// Its content.
        data: String,
    },
}

/// COPY and ADD.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Into what.
    pub base: Tree,
    /// What.
    pub sources: Vec<Source>,
    /// Absolute path; a slash at its end says that it is a folder.
    pub destination: String,
    /// `user[:group]`; empty: as it is.
    pub chown: String,
    /// Octal or symbolic; empty: as it is.
    pub chmod: String,
    /// Patterns of what is left out.
    pub excludes: Vec<String>,
    /// The layer does not depend on the base.
    pub is_link: bool,
    /// It is ADD.
    pub is_add: bool,
}

/// One source of COPY.
#[derive(Debug, Clone)]
pub struct Source {
    /// What is copied.
    pub what: SourceOf,
    /// Archives are extracted.
    pub unpack: bool,
}

/// What COPY copies.
#[derive(Debug, Clone)]
pub enum SourceOf {
    /// Files of a tree.
    Tree {
        /// Which.
        tree: Tree,
        /// Absolute path, may have wildcards.
        path: String,
        /// `--parents`: the path below `path` that is kept, may have wildcards.
        below: Option<String>,
        /// Copied out of a context, whose patterns of ignored files explain what is missing.
        is_context: bool,
    },
    /// A file with this name and content.
    Inline {
        /// Its name.
        name: String,
        /// What it holds.
        data: String,
    },
    /// A download.
    Url {
        /// From where.
        url: String,
        /// Its name.
        name: String,
        /// `sha256:…`; empty: not checked.
        checksum: String,
    },
    /// A repository.
    Git {
        /// The remote with `#ref:subfolder`.
        url: String,
        /// With its `.git`.
        keep_git_dir: bool,
        /// The commit; empty: not checked.
        checksum: String,
    },
}

#[cfg(test)]
mod tests;
