//! Shell patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and escapes, without bracket expressions, as BuildKit has them.

use crate::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Any number of characters.
    Many,
    /// Exactly one.
    One,
    Char(char),
}

/// A pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid =
            |reason: &str| Error::new(format!("invalid pattern ({text}) in substitution: {reason}"));
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => match chars.next() {
                    // Escaped for the sake of the braces around them; the pattern has them as they are.
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Token::Char(c),
                    Some(c) => return Err(invalid(&format!("invalid escape '\\{c}'"))),
                    None => return Err(invalid("invalid escape '\\'")),
                },
                c => Token::Char(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Takes the shortest or longest match off the beginning.
    pub(super) fn trim_start(&self, text: &str, greedy: bool) -> String {
        let chars: Vec<char> = text.chars().collect();
        let end = self.ends(&chars, greedy).unwrap_or(0);
        chars[end..].iter().collect()
    }

    /// Takes the shortest or longest match off the end.
    pub(super) fn trim_end(&self, text: &str, greedy: bool) -> String {
        let chars: Vec<char> = text.chars().rev().collect();
        let reversed = Self(self.0.iter().rev().copied().collect());
        let end = reversed.ends(&chars, greedy).unwrap_or(0);
        chars[end..].iter().rev().collect()
    }

    /// Replaces the first or all matches, each as long as can be.
    pub(super) fn replace(&self, text: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = text.chars().collect();
        let (mut out, mut at, mut last_end) = (String::new(), 0, None);
        while at <= chars.len() {
            match self.ends(&chars[at..], true) {
                // An empty match right behind another one does not count.
                Some(length) if length > 0 || last_end != Some(at) => {
                    out.push_str(replacement);
                    at += length;
                    last_end = Some(at);
                    if !all {
                        break;
                    }
                    if length == 0 {
                        out.extend(chars.get(at));
                        at += 1;
                    }
                }
                _ => {
                    out.extend(chars.get(at));
                    at += 1;
                }
            }
        }
        out.extend(chars.get(at..).unwrap_or_default());
        out
    }

    /// Length of the shortest or longest match at the beginning.
    fn ends(&self, text: &[char], greedy: bool) -> Option<usize> {
        // Positions that can be reached with the tokens so far. `*` and `?` don't match a line's end, as in Go.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for token in &self.0 {
            let mut next = vec![false; text.len() + 1];
            match token {
                Token::Many => {
                    let mut open = false;
                    for at in 0..=text.len() {
                        open = reached[at] || open && text[at - 1] != '\n';
                        next[at] = open;
                    }
                }
                Token::One | Token::Char(_) => {
                    for at in 0..text.len() {
                        let fits = match token {
                            Token::Char(c) => text[at] == *c,
                            _ => text[at] != '\n',
                        };
                        next[at + 1] = reached[at] && fits;
                    }
                }
            }
            reached = next;
        }
        if greedy {
            reached.iter().rposition(|r| *r)
        } else {
            reached.iter().position(|r| *r)
        }
    }
}
