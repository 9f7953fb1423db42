//! The process that reads and writes the files of one container for `cp` and `export`: our own binary, one thread, gone
//! when its job is done. It has a mount namespace of its own with the container's files (`pontoon_runtime::FileView`), so
//! whatever happens to it or the daemon, nothing stays mounted; and a file system of the container's that hangs can't hang
//! the daemon.
//!
//! It never changes its root to the container's and runs, loads or looks up nothing there (CVE-2019-14271,
//! CVE-2026-41567): names are resolved by `openat2` below a descriptor of the root (`paths`), archives are read and
//! written by our own code.
//!
//! ```text
//! engine ── Job, (Data … End) ──► stdin   helper   stdout ──► (Stat), (Data …), Outcome ── engine
//! ```

pub(crate) mod frames;
mod paths;
mod tasks;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use pontoon_image::archive::IdMap;
use pontoon_runtime::FileView;
use serde::{Deserialize, Serialize};

use frames::Kind;

/// What a helper is started for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The container's files.
    pub view: FileView,
    /// Ids of its user namespace, as far as its root file system shows the host's.
    pub ids: IdMap,
    /// Ids of what is mounted from the host: that belongs to the host's users also while the container does not run.
    pub host_ids: IdMap,
    /// Where such mounts are.
    pub host_mounts: Vec<PathBuf>,
    /// What to do.
    pub task: Task,
}

/// What to do with the files. Paths are as users give them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Metadata of a path.
    Stat { path: String },
    /// Metadata of a path, then it as an archive.
    CopyOut { path: String },
    /// An archive into a folder.
    CopyIn {
        path: String,
        no_overwrite_dir_non_dir: bool,
        /// Who gets everything; the archive says otherwise.
        owner: Option<(u32, u32)>,
    },
    /// All files as an archive.
    Export,
}

/// Metadata of a path.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stat {
    /// Its last name, or what was asked for of it: `/`, `.`.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`.
    pub mode: u32,
    /// Nanoseconds since the epoch.
    pub mtime: i64,
    /// Of a link: where it leads in the container, absolute.
    pub link_target: String,
}

/// How it ended.
pub(crate) type Outcome = Result<(), Refusal>;

/// Why it did not end well.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// The path is not there.
    #[error("no such file: {0}")]
    NotFound(String),
    /// The request makes no sense for what is there; the text is for users.
    #[error("{0}")]
    Invalid(String),
    /// The container's process has ended.
    #[error("the container has ended meanwhile")]
    Ended,
    /// Something failed; the text is for users.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    fn failed(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::Failed(text)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::failed(&error)
    }
}

impl From<pontoon_runtime::Error> for Refusal {
    fn from(error: pontoon_runtime::Error) -> Self {
        match error {
            pontoon_runtime::Error::State { .. } => Self::Ended,
            other => Self::failed(&other),
        }
    }
}

impl From<pontoon_image::Error> for Refusal {
    fn from(error: pontoon_image::Error) -> Self {
        match error {
            pontoon_image::Error::HostileArchive { .. }
            | pontoon_image::Error::NotAnArchive(_)
            | pontoon_image::Error::Overwrite(_) => Self::Invalid(error.to_string()),
            other => Self::failed(&other),
        }
    }
}

/// Entry point of the hidden subcommand `archive`.
pub fn main() -> ExitCode {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    match prepare(&mut input) {
        Ok(job) => {
            let outcome = tasks::run(&job, &mut input, &mut output);
            finish(&mut output, &outcome)
        }
        Err(error) => {
            eprintln!("this command is the daemon's own: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(input: &mut impl Read) -> Result<Job, Box<dyn std::error::Error>> {
    let (Kind::Job, text) = frames::read(input)? else {
        return Err("no job was given".into());
    };
    let job: Job = serde_json::from_slice(&text)?;
    // No process of a container may trace it and take its descriptors.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // The daemon's directory may be one that somebody wants to unmount.
    rustix::process::chdir("/")?;
    // Modes are an archive's.
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(job)
}

fn finish(output: &mut impl Write, outcome: &Outcome) -> ExitCode {
    let text = serde_json::to_vec(outcome).unwrap_or_default();
    // A longer text than a frame has nobody made on purpose.
    let text = if text.len() <= frames::FRAME {
        text
    } else {
        b"null".to_vec()
    };
    match frames::write(output, Kind::Outcome, &text) {
        Ok(()) => ExitCode::SUCCESS,
        // The engine has gone: nobody to tell.
        Err(_) => ExitCode::FAILURE,
    }
}
