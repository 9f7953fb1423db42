//! DNS: what is answered to whom.
//!
//! - `message`: reading queries and writing answers on the wire;
//! - `name`: names as they are on the wire, and reverse names;
//! - `table`: the prepared names of one network;
//! - `view`: what one sandbox sees, and the verdict on one query;
//! - `server`: the receive loops of one sandbox;
//! - `forward`: asking other servers; `cache`: what they have answered.
//!
//! Used by the netd process only. Everything runs on its one thread.

pub(crate) mod cache;
pub(crate) mod forward;
pub(crate) mod message;
pub(crate) mod name;
pub(crate) mod server;
pub(crate) mod table;
pub(crate) mod view;

#[cfg(test)]
mod tests;
