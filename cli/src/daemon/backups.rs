//! Backups on a schedule (`backup-dir` in the daemon's settings), while this node is a manager. Started by `node`.
//!
//! Each manager that has the setting writes its own: a file is under its name only when it is whole and on the disk. The time of
//! the newest file counts, so that a daemon that is restarted often writes no more of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pontoon_controller::{BackupKey, Manager};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::describe;

const PREFIX: &str = "cluster-";
const SUFFIX: &str = ".backup";
/// Of a file that is being written.
const PARTIAL: &str = ".pontoon-backup-";
/// Pause before a backup that failed is tried again, or a node that is no manager is looked at again.
const PAUSE: Duration = Duration::from_secs(10);

/// When and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Folder of the files.
    pub dir: PathBuf,
    /// Time from one to the next.
    pub every: Duration,
    /// Files that are kept of a cluster.
    pub keep: usize,
    /// The key's file, read at each backup.
    pub key_file: PathBuf,
}

/// The key in a file.
///
/// # Errors
/// When it can't be read or is too short.
pub fn read_key(path: &Path) -> Result<BackupKey, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("read key file {}: {error}", path.display()))?;
    let key = BackupKey::File(Zeroizing::new(bytes));
    key.check()
        .map_err(|error| format!("key file {}: {error}", path.display()))?;
    Ok(key)
}

/// Writes backups until `stop`. `manager` gives the controller while this node is a manager.
pub async fn run(
    schedule: Arc<Schedule>,
    manager: impl AsyncFn() -> Option<Arc<Manager>>,
    stop: CancellationToken,
) {
    let mut next = Instant::now() + due(&schedule).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let Some(manager) = manager().await else {
            next = Instant::now() + PAUSE;
            continue;
        };
        match one(&schedule, &manager).await {
            Ok(path) => {
                tracing::info!(path = %path.display(), "the cluster's state was backed up");
                next = Instant::now() + schedule.every;
            }
            Err(reason) => {
                tracing::error!(%reason, "the cluster's state could not be backed up; trying again");
                next = Instant::now() + PAUSE.min(schedule.every);
            }
        }
    }
}

/// Time until the next one is due, by the newest file.
async fn due(schedule: &Arc<Schedule>) -> Duration {
    let schedule = schedule.clone();
    let found = tokio::task::spawn_blocking(move || {
        let newest = files(&schedule.dir, PREFIX).pop()?;
        let changed = newest.metadata().and_then(|metadata| metadata.modified()).ok()?;
        // A file from the future is taken for one of now.
        let age = changed.elapsed().unwrap_or_default();
        Some(schedule.every.saturating_sub(age))
    });
    found.await.ok().flatten().unwrap_or_default()
}

async fn one(schedule: &Arc<Schedule>, manager: &Arc<Manager>) -> Result<PathBuf, String> {
    let begun = {
        let schedule = schedule.clone();
        tokio::task::spawn_blocking(move || begin(&schedule))
    };
    let (key, file) = begun.await.map_err(|error| error.to_string())??;
    let out = file
        .reopen()
        .map_err(|error| format!("write the backup: {error}"))?;
    let info = manager
        .backup(key, std::io::BufWriter::new(out))
        .await
        .map_err(|error| describe(&error))?;
    let schedule = schedule.clone();
    let ended = tokio::task::spawn_blocking(move || end(&schedule, file, &info));
    ended.await.map_err(|error| error.to_string())?
}

/// The key, and a new file that goes when it is not kept.
fn begin(schedule: &Schedule) -> Result<(BackupKey, tempfile::NamedTempFile), String> {
    let dir = &schedule.dir;
    let failed = |error: std::io::Error| format!("make a file in {}: {error}", dir.display());
    let key = read_key(&schedule.key_file)?;
    std::fs::create_dir_all(dir).map_err(failed)?;
    // Of a daemon that was killed.
    for path in files(dir, PARTIAL) {
        let _ = std::fs::remove_file(path);
    }
    let suffix = SUFFIX;
    let file = tempfile::Builder::new()
        .prefix(PARTIAL)
        .suffix(suffix)
        .tempfile_in(dir);
    file.map(|file| (key, file)).map_err(failed)
}

/// Gives the file its name and removes those that are too many.
fn end(
    schedule: &Schedule,
    file: tempfile::NamedTempFile,
    info: &pontoon_proto::v1::BackupInfo,
) -> Result<PathBuf, String> {
    let cluster = info.cluster_id.get(..12).unwrap_or(&info.cluster_id);
    let of_cluster = format!("{PREFIX}{cluster}-");
    let time = jiff::Timestamp::from_nanosecond(info.created_at.into())
        .map(|time| time.strftime("%Y%m%dT%H%M%S%.3fZ").to_string())
        .map_err(|error| error.to_string())?;
    let path = schedule.dir.join(format!("{of_cluster}{time}{SUFFIX}"));
    keep(file, &path)?;
    let known = files(&schedule.dir, &of_cluster);
    for old in known.iter().take(known.len().saturating_sub(schedule.keep)) {
        if let Err(error) = std::fs::remove_file(old) {
            tracing::warn!(path = %old.display(), %error, "an old backup can't be removed");
        }
    }
    Ok(path)
}

/// Gives a whole file its name, durably.
///
/// # Errors
/// When it can't be synced or renamed; it is gone then.
pub fn keep(file: tempfile::NamedTempFile, path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("write {}: {error}", path.display());
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = std::fs::File::open(dir.unwrap_or(Path::new(".")));
    dir.and_then(|dir| dir.sync_all()).map_err(failed)
}

/// The backups in a folder whose names begin like this, oldest first.
fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(SUFFIX))
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(ours).collect();
    files.sort();
    files
}
