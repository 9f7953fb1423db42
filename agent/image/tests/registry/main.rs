//! The registry client against a registry in this process that does what registries should, and what they should not.
//!
//! - `pulls`: what is pulled, and how: layers of all kinds, platforms, resumption, mirrors, several at once
//! - `faults`: registries that lie, break off, dawdle, refuse; nothing of it is seen in the store afterwards
//! - `access`: credentials, tokens, redirects; `pushes`: the other way; `lists`: tags, search, manifests
//!
//! `fake` is the registry, `bed` a store with an impatient client.

#![allow(clippy::unwrap_used)]

mod access;
mod bed;
mod fake;
mod faults;
mod lists;
mod pulls;
mod pushes;
