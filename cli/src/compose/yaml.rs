//! YAML text to a tree in which every node knows its place, with anchors, aliases and merge keys (`<<`) resolved.
//! Called once a file by [`load`](super::load).
//!
//! Scalars keep their text: what type they should be, the key decides that they belong to ([`reader`](super::reader)). Depth and
//! size after the expansion of aliases are limited, so that no file can exhaust memory or stack.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::mistake::{Mistake, Position};

/// Deepest nesting.
const DEPTH_LIMIT: usize = 64;
/// Most nodes, those that aliases stand for included.
const NODE_LIMIT: usize = 200_000;

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// The kinds of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, number or boolean.
    Scalar {
        /// As it was written, quotes and escapes resolved.
        text: String,
        /// Marked as text, by quotes or a block style.
        quoted: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values, in the file's order.
    Mapping(Vec<(Key, Node)>),
}

/// A mapping's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it is written.
    pub at: Position,
    /// The key.
    pub text: String,
}

impl Node {
    /// The value of a mapping's key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => entries
                .iter()
                .find(|(name, _)| name.text == key)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::Sequence(items) => items.iter().map(Node::size).sum(),
            Value::Mapping(entries) => entries.iter().map(|(_, node)| 1 + node.size()).sum(),
        }
    }
}

/// Reads a file's text, which must be one YAML document.
///
/// # Errors
/// Mistakes of YAML itself; the first ends the reading, except for keys given twice.
pub fn parse(file: &Arc<str>, text: &str) -> Result<Node, Vec<Mistake>> {
    let mut builder = Builder {
        file: Arc::clone(file),
        frames: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        nodes: 0,
        duplicates: Vec::new(),
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let outcome = match next {
            Ok((event, span)) => builder.event(event, span.start),
            Err(error) => Err(builder.mistake(*error.marker(), format!("invalid YAML: {}", error.info()))),
        };
        if let Err(mistake) = outcome {
            builder.duplicates.push(mistake);
            return Err(builder.duplicates);
        }
    }
    if !builder.duplicates.is_empty() {
        return Err(builder.duplicates);
    }
    let empty = Mistake {
        at: Position {
            file: Arc::clone(file),
            line: 1,
            column: 1,
        },
        message: "the file is empty: it needs at least services".to_owned(),
    };
    builder.root.ok_or_else(|| vec![empty])
}

enum Frame {
    Sequence {
        at: Position,
        anchor: usize,
        items: Vec<Node>,
    },
    Mapping {
        at: Position,
        anchor: usize,
        entries: Vec<(Key, Node)>,
        merges: Vec<Node>,
        key: Option<MappingKey>,
    },
}

enum MappingKey {
    Merge,
    Named(Key),
}

struct Builder {
    file: Arc<str>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, (Node, usize)>,
    root: Option<Node>,
    nodes: usize,
    duplicates: Vec<Mistake>,
}

impl Builder {
    fn position(&self, marker: Marker) -> Position {
        Position {
            file: Arc::clone(&self.file),
            line: marker.line().max(1),
            column: marker.col() + 1,
        }
    }

    fn mistake(&self, marker: Marker, message: impl Into<String>) -> Mistake {
        Mistake {
            at: self.position(marker),
            message: message.into(),
        }
    }

    fn event(&mut self, event: Event<'_>, marker: Marker) -> Result<(), Mistake> {
        let at = self.position(marker);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(self.mistake(
                marker,
                "a second document begins here: put it into a file of its own",
            )),
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.tag(tag.as_deref(), marker)?;
                let quoted = style != ScalarStyle::Plain || is_text;
                self.add(scalar(at, text.into_owned(), quoted), anchor, marker)
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(self.mistake(marker, "an alias can't stand inside of what it refers to"));
                };
                self.nodes += size;
                let node = node.clone();
                self.add(node, 0, marker)
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(tag.as_deref(), marker)?;
                let items = Vec::new();
                self.open(Frame::Sequence { at, anchor, items }, marker)
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(tag.as_deref(), marker)?;
                let frame = Frame::Mapping {
                    at,
                    anchor,
                    entries: Vec::new(),
                    merges: Vec::new(),
                    key: None,
                };
                self.open(frame, marker)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(marker),
            _ => Ok(()),
        }
    }

    /// Whether a tag says that a scalar is text.
    fn tag(&self, tag: Option<&Tag>, marker: Marker) -> Result<bool, Mistake> {
        match tag {
            None => Ok(false),
            Some(tag) if tag.is_yaml_core_schema() => Ok(tag.suffix == "str"),
            Some(tag) => Err(self.mistake(marker, format!("the tag {tag} is not supported: remove it"))),
        }
    }

    fn open(&mut self, frame: Frame, marker: Marker) -> Result<(), Mistake> {
        if self.frames.len() >= DEPTH_LIMIT {
            return Err(self.mistake(marker, format!("nested more than {DEPTH_LIMIT} levels deep")));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn close(&mut self, marker: Marker) -> Result<(), Mistake> {
        match self.frames.pop() {
            None => Ok(()),
            Some(Frame::Sequence { at, anchor, items }) => {
                let value = Value::Sequence(items);
                self.add(Node { at, value }, anchor, marker)
            }
            Some(Frame::Mapping {
                at,
                anchor,
                mut entries,
                merges,
                ..
            }) => {
                for merge in merges {
                    merge_into(&mut entries, merge)?;
                }
                let value = Value::Mapping(entries);
                self.add(Node { at, value }, anchor, marker)
            }
        }
    }

    fn add(&mut self, node: Node, anchor: usize, marker: Marker) -> Result<(), Mistake> {
        self.nodes += 1;
        if self.nodes > NODE_LIMIT {
            return Err(self.mistake(
                marker,
                format!("the file has more than {NODE_LIMIT} values, with its aliases expanded"),
            ));
        }
        if anchor > 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let unusable = self.mistake(marker, "a mapping's key must be plain text");
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::Sequence { items, .. }) => items.push(node),
            Some(Frame::Mapping {
                entries, merges, key, ..
            }) => match key.take() {
                None => *key = Some(mapping_key(node).ok_or(unusable)?),
                Some(MappingKey::Merge) => merges.push(node),
                Some(MappingKey::Named(name)) => {
                    if let Some((first, _)) = entries.iter().find(|(other, _)| other.text == name.text) {
                        self.duplicates.push(Mistake {
                            message: format!(
                                "key {:?} is given twice, first on line {}",
                                name.text, first.at.line
                            ),
                            at: name.at,
                        });
                    } else {
                        entries.push((name, node));
                    }
                }
            },
        }
        Ok(())
    }
}

