//! Placeholders in a service's environment, host name and mounts, as `{{.Task.Slot}}`: the part of Go's template language that names
//! values. Managers read them to refuse at once what means nothing, agents to put the values in. What Go's templates can do beyond
//! that (conditions, loops, pipes, other functions) is refused by name.
//!
//! ```text
//! {{.Task.Slot}}   {{.Service.Labels.KEY}}   {{index .Service.Labels "a.b"}}   {{join "-" .Service.Name "x" .Task.Slot}}
//! ```

/// Something with placeholders, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Value),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Field(Field),
    /// A label of the service. `must`: it is an error if there is none.
    Label {
        key: String,
        must: bool,
    },
    /// Values with a text between them.
    Join(String, Vec<Value>),
}

/// What a placeholder can name besides labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The service's id.
    ServiceId,
    /// The service's name.
    ServiceName,
    /// The id of the task's node.
    NodeId,
    /// Its host name.
    NodeHostname,
    /// Its operating system.
    NodeOs,
    /// Its processor's architecture.
    NodeArchitecture,
    /// The task's id.
    TaskId,
    /// The task's name.
    TaskName,
    /// The task's slot; of a global service's task its node's id.
    TaskSlot,
}

const FIELDS: [(&str, Field); 9] = [
    (".Service.ID", Field::ServiceId),
    (".Service.Name", Field::ServiceName),
    (".Node.ID", Field::NodeId),
    (".Node.Hostname", Field::NodeHostname),
    (".Node.Platform.OS", Field::NodeOs),
    (".Node.Platform.Architecture", Field::NodeArchitecture),
    (".Task.ID", Field::TaskId),
    (".Task.Name", Field::TaskName),
    (".Task.Slot", Field::TaskSlot),
];

const LABELS: &str = ".Service.Labels";

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// Quotes the placeholder that means nothing, and names those that would.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        // A placeholder that ends in `-}}` takes the blanks after it away.
        let mut trims = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let end = end_of(after).ok_or_else(|| {
                format!("{text:?} opens a placeholder with {{{{ and does not close it with }}}}")
            })?;
            let inside = &after[..end];
            let before = if trims { before.trim_start() } else { before };
            // Go asks for a blank between the dash and what is inside.
            let (before, inside) = match inside.strip_prefix("- ") {
                Some(inside) => (before.trim_end(), inside),
                None => (before, inside),
            };
            let inside = match inside.strip_suffix(" -") {
                Some(inside) => {
                    trims = true;
                    inside
                }
                None => {
                    trims = false;
                    inside
                }
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Value(value(inside.trim())?));
            rest = &after[end + 2..];
        }
        let rest = if trims { rest.trim_start() } else { rest };
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// Puts the values in; `label` gives the service's labels by their keys.
    ///
    /// # Errors
    /// Names a label that the service does not have.
    pub fn expand(
        &self,
        field: &dyn Fn(Field) -> String,
        label: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        let mut made = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => made.push_str(text),
                Piece::Value(value) => made.push_str(&value.expand(field, label)?),
            }
        }
        Ok(made)
    }
}

impl Value {
    fn expand(
        &self,
        field: &dyn Fn(Field) -> String,
        label: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        match self {
            Value::Text(text) => Ok(text.clone()),
            Value::Field(name) => Ok(field(*name)),
            Value::Label { key, must } => match label(key) {
                None if *must => Err(format!(
                    "placeholder {{{{{LABELS}.{key}}}}}: the service has no label {key}"
                )),
                found => Ok(found.unwrap_or_default()),
            },
            Value::Join(between, values) => {
                let values: Result<Vec<_>, _> =
                    values.iter().map(|value| value.expand(field, label)).collect();
                Ok(values?.join(between))
            }
        }
    }
}

