//! `logs`: reads what shims write (Docker's json-file lines, rotated), from a point on, and follows without polling.
//!
//! - [`driver`]: which driver and options a container has; `cursor`: position in the chain of rotated files;
//! - `entry`: one line; `tail`: where the last so many lines begin; `watch`: waits for more.

mod cursor;
mod entry;
mod tail;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_proto::v1::{LogDriver, LogEntry, LogsRequest};
use pontoon_runtime::LogConfig;
use tokio::sync::mpsc;

use crate::container::Container;
use crate::engine::blocking;
use crate::{Engine, Error, Result, id};
use cursor::Cursor;

/// Entries that wait for the client.
const BUFFER: usize = 256;

/// Where a container's log is: as in Docker, `<id>-json.log` in its folder.
pub(crate) fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}-json.log"))
}

/// Checks a log driver's name and options and gives the shim's form of it.
pub(crate) fn driver(log: &LogDriver, path: &Path) -> Result<LogConfig> {
    let invalid = |text: String| Error::Invalid(text);
    match log.name.as_str() {
        "none" => return Ok(LogConfig::None),
        "" | "json-file" => {}
        other => {
            return Err(invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    }
    let mut max_size = None;
    let mut max_file = None;
    for (key, value) in &log.options {
        match key.as_str() {
            "max-size" => {
                max_size = size(value);
                if max_size.is_none() {
                    return Err(invalid(format!("invalid size for log opt max-size: '{value}'")));
                }
            }
            "max-file" => match value.parse::<u32>() {
                Ok(number) if number > 0 => max_file = Some(number),
                _ => return Err(invalid("max-file cannot be less than 1".to_owned())),
            },
            other => {
                return Err(invalid(format!(
                    "unknown log opt '{other}' for json-file log driver"
                )));
            }
        }
    }
    if max_file.is_some_and(|number| number > 1) && max_size.is_none() {
        return Err(invalid("max-file must be used with max-size".to_owned()));
    }
    Ok(LogConfig::JsonFile {
        path: path.to_owned(),
        max_size,
        max_file: max_file.unwrap_or(1),
    })
}

/// `10m`, `1g`, `500k`, `4096`: bytes in powers of 1024; -1 would be no limit and is left out.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, factor) = match bare.as_bytes().last()? {
        b'k' => (&bare[..bare.len() - 1], 1 << 10),
        b'm' => (&bare[..bare.len() - 1], 1 << 20),
        b'g' => (&bare[..bare.len() - 1], 1 << 30),
        _ => (bare, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .filter(|number| *number > 0)?
        .checked_mul(factor)
}

impl Engine {
    /// Reads a container's log. The stream ends with the last line, or when following with the container.
    ///
    /// # Errors
    /// No such container, or its driver keeps nothing. Later errors are in the stream.
    pub fn logs(self: &Arc<Self>, request: &LogsRequest) -> Result<mpsc::Receiver<Result<LogEntry>>> {
        let container = self.containers.find(&request.target)?;
        if !request.stdout && !request.stderr {
            return Err(Error::Invalid(
                "Bad parameters: you must choose at least one stream".to_owned(),
            ));
        }
        let name = container.read(|record| record.host().log.unwrap_or_default().name);
        if name == "none" {
            return Err(Error::Invalid(
                "configured logging driver does not support reading".to_owned(),
            ));
        }
        let (sender, receiver) = mpsc::channel(BUFFER);
        let (request, stop) = (request.clone(), self.stop.clone());
        tokio::spawn(async move {
            let reading = async {
                if let Err(error) = read(&container, &request, &sender).await {
                    sender.send(Err(error)).await.ok();
                }
            };
            tokio::select! {
                () = reading => {}
                () = sender.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(receiver)
    }
}

async fn read(
    container: &Container,
    request: &LogsRequest,
    sender: &mpsc::Sender<Result<LogEntry>>,
) -> Result<()> {
    let path = path(&container.dir, &container.id);
    let mut phase = container.watch();
    let mut watch = if request.follow {
        Some(watch::Watch::new(&container.dir)?)
    } else {
        None
    };
    let tail = request.tail;
    let mut cursor = blocking(move || Cursor::open(path, tail)).await?;
    loop {
        // Looked at before reading: what was written before the end is read after it was seen.
        let ended = !container.is_alive() || phase.borrow_and_update().removed;
        loop {
            let (entries, back) = blocking(move || cursor.batch()).await?;
            cursor = back;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if request.until > 0 && entry.timestamp > request.until {
                    return Ok(());
                }
                let wanted = if entry.stream == 2 {
                    request.stderr
                } else {
                    request.stdout
                };
                if wanted && entry.timestamp >= request.since && sender.send(Ok(entry)).await.is_err() {
                    return Ok(());
                }
            }
        }
        let Some(watch) = watch.as_mut().filter(|_| !ended) else {
            return Ok(());
        };
        tokio::select! {
            changed = watch.changed() => changed?,
            _ = phase.changed() => {}
            () = until(request.until) => return Ok(()),
        }
    }
}

/// Waits for a point in time; 0 never comes.
async fn until(time: i64) {
    if time <= 0 {
        return std::future::pending().await;
    }
    let rest = u64::try_from(time.saturating_sub(id::now())).unwrap_or_default();
    tokio::time::sleep(std::time::Duration::from_nanos(rest)).await;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn options_are_checked() {
        let of = |options: &[(&str, &str)]| {
            let options: HashMap<_, _> = options
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect();
            driver(
                &LogDriver {
                    name: "json-file".into(),
                    options,
                },
                Path::new("/x"),
            )
        };
        assert!(matches!(
            of(&[("max-size", "10m"), ("max-file", "3")]).unwrap(),
            LogConfig::JsonFile {
                max_size: Some(10_485_760),
                max_file: 3,
                ..
            }
        ));
        assert!(of(&[("max-file", "3")]).is_err());
        assert!(of(&[("max-size", "x")]).is_err());
        assert!(of(&[("colour", "x")]).is_err());
        assert!(
            driver(
                &LogDriver {
                    name: "syslog".into(),
                    ..LogDriver::default()
                },
                Path::new("/")
            )
            .is_err()
        );
    }
}
