//! How a line looks to a syslog server: RFC 3164, RFC 5424 and Docker's forms of them (moby `daemon/logger/syslog`, srslog).

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::super::record::Record;
use crate::protocol::kind;
use crate::{SyslogAddress, SyslogFormat, SyslogLog};

const ERROR: u8 = 3;
const INFO: u8 = 6;

/// A form with what is the same in all messages.
#[derive(Debug)]
pub(super) struct Format {
    form: SyslogFormat,
    facility: u8,
    tag: String,
    hostname: String,
    pid: u32,
    zone: TimeZone,
    /// RFC 5425: a message goes with its length.
    has_length: bool,
}

impl Format {
    pub(super) fn new(config: &SyslogLog) -> Self {
        let uname = rustix::system::uname();
        let is_5424 = matches!(config.format, SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro);
        Self {
            form: config.format,
            facility: config.facility,
            tag: config.tag.clone(),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            zone: TimeZone::system(),
            has_length: is_5424 && matches!(config.address, SyslogAddress::Tls(..)),
        }
    }

    /// A line as it is sent; always with a newline at its end.
    pub(super) fn message(&self, record: &Record<'_>) -> Vec<u8> {
        let Self {
            tag, hostname, pid, ..
        } = self;
        let severity = if record.stream == kind::STDERR {
            ERROR
        } else {
            INFO
        };
        let priority = self.facility * 8 + severity;
        let time = self.time(record.time);
        let head = match self.form {
            SyslogFormat::Unix => format!("<{priority}>{time} {tag}[{pid}]: "),
            SyslogFormat::Rfc3164 => format!("<{priority}>{time} {hostname} {tag}[{pid}]: "),
            SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro => {
                format!("<{priority}>1 {time} {hostname} {tag} {pid} {tag} - ")
            }
        };
        let mut message = Vec::with_capacity(head.len() + record.line.len() + 8);
        if self.has_length {
            let length = head.len() + record.line.len() + 1;
            message.extend_from_slice(format!("{length} ").as_bytes());
        }
        message.extend_from_slice(head.as_bytes());
        message.extend_from_slice(record.line);
        message.push(b'\n');
        message
    }

    fn time(&self, time: i64) -> String {
        let at = Timestamp::from_nanosecond(time.into())
            .unwrap_or_default()
            .to_zoned(self.zone.clone());
        let zone = if at.offset().is_zero() { "Z" } else { "%:z" };
        match self.form {
            SyslogFormat::Unix | SyslogFormat::Rfc3164 => at.strftime("%b %e %H:%M:%S").to_string(),
            SyslogFormat::Rfc5424 => at.strftime(&format!("%Y-%m-%dT%H:%M:%S{zone}")).to_string(),
            SyslogFormat::Rfc5424Micro => at.strftime(&format!("%Y-%m-%dT%H:%M:%S.%6f{zone}")).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TlsFiles;

    #[test]
    fn messages_are_dockers() {
        let format = |form, address| Format {
            hostname: "host".to_owned(),
            pid: 42,
            zone: TimeZone::UTC,
            ..Format::new(&SyslogLog {
                address,
                facility: 3,
                format: form,
                tag: "tag".to_owned(),
            })
        };
        let record = Record {
            stream: kind::STDERR,
            time: 1_704_164_645_012_345_678,
            line: b"x \xff",
            part: None,
        };
        let of =
            |form| String::from_utf8_lossy(&format(form, SyslogAddress::Local).message(&record)).into_owned();
        assert_eq!(
            of(SyslogFormat::Unix),
            "<27>Jan  2 03:04:05 tag[42]: x \u{fffd}\n"
        );
        assert_eq!(
            of(SyslogFormat::Rfc3164),
            "<27>Jan  2 03:04:05 host tag[42]: x \u{fffd}\n"
        );
        let head = "<27>1 2024-01-02T03:04:05Z host tag 42 tag - ";
        assert_eq!(of(SyslogFormat::Rfc5424), format!("{head}x \u{fffd}\n"));
        assert_eq!(
            of(SyslogFormat::Rfc5424Micro),
            "<27>1 2024-01-02T03:04:05.012345Z host tag 42 tag - x \u{fffd}\n"
        );
        let tls = SyslogAddress::Tls("a:1".to_owned(), TlsFiles::default());
        let framed = format(SyslogFormat::Rfc5424, tls).message(&record);
        let length = head.len() + 4;
        assert!(framed.starts_with(format!("{length} {head}").as_bytes()));
    }
}