/// Where a placeholder ends: at `}}` outside of quotes.
fn end_of(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match quote {
            None if text[at..].starts_with("}}") => return Some(at),
            None if c == '"' || c == '`' => quote = Some(c),
            Some('"') if c == '\\' => drop(characters.next()),
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// What is inside of a placeholder.
fn value(inside: &str) -> Result<Value, String> {
    let words = words(inside).ok_or_else(|| unknown(inside))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [word] => term(word).ok_or_else(|| unknown(inside)),
        ["index", LABELS, key] => {
            let key = literal(key).ok_or_else(|| unknown(inside))?;
            // Go's `index` gives nothing where there is nothing.
            Ok(Value::Label { key, must: false })
        }
        ["join", between, ref rest @ ..] => {
            let between = literal(between);
            let terms: Option<Vec<_>> = rest.iter().map(|word| term(word)).collect();
            let joined = between.zip(terms);
            joined
                .map(|(between, terms)| Value::Join(between, terms))
                .ok_or_else(|| unknown(inside))
        }
        _ => Err(unknown(inside)),
    }
}

fn unknown(inside: &str) -> String {
    let fields: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    format!(
        "unknown placeholder {{{{{inside}}}}}: use {LABELS}.KEY, index {LABELS} \"KEY\", join or one of {}",
        fields.join(", ")
    )
}

fn term(word: &str) -> Option<Value> {
    if let Some(text) = literal(word) {
        return Some(Value::Text(text));
    }
    if let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == word) {
        return Some(Value::Field(*field));
    }
    let key = word.strip_prefix(LABELS)?.strip_prefix('.')?;
    // What Go takes for a name; other keys need `index`.
    let is_name = key.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_name.then(|| Value::Label {
        key: key.to_owned(),
        must: true,
    })
}

/// The text of a word in quotes.
fn literal(word: &str) -> Option<String> {
    if let Some(raw) = word.strip_prefix('`') {
        return raw.strip_suffix('`').map(str::to_owned);
    }
    let inside = word.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut characters = inside.chars();
    while let Some(c) = characters.next() {
        text.push(match c {
            '\\' => match characters.next()? {
                'n' => '\n',
                't' => '\t',
                c @ ('"' | '\\') => c,
                _ => return None,
            },
            c => c,
        });
    }
    Some(text)
}

/// Words between blanks, with their quotes; none if a quote stays open or stands in a word.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if first == '"' || first == '`' {
            closing(rest, first)?
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(end);
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return None;
        }
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(words)
}

/// Where a quoted word ends, its closing quote included.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == quote {
            return Some(at + c.len_utf8());
        }
        if c == '\\' && quote == '"' {
            characters.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let field = |field: Field| format!("{field:?}");
        let label = |key: &str| match key {
            "tier" => Some("front".to_owned()),
            "com.example/x" => Some("dotted".to_owned()),
            _ => None,
        };
        Template::parse(text)?.expand(&field, &label)
    }

    #[test]
    fn what_is_named_is_put_in() {
        for (text, wanted) in [
            ("", ""),
            ("plain }} {", "plain }} {"),
            ("{{.Service.Name}}-{{ .Task.Slot }}", "ServiceName-TaskSlot"),
            (
                "{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}",
                "NodeOs/NodeArchitecture",
            ),
            ("<{{.Service.Labels.tier}}>", "<front>"),
            (r#"{{index .Service.Labels "com.example/x"}}"#, "dotted"),
            (r#"<{{index .Service.Labels "none"}}>"#, "<>"),
            (
                r#"{{join "-" .Service.Name "}}" .Task.Slot}}"#,
                "ServiceName-}}-TaskSlot",
            ),
            (r#"{{"a\"b"}}{{`c\d`}}"#, r#"a"bc\d"#),
            ("a {{- .Task.ID -}} b", "aTaskIdb"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_means_nothing_is_named() {
        for (text, named) in [
            ("{{.Foo}}", "unknown placeholder {{.Foo}}"),
            ("{{}}", "unknown placeholder {{}}"),
            ("{{if .Task.ID}}", "unknown placeholder {{if .Task.ID}}"),
            ("{{.Task.ID | len}}", "unknown placeholder {{.Task.ID | len}}"),
            ("{{.Service.Labels}}", "unknown placeholder"),
            ("{{.Service.Labels.a.b}}", "unknown placeholder"),
            (r#"{{index .Service.Labels .Task.ID}}"#, "unknown placeholder"),
            (r#"{{"a"b}}"#, "unknown placeholder"),
            ("{{.Task.ID", "does not close it"),
            (r#"{{"}}"#, "does not close it"),
            ("{{.Service.Labels.none}}", "the service has no label none"),
        ] {
            let error = expanded(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
