//! Identifiers: one type per kind of object, so that a node's id can't be taken for a task's.
//!
//! Cluster objects have ids of 25 characters `0-9a-z`, as SwarmKit's; containers, images and sandboxes 64 hexadecimal digits.
//! Ids are made by the callers (pure crates get them as arguments), see [`encode`].

use std::fmt;

/// Number of characters in a cluster object's id.
pub const LENGTH: usize = 25;

/// Makes a cluster object's id of 128 random bits: base 36, padded with zeros to [`LENGTH`].
pub fn encode(random: u128) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = [b'0'; LENGTH];
    let mut rest = random;
    for place in text.iter_mut().rev() {
        *place = DIGITS[(rest % 36) as usize];
        rest /= 36;
    }
    text.iter().map(|byte| char::from(*byte)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

id!(
    /// A cluster's id.
    ClusterId
);
id!(
    /// A node's id: the CN of its certificate.
    NodeId
);
id!(
    /// A service's id.
    ServiceId
);
id!(
    /// A task's id.
    TaskId
);
id!(
    /// A network's id.
    NetworkId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_all_values_to_the_same_length() {
        for value in [0, 1, 35, 36, u128::MAX] {
            let id = encode(value);
            assert_eq!(id.len(), LENGTH);
            assert_eq!(u128::from_str_radix(&id, 36).unwrap(), value);
        }
    }
}
