//! Orchestration, allocation and placement as one pure function over a transaction.
//!
//! # Layout
//! - [`reconcile`]: the loop: orchestrate → allocate → schedule, until nothing changes or the budget is used;
//! - [`ReconcileState`]: caches derived from the objects, kept from call to call, rebuilt from nothing when lost;
//! - `orchestrator`: tasks of replicated and global services, restarts, updates and rollbacks, history, nodes that left;
//! - `allocator`: VNIs, subnets, VIPs, task addresses, published ports, the ingress network;
//! - `scheduler`: filters, then spread;
//! - [`edit`]: users' writes (create, update, roll back, remove); [`observe`]: what agents and sessions report;
//! - [`spec`], [`constraint`], [`defaults`]: what users may ask for, and what holds when they don't say;
//! - [`assignments`]: what a node is told.
//!
//! Called by the controller's writer (and its API for validation, its dispatcher for assignments). Pure: time and ids come
//! in as arguments; the same calls on the same objects give the same writes.

mod allocator;
pub mod assignments;
pub mod constraint;
pub mod defaults;
mod demand;
pub mod edit;
pub mod observe;
mod orchestrator;
mod pass;
mod scheduler;
pub mod spec;
mod state;
mod timers;
mod versions;

pub use versions::image_of;

pub use pass::{Budget, Env, Outcome, reconcile};
pub use state::ReconcileState;
