//! [`Registry`]: the front door of the registry client. Holds the settings, which a reload replaces as a whole, and with them the
//! connections; the operations are in `pull`, `push` and their like.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::settings::RegistrySettings;

/// The registry client of a daemon. Operations that are under way keep the settings that they began with.
pub struct Registry {
    shared: RwLock<Arc<Shared>>,
}

/// Settings, and the connections that follow from them.
pub(super) struct Shared {
    pub(super) settings: RegistrySettings,
    clients: Mutex<HashMap<String, reqwest::Client>>,
}

impl Shared {
    /// HTTP clients by `host[:port]`.
    pub(super) fn clients(&self) -> MutexGuard<'_, HashMap<String, reqwest::Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("settings", &self.settings())
            .finish()
    }
}

impl Registry {
    /// With these settings.
    pub fn new(settings: RegistrySettings) -> Self {
        Registry {
            shared: RwLock::new(shared(settings)),
        }
    }

    /// Replaces the settings; what is read from `certs.d` is read again.
    pub fn reload(&self, settings: RegistrySettings) {
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = shared(settings);
    }

    /// The settings of today.
    pub fn settings(&self) -> RegistrySettings {
        self.shared().settings.clone()
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn shared(settings: RegistrySettings) -> Arc<Shared> {
    Arc::new(Shared {
        settings,
        clients: Mutex::default(),
    })
}
