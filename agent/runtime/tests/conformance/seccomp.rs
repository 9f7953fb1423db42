//! config-linux.md: seccomp.

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    Vec::new()
}
