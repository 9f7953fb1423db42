//! What builds need of the store.
mod mode;
pub use mode::Mode;
