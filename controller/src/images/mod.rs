//! Image content in the cluster, as the leader sees it: who has which image and who is fetching it now, so that an image leaves its
//! registry once and goes from node to node after that. Called by the dispatcher's service.
//!
//! `sources`: the table and its decisions (no clock, no network); `service`: the calls of agents on it; `pin`: a service's image is
//! pinned to a digest by the manager that is asked.
//!
//! Nothing of it is replicated: agents tell a new leader what they have when they register, and ask again what they wait for.

pub(crate) mod pin;
pub(crate) mod service;
mod sources;

pub(crate) use sources::Sources;
