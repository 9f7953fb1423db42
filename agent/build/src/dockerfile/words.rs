//! Words of instructions: quotes, escapes and variables with all of their modifiers, as BuildKit's `shell.Lex` reads them.

use super::pattern::Pattern;
use crate::{Error, Result};

/// How deep `${a:-${b:-…}}` may nest: a hostile Dockerfile must not exhaust the stack.
const DEPTH: usize = 64;
/// Characters of one expanded word: `${a//x/yyyy}` in a chain multiplies.
const LENGTH: usize = 4 << 20;

/// Where variables are looked up.
pub trait Variables {
    /// A variable's value; `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

/// No variable is set.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Variables for Nothing {
    fn get(&self, _: &str) -> Option<String> {
        None
    }
}

/// `NAME=value` entries; the first one of a name counts.
impl Variables for [String] {
    fn get(&self, name: &str) -> Option<String> {
        self.iter()
            .find_map(|e| e.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    }
}

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub struct Lexer {
    /// The escape character: `\` or, by directive, a backtick.
    pub escape: char,
    /// Keep quotes as they are written.
    pub raw_quotes: bool,
    /// Keep escape characters.
    pub raw_escapes: bool,
    /// Quotes mean nothing (contents of here-documents).
    pub skip_quotes: bool,
    /// Leave variables that are not set as they are written.
    pub skip_unset: bool,
}

impl Lexer {
    /// With this escape character, everything else as in instructions.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            skip_unset: false,
        }
    }

    /// The whole text as one word.
    ///
    /// # Errors
    /// An unclosed quote or brace, an unknown modifier, or `${x:?message}` of a variable that is not set.
    pub fn word(&self, text: &str, variables: &(impl Variables + ?Sized)) -> Result<String> {
        self.run(text, variables, None).map(|(word, _)| word)
    }

    /// As [`Lexer::word`]; gives also the variables that were used but are not set.
    ///
    /// # Errors
    /// As [`Lexer::word`].
    pub fn word_and_unset(
        &self,
        text: &str,
        variables: &(impl Variables + ?Sized),
    ) -> Result<(String, Vec<String>)> {
        let mut unset = Vec::new();
        let (word, _) = self.run(text, variables, Some(&mut unset))?;
        unset.sort();
        unset.dedup();
        Ok((word, unset))
    }

    /// The text split at white space outside quotes, after variables are put in.
    ///
    /// # Errors
    /// As [`Lexer::word`].
    pub fn words(&self, text: &str, variables: &(impl Variables + ?Sized)) -> Result<Vec<String>> {
        self.run(text, variables, None).map(|(_, words)| words)
    }

    fn run<V: Variables + ?Sized>(
        &self,
        text: &str,
        variables: &V,
        unset: Option<&mut Vec<String>>,
    ) -> Result<(String, Vec<String>)> {
        let mut reader = Reader {
            lexer: self,
            chars: text.chars().collect(),
            at: 0,
            variables,
            unset,
            raw_escapes: self.raw_escapes,
            depth: 0,
        };
        let mut words = Words::default();
        let whole = reader.until(None, &mut words).map_err(|e| {
            Error::new(format!(
                "failed to process {}: {}",
                crate::quote::text(text),
                e.message
            ))
        })?;
        Ok((whole, words.finish()))
    }
}

/// Collects words: white space of plain text ends one, quoted or escaped text never does.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn plain(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

struct Reader<'r, V: ?Sized> {
    lexer: &'r Lexer,
    chars: Vec<char>,
    at: usize,
    variables: &'r V,
    unset: Option<&'r mut Vec<String>>,
    raw_escapes: bool,
    depth: usize,
}

