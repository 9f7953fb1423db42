//! `--annotation`: `[TYPE[PLATFORM]:]KEY=VALUE`, as buildx reads it. The image's manifest has them; what there is only with an image
//! index is refused.

use std::collections::HashMap;

use crate::error::Failure;

/// Annotations of the manifest.
///
/// # Errors
/// Something that is no annotation, or one of what this builder does not make.
pub fn parse(texts: &[String]) -> Result<HashMap<String, String>, Failure> {
    let mut annotations = HashMap::new();
    for text in texts {
        let invalid = || {
            Failure::new(format!(
                "ERROR: invalid annotation \"{text}\", expected key=value"
            ))
        };
        let (name, value) = text.split_once('=').ok_or_else(invalid)?;
        let (kinds, key) = match name.split_once(':') {
            Some((kinds, key)) if is_kinds(kinds) => (kinds, key),
            _ => ("manifest", name),
        };
        if key.is_empty() {
            return Err(invalid());
        }
        for kind in kinds.split(',') {
            match kind.split('[').next() {
                Some("manifest") => {}
                Some("index" | "index-descriptor") => {
                    return Err(Failure::new(
                        "ERROR: failed to solve: index annotations not supported for single platform export",
                    ));
                }
                Some("manifest-descriptor") => {
                    return Err(Failure::new(format!(
                        "ERROR: annotation {text}: this builder makes no index that describes manifests: annotate the manifest"
                    )));
                }
                _ => return Err(Failure::new(format!("ERROR: unknown annotation type \"{kind}\""))),
            }
        }
        annotations.insert(key.to_owned(), value.to_owned());
    }
    Ok(annotations)
}

/// True for `type`, `type,type` and `type[platform]`; a key may have colons too.
fn is_kinds(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    text.split(',').all(|kind| match kind.split_once('[') {
        Some((word, platform)) => is_word(word) && platform.ends_with(']'),
        None => is_word(kind),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_of_the_manifest_or_refused() {
        let one = |text: &str| parse(&[text.to_owned()]);
        let same = |text: &str, key: &str, value: &str| {
            assert_eq!(
                one(text).unwrap(),
                [(key.to_owned(), value.to_owned())].into(),
                "{text}"
            );
        };
        same("a.b=c=d", "a.b", "c=d");
        same("manifest:a=", "a", "");
        same("manifest[linux/amd64]:a=b", "a", "b");
        same("org.example.Url:x=y", "org.example.Url:x", "y");
        let refused = |text: &str, part: &str| {
            let message = one(text).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        };
        refused("a", "expected key=value");
        refused("=b", "expected key=value");
        refused("index:a=b", "index annotations not supported");
        refused("manifest,index-descriptor:a=b", "index annotations not supported");
        refused("manifest-descriptor:a=b", "annotate the manifest");
        refused("layer:a=b", "unknown annotation type \"layer\"");
    }
}
