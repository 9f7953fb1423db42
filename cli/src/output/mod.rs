//! What commands print: tables, Go templates, and values as people read them.

pub mod human;
pub mod listing;
pub mod template;
pub mod time;
pub mod transfer;
