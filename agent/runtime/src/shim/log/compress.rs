//! Compression of a rotated file in a process of its own (`shim-log compress FILE TIME`), so that neither the poll loop nor
//! the shim's memory knows of it.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use flate2::{Compression, GzBuilder};
use rustix::fs::FlockOperation;

use super::encode::rfc3339;
use crate::Error;
use crate::error::IoContext;

/// A compression at work.
#[derive(Debug)]
pub(super) struct Compressor {
    child: Child,
    what: String,
}

/// Our own binary's hidden subcommand, with nothing on its streams but our standard error.
pub(super) fn helper() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("pontoon-shim-log")
        .arg("shim-log")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Compressor {
    /// Begins; `last_time` is that of the file's last line.
    pub(super) fn start(file: &Path, last_time: i64) -> Result<Self, Error> {
        let what = file.display().to_string();
        let child = helper()
            .arg("compress")
            .arg(file)
            .arg(last_time.to_string())
            .spawn()
            .context(|| format!("start compressing {what}"))?;
        Ok(Self { child, what })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What to tell about its end, which somebody else has collected.
    pub(super) fn ended(self, is_success: bool) -> Option<String> {
        (!is_success).then(|| format!("log {} could not be compressed and stays as it is", self.what))
    }

    /// Waits for the end.
    pub(super) fn wait(mut self) -> Option<String> {
        let status = self.child.wait();
        self.ended(status.is_ok_and(|status| status.success()))
    }

    pub(super) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process: `FILE` becomes `FILE.gz`, in one step for readers.
pub(super) fn run(path: &Path, last_time: i64) -> Result<(), Error> {
    let mut source = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| format!("open {}", path.display()))?,
    };
    // A predecessor may still be at it, whose container has been started again since.
    rustix::fs::flock(&source, FlockOperation::LockExclusive)
        .context(|| format!("lock {}", path.display()))?;
    let metadata = source.metadata().context(|| format!("stat {}", path.display()))?;
    if metadata.nlink() == 0 {
        return Ok(());
    }
    let target = super::file::suffixed(path, ".gz");
    let temporary = super::file::suffixed(path, ".gz.tmp");
    // As Docker has it, and the file's inode, by which a reader that has it open finds where to go on.
    let extra = serde_json::json!({ "lastTime": rfc3339(last_time), "inode": metadata.ino() });
    let mut write = || -> std::io::Result<()> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)?;
        let mut encoder = GzBuilder::new()
            .extra(extra.to_string())
            .write(file, Compression::default());
        std::io::copy(&mut source, &mut encoder)?;
        // The plain file goes: what is to replace it has to survive a power failure.
        encoder.finish()?.sync_all()?;
        std::fs::rename(&temporary, &target)?;
        std::fs::remove_file(path)
    };
    let written = write().context(|| format!("compress {}", path.display()));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
