//! The daemon's flags about backups on a schedule. Part of [`Arguments`](super::Arguments); carried out by `daemon/backups`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::daemon::backups::{Schedule, read_key};
use crate::error::Failure;
use crate::output::human;

/// Flags about backups.
#[derive(Args, Debug)]
pub struct BackupArguments {
    /// Folder that this node, while it is a manager, writes backups of the cluster's state to (default none)
    #[arg(long, value_name = "path", env = "PONTOON_BACKUP_DIR", hide_env = true)]
    backup_dir: Option<PathBuf>,
    /// Time from one backup to the next
    #[arg(
        long,
        value_name = "duration",
        env = "PONTOON_BACKUP_INTERVAL",
        hide_env = true,
        value_parser = interval,
        default_value = "24h"
    )]
    backup_interval: Duration,
    /// Number of backups that are kept
    #[arg(
        long,
        value_name = "int",
        env = "PONTOON_BACKUP_KEEP",
        hide_env = true,
        value_parser = clap::value_parser!(u32).range(1..),
        default_value_t = 7
    )]
    backup_keep: u32,
    /// File whose contents are the key of backups, at least 32 bytes
    #[arg(long, value_name = "file", env = "PONTOON_BACKUP_KEY_FILE", hide_env = true)]
    backup_key_file: Option<PathBuf>,
}

impl BackupArguments {
    /// Checks the flags.
    ///
    /// # Errors
    /// A folder without a key or the other way round, a key that can't be read.
    pub fn settings(self) -> Result<Option<Schedule>, Failure> {
        let (dir, key_file) = match (self.backup_dir, self.backup_key_file) {
            (None, None) => return Ok(None),
            (Some(dir), Some(key_file)) => (dir, key_file),
            (Some(_), None) => {
                return Err(Failure::new(
                    "--backup-dir needs --backup-key-file: backups are encrypted. Make a key with `head -c 32 /dev/urandom >FILE` \
                     and keep a copy of it off this host",
                ));
            }
            (None, Some(_)) => {
                return Err(Failure::new(
                    "--backup-key-file means nothing without --backup-dir",
                ));
            }
        };
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
        };
        let key_file = absolute(key_file)?;
        read_key(&key_file).map_err(|reason| Failure::new(format!("--backup-key-file: {reason}")))?;
        Ok(Some(Schedule {
            dir: absolute(dir)?,
            every: self.backup_interval,
            keep: self.backup_keep as usize,
            key_file,
        }))
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let nanoseconds = human::parse_duration(text)?;
    let interval = u64::try_from(nanoseconds).map(Duration::from_nanos);
    let interval = interval
        .ok()
        .filter(|interval| *interval >= Duration::from_secs(1));
    interval.ok_or_else(|| "a duration of at least 1s is expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_wants_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, [1; 32]).unwrap();
        let settings = |folder: bool, key_file: Option<&PathBuf>| {
            let arguments = BackupArguments {
                backup_dir: folder.then(|| PathBuf::from("/backups")),
                backup_interval: interval("1h").unwrap(),
                backup_keep: 3,
                backup_key_file: key_file.cloned(),
            };
            arguments.settings().map_err(|failure| failure.to_string())
        };
        assert_eq!(settings(false, None), Ok(None));
        let schedule = settings(true, Some(&key)).unwrap().unwrap();
        assert_eq!((schedule.every, schedule.keep), (Duration::from_secs(3600), 3));
        assert!(settings(true, None).unwrap_err().contains("--backup-key-file"));
        assert!(settings(false, Some(&key)).unwrap_err().contains("--backup-dir"));
        std::fs::write(&key, [1; 31]).unwrap();
        assert!(settings(true, Some(&key)).unwrap_err().contains("31 bytes"));
        assert!(
            settings(true, Some(&dir.path().join("none")))
                .unwrap_err()
                .contains("read key file")
        );
        assert!(interval("10ms").is_err() && interval("x").is_err());
    }
}
