//! Image references, as far as a spec's check goes: the grammar of `distribution/reference`, which decides what Docker calls
//! an "invalid reference format". Whether there is such an image only the nodes know.

/// Most characters of a tag.
const TAG_LENGTH: usize = 128;

/// Whether the text is `[host[:port]/]path[:tag][@sha256:digest]`.
pub(super) fn is_reference(text: &str) -> bool {
    let (text, digest) = text
        .split_once('@')
        .map_or((text, None), |(name, digest)| (name, Some(digest)));
    let tag_at = text.rfind(':').filter(|at| !text[*at..].contains('/'));
    let (name, tag) = tag_at.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if is_host_like(first) => (Some(first), rest),
        _ => (None, name),
    };
    host.is_none_or(is_host)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
}

/// A first component that can't be a part of the path.
fn is_host_like(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.contains(|c: char| c.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = text
        .split_once(':')
        .map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_word)
        && text.ends_with(is_word)
        && text
            .split(is_word)
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.chars().all(|c| c == '-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(is_word)
        && text.len() <= TAG_LENGTH
        && text.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .chars()
                .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    })
}

#[cfg(test)]
mod tests {
    use super::is_reference;

    #[test]
    fn references() {
        let digest = format!("web@sha256:{}", "0a".repeat(32));
        let good = [
            "web",
            "web:1",
            "a/b/c:v1.2-x",
            "localhost/x",
            "reg.example.com:5000/a_b/c--d:latest",
            "a.b/c",
            &digest,
        ];
        for text in good {
            assert!(is_reference(text), "{text}");
        }
        let bad = [
            "",
            "Web",
            "BAD/Image",
            "web:",
            "web:.x",
            "a//b",
            "/a",
            "a/",
            "web@sha256:12",
            "a b",
            "-a",
            "a..b",
            "x:y:z/q",
        ];
        for text in bad {
            assert!(!is_reference(text), "{text}");
        }
    }
}
