//! Container names: made-up ones and what a given one may look like.

use crate::{Error, Result};

/// What a name looks like, in Docker's words.
const PATTERN: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

/// Makes up a name that `taken` does not know.
pub(crate) fn generate(taken: impl Fn(&str) -> bool) -> String {
    pontoon_proto::name::free(rand::random, taken)
}

/// Checks a given name; a leading slash is taken off.
pub(crate) fn validate(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut characters = bare.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = characters
        .clone()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if first && rest && characters.next().is_some() {
        Ok(bare)
    } else {
        Err(Error::Invalid(format!(
            "Invalid container name ({name}), only {PATTERN} are allowed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_names_that_it_accepts() {
        assert!(validate(&generate(|_| false)).is_ok());
    }

    #[test]
    fn accepts_what_docker_accepts() {
        for good in ["web", "/web", "a1", "x_y.z-1"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-a", "a/b", "a b", "ä1", ".."] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }
}
