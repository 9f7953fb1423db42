//! The way to netd: started when the first container needs names, told in an order that can't bring old zones back.
use std::path::PathBuf;

use pontoon_dataplane::{NetdClient, NetdOptions};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::{Config, Error, Result};

/// The client of this daemon's netd.
#[derive(Debug)]
pub struct Names {
    run_dir: PathBuf,
    exe: Option<PathBuf>,
    client: OnceCell<NetdClient>,
    order: Mutex<()>,
}

/// Gives an error of netd its place.
pub fn failed(operation: &'static str) -> impl FnOnce(pontoon_dataplane::Error) -> Error {
    move |source| Error::Dns {
        operation,
        source: Box::new(source),
    }
}

impl Names {
    /// Nothing is started yet.
    pub fn new(config: &Config) -> Self {
        Self {
            run_dir: config.run_dir.clone(),
            exe: config.netd.clone(),
            client: OnceCell::new(),
            order: Mutex::new(()),
        }
    }

    /// netd, started or found. `None` if names are not served.
    ///
    /// # Errors
    /// [`Error::Dns`].
    pub async fn client(&self) -> Result<Option<&NetdClient>> {
        let Some(exe) = &self.exe else { return Ok(None) };
        let start = || NetdClient::start_or_connect_with(&self.run_dir, NetdOptions { exe: exe.clone() });
        self.client
            .get_or_try_init(start)
            .await
            .map(Some)
            .map_err(failed("start or connect"))
    }

    /// netd, if there was a reason to start it or one runs since before this daemon.
    ///
    /// # Errors
    /// [`Error::Dns`].
    pub async fn running(&self) -> Result<Option<&NetdClient>> {
        if self.client.initialized() || self.run_dir.join("netd.sock").exists() {
            return self.client().await;
        }
        Ok(None)
    }

    /// Held while a zone is read from the core and sent: else an older one could overtake a newer one.
    pub async fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().await
    }
}
