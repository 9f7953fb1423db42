//! The daemon's flags about where a manager keeps the cluster's state. Part of [`Arguments`](super::Arguments); carried out by the
//! controller.

use clap::Args;
use pontoon_controller::ExternalStore;

use crate::error::Failure;

/// Flags about the cluster's state.
#[derive(Args, Debug)]
pub struct StoreArguments {
    /// Keep the cluster's state in an external etcd (etcd://host:port[,host:port...][/prefix]) and not on the managers
    #[arg(long, value_name = "string", env = "PONTOON_STORE", hide_env = true)]
    store: Option<String>,
    /// Options of the external store: cacert, cert, key, user, password-file, lease, compact (name=value)
    #[arg(long = "store-opt", value_name = "list")]
    store_opts: Vec<String>,
}

impl StoreArguments {
    /// Checks the flags.
    ///
    /// # Errors
    /// An address or an option that makes no sense.
    pub fn settings(self) -> Result<Option<ExternalStore>, Failure> {
        match self.store {
            Some(store) => {
                let parsed = ExternalStore::parse(&store, &self.store_opts);
                parsed
                    .map(Some)
                    .map_err(|error| Failure::new(format!("--store: {error}")))
            }
            None if self.store_opts.is_empty() => Ok(None),
            None => Err(Failure::new("--store-opt means nothing without --store")),
        }
    }
}
