//! The registry client: pull and push by the OCI distribution spec 1.1, login, search, manifests.
//!
//! Layout:
//! - [`Registry`] (`client`): the front door; holds the settings, which a reload replaces, and the connections
//! - `settings`, `tls`, `endpoint`: what the daemon says about registries; which addresses stand for one, and how they are trusted
//! - `session`, `auth`, `answer`: requests to one repository: credentials and tokens, retries, what an error answer says
//! - `manifest`, `platform`, `tags`, `search`, `login`: documents, and the commands that read only those
//! - `download`, `pull`, `share`: blobs into staging while the layers below are unpacked; `upload`, `compress`, `push`: the other way
//! - `progress`: what the user sees of it, in Docker's words
//!
//! This module is async and owns the network; everything that touches the store ([`crate::Ingest`] and its writers) blocks and runs
//! on blocking threads. The two meet in bounded channels of pieces: a slow disk slows the network down, nothing piles up. Called by
//! the engine's `pull`, `push` and their like.

mod answer;
mod auth;
mod client;
mod compress;
mod download;
mod endpoint;
mod error;
mod inspect;
mod login;
mod manifest;
mod platform;
mod progress;
mod pull;
mod push;
mod search;
mod session;
mod settings;
mod share;
mod tags;
mod tls;
mod upload;

pub use auth::Credentials;
pub use client::Registry;
pub use error::{Error, Result};
pub use inspect::InspectedManifest;
pub use login::LoggedIn;
pub use progress::{Progress, Step};
pub use pull::{PullOptions, Pulled};
pub use push::Pushed;
pub use search::{Found, SearchFilters};
pub use settings::{Patience, RegistrySettings};
