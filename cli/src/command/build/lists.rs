//! Values of flags that are lists of `key=value`: `type=local,dest=out`, `id=token,src=file`.

use std::collections::BTreeMap;

use crate::error::Failure;

/// Reads `key=value,…`; a field in quotation marks may hold commas. Words without `=` come under an empty key, in order.
pub fn fields(text: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => parts.last_mut().expect("there is always a part").push(c),
        }
    }
    let part = |part: String| match part.split_once('=') {
        Some((key, value)) => (key.trim().to_lowercase(), value.to_owned()),
        None => (String::new(), part),
    };
    parts.into_iter().map(part).collect()
}

/// An option with a type: `type=registry,ref=x`. A single word is `word` of the type `default`.
pub fn typed(
    flag: &str,
    text: &str,
    default: (&str, &str),
) -> Result<(String, BTreeMap<String, String>), Failure> {
    let fields = fields(text);
    if let [(key, word)] = fields.as_slice()
        && key.is_empty()
    {
        let attributes = BTreeMap::from([(default.1.to_owned(), word.clone())]);
        return Ok((default.0.to_owned(), attributes));
    }
    let mut kind = String::new();
    let mut attributes = BTreeMap::new();
    for (key, value) in fields {
        match key.as_str() {
            "" => {
                return Err(Failure::new(format!(
                    "ERROR: invalid value {value} for --{flag}: key=value is expected"
                )));
            }
            "type" => kind = value,
            _ => drop(attributes.insert(key, value)),
        }
    }
    if kind.is_empty() {
        return Err(Failure::new(format!(
            "ERROR: type is required for --{flag}: {text}"
        )));
    }
    Ok((kind, attributes))
}
