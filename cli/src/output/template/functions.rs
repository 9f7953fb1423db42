//! The functions of Docker's templates. Called by [`super`] with evaluated arguments.

use std::cmp::Ordering;

use serde_json::Value;

const NAMES: &[&str] = &[
    "json", "join", "lower", "upper", "title", "split", "truncate", "pad", "println", "print", "printf",
    "len", "index", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not",
];

/// True when templates may call it.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Go's idea of truth: everything but zero values.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value as Go's `fmt.Print` shows it.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", print(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("wrong arguments for {name}");
    let text = |at: usize| arguments.get(at).map(print).ok_or_else(wrong);
    Ok(match name {
        "json" => Value::from(
            serde_json::to_string(arguments.first().ok_or_else(wrong)?).map_err(|e| e.to_string())?,
        ),
        "join" => {
            let items = arguments.first().and_then(Value::as_array).ok_or_else(wrong)?;
            Value::from(items.iter().map(print).collect::<Vec<_>>().join(&text(1)?))
        }
        "lower" => Value::from(text(0)?.to_lowercase()),
        "upper" => Value::from(text(0)?.to_uppercase()),
        "title" => Value::from(title(&text(0)?)),
        "split" => text(0)?.split(&text(1)?).map(Value::from).collect(),
        "truncate" => {
            let length = arguments.get(1).and_then(Value::as_u64).ok_or_else(wrong)?;
            Value::from(
                text(0)?
                    .chars()
                    .take(usize::try_from(length).unwrap_or(usize::MAX))
                    .collect::<String>(),
            )
        }
        "pad" => {
            let width = |at: usize| {
                arguments
                    .get(at)
                    .and_then(Value::as_u64)
                    .map(|width| width.min(1024) as usize)
                    .ok_or_else(wrong)
            };
            let body = text(0)?;
            let body = if body.is_empty() {
                body
            } else {
                format!("{}{body}{}", " ".repeat(width(1)?), " ".repeat(width(2)?))
            };
            Value::from(body)
        }
        "print" => Value::from(arguments.iter().map(print).collect::<String>()),
        "println" => Value::from(arguments.iter().map(print).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::from(printf(&text(0)?, &arguments[1..])?),
        "len" => Value::from(match arguments.first() {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(fields)) => fields.len(),
            Some(Value::String(text)) => text.len(),
            Some(Value::Null) => 0,
            _ => return Err(wrong()),
        }),
        "index" => index(arguments)?,
        "and" => arguments
            .iter()
            .find(|value| !truth(value))
            .or(arguments.last())
            .cloned()
            .ok_or_else(wrong)?,
        "or" => arguments
            .iter()
            .find(|value| truth(value))
            .or(arguments.last())
            .cloned()
            .ok_or_else(wrong)?,
        "not" => Value::from(!truth(arguments.first().ok_or_else(wrong)?)),
        _ => compare(name, arguments).ok_or_else(wrong)?.into(),
    })
}

fn compare(name: &str, arguments: &[Value]) -> Option<bool> {
    let (first, rest) = arguments.split_first()?;
    let second = rest.first()?;
    let order = || match (first, second) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let same = |other: &Value| match (first, other) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    };
    Some(match name {
        "eq" => rest.iter().any(same),
        "ne" => !same(second),
        "lt" => order()? == Ordering::Less,
        "le" => order()? != Ordering::Greater,
        "gt" => order()? == Ordering::Greater,
        "ge" => order()? != Ordering::Less,
        _ => return None,
    })
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let (first, keys) = arguments.split_first().ok_or("wrong arguments for index")?;
    let mut at = first;
    for key in keys {
        at = match (at, key) {
            (Value::Array(items), Value::Number(place)) => {
                let place = place.as_u64().and_then(|place| usize::try_from(place).ok());
                place
                    .and_then(|place| items.get(place))
                    .ok_or_else(|| format!("index out of range: {key}"))?
            }
            // A missing key is Go's zero value, which prints as nothing for the maps of text that Docker has.
            (Value::Object(fields), Value::String(name)) => match fields.get(name) {
                Some(value) => value,
                None => return Ok(Value::from("")),
            },
            _ => return Err(format!("can't index with {key}")),
        };
    }
    Ok(at.clone())
}

fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = arguments.iter();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let end = rest
            .find(|c: char| c.is_ascii_alphabetic() || c == '%')
            .ok_or("printf: missing verb")?;
        let (flags, verb) = (&rest[..end], &rest[end..=end]);
        rest = &rest[end + 1..];
        if verb == "%" {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or("printf: missing argument")?;
        let text = match verb {
            "q" => format!("{:?}", print(value)),
            "x" => value
                .as_u64()
                .map_or_else(|| hex_text(&print(value)), |number| format!("{number:x}")),
            "s" | "v" | "d" | "t" | "f" | "g" => print(value),
            other => return Err(format!("printf: unknown verb %{other}")),
        };
        let width: usize = flags
            .trim_start_matches('-')
            .split('.')
            .next()
            .unwrap_or("")
            .parse()
            .unwrap_or(0)
            .min(1024);
        if flags.starts_with('-') {
            out.push_str(&format!("{text:<width$}"));
        } else {
            out.push_str(&format!("{text:>width$}"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn hex_text(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at_start = true;
    for c in text.chars() {
        if at_start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        at_start = c.is_whitespace();
    }
    out
}