impl<V: Variables + ?Sized> Reader<'_, V> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    /// Reads on until `stop`, which is taken, or the end.
    fn until(&mut self, stop: Option<char>, words: &mut Words) -> Result<String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += 1;
                return Ok(out);
            }
            if out.len() > LENGTH {
                return Err(Error::new("the expanded text is too long"));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.plain(c));
                    out.push_str(&value);
                }
                '\'' | '"' if !self.lexer.skip_quotes => {
                    let text = if c == '"' {
                        self.double_quoted()?
                    } else {
                        self.single_quoted()?
                    };
                    words.current.push_str(&text);
                    out.push_str(&text);
                }
                '<' => {
                    let text = self.heredoc_start();
                    words.current.push_str(&text);
                    out.push_str(&text);
                }
                c if c == self.lexer.escape => {
                    self.at += 1;
                    if self.raw_escapes {
                        words.current.push(c);
                        out.push(c);
                    }
                    // At the end it means nothing.
                    let Some(escaped) = self.next() else { break };
                    words.current.push(escaped);
                    out.push(escaped);
                }
                c => {
                    self.at += 1;
                    words.plain(c);
                    out.push(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(Error::new(format!(
                "unexpected end of statement while looking for matching {stop}"
            ))),
            None => Ok(out),
        }
    }

    /// `<<` and the white space behind it belong to the word that follows.
    fn heredoc_start(&mut self) -> String {
        self.at += 1;
        if self.peek() != Some('<') {
            return "<".into();
        }
        self.at += 1;
        let mut out = String::from("<<");
        while let Some(c @ (' ' | '\t' | '\r')) = self.peek() {
            self.at += 1;
            out.push(c);
        }
        out
    }

    fn single_quoted(&mut self) -> Result<String> {
        let mut out = String::new();
        self.quote(&mut out);
        loop {
            match self.peek() {
                Some('\'') => {
                    self.quote(&mut out);
                    return Ok(out);
                }
                Some(c) => {
                    self.at += 1;
                    out.push(c);
                }
                None => {
                    let text = "unexpected end of statement while looking for matching single-quote";
                    return Err(Error::new(text));
                }
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String> {
        let mut out = String::new();
        self.quote(&mut out);
        loop {
            match self.peek() {
                Some('"') => {
                    self.quote(&mut out);
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) => {
                    self.at += 1;
                    if c != self.lexer.escape {
                        out.push(c);
                        continue;
                    }
                    if self.raw_escapes {
                        out.push(c);
                    }
                    match self.peek() {
                        // Met again at the top of the loop.
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.lexer.escape => {
                            self.at += 1;
                            out.push(next);
                        }
                        Some(_) => out.push(c),
                    }
                }
                None => {
                    let text = "unexpected end of statement while looking for matching double-quote";
                    return Err(Error::new(text));
                }
            }
        }
    }

    /// Takes a quotation mark.
    fn quote(&mut self, out: &mut String) {
        if let Some(c) = self.next()
            && self.lexer.raw_quotes
        {
            out.push(c);
        }
    }

    fn dollar(&mut self) -> Result<String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.lookup(&name) {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err(Error::new("syntax error: missing '}'")),
            Some('{' | '}' | ':') => return Err(Error::new("syntax error: bad substitution")),
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Error::new("variables are nested too deeply"));
        }
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// Behind `${`.
    fn braces(&mut self) -> Result<String> {
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.lookup(&name) {
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, modifier, true)
            }
            Some('/') => self.replaced(&name),
            Some(c @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, Some(c), false),
            other => Err(unsupported("", other)),
        }
    }

    fn modified(&mut self, name: &str, modifier: Option<char>, null_is_unset: bool) -> Result<String> {
        let colon = if null_is_unset { ":" } else { "" };
        let is_trim = matches!(modifier, Some('#' | '%'));
        if null_is_unset && is_trim {
            return Err(unsupported(":", modifier));
        }
        let word = self.part('}', is_trim, "syntax error: missing '}'")?;
        let value = self.lookup(name);
        if value.is_none() && self.lexer.skip_unset {
            let modifier = modifier.map(String::from).unwrap_or_default();
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let empty = value.as_ref().is_none_or(|v| null_is_unset && v.is_empty());
        let or = |message: &str| match word.as_str() {
            "" => Error::new(format!("{name}: {message}")),
            word => Error::new(format!("{name}: {word}")),
        };
        match modifier {
            Some('-') if empty => Ok(word),
            Some('-') => Ok(value.unwrap_or_default()),
            Some('+') if empty => Ok(String::new()),
            Some('+') => Ok(word),
            Some('?') if value.is_none() => Err(or("is not allowed to be unset")),
            Some('?') if empty => Err(or("is not allowed to be empty")),
            Some('?') => Ok(value.unwrap_or_default()),
            Some(c @ ('#' | '%')) => {
                let (word, greedy) = match word.strip_prefix(c) {
                    Some(rest) => (rest, true),
                    None => (word.as_str(), false),
                };
                let pattern = Pattern::parse(word)?;
                let value = value.unwrap_or_default();
                Ok(match c {
                    '#' => pattern.trim_start(&value, greedy),
                    _ => pattern.trim_end(&value, greedy),
                })
            }
            other => Err(unsupported(colon, other)),
        }
    }

    /// Behind `${name/`.
    fn replaced(&mut self, name: &str) -> Result<String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let pattern = self.part('/', true, "syntax error: missing '/' in ${}")?;
        let replacement = self.part('}', true, "syntax error: missing '}'")?;
        match self.lookup(name) {
            None if self.lexer.skip_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => {
                let replaced =
                    Pattern::parse(&pattern)?.replace(&value.unwrap_or_default(), &replacement, all);
                if replaced.len() > LENGTH {
                    return Err(Error::new("the expanded text is too long"));
                }
                Ok(replaced)
            }
        }
    }

    /// A part of a substitution up to `stop`.
    fn part(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String> {
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let part = self.until(Some(stop), &mut Words::default());
        self.raw_escapes = before;
        part.map_err(|error| match self.peek() {
            None => Error::new(missing),
            Some(_) => error,
        })
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_numeric() {
                while let Some(digit) = self.peek().filter(|c| c.is_numeric()) {
                    self.at += 1;
                    name.push(digit);
                }
                return name;
            }
            if name.is_empty() && "@*#?-$!".contains(c) {
                self.at += 1;
                return c.into();
            }
            if !c.is_alphanumeric() && c != '_' {
                break;
            }
            self.at += 1;
            name.push(c);
        }
        name
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name);
        if value.is_none()
            && let Some(unset) = &mut self.unset
        {
            unset.push(name.to_owned());
        }
        value
    }
}

fn unsupported(colon: &str, modifier: Option<char>) -> Error {
    let modifier = modifier.map(String::from).unwrap_or_default();
    Error::new(format!(
        "unsupported modifier ({colon}{modifier}) in substitution"
    ))
}
