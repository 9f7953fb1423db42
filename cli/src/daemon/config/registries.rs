//! The daemon's flags about registries; dockerd's names and defaults. Part of [`Arguments`](super::Arguments); all of them are taken
//! over by a reload.

use std::path::PathBuf;

use clap::Args;
use pontoon_engine::RegistrySettings;

use crate::error::Failure;

/// Flags about registries.
#[derive(Args, Debug)]
pub struct RegistryArguments {
    /// Folder of registries' certificates, HOST[:PORT]/{ca.crt,client.cert,client.key} (default /etc/docker/certs.d and
    /// /etc/pontoon/certs.d)
    #[arg(
        long = "certs-dir",
        value_name = "path",
        env = "PONTOON_CERTS_DIR",
        hide_env = true,
        value_delimiter = ','
    )]
    certs_dirs: Vec<PathBuf>,
    /// Enable insecure registry communication
    #[arg(
        long = "insecure-registry",
        value_name = "list",
        env = "PONTOON_INSECURE_REGISTRY",
        hide_env = true,
        value_delimiter = ','
    )]
    insecure_registries: Vec<String>,
    /// Set the max concurrent downloads for each pull
    #[arg(long, value_name = "int", value_parser = clap::value_parser!(u16).range(1..=256), default_value_t = 3, env = "PONTOON_MAX_CONCURRENT_DOWNLOADS", hide_env = true)]
    max_concurrent_downloads: u16,
    /// Set the max concurrent uploads for each push
    #[arg(long, value_name = "int", value_parser = clap::value_parser!(u16).range(1..=256), default_value_t = 5, env = "PONTOON_MAX_CONCURRENT_UPLOADS", hide_env = true)]
    max_concurrent_uploads: u16,
    /// Set the max download attempts for each pull
    #[arg(long, value_name = "int", value_parser = clap::value_parser!(u32).range(1..=100), default_value_t = 5, env = "PONTOON_MAX_DOWNLOAD_ATTEMPTS", hide_env = true)]
    max_download_attempts: u32,
    /// Preferred registry mirror
    #[arg(
        long = "registry-mirror",
        value_name = "list",
        env = "PONTOON_REGISTRY_MIRROR",
        hide_env = true,
        value_delimiter = ','
    )]
    registry_mirrors: Vec<String>,
}

impl RegistryArguments {
    /// Checks the flags.
    ///
    /// # Errors
    /// Names the mirror or registry that is no good.
    pub fn settings(self) -> Result<RegistrySettings, Failure> {
        let failed = |error: pontoon_image::registry::Error| Failure::new(error.to_string());
        let mut settings = RegistrySettings::default();
        settings.max_downloads = usize::from(self.max_concurrent_downloads);
        settings.max_uploads = usize::from(self.max_concurrent_uploads);
        settings.max_attempts = self.max_download_attempts;
        if !self.certs_dirs.is_empty() {
            settings.certs_dirs = self.certs_dirs;
        }
        for mirror in &self.registry_mirrors {
            settings.add_mirror(mirror).map_err(failed)?;
        }
        for registry in &self.insecure_registries {
            settings.add_insecure(registry).map_err(failed)?;
        }
        Ok(settings)
    }
}
