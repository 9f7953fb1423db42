//! The functions of Docker's templates. Called by [`super`] with evaluated arguments.

use std::cmp::Ordering;

use serde_json::Value;

const NAMES: &[&str] = &[
    "json", "join", "lower", "upper", "title", "split", "truncate", "pad", "println", "print", "printf",
    "len", "index", "slice", "html", "js", "urlquery", "eq", "ne", "lt", "le", "gt", "ge", "and", "or",
    "not",
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
            let first = arguments.first().ok_or_else(wrong)?;
            if first.is_null() {
                return Ok(Value::from(""));
            }
            let items = first.as_array().ok_or_else(wrong)?;
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
        "slice" => slice(arguments)?,
        "html" => Value::from(escape_html(&arguments.iter().map(print).collect::<String>())),
        "js" => Value::from(escape_script(&arguments.iter().map(print).collect::<String>())),
        "urlquery" => Value::from(escape_query(&arguments.iter().map(print).collect::<String>())),
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
        let precision = flags
            .split_once('.')
            .and_then(|(_, digits)| digits.parse::<usize>().ok());
        let text = match verb {
            "f" if value.is_number() => {
                let precision = precision.unwrap_or(6).min(64);
                format!("{:.precision$}", value.as_f64().unwrap_or_default())
            }
            "s" | "v" if precision.is_some() => {
                print(value).chars().take(precision.unwrap_or_default()).collect()
            }
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
        } else if flags.starts_with('0') && value.is_number() {
            out.push_str(&format!("{text:0>width$}"));
        } else {
            out.push_str(&format!("{text:>width$}"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// `slice text 1 3`, `slice list 1`: as `text[1:3]` in Go, by bytes.
fn slice(arguments: &[Value]) -> Result<Value, String> {
    let (first, bounds) = arguments.split_first().ok_or("wrong arguments for slice")?;
    let length = match first {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => return Err(format!("can't slice {other}")),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(value) => value
            .as_u64()
            .and_then(|bound| usize::try_from(bound).ok())
            .filter(|bound| *bound <= length)
            .ok_or_else(|| format!("index out of range: {value}")),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match first {
        Value::String(text) => String::from_utf8_lossy(&text.as_bytes()[from..to]).into(),
        Value::Array(items) => items[from..to].to_vec().into(),
        _ => Value::Null,
    })
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            other => out.push(other),
        }
    }
    out
}

fn escape_script(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c < ' ' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

/// Go's `url.QueryEscape`.
fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
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
