//! Orchestration, allocation and placement as one pure function over a transaction.
//!
//! # Layout
//! - [`reconcile`]: the loop: orchestrate → allocate → schedule, until nothing changes or the budget is used;
//!   [`choose`] and [`write()`]: only the last;
//! - [`ReconcileState`]: caches derived from the objects, kept from call to call, rebuilt from nothing when lost;
//! - `orchestrator`: tasks of replicated and global services and of jobs, restarts, updates and rollbacks, history, nodes that left;
//! - `allocator`: VNIs, subnets, VIPs, task addresses, published ports, the ingress network;
//! - `scheduler`: filters, then spread; `demand`, `generic`: what a task asks of a node and what a node has left of it;
//! - [`edit`]: users' writes (create, update, roll back, remove); [`observe`]: what agents and sessions report;
//! - [`spec`], [`constraint`], [`defaults`]: what users may ask for, and what holds when they don't say;
//! - `reasons`: why things happen to tasks; [`explain`]: the whole chain of them;
//! - [`attachment`]: containers that are no tasks in attachable networks;
//! - [`assignments`]: what a node is told.
//!
//! Called by the controller's writer (and its API for validation, its dispatcher for assignments). Pure: time and ids come
//! in as arguments; the same calls on the same objects give the same writes.

mod allocator;
pub mod assignments;
pub mod attachment;
pub mod constraint;
pub mod defaults;
mod demand;
pub mod edit;
pub mod explain;
mod generic;
pub mod observe;
mod orchestrator;
mod pass;
mod reasons;
mod scheduler;
pub mod spec;
mod state;
mod timers;
mod versions;

pub use orchestrator::dependencies::circle;
pub use versions::image_of;

pub use pass::{Budget, Env, Outcome, choose, reconcile, write};
pub use scheduler::Plan;
pub use state::ReconcileState;
