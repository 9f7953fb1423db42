//! Commands that talk to registries: `login` and `logout` here, `pull`, `push`, `search` and `manifest` beside it.

pub mod login;
pub mod manifest;
pub mod pull;
pub mod push;
pub mod search;
