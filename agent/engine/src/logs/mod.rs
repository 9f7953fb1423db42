//! `logs`: reads what shims write (Docker's json-file and local formats, rotated and compressed), from a point on, and
//! follows without polling. And the drivers: which there are, what their options mean.
//!
//! - [`options`]: drivers and options; `size`: their numbers; `tag`: templates; [`driver`]: what the shim is told
//! - `cursor`: position in the [`chain`] of files; `format`: records; `tail`: where the last so many lines begin
//! - `watch`: waits for more

mod chain;
mod cursor;
mod driver;
mod format;
mod options;
mod size;
mod tag;
mod tail;
mod watch;

use std::sync::Arc;

use pontoon_proto::v1::{LogEntry, LogsRequest};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::engine::blocking;
use crate::{Engine, Error, Result, id};
use cursor::{Cursor, Start};
use driver::Place;

pub(crate) use driver::{shim_config, shown_path};
pub use options::validate;
pub(crate) use options::{DRIVERS, fill_defaults};

/// Entries that wait for the client.
const BUFFER: usize = 256;

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
        let log = container.read(|record| record.host().log.unwrap_or_default());
        let Some(place) = driver::place(&log, &container.dir, &container.id) else {
            return Err(Error::Invalid(
                "configured logging driver does not support reading".to_owned(),
            ));
        };
        let (sender, receiver) = mpsc::channel(BUFFER);
        let (request, stop) = (request.clone(), self.stop.clone());
        tokio::spawn(async move {
            let reading = async {
                if let Err(error) = read(&container, place, &request, &sender).await {
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
    place: Place,
    request: &LogsRequest,
    sender: &mpsc::Sender<Result<LogEntry>>,
) -> Result<()> {
    let Place { path, format } = place;
    let mut phase = container.watch();
    let mut watch = if request.follow {
        let folder = path.parent().unwrap_or(&container.dir).to_owned();
        // The shim makes it at the first start; the watch may be earlier.
        Some(blocking(move || watch::Watch::new(&folder)).await?)
    } else {
        None
    };
    let start = Start {
        tail: request.tail,
        since: request.since,
    };
    let mut cursor = blocking(move || Cursor::open(path, format, start)).await?;
    loop {
        // Looked at before reading: what was written before the end is read after it was seen.
        let ended =
            !container.is_alive() && !container.live().is_restarting || phase.borrow_and_update().removed;
        loop {
            let (entries, back) = blocking(move || cursor.batch()).await?;
            cursor = back;
            if entries.is_empty() {
                break;
            }
            if !send(entries, request, sender).await {
                return Ok(());
            }
        }
        let Some(watch) = watch.as_mut().filter(|_| !ended) else {
            if ended && cursor.is_amid() {
                let entries = blocking(move || Ok(cursor.finish())).await?;
                send(entries, request, sender).await;
            }
            return Ok(());
        };
        tokio::select! {
            changed = watch.changed() => changed?,
            _ = phase.changed() => {}
            () = until(request.until) => return Ok(()),
        }
    }
}

/// Sends what was asked for; false if no more is wanted.
async fn send(
    entries: Vec<LogEntry>,
    request: &LogsRequest,
    sender: &mpsc::Sender<Result<LogEntry>>,
) -> bool {
    for mut entry in entries {
        if request.until > 0 && entry.timestamp > request.until {
            return false;
        }
        let is_wanted = match entry.stream {
            2 => request.stderr,
            _ => request.stdout,
        };
        if !is_wanted || entry.timestamp < request.since {
            continue;
        }
        if !request.details {
            entry.attributes.clear();
        }
        if sender.send(Ok(entry)).await.is_err() {
            return false;
        }
    }
    true
}

/// Waits for a point in time; 0 never comes.
async fn until(time: i64) {
    if time <= 0 {
        return std::future::pending().await;
    }
    let rest = u64::try_from(time.saturating_sub(id::now())).unwrap_or_default();
    tokio::time::sleep(std::time::Duration::from_nanos(rest)).await;
}
