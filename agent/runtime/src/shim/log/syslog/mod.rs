//! Writes to a syslog server. A connection that breaks is made again for the next line; while that fails lines are lost and
//! counted, as in Docker, and the server is tried less and less often.

mod connection;
mod format;

use std::time::{Duration, Instant};

use super::record::{Lost, Record};
use crate::error::IoContext;
use crate::{Error, SyslogLog};
use connection::Connection;
use format::Format;

/// Between attempts to reach a server that is away.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The way to a server.
#[derive(Debug)]
pub(super) struct Syslog {
    config: SyslogLog,
    format: Format,
    connection: Option<Connection>,
    /// No attempt before, and the pause after the next that fails.
    retry: Option<(Instant, Duration)>,
    lost: Option<Lost>,
    notices: Vec<String>,
}

impl Syslog {
    /// Fails if the server can't be reached: the container is not started then.
    pub(super) fn open(config: &SyslogLog) -> Result<Self, Error> {
        let connection =
            Connection::open(&config.address).context(|| connection::describe(&config.address))?;
        Ok(Self {
            format: Format::new(config),
            config: config.clone(),
            connection: Some(connection),
            retry: None,
            lost: None,
            notices: Vec::new(),
        })
    }

    /// Sends a line.
    pub(super) fn write(&mut self, record: &Record<'_>) {
        let message = self.format.message(record);
        match self.send(&message) {
            Ok(()) => {
                if let Some(lost) = self.lost.take() {
                    self.notices.push(format!("syslog takes lines again: {lost}"));
                }
            }
            Err(error) => {
                if self.lost.is_none() {
                    let what = connection::describe(&self.config.address);
                    self.notices
                        .push(format!("syslog: {what}: {error}: output is being lost"));
                }
                self.lost.get_or_insert_default().add(1, record.line.len());
            }
        }
    }

    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        if let Some(connection) = &mut self.connection {
            if !connection.is_closed() && connection.send(message).is_ok() {
                return Ok(());
            }
            self.connection = None;
        }
        let now = Instant::now();
        let pause = match self.retry {
            Some((at, _)) if now < at => return Err(std::io::ErrorKind::NotConnected.into()),
            Some((_, pause)) => pause,
            None => FIRST_RETRY,
        };
        let sent = Connection::open(&self.config.address).and_then(|mut connection| {
            connection.send(message)?;
            Ok(connection)
        });
        match sent {
            Ok(connection) => {
                self.connection = Some(connection);
                self.retry = None;
                Ok(())
            }
            Err(error) => {
                self.retry = Some((Instant::now() + pause, (pause * 2).min(LAST_RETRY)));
                Err(error)
            }
        }
    }

    /// Says good-bye.
    pub(super) fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close();
        }
        if let Some(lost) = self.lost.take() {
            self.notices.push(format!("syslog: {lost}"));
        }
    }

    pub(super) fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}
