//! Typed reading of a tree: tables say which keys a mapping has and what each one sets; whatever does not fit becomes a mistake with
//! its place, and reading goes on, so that all mistakes are told at once. Used by the schema modules of [`compose`](super).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use super::interpolate::Lookup;
use super::mistake::{Mistake, Position};
use super::yaml::{Key, Node, Value};

/// A key and what it does to the thing that is being read.
pub type Field<T> = (&'static str, fn(&mut T, &Reader<'_>, &Node));

/// A key that Compose has and we can't honour, with what to do instead.
pub type Refusal = (&'static str, &'static str);

/// Reads nodes and collects mistakes.
pub struct Reader<'a> {
    /// Folder that relative paths start from.
    pub base: &'a Path,
    /// The client's environment.
    pub variables: Lookup<'a>,
    path: RefCell<Vec<String>>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl<'a> Reader<'a> {
    /// A reader without mistakes.
    pub fn new(base: &'a Path, variables: Lookup<'a>) -> Self {
        Self {
            base,
            variables,
            path: RefCell::default(),
            mistakes: RefCell::default(),
        }
    }

    /// What was wrong.
    pub fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }

    /// Notes a mistake at a place, with the path of keys that leads there.
    pub fn mistake(&self, at: &Position, message: impl std::fmt::Display) {
        let path = self.path.borrow().join(".");
        let message = if path.is_empty() {
            message.to_string()
        } else {
            format!("{path}: {message}")
        };
        self.mistakes.borrow_mut().push(Mistake {
            at: at.clone(),
            message,
        });
    }

    /// Reads below a key.
    pub fn within<R>(&self, key: &str, read: impl FnOnce() -> R) -> R {
        self.path.borrow_mut().push(key.to_owned());
        let result = read();
        self.path.borrow_mut().pop();
        result
    }

    fn wrong_type(&self, node: &Node, expected: &str) {
        let found = match &node.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        };
        self.mistake(&node.at, format_args!("must be {expected}, not {found}"));
    }

    /// Reads a mapping by its tables. Keys without a value count as not given; extensions (`x-…`) are skipped.
    pub fn fields<T>(&self, node: &Node, target: &mut T, known: &[Field<T>], refused: &[Refusal]) {
        for (key, value) in self.entries(node) {
            let name = key.text.as_str();
            if let Some((_, set)) = known.iter().find(|(known, _)| *known == name) {
                if value.value != Value::Null {
                    self.within(name, || set(target, self, value));
                }
            } else if name.starts_with("x-") {
                // Extensions of others.
            } else if let Some((_, advice)) = refused.iter().find(|(refused, _)| *refused == name) {
                if !is_nothing(value) {
                    let message = format_args!("key {name:?} is not supported by this version: {advice}");
                    self.mistake(&key.at, message);
                }
            } else {
                self.unknown(key, known.iter().map(|(known, _)| *known));
            }
        }
    }

    fn unknown(&self, key: &Key, known: impl Iterator<Item = &'static str>) {
        let closest = known
            .map(|known| (distance(&key.text, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 2);
        let hint = match closest {
            Some((_, known)) => format!(" (did you mean {known:?}?)"),
            None => String::new(),
        };
        self.mistake(&key.at, format_args!("unknown key {:?}{hint}", key.text));
    }

    /// A mapping's keys and values.
    pub fn entries<'n>(&self, node: &'n Node) -> &'n [(Key, Node)] {
        match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => &[],
            _ => {
                self.wrong_type(node, "a mapping");
                &[]
            }
        }
    }

    /// A list's items, or the one item that stands in its place.
    pub fn one_or_more<'n>(&self, node: &'n Node) -> &'n [Node] {
        match &node.value {
            Value::Scalar { .. } => std::slice::from_ref(node),
            _ => self.items(node),
        }
    }

    /// A list's items.
    pub fn items<'n>(&self, node: &'n Node) -> &'n [Node] {
        match &node.value {
            Value::Sequence(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong_type(node, "a list");
                &[]
            }
        }
    }

    fn scalar<'n>(&self, node: &'n Node, expected: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong_type(node, expected);
                None
            }
        }
    }

    /// A text. Numbers are taken as they are written; true and false need quotes.
    pub fn text(&self, node: &Node) -> String {
        match &node.value {
            Value::Scalar { text, quoted: false } if text == "true" || text == "false" => {
                self.mistake(
                    &node.at,
                    format_args!("must be a text, not the boolean {text}: quote it"),
                );
                String::new()
            }
            _ => self.scalar(node, "a text").unwrap_or_default().to_owned(),
        }
    }

    /// A list of texts.
    pub fn texts(&self, node: &Node) -> Vec<String> {
        self.items(node).iter().map(|item| self.text(item)).collect()
    }

    /// A text or a list of texts.
    pub fn text_or_texts(&self, node: &Node) -> Vec<String> {
        self.one_or_more(node)
            .iter()
            .map(|item| self.text(item))
            .collect()
    }

    /// true or false.
    pub fn flag(&self, node: &Node) -> bool {
        match self.scalar(node, "true or false") {
            Some("true" | "True" | "TRUE") => true,
            None | Some("false" | "False" | "FALSE") => false,
            Some(_) => {
                self.wrong_type(node, "true or false");
                false
            }
        }
    }

    /// A whole number.
    pub fn number<T: FromStr + Default>(&self, node: &Node) -> T {
        let expected = "a whole number that is not negative";
        let text = self.scalar(node, expected);
        match text.map(str::parse) {
            None => T::default(),
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                self.wrong_type(node, expected);
                T::default()
            }
        }
    }

    /// A text that `parse` turns into a value.
    pub fn parsed<T>(&self, node: &Node, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.scalar(node, "a text or a number")?;
        parse(text)
            .map_err(|message| self.mistake(&node.at, message))
            .ok()
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let given = self.scalar(node, "a text")?;
        let found = words
            .iter()
            .find(|(word, _)| *word == given)
            .map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong_type(node, &format!("one of {}", all.join(", ")));
        }
        found
    }

    /// A mapping of texts, or a list of `NAME=VALUE`; a name alone has no value.
    pub fn dictionary(&self, node: &Node) -> BTreeMap<String, Option<String>> {
        let mut all = BTreeMap::new();
        match &node.value {
            Value::Sequence(items) => {
                for item in items {
                    let text = self.text(item);
                    let (name, value) = match text.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (text.as_str(), None),
                    };
                    if name.is_empty() && matches!(item.value, Value::Scalar { .. }) {
                        self.mistake(&item.at, format_args!("{text:?} has no name"));
                    } else {
                        all.insert(name.to_owned(), value);
                    }
                }
            }
            _ => {
                for (key, value) in self.entries(node) {
                    let text = match &value.value {
                        Value::Null => None,
                        Value::Scalar { text, .. } => Some(text.clone()),
                        _ => self.within(&key.text, || {
                            self.wrong_type(value, "a text, a number or a boolean");
                            None
                        }),
                    };
                    all.insert(key.text.clone(), text);
                }
            }
        }
        all
    }

    /// Labels and the like: a dictionary in which no value is an empty one.
    pub fn labels(&self, node: &Node) -> std::collections::HashMap<String, String> {
        let all = self.dictionary(node).into_iter();
        all.map(|(name, value)| (name, value.unwrap_or_default()))
            .collect()
    }
}

/// Null, or an empty mapping or list, as tools print for what is not used.
fn is_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
        Value::Scalar { .. } => false,
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
