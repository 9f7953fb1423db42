//! What `--cache-from` and `--cache-to` say, or why this builder can't do it.

use pontoon_image::Reference;
use pontoon_proto::v1::BuildOption;

use crate::build::{Failure, Outcome};

/// Where a cache goes.
pub(super) enum Target {
    /// Into the image that is built.
    Inline,
    /// To a registry, under this name.
    Registry(Reference),
    /// To the client.
    Folder,
}

/// What `--cache-to` wants, and whether the results of all stages go with it.
pub(super) fn target(option: &BuildOption) -> Outcome<(Target, bool)> {
    let kind = option.r#type.as_str();
    let mut is_whole = false;
    let mut reference = None;
    for (key, value) in &option.attributes {
        match (kind, key.as_str(), value.as_str()) {
            ("registry" | "local", "mode", "max") => is_whole = true,
            (_, "mode", "min") | ("local", "dest", _) => {}
            ("registry", "ref", name) => reference = Some(parse(name)?),
            ("inline" | "registry" | "local", _, _) => {
                let text = format!("--cache-to type={kind}: {key}={value} is not supported by this builder");
                return Err(Failure::new(text));
            }
            _ => {}
        }
    }
    match (kind, reference) {
        ("inline", _) => Ok((Target::Inline, false)),
        ("local", _) => Ok((Target::Folder, is_whole)),
        ("registry", Some(reference)) => Ok((Target::Registry(reference), is_whole)),
        ("registry", None) => Err(Failure::new("--cache-to type=registry needs ref=NAME")),
        _ => Err(unknown("cache-to", kind)),
    }
}

/// What `--cache-from` names; `None`: what the client sends.
pub(super) fn source(option: &BuildOption) -> Outcome<Option<Reference>> {
    match (option.r#type.as_str(), option.attributes.get("ref")) {
        ("local", _) => Ok(None),
        ("registry", Some(name)) => parse(name).map(Some),
        ("registry", None) => Err(Failure::new("--cache-from type=registry needs ref=NAME")),
        (kind, _) => Err(unknown("cache-from", kind)),
    }
}

fn unknown(flag: &str, kind: &str) -> Failure {
    Failure::new(format!(
        "--{flag} type={kind} is not supported by this builder: use registry, local or inline"
    ))
}

fn parse(name: &str) -> Outcome<Reference> {
    match Reference::parse(name) {
        Ok(reference) => Ok(reference.with_default_tag()),
        Err(error) => Err(Failure::new(format!("invalid cache reference {name:?}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(kind: &str, attributes: &[(&str, &str)]) -> BuildOption {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        BuildOption {
            r#type: kind.into(),
            attributes: attributes.iter().map(text).collect(),
        }
    }

    #[test]
    fn caches_are_understood_or_refused_by_name() {
        let refused = |given: BuildOption, text: &str| {
            let message = target(&given).err().map(|failure| failure.message);
            assert!(message.clone().is_some_and(|m| m.contains(text)), "{message:?}");
        };
        assert!(matches!(
            target(&option("inline", &[])),
            Ok((Target::Inline, false))
        ));
        assert!(matches!(
            target(&option("local", &[("dest", "x"), ("mode", "max")])),
            Ok((Target::Folder, true))
        ));
        let (registry, _) = target(&option("registry", &[("ref", "a/b")])).unwrap();
        assert!(matches!(registry, Target::Registry(name) if name.familiar() == "a/b:latest"));
        refused(option("gha", &[]), "--cache-to type=gha is not supported");
        refused(option("registry", &[]), "needs ref=NAME");
        refused(option("inline", &[("mode", "max")]), "mode=max is not supported");
        refused(option("local", &[("compression", "zstd")]), "compression=zstd");
        refused(option("registry", &[("ref", "A")]), "invalid cache reference");
        assert!(source(&option("s3", &[])).is_err());
        assert!(matches!(source(&option("local", &[("src", "x")])), Ok(None)));
    }
}
