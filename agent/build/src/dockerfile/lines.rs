//! A Dockerfile's lines as instructions: directives, comments, continuation lines, here-documents, flags. What an instruction's
//! words mean is [`super::instruction`]'s. Quirks are BuildKit's (`parser.Parse`).

use super::words::{Lexer, Nothing};
use crate::{Error, Lines, Result};

/// A Dockerfile larger than this is refused.
pub(super) const SIZE: usize = 2 << 20;

/// A here-document of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word behind `<<`, without quotes: the end mark, and the file's name in COPY and ADD.
    pub name: String,
    /// Variables in its content are to be put in: the word has no quotes.
    pub expand: bool,
    /// `<<-`: leading tabs go.
    pub chomp: bool,
    /// What it holds.
    pub content: String,
}

impl Heredoc {
    /// Reads a word like `<<EOF`, `3<<-"EOF"`; `None` when it is no here-document.
    pub fn parse(word: &str) -> Result<Option<Self>> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let Some(rest) = rest.strip_prefix("<<") else {
            return Ok(None);
        };
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start();
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let mut lexer = Lexer::new('\\');
        lexer.skip_unset = true;
        let words = lexer.words(rest, &Nothing)?;
        lexer.raw_quotes = true;
        let raw = lexer.words(rest, &Nothing)?;
        let ([word], [raw]) = (words.as_slice(), raw.as_slice()) else {
            return Ok(None);
        };
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        Ok(Some(Self {
            name: word.clone(),
            expand: quotes(word) == quotes(raw),
            chomp,
            content: String::new(),
        }))
    }

    /// The content as it is used: without leading tabs if it was asked for.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        let lines = self
            .content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'));
        lines.collect()
    }
}

/// One instruction, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its name as written.
    pub name: String,
    /// `--flag=value` words between name and arguments.
    pub flags: Vec<String>,
    /// The rest of the line.
    pub rest: String,
    /// The whole line, continuation lines joined.
    pub original: String,
    pub heredocs: Vec<Heredoc>,
    pub lines: Lines,
}

/// All instructions and the file's directives.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub nodes: Vec<Node>,
    pub escape: char,
    /// `# syntax=`, with its line.
    pub syntax: Option<(String, usize)>,
    /// `# check=`.
    pub check: Option<String>,
    /// Last lines of instructions with an empty continuation line.
    pub empty_continuations: Vec<usize>,
}

