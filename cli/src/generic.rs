//! Generic resources as users write them: `GPU=2`, `GPU=uuid1`. Read by the daemon's `--node-generic-resource` and the flags of
//! services; printed by `inspect`.

use std::collections::BTreeMap;

use pontoon_proto::v1::GenericResource;

/// One `KIND=VALUE`, unread yet: a value parser of flags.
///
/// # Errors
/// Docker's words for what is no such pair.
pub fn pair(text: &str) -> Result<String, String> {
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "invalid generic-resource format `{text}` expected `name=value`"
    ))
}

/// Reads `KIND=VALUE` pairs: a whole number is a number of units, anything else the name of one. A kind has either one number or
/// names. Sorted by kind; names in the order given.
///
/// # Errors
/// Docker's words, which quote what is not understood.
pub fn parse(given: &[String]) -> Result<Vec<GenericResource>, String> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for text in given {
        let (kind, value) = text
            .split_once('=')
            .map(|(kind, value)| (kind.trim(), value.trim()))
            .filter(|(kind, value)| !kind.is_empty() && !value.is_empty() && !value.contains('='))
            .ok_or_else(|| {
                format!(
                    "could not parse GenericResource: incorrect term {text}, missing '=' or malformed expression"
                )
            })?;
        kinds.entry(kind).or_default().push(value);
    }
    let mut found = Vec::new();
    for (kind, values) in kinds {
        match values.as_slice() {
            [number] if number.parse::<i64>().is_ok() => {
                let count = number.parse().unwrap_or(-1);
                if count < 0 {
                    return Err(format!(
                        "could not parse GenericResource: cannot ask for negative resource {kind}"
                    ));
                }
                found.push(GenericResource {
                    kind: kind.to_owned(),
                    count,
                    ..GenericResource::default()
                });
            }
            names if names.iter().any(|name| name.parse::<i64>().is_ok()) => {
                return Err(format!(
                    "could not parse GenericResource: malformed expression '{kind}=[{}]'",
                    names.join(" ")
                ));
            }
            names => {
                let mut seen = std::collections::BTreeSet::new();
                let unit = |name: &&str| GenericResource {
                    kind: kind.to_owned(),
                    name: (*name).to_owned(),
                    count: 0,
                };
                found.extend(names.iter().filter(|name| seen.insert(**name)).map(unit));
            }
        }
    }
    Ok(found)
}

/// What a service asks for.
///
/// # Errors
/// As [`parse`].
pub fn requested(given: &[String]) -> Result<Vec<GenericResource>, String> {
    parse(given).map_err(|error| format!("invalid generic resource specification: {error}"))
}

/// `--generic-resource-add` and `-rm`: a kind that is added takes the place of what was asked of it; one that is removed must be
/// there.
///
/// # Errors
/// Docker's words.
pub fn change(reserved: &mut Vec<GenericResource>, add: &[String], remove: &[String]) -> Result<(), String> {
    let added = requested(add)?;
    reserved.retain(|unit| !added.iter().any(|new| new.kind == unit.kind));
    reserved.extend(added);
    for kind in remove {
        let before = reserved.len();
        reserved.retain(|unit| unit.kind != *kind);
        if reserved.len() == before {
            return Err(format!("could not find generic-resource `{kind}` to remove it"));
        }
    }
    Ok(())
}

/// Docker's JSON: a list of `DiscreteResourceSpec` and `NamedResourceSpec`.
pub fn json(units: &[GenericResource]) -> serde_json::Value {
    use serde_json::json;
    let unit = |unit: &GenericResource| match unit.name.as_str() {
        "" => json!({ "DiscreteResourceSpec": { "Kind": unit.kind, "Value": unit.count } }),
        name => json!({ "NamedResourceSpec": { "Kind": unit.kind, "Value": name } }),
    };
    units.iter().map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Vec<(String, String, i64)>, String> {
        let given: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let found = parse(&given)?;
        Ok(found
            .into_iter()
            .map(|unit| (unit.kind, unit.name, unit.count))
            .collect())
    }

    #[test]
    fn numbers_and_names() {
        let unit = |kind: &str, name: &str, count| (kind.to_owned(), name.to_owned(), count);
        assert_eq!(
            read(&["gpu=b", "ssd=3", "gpu=a", "gpu=b"]).unwrap(),
            [unit("gpu", "b", 0), unit("gpu", "a", 0), unit("ssd", "", 3)]
        );
        for (texts, message) in [
            (
                &["gpu"][..],
                "incorrect term gpu, missing '=' or malformed expression",
            ),
            (
                &["gpu=a=b"],
                "incorrect term gpu=a=b, missing '=' or malformed expression",
            ),
            (&["gpu=-1"], "cannot ask for negative resource gpu"),
            (&["gpu=1", "gpu=2"], "malformed expression 'gpu=[1 2]'"),
            (&["gpu=1", "gpu=a"], "malformed expression 'gpu=[1 a]'"),
        ] {
            let error = read(texts).unwrap_err();
            assert_eq!(error, format!("could not parse GenericResource: {message}"));
        }
        assert!(pair("gpu").unwrap_err().contains("expected `name=value`"));
    }

    #[test]
    fn a_services_wishes_change_by_kind() {
        let mut units = requested(&["gpu=2".to_owned(), "ssd=1".to_owned()]).unwrap();
        change(&mut units, &["gpu=a".to_owned()], &["ssd".to_owned()]).unwrap();
        assert_eq!(
            json(&units).to_string(),
            r#"[{"NamedResourceSpec":{"Kind":"gpu","Value":"a"}}]"#
        );
        assert_eq!(
            change(&mut units, &[], &["ssd".to_owned()]).unwrap_err(),
            "could not find generic-resource `ssd` to remove it"
        );
    }
}
