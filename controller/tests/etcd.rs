//! The contract of the Control API once more, with the cluster's state in a real etcd: the same tests as on the embedded log.
//! What the log itself does when etcd's servers die is tested in `controller/etcd`.

#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used)]

#[path = "images.rs"]
mod images;
#[path = "reading.rs"]
mod reading;
#[path = "services.rs"]
mod services;
