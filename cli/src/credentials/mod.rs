//! Docker's credentials, where Docker keeps them: `config.json`, credential stores and helpers. The client reads them and sends them
//! with each call; the daemon keeps none. Used by `pull`, `push`, `login` and their like.
//!
//! # Layout
//! - [`file`]: `config.json`, read and written as it is; [`helper`]: `docker-credential-X` programs

pub mod file;
pub mod helper;

use pontoon_proto::v1::RegistryAuth;

use crate::error::Failure;
use file::ConfigFile;

/// What `config.json` calls Docker Hub.
pub const HUB: &str = "https://index.docker.io/v1/";

/// The name of a registry in `config.json`: its address, or the Hub's old one.
pub fn key(domain: &str) -> &str {
    match domain {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB,
        other => other,
    }
}

/// What the user has for the registry of an image; nothing if there is nothing.
///
/// # Errors
/// `config.json` is damaged, or a helper fails.
pub fn for_image(reference: &str) -> Result<RegistryAuth, Failure> {
    match pontoon_image::Reference::parse(reference) {
        Ok(reference) => for_registry(reference.domain()),
        // The daemon says what is wrong with the name.
        Err(_) => Ok(RegistryAuth::default()),
    }
}

/// What the user has for a registry.
///
/// # Errors
/// As [`for_image`].
pub fn for_registry(domain: &str) -> Result<RegistryAuth, Failure> {
    ConfigFile::read()?.get(key(domain))
}
