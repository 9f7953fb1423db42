//! Ids and times: 64 hexadecimal digits for containers and execs, nanoseconds since the Unix epoch.

/// Characters of the short form that users see.
pub(crate) const SHORT: usize = 12;

/// A new random id.
pub(crate) fn generate() -> String {
    loop {
        let id = hex::encode(rand::random::<[u8; 32]>());
        // As in Docker: a short id that looks like a number would confuse commands that take either.
        if id[..SHORT].parse::<u64>().is_err() {
            return id;
        }
    }
}

/// The first characters of an id.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Now, in nanoseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
