//! The client's commands, a module for each noun: its argument types and what they do.

pub mod build;
pub mod cluster;
pub mod container;
pub mod context;
pub mod explain;
pub mod image;
pub mod inspect;
pub mod network;
pub mod node;
pub mod oci;
pub mod registry;
pub mod service;
pub mod stack;
pub mod swarm;
pub mod system;
pub mod volume;

/// Parses `--filter key=value` options to the daemon's form.
///
/// # Errors
/// Names the option that has no `=`.
pub fn filters(
    options: &[String],
) -> Result<std::collections::HashMap<String, pontoon_proto::v1::FilterValues>, crate::error::Failure> {
    let mut filters = std::collections::HashMap::<String, pontoon_proto::v1::FilterValues>::new();
    for option in options {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            crate::error::Failure::new(format!(
                "invalid argument {option:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)"
            ))
            .with_code(crate::error::EXIT_ENGINE)
        })?;
        filters
            .entry(key.trim().to_lowercase())
            .or_default()
            .values
            .push(value.trim().to_owned());
    }
    Ok(filters)
}
