//! Variables in a stack's files: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${NAME:+other}`, the same without colon,
//! and `$$` for a dollar sign. Values come from the client's environment. Called by [`load`](super::load) on each file's values.

use super::mistake::Mistake;
use super::yaml::{Node, Value};

/// Most levels of `${A:-${B:-…}}`.
const DEPTH_LIMIT: usize = 16;

/// Looks a variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts the variables' values into all texts below a node, except in extensions (`x-…`). Names of variables that are not set and have
/// no default are added to `unset`; they count as empty.
pub fn interpolate(
    node: &mut Node,
    lookup: Lookup<'_>,
    unset: &mut Vec<String>,
    mistakes: &mut Vec<Mistake>,
) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar { text, .. } if !text.contains('$') => {}
        Value::Scalar { text, .. } => match substitute(text, lookup, unset) {
            Ok(replaced) => *text = replaced,
            Err(message) => mistakes.push(Mistake {
                at: node.at.clone(),
                message,
            }),
        },
        Value::Sequence(items) => {
            for item in items {
                interpolate(item, lookup, unset, mistakes);
            }
        }
        Value::Mapping(entries) => {
            for (key, value) in entries {
                if !key.text.starts_with("x-") {
                    interpolate(value, lookup, unset, mistakes);
                }
            }
        }
    }
}

/// Puts the variables' values into a text.
///
/// # Errors
/// A malformed `$…`, or a variable that must be set (`:?`) and is not, with its message.
pub fn substitute(text: &str, lookup: Lookup<'_>, unset: &mut Vec<String>) -> Result<String, String> {
    Substitution {
        whole: text,
        lookup,
        unset,
    }
    .expand(text, 0)
}

struct Substitution<'a> {
    whole: &'a str,
    lookup: Lookup<'a>,
    unset: &'a mut Vec<String>,
}

impl Substitution<'_> {
    fn malformed(&self) -> String {
        format!(
            "invalid interpolation format in {:?}: write $NAME or ${{NAME}}, and $$ for a dollar sign",
            self.whole
        )
    }

    fn expand(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > DEPTH_LIMIT {
            return Err(self.malformed());
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inner) = after.strip_prefix('{') {
                let end = closing(inner).ok_or_else(|| self.malformed())?;
                out.push_str(&self.braced(&inner[..end], depth)?);
                rest = &inner[end + 1..];
            } else {
                let (name, after) = after.split_at(name_length(after));
                if name.is_empty() {
                    return Err(self.malformed());
                }
                out.push_str(&self.value(name));
                rest = after;
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, name: &str) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            if !self.unset.iter().any(|known| known == name) {
                self.unset.push(name.to_owned());
            }
            String::new()
        })
    }

    /// What stands between the braces.
    fn braced(&mut self, inner: &str, depth: usize) -> Result<String, String> {
        let (name, operation) = inner.split_at(name_length(inner));
        if name.is_empty() {
            return Err(self.malformed());
        }
        if operation.is_empty() {
            return Ok(self.value(name));
        }
        // With a colon, an empty value counts as none.
        let (operation, colon) = match operation.strip_prefix(':') {
            Some(rest) => (rest, true),
            None => (operation, false),
        };
        let value = (self.lookup)(name).filter(|value| !(colon && value.is_empty()));
        let mut operation = operation.chars();
        let operator = operation.next();
        let word = operation.as_str();
        match (operator, value) {
            (Some('-' | '?'), Some(value)) => Ok(value),
            (Some('-'), None) | (Some('+'), Some(_)) => self.expand(word, depth + 1),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), None) => {
                let message = self.expand(word, depth + 1)?;
                Err(if message.is_empty() {
                    format!("required variable {name} is not set")
                } else {
                    format!("required variable {name} is not set: {message}")
                })
            }
            _ => Err(self.malformed()),
        }
    }
}

fn name_length(text: &str) -> usize {
    let is_name =
        |(at, c): &(usize, char)| c.is_ascii_alphabetic() || *c == '_' || (*at > 0 && c.is_ascii_digit());
    text.char_indices().take_while(is_name).count()
}

/// Where the brace closes that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'$', b'$', ..] => at += 1,
            [b'$', b'{', ..] => {
                open += 1;
                at += 1;
            }
            [b'}', ..] if open == 0 => return Some(at),
            [b'}', ..] => open -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn forms() {
        let cases = [
            ("plain", "plain"),
            ("$SET", "value"),
            ("a${SET}b", "avalueb"),
            ("$SET/$SET.x", "value/value.x"),
            ("$$SET $${SET}", "$SET ${SET}"),
            ("[$NONE][${NONE}]", "[][]"),
            ("${NONE:-d}${NONE-d}", "dd"),
            ("${EMPTY:-d}[${EMPTY-d}]", "d[]"),
            ("${SET:-d}${SET-d}", "valuevalue"),
            ("${NONE:-}", ""),
            ("${SET:+x}${EMPTY:+x}${EMPTY+y}${NONE+z}", "xy"),
            ("${SET:?e}${EMPTY?e}", "value"),
            ("${NONE:-${SET}}", "value"),
            ("${NONE:-${NONE:-deep}}!", "deep!"),
            ("${NONE:-http://h:80/?a=b}", "http://h:80/?a=b"),
            ("é$SETé", "évalueé"),
        ];
        for (text, expected) in cases {
            assert_eq!(
                substitute(text, &lookup, &mut Vec::new()).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
        let mut unset = Vec::new();
        substitute("$A ${A} ${B} ${C:-x} $SET", &lookup, &mut unset).unwrap();
        assert_eq!(unset, ["A", "B"]);
    }

    #[test]
    fn mistakes() {
        for (text, expected) in [
            ("$", "invalid interpolation format in \"$\""),
            ("a $ b", "invalid"),
            ("${", "invalid"),
            ("${}", "invalid"),
            ("${SET", "invalid"),
            ("${SET!x}", "invalid"),
            ("${1}", "invalid"),
            ("$1", "invalid"),
            ("${SET:x}", "invalid"),
            ("${NONE:?give it}", "required variable NONE is not set: give it"),
            ("${EMPTY:?}", "required variable EMPTY is not set"),
        ] {
            let message = substitute(text, &lookup, &mut Vec::new()).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC*", dollars in "[$A{}:?+-]{0,24}é?") {
            let _ = substitute(&text, &lookup, &mut Vec::new());
            let _ = substitute(&dollars, &lookup, &mut Vec::new());
        }

        #[test]
        fn doubled_dollars_give_the_text_back(text in "\\PC*") {
            let doubled = text.replace('$', "$$");
            proptest::prop_assert_eq!(substitute(&doubled, &lookup, &mut Vec::new()), Ok(text));
        }
    }
}
