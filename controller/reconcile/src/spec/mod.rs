//! Whether a spec makes sense by itself: what the API refuses before anything is stored, in Docker's words where it has
//! some. All that is wrong is told at once. What only other objects can tell (names and ports in use) is `edit`'s.

mod container;
mod image;
mod network;
mod service;

pub use network::{validate_network, validate_node};
pub use service::validate_service;

use std::fmt;

use pontoon_proto::v1::Annotations;

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects what is wrong.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, message: impl Into<String>) {
        self.0.push(Problem(message.into()));
    }

    fn add_if(&mut self, wrong: bool, message: &str) {
        if wrong {
            self.add(message);
        }
    }

    fn finish(self) -> Result<(), Vec<Problem>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// `^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`
fn is_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    inner && ends(name.chars().next()) && ends(name.chars().last())
}

fn check_name(annotations: Option<&Annotations>, problems: &mut Problems) {
    let name = annotations.map_or("", |annotations| annotations.name.as_str());
    if name.is_empty() {
        problems.add("meta: name must be provided");
    } else if name.len() > 63 {
        problems.add("meta: name must be 63 characters or fewer");
    } else if !is_name(name) {
        problems.add("meta: name must be valid as a DNS name component");
    }
}

#[cfg(test)]
mod tests;