pub(crate) fn parse(text: &str) -> Result<Parsed> {
    if text.len() > SIZE {
        return Err(Error::new(format!("the Dockerfile is larger than {SIZE} bytes")));
    }
    if text.is_empty() {
        return Err(Error::new("the Dockerfile cannot be empty"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut source = Source {
        lines: text.split_inclusive('\n').collect(),
        at: 0,
        parsed: Parsed {
            nodes: Vec::new(),
            escape: '\\',
            syntax: None,
            check: None,
            empty_continuations: Vec::new(),
        },
        in_directives: true,
        escape_given: false,
    };
    while let Some(line) = source.next() {
        let line = line.trim_start();
        source.directive(line)?;
        if !line.is_empty() && !is_comment(line) {
            source.instruction(line)?;
        }
    }
    if source.parsed.nodes.is_empty() {
        return Err(Error::new("file with no instructions"));
    }
    Ok(source.parsed)
}

/// An instruction of a single expression: a trigger of ONBUILD.
pub(crate) fn parse_one(text: &str, lines: Lines) -> Result<Node> {
    let mut parsed = parse(text)?.nodes;
    match (parsed.pop(), parsed.is_empty()) {
        (Some(node), true) => Ok(Node { lines, ..node }),
        _ => Err(Error::new("onbuild trigger should be a single expression").at(lines)),
    }
}

struct Source<'t> {
    lines: Vec<&'t str>,
    at: usize,
    parsed: Parsed,
    in_directives: bool,
    escape_given: bool,
}

impl<'t> Source<'t> {
    fn next(&mut self) -> Option<&'t str> {
        let line = self.lines.get(self.at)?.trim_end_matches(['\r', '\n']);
        self.at += 1;
        Some(line)
    }

    /// `# name=value` before anything else.
    fn directive(&mut self, line: &str) -> Result<()> {
        if !self.in_directives {
            return Ok(());
        }
        // A shebang line is let through.
        if self.at == 1 && line.starts_with("#!") {
            return Ok(());
        }
        let here = Lines {
            first: self.at,
            last: self.at,
        };
        let found = line.strip_prefix('#').and_then(|rest| rest.split_once('='));
        let found = found.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
        let twice = |name: &str| {
            let text = format!("only one {name} parser directive can be used");
            Err(Error::new(text).at(here))
        };
        match found {
            Some((name, value)) if !value.is_empty() => match name.as_str() {
                "syntax" if self.parsed.syntax.is_some() => twice("syntax"),
                "check" if self.parsed.check.is_some() => twice("check"),
                "escape" if self.escape_given => twice("escape"),
                "syntax" => {
                    self.parsed.syntax = Some((value.to_owned(), self.at));
                    Ok(())
                }
                "check" => {
                    self.parsed.check = Some(value.to_owned());
                    Ok(())
                }
                "escape" => {
                    self.escape_given = true;
                    self.parsed.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        other => {
                            let text = format!("invalid escape token '{other}' does not match ` or \\");
                            return Err(Error::new(text).at(here));
                        }
                    };
                    Ok(())
                }
                _ => {
                    self.in_directives = false;
                    Ok(())
                }
            },
            _ => {
                self.in_directives = false;
                Ok(())
            }
        }
    }

    fn instruction(&mut self, first: &str) -> Result<()> {
        let start = self.at;
        let (part, mut goes_on) = without_continuation(first, self.parsed.escape);
        let mut line = part;
        // A line with nothing but the continuation character begins no instruction by itself.
        let mut empty = false;
        while goes_on && let Some(next) = self.next() {
            if is_comment(next) {
                continue;
            }
            if next.trim().is_empty() {
                empty = true;
                continue;
            }
            let (part, again) = without_continuation(next, self.parsed.escape);
            line.push_str(&part);
            goes_on = again;
        }
        if empty {
            self.parsed.empty_continuations.push(self.at);
        }
        if line.trim().is_empty() {
            return Ok(());
        }
        let mut lines = Lines {
            first: start,
            last: self.at,
        };
        let mut node = node(&line, lines);
        if takes_heredocs(&node) && line.contains("<<") {
            node.heredocs = self.heredocs(&line).map_err(|e| e.at(lines))?;
            lines.last = self.at;
            node.lines = lines;
        }
        self.parsed.nodes.push(node);
        Ok(())
    }

    fn heredocs(&mut self, line: &str) -> Result<Vec<Heredoc>> {
        let lexer = Lexer {
            raw_quotes: true,
            raw_escapes: true,
            skip_unset: true,
            ..Lexer::new('\\')
        };
        let mut found = Vec::new();
        // A line that can't be split is the shell's to complain of.
        for word in lexer.words(line, &Nothing).unwrap_or_default() {
            found.extend(Heredoc::parse(&word)?);
        }
        for heredoc in &mut found {
            loop {
                let Some(raw) = self.lines.get(self.at) else {
                    return Err(Error::new("unterminated heredoc"));
                };
                self.at += 1;
                let mut mark = raw.trim_end_matches(['\r', '\n']);
                if heredoc.chomp {
                    mark = mark.trim_start_matches('\t');
                }
                if mark == heredoc.name {
                    break;
                }
                heredoc.content.push_str(raw);
            }
        }
        Ok(found)
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A line without the continuation character at its end; true if it had one. One that is escaped itself is none.
fn without_continuation(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

fn node(line: &str, lines: Lines) -> Node {
    let trimmed = line.trim();
    let (name, rest) = trimmed
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((trimmed, ""));
    let (flags, rest) = flags(rest.trim_start());
    Node {
        name: name.to_owned(),
        flags,
        rest: rest.trim().to_owned(),
        original: line.to_owned(),
        heredocs: Vec::new(),
        lines,
    }
}

/// ADD, COPY and RUN without a JSON form, also behind ONBUILD.
fn takes_heredocs(node: &Node) -> bool {
    let mut name = node.name.to_ascii_lowercase();
    let mut rest = node.rest.as_str();
    if name == "onbuild" {
        let (inner, after) = rest
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((rest, ""));
        name = inner.to_ascii_lowercase();
        rest = after.trim_start();
    }
    matches!(name.as_str(), "add" | "copy" | "run") && !rest.starts_with('[')
}

/// Takes the words that begin with `--` off the beginning; quotes and backslashes in them are resolved.
fn flags(line: &str) -> (Vec<String>, &str) {
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (found, rest);
        }
        let (mut word, mut quote, mut end) = (String::new(), None, rest.len());
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => word.extend(chars.next().map(|(_, c)| c)),
                c if Some(c) == quote => quote = None,
                '\'' | '"' if quote.is_none() => quote = Some(c),
                c if quote.is_none() && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => word.push(c),
            }
        }
        rest = &rest[end..];
        if word == "--" {
            return (found, rest);
        }
        found.push(word);
    }
}
