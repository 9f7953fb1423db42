//! Where a container's output is kept: what the engine tells the shim. Checked and complete when it gets here: tags are
//! evaluated, attributes chosen, defaults filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A container's log. The default keeps nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Where each line goes.
    pub target: LogTarget,
    /// A copy of each line in the `local` format, for `logs` of a target that can't be read.
    pub cache: Option<FileLog>,
    /// Labels, variables and tag that go with each line of a file; `logs --details` shows them.
    pub attributes: BTreeMap<String, String>,
    /// Set: the container never waits for its log. So many bytes are held for a target that is slow; what does not
    /// fit is lost and counted. Unset: the container waits.
    pub buffer: Option<usize>,
}

/// Where lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTarget {
    /// Nowhere.
    #[default]
    None,
    /// Docker's json-file: one object a line.
    JsonFile(FileLog),
    /// Docker's local: length-prefixed protobuf records.
    Local(FileLog),
    /// systemd's journal, by its native protocol.
    Journald(JournaldLog),
    /// A syslog server.
    Syslog(SyslogLog),
}

/// Files of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLog {
    /// The current file; older ones get `.1`, `.2`, ...
    pub path: PathBuf,
    /// Rotate when a file has reached this many bytes.
    pub max_size: Option<u64>,
    /// Number of files kept, the current one included; 0 counts as 1.
    pub max_file: u32,
    /// Keep older files as `.1.gz`, `.2.gz`, ...
    pub compress: bool,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournaldLog {
    /// Its socket: `/run/systemd/journal/socket`.
    pub socket: PathBuf,
    /// Fields of each entry, besides those that each line has of its own. Names are valid field names.
    pub fields: BTreeMap<String, String>,
}

/// A syslog server and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogLog {
    /// Where it is.
    pub address: SyslogAddress,
    /// 0 (kern) to 23 (local7).
    pub facility: u8,
    /// How a line is written.
    pub format: SyslogFormat,
    /// The sender's name in each line.
    pub tag: String,
}

/// Where a syslog server is. Network addresses are `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogAddress {
    /// The host's own: the first of `/dev/log`, `/var/run/syslog`, `/var/run/log` that answers.
    Local,
    /// A stream socket.
    Unix(PathBuf),
    /// A datagram socket.
    Unixgram(PathBuf),
    /// One datagram a line.
    Udp(String),
    /// A connection.
    Tcp(String),
    /// A connection with TLS.
    Tls(String, TlsFiles),
}

/// How a syslog line is written. Docker's names: none, `rfc3164`, `rfc5424`, `rfc5424micro`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyslogFormat {
    /// RFC 3164 without the host's name.
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424 with seconds.
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424Micro,
}

/// PEM files of a TLS client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFiles {
    /// Certificates that the server's may descend from; unset: the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate; with `key`.
    pub cert: Option<PathBuf>,
    /// Our private key; with `cert`.
    pub key: Option<PathBuf>,
    /// Take any certificate of the server's.
    pub skip_verify: bool,
}
