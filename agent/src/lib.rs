//! The node agent: keeps a session with the managers, carries out what they assign, reports what became of it.
//!
//! # Layout
//! - [`Agent`] (`agent`): wiring; [`AgentConfig`];
//! - `session`: connect, register, beat, receive, report; which manager to ask next and when; [`Connector`];
//! - `worker`: holds the assignments (on disk: `storage`), starts and ends one `task` each, programs the networks;
//! - `task`: the walk of one task through its states; `reporter`: statuses on their way to the managers;
//! - [`exec`]: what the walk is carried out with: the [`exec::Executor`] trait, and the engine behind it;
//! - [`Images`] (`images`): brings tasks' images, from other nodes first, and gives other nodes theirs;
//! - [`Attachments`] (`attachments`): containers that are no tasks in the cluster's networks;
//! - `logs`: log subscriptions; `checks`: checks of networks that managers ask for.
//!
//! The main path: a session receives assignments → the worker writes them down, programs networks, starts a task →
//! the task walks by its controller → each state goes to the reporter → the session sends it.

mod agent;
mod attachments;
mod checks;
mod config;
mod error;
pub mod exec;
mod images;
mod logs;
mod reporter;
mod session;
mod storage;
mod task;
mod worker;

pub use agent::Agent;
pub use attachments::Attachments;
pub use config::AgentConfig;
pub use error::{Error, Result};
pub use images::Images;
pub use session::{BoxError, Connector, IdentityConnector, SessionState};
