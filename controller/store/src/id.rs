//! Ids as the maps hold them: short ones in place, so that copying a map's node copies bytes instead of counting references all over
//! the memory, and comparing two looks at no third place. Made wherever something is indexed; read as text.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Bytes that are held in place. A cluster object's id has 25; with its length and the tag it makes 32.
const INLINE: usize = 30;

/// An object's id, or its name in an index by name. Ordered, hashed and compared as its bytes are.
#[derive(Clone)]
pub struct Id(Repr);

#[derive(Clone)]
enum Repr {
    /// The bytes behind the text are zeros.
    Inline {
        len: u8,
        bytes: [u8; INLINE],
    },
    Heap(Arc<str>),
}

impl Id {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Made of a `str`, so it always is one.
            Repr::Inline { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Repr::Heap(text) => text,
        }
    }

    /// The text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Heap(text) => text.as_bytes(),
        }
    }
}

/// The first bytes as a number of the same order.
fn begin(bytes: &[u8; INLINE]) -> u64 {
    bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Self(Repr::Inline { len, bytes })
            }
            _ => Self(Repr::Heap(text.into())),
        }
    }
}

impl Default for Id {
    fn default() -> Self {
        Self::from("")
    }
}

impl Deref for Id {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Maps can be asked with bytes, which need not be checked to be text.
impl Borrow<[u8]> for Id {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Inline { len, bytes }, Repr::Inline { len: l, bytes: b }) => len == l && bytes == b,
            _ => self.as_bytes() == other.as_bytes(),
        }
    }
}

impl Eq for Id {}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // With zeros behind the text its order is that of the whole, but for texts that end in zeros themselves. The first bytes
            // decide nearly always.
            (Repr::Inline { len, bytes }, Repr::Inline { len: l, bytes: b }) => begin(bytes)
                .cmp(&begin(b))
                .then_with(|| bytes.cmp(b))
                .then_with(|| len.cmp(l)),
            _ => self.as_bytes().cmp(other.as_bytes()),
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As `[u8]`, by which it is looked up.
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::DefaultHasher;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn it_is_as_large_as_is_said() {
        assert_eq!(size_of::<Id>(), 32);
    }

    #[test]
    fn it_is_what_its_text_is_whether_in_place_or_not() {
        let long = "n".repeat(INLINE + 1);
        let texts = [
            "",
            "a",
            "a\0",
            "a\0\0",
            "ab",
            "z",
            "ä",
            &long[..INLINE - 1],
            &long[..INLINE],
            &long,
            "o",
        ];
        let hasher = std::hash::BuildHasherDefault::<DefaultHasher>::default();
        for a in texts {
            let id = Id::from(a);
            assert_eq!((&*id, id.as_bytes()), (a, a.as_bytes()));
            assert_eq!(format!("{id} {id:?}"), format!("{a} {a:?}"));
            assert_eq!(hasher.hash_one(&id), hasher.hash_one(a.as_bytes()));
            for b in texts {
                let other = Id::from(b);
                assert_eq!(id.cmp(&other), a.cmp(b), "{a:?} and {b:?}");
                assert_eq!(id == other, a == b, "{a:?} and {b:?}");
            }
        }
    }
}
