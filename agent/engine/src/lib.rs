//! The local engine: containers, exec, logs, networks, images behind one API. The one owner of containers on a host, for
//! the agent's tasks and for `pontoon run` alike.
//!
//! # Layout
//! - [`Engine`] (`engine`): opening, shutting down, what everything below shares; [`EngineConfig`];
//! - `container`: one container's life: create, start, supervision, restart, health, removal, restoring;
//! - `spec`: from settings to an OCI runtime specification; `stdio`: attach and exec; `logs`: log drivers, reading logs;
//! - `archive`: files of containers (`cp`, `diff`, `export`, `commit`);
//! - `volumes`: volumes, and what the mounts of containers are made of;
//! - `build`: builds: plans of `pontoon_build` carried out, and their cache;
//! - `images`, `networks`, `system`: thin layers over the image store and the network manager;
//! - [`grpc`]: the proto service `Engine`;
//! - `registry` (ids, names), `undo` (half-done work), `id`, `name`, `signal`, `event`, [`Error`].
//!
//! The main path is `run`: `create` merges settings and image into a record and a root file system; `attach` waits;
//! `start` makes sandbox and specification, spawns the shim, joins the streams and lets the program run; `supervise`
//! publishes its end, releases what it used, and restarts or removes it.

mod archive;
mod build;
mod config;
mod container;
mod engine;
mod error;
mod event;
pub mod grpc;
mod id;
mod images;
mod kernel_limits;
mod logs;
mod name;
mod networks;
mod registry;
mod signal;
mod spec;
mod stdio;
pub mod system;
mod undo;
mod usage;
mod volumes;

pub use archive::{Chunks, main as archive_main};
pub use config::{BuildInfo, ContainerDefaults, EngineConfig, NATIVE_RUNTIME, NetworkDefaults};
pub use container::Phase;
pub use engine::Engine;
pub use error::{Error, Result};
pub use event::{ContainerEvent, ContainerEventKind, EventObject};
pub use images::{ArchiveSender, Collected, ImageGc, LoadUpdate};
pub use logs::validate as validate_log_driver;
pub use networks::cluster::{ClusterError, ClusterNetworks};
pub use pontoon_image::registry::RegistrySettings;
pub use signal::killed_by;
pub use stdio::{AttachOptions, StdStream, StdioEvent, StdioInput, StdioSession};
