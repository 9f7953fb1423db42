//! The managers' side of the agents: sessions, heartbeats, assignments, statuses. Works at the leader.
//!
//! `service`: the gRPC service; `session`: one agent's session; `sessions`: all of them; `beats`: who is late;
//! `attachments`: containers that are no tasks in attachable networks; `fanout`: which sessions a change of the state concerns; `reports`: what agents report, on its way into the log; `pace`: how fast all that is
//! sent out.

mod attachments;
mod beats;
mod bounds;
mod fanout;
mod pace;
mod reports;
mod service;
mod session;
mod sessions;

pub(crate) use beats::{Beats, run as run_beats};
pub(crate) use fanout::run as run_fanout;
pub(crate) use pace::Pace;
pub(crate) use service::DispatcherService;
pub(crate) use session::Assigner;
pub(crate) use sessions::{Session, Sessions};