fn scalar(at: Position, text: String, quoted: bool) -> Node {
    let is_null = !quoted && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
    let value = if is_null {
        Value::Null
    } else {
        Value::Scalar { text, quoted }
    };
    Node { at, value }
}

fn mapping_key(node: Node) -> Option<MappingKey> {
    match node.value {
        Value::Scalar { text, quoted: false } if text == "<<" => Some(MappingKey::Merge),
        Value::Scalar { text, .. } => Some(MappingKey::Named(Key { at: node.at, text })),
        _ => None,
    }
}

/// Adds what `<<` brings; keys that are there already win.
fn merge_into(entries: &mut Vec<(Key, Node)>, merge: Node) -> Result<(), Mistake> {
    match merge.value {
        Value::Mapping(brought) => {
            for (key, node) in brought {
                if !entries.iter().any(|(there, _)| there.text == key.text) {
                    entries.push((key, node));
                }
            }
            Ok(())
        }
        Value::Sequence(several) => several.into_iter().try_for_each(|one| match one.value {
            Value::Mapping(_) => merge_into(entries, one),
            _ => Err(not_mergeable(one.at)),
        }),
        _ => Err(not_mergeable(merge.at)),
    }
}

fn not_mergeable(at: Position) -> Mistake {
    Mistake {
        at,
        message: "<< needs a mapping, or a list of mappings".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, Vec<String>> {
        parse(&Arc::from("f"), text).map_err(|all| all.iter().map(Mistake::to_string).collect())
    }

    fn text_of<'a>(node: &'a Node, path: &[&str]) -> Option<&'a str> {
        let node = path.iter().try_fold(node, |node, key| node.get(key))?;
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    #[test]
    fn aliases_and_merges_expand() {
        let text = "\
base: &base {image: a, tty: true}
more: &more {user: u, tty: false}
one:
  <<: [*base, *more]
  image: b
two: *base
\"<<\": quoted
";
        let node = read(text).unwrap();
        assert_eq!(text_of(&node, &["one", "image"]), Some("b"));
        assert_eq!(text_of(&node, &["one", "tty"]), Some("true"));
        assert_eq!(text_of(&node, &["one", "user"]), Some("u"));
        assert_eq!(text_of(&node, &["two", "image"]), Some("a"));
        assert_eq!(text_of(&node, &["<<"]), Some("quoted"));
        assert_eq!(node.get("one").unwrap().get("image").unwrap().at.line, 5);
        assert_eq!(node.get("two").unwrap().at.column, 7);
    }

    #[test]
    fn mistakes_have_places() {
        let cases = [
            (
                "a: 1\nb: 2\na: 3\na: 4",
                "f:3:1: key \"a\" is given twice, first on line 1",
            ),
            ("a:\n  - [x", "f:"),
            ("a: 1\n---\nb: 2", "second document"),
            ("", "f:1:1: the file is empty"),
            ("# nothing", "f:1:1: the file is empty"),
            ("a: !reset null", "f:1:4: the tag !reset is not supported"),
            ("? [a]\n: b", "f:1:5: a mapping's key must be plain text"),
            ("a: &a [*a]", "can't stand inside"),
            ("a: {<<: x}", "f:1:9: << needs a mapping"),
            ("a: *nope", "f:1:4: invalid YAML"),
        ];
        for (text, expected) in cases {
            let mistakes = read(text).unwrap_err();
            assert!(mistakes[0].contains(expected), "{text:?}: {mistakes:?}");
        }
        assert_eq!(read("a: 1\na: 3\na: 4").unwrap_err().len(), 2);
    }

    #[test]
    fn hostile_files_are_refused() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(read(&deep).unwrap_err()[0].contains("levels deep"));
        let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..10 {
            let below = format!("*a{}", level - 1);
            laughs += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(","));
        }
        assert!(read(&laughs).unwrap_err()[0].contains("more than"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC*", lines in proptest::collection::vec("[ a:&*<{}\\[\\]|>\"'#!,?\n-]{0,12}", 0..12)) {
            let _ = read(&text);
            let _ = read(&lines.join("\n"));
        }
    }
}
