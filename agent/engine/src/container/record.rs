//! A container's record: what is kept of it on disk, in `<data>/engine/containers/<id>/container.pb`. Written whole by
//! rename at every change, so that a reader sees the old or the new one.

use std::path::Path;

use pontoon_proto::v1::{self, ContainerNetwork, ContainerState};
use prost::Message;

use crate::error::IoContext;
use crate::volumes::PlannedMount;
use crate::{Error, Result};

/// File name of the record in the container's folder.
pub(crate) const FILE: &str = "container.pb";

/// What is kept of a container. Fields are only ever added.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    /// What `inspect` shows.
    #[prost(message, optional, tag = "1")]
    pub view: Option<v1::Container>,
    /// The user stopped it: `unless-stopped` does not start it again.
    #[prost(bool, tag = "2")]
    pub stopped_by_user: bool,
    /// Close stdin after the first attached client.
    #[prost(bool, tag = "3")]
    pub stdin_once: bool,
    /// NIS domain name.
    #[prost(string, tag = "4")]
    pub domainname: String,
    /// The networks as asked for; `view.networks` are those it has.
    #[prost(message, repeated, tag = "5")]
    pub wanted_networks: Vec<ContainerNetwork>,
    /// It is being removed: a restarted daemon finishes that.
    #[prost(bool, tag = "6")]
    pub removing: bool,
    /// Its mounts, volumes named.
    #[prost(message, repeated, tag = "20")]
    pub mounts: Vec<PlannedMount>,
    /// The removal that goes on takes its anonymous volumes along.
    #[prost(bool, tag = "21")]
    pub removing_volumes: bool,
}

impl Record {
    /// What `inspect` shows.
    pub(crate) fn view(&self) -> &v1::Container {
        self.view
            .as_ref()
            .expect("a record is made and read with its view")
    }

    /// What `inspect` shows, to be changed.
    pub(crate) fn view_mut(&mut self) -> &mut v1::Container {
        self.view
            .as_mut()
            .expect("a record is made and read with its view")
    }

    /// Its settings, defaults merged in.
    pub(crate) fn config(&self) -> v1::ContainerSpec {
        self.view().config.clone().unwrap_or_default()
    }

    /// Its host settings.
    pub(crate) fn host(&self) -> v1::HostConfig {
        self.view().host.clone().unwrap_or_default()
    }

    /// Writes the record. `durable`: it must survive a power failure right after, so it is synced first.
    pub(crate) fn save(&self, dir: &Path, durable: bool) -> Result<()> {
        let path = dir.join(FILE);
        let temporary = dir.join("container.tmp");
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&self.encode_to_vec())?;
            if durable {
                file.sync_data()?;
            }
            std::fs::rename(&temporary, &path)
        };
        write().context(|| format!("write {}", path.display()))
    }

    /// Reads a record; `None` if there is none or it has no content (a creation that was cut short).
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    what: format!("read {}", path.display()),
                    source,
                });
            }
        };
        let record = Self::decode(bytes.as_slice()).map_err(|source| Error::Record { path, source })?;
        Ok(record.view.is_some().then_some(record))
    }
}

/// True while the container has a process.
pub(crate) fn has_process(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused)
}
