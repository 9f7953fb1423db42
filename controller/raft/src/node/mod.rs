//! The node.
mod event;
pub(crate) use event::Event;
pub use event::MemberChange;
