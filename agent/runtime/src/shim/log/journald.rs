//! Writes to systemd's journal by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram an entry, a sealed
//! memory file for what no datagram holds. Fields are those of Docker's driver.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg_addr, sendto, socket_with,
};

use super::encode::rfc3339;
use super::record::{Lost, Record};
use crate::error::IoContext;
use crate::protocol::kind;
use crate::{Error, JournaldLog};

/// Priorities of syslog(3).
const ERROR: &[u8] = b"3";
const INFO: &[u8] = b"6";

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journald {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// Fields that all entries have, encoded.
    fields: Vec<u8>,
    /// Counts our entries.
    ordinal: u64,
    lost: Option<Lost>,
    notices: Vec<String>,
}

impl Journald {
    /// Fails where no journal is.
    pub(super) fn open(config: &JournaldLog) -> Result<Self, Error> {
        if !config.socket.exists() {
            return Err(Error::Unsupported(
                "journald is not enabled on this host".to_owned(),
            ));
        }
        let address =
            SocketAddrUnix::new(&config.socket).context(|| format!("address {}", config.socket.display()))?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .context(|| "make a socket")?;
        let mut fields = Vec::new();
        for (name, value) in &config.fields {
            field(&mut fields, name, value.as_bytes());
        }
        let mut epoch = [0; 32];
        let _ = rustix::rand::getrandom(&mut epoch, rustix::rand::GetRandomFlags::empty());
        let epoch: String = epoch.iter().map(|byte| format!("{byte:02x}")).collect();
        field(&mut fields, "CONTAINER_LOG_EPOCH", epoch.as_bytes());
        Ok(Self {
            socket,
            address,
            fields,
            ordinal: 0,
            lost: None,
            notices: Vec::new(),
        })
    }

    /// Sends a line. One that can't be sent is lost and counted.
    pub(super) fn write(&mut self, record: &Record<'_>) {
        self.ordinal += 1;
        let entry = self.entry(record);
        match self.send(&entry) {
            Ok(()) => {
                if let Some(lost) = self.lost.take() {
                    self.notices
                        .push(format!("the journal takes lines again: {lost}"));
                }
            }
            Err(error) => {
                if self.lost.is_none() {
                    self.notices
                        .push(format!("write to the journal: {error}: output is being lost"));
                }
                self.lost.get_or_insert_default().add(1, record.line.len());
            }
        }
    }

    fn entry(&self, record: &Record<'_>) -> Vec<u8> {
        let mut entry = self.fields.clone();
        field(&mut entry, "MESSAGE", record.line);
        let is_error = record.stream == kind::STDERR;
        field(&mut entry, "PRIORITY", if is_error { ERROR } else { INFO });
        field(&mut entry, "SYSLOG_TIMESTAMP", rfc3339(record.time).as_bytes());
        field(
            &mut entry,
            "CONTAINER_LOG_ORDINAL",
            self.ordinal.to_string().as_bytes(),
        );
        if let Some(part) = record.part {
            field(&mut entry, "CONTAINER_PARTIAL_ID", part.hex().as_bytes());
            field(
                &mut entry,
                "CONTAINER_PARTIAL_ORDINAL",
                part.ordinal.to_string().as_bytes(),
            );
            field(
                &mut entry,
                "CONTAINER_PARTIAL_LAST",
                part.is_last.to_string().as_bytes(),
            );
            if !part.is_last {
                field(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        entry
    }

    fn send(&self, entry: &[u8]) -> Result<(), Errno> {
        loop {
            // To the address each time: a journal that was restarted has a new socket.
            match sendto(&self.socket, entry, SendFlags::NOSIGNAL, &self.address) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE | Errno::NOBUFS) => return self.send_file(entry),
                Err(error) => return Err(error),
            }
        }
    }

    fn send_file(&self, entry: &[u8]) -> Result<(), Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create("journal-entry", flags)?);
        file.write_all(entry)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        fcntl_add_seals(
            &file,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
        )?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let nothing = [IoSlice::new(&[])];
        sendmsg_addr(
            &self.socket,
            &self.address,
            &nothing,
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map(drop)
    }

    pub(super) fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

/// Appends a field; one whose value has newlines goes with its length.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Seek as _};
    use std::os::unix::net::UnixDatagram;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::super::record::Part;
    use super::*;

    fn record(line: &[u8]) -> Record<'_> {
        Record {
            stream: kind::STDERR,
            time: 0,
            line,
            part: Some(Part {
                id: [1; 32],
                ordinal: 2,
                is_last: false,
            }),
        }
    }

    #[test]
    fn entries_are_fields_and_large_ones_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut config = JournaldLog {
            socket: path,
            fields: BTreeMap::from([("CONTAINER_TAG".to_owned(), "a\nb".to_owned())]),
        };
        let mut journal = Journald::open(&config).unwrap();
        journal.write(&record(b"hello"));
        let mut buffer = vec![0; 1 << 16];
        let length = server.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(
            text.starts_with("CONTAINER_TAG\n\u{3}\0\0\0\0\0\0\0a\nb\nCONTAINER_LOG_EPOCH="),
            "{text:?}"
        );
        for line in [
            "\nMESSAGE=hello\n",
            "\nPRIORITY=3\n",
            "\nCONTAINER_LOG_ORDINAL=1\n",
            "\nCONTAINER_PARTIAL_ORDINAL=2\n",
            "\nCONTAINER_PARTIAL_LAST=false\n",
            "\nCONTAINER_PARTIAL_MESSAGE=true\n",
            "\nSYSLOG_TIMESTAMP=1970-01-01T00:00:00Z\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text:?}");
        }

        config.fields.insert("LARGE".to_owned(), "x".repeat(1 << 20));
        let mut journal = Journald::open(&config).unwrap();
        journal.write(&record(b"hello"));
        assert_eq!(journal.notices(), [""; 0]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&server, &mut [], &mut control, RecvFlags::empty()).unwrap();
        let mut files = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => files.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let mut file = std::fs::File::from(files.next().unwrap());
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.len() > 1 << 20 && text.contains("\nMESSAGE=hello\n"));
        drop(server);
        journal.write(&record(b"lost"));
        assert!(journal.notices()[0].contains("output is being lost"));
    }
}
