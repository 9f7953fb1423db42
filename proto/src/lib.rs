//! Pontoon's wire: the messages and services of `api/v1/*.proto`, generated at build time.
//!
//! # Layout
//! - [`v1`]: everything generated; with the feature `grpc` also the clients and servers.
//! - [`id`]: id newtypes; [`name`]: made-up names; [`state`]: what follows from a state alone; [`mode`]: from a service's mode;
//!   [`template`]: placeholders in a service's settings.
//! - `secret`: what is not shown of messages in logs.
//! - [`FILE_DESCRIPTOR_SET`]: the descriptors, for server reflection.
//!
//! Called by every other crate. It holds no logic.

pub mod id;
pub mod mode;
pub mod name;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod secret;
pub mod state;
pub mod template;

/// Version 1 of the API.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/pontoon.v1.rs"));
}

/// Encoded `FileDescriptorSet` of all of `api/v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pontoon.bin"));
