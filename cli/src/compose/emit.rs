//! A tree back to YAML text, for `stack config`.

use super::yaml::{Node, Value};

/// Writes a document.
pub fn emit(node: &Node) -> String {
    let mut out = String::new();
    write(node, 0, &mut out);
    out.trim_start_matches('\n').to_owned()
}

/// Writes what follows `key:` or `-`, its newline included.
fn write(node: &Node, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Null => out.push('\n'),
        Value::Scalar { text, quoted } => {
            out.push_str(&format!(" {}\n", scalar(text, *quoted)));
        }
        Value::Sequence(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Mapping(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::Sequence(items) => {
            out.push('\n');
            for item in items {
                out.push_str(&format!("{indent}-"));
                write(item, depth + 1, out);
            }
        }
        Value::Mapping(entries) => {
            out.push('\n');
            for (key, value) in entries {
                out.push_str(&format!("{indent}{}:", scalar(&key.text, false)));
                write(value, depth + 1, out);
            }
        }
    }
}

/// Bare where that is safe, else in JSON's form, which is YAML's too.
fn scalar(text: &str, quoted: bool) -> String {
    let first = |c: char| c.is_ascii_alphanumeric() || "/._".contains(c);
    let inner = |c: char| c.is_ascii_alphanumeric() || "/._-+@=, ".contains(c);
    let bare = text.starts_with(first) && text.chars().all(inner) && text.trim() == text;
    if bare && !(quoted && looks_typed(text)) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// Whether a reader would take the bare text for something else than text.
fn looks_typed(text: &str) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    words.contains(&text.to_ascii_lowercase().as_str())
        || text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::compose::yaml;

    #[test]
    fn what_is_written_reads_the_same() {
        let text = "a: 1\nb: \"1\"\nc: [x, \"y: z\", {k: v}, []]\nd: {}\ne: |\n  two\n  lines\nf:\n\"g h\": \"true\"\n";
        let read = |text: &str| yaml::parse(&Arc::from("f"), text).unwrap();
        let written = super::emit(&read(text));
        assert_eq!(super::emit(&read(&written)), written);
        assert!(
            written.starts_with("a: 1\nb: \"1\"\nc:\n  - x\n  - \"y: z\"\n  -\n    k: v\n  - []\nd: {}\n"),
            "{written}"
        );
        assert!(
            written.contains("e: \"two\\nlines\\n\"\nf:\ng h: \"true\"\n"),
            "{written}"
        );
    }
}
