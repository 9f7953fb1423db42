//! `.dockerignore`, and `--exclude` of COPY: Docker's pattern language (moby/patternmatcher). `*` and `?` stay within a name, `**`
//! crosses folders, `!` takes back; a pattern that fits a folder fits what is in it. Called by the client, which sends only what is
//! not ignored, and by COPY.

use crate::{Error, Result};

/// What a path is to a list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    is_exception: bool,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Name,
    /// `**/`: any number of folders, also none.
    Folders,
    /// `**` at the beginning of otherwise plain text, or at the end.
    Anything,
    /// `[a-z]`
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Reads an ignore file: one pattern a line, `#` comments, white space around trimmed.
pub fn read(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut patterns = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (mark, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if line.is_empty() {
            continue;
        }
        let mut pattern = if pattern.is_empty() {
            String::new()
        } else {
            clean(pattern)
        };
        if pattern.len() > 1 && pattern.starts_with('/') {
            pattern.remove(0);
        }
        patterns.push(format!("{mark}{pattern}"));
    }
    patterns
}

/// Go's `filepath.Clean`.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => {
                parts.pop();
            }
            ("..", None) if absolute => {}
            _ => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, joined) => format!("/{joined}"),
        (false, joined) if joined.is_empty() => ".".into(),
        (false, joined) => joined,
    }
}

impl Patterns {
    /// Understands a list of patterns.
    ///
    /// # Errors
    /// A pattern that is none, in Docker's words.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self> {
        let mut all = Vec::new();
        for raw in patterns {
            let text = raw.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            let text = clean(text);
            let (is_exception, text) = match text.strip_prefix('!') {
                Some("") => return Err("illegal exclusion pattern: \"!\"".into()),
                Some(rest) => (true, rest),
                None => (false, text.as_str()),
            };
            all.push(Pattern {
                tokens: tokens(text)?,
                text: text.to_owned(),
                is_exception,
            });
        }
        Ok(Self { patterns: all })
    }

    /// True without a pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// True if the path, or a folder above it, fits and no later exception does. Paths are relative, without `.` and `..`.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.is_exception == matched && pattern.fits_or_parent(path) {
                matched = !pattern.is_exception;
            }
        }
        matched
    }

    /// True if an ignored folder may hold something that is not: it has to be entered all the same.
    pub fn may_have_exceptions_below(&self, folder: &str) -> bool {
        self.patterns.iter().filter(|p| p.is_exception).any(|p| {
            // An exception with wildcards may be anywhere.
            let plain = p.text.split(['*', '?', '[', '\\']).next().unwrap_or_default();
            let prefix = format!("{folder}/");
            plain.len() != p.text.len() && (plain.starts_with(&prefix) || prefix.starts_with(plain))
                || p.text.starts_with(&prefix)
        })
    }
}

impl Pattern {
    fn fits_or_parent(&self, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        let mut ends: Vec<usize> = text
            .iter()
            .enumerate()
            .filter(|(_, c)| **c == '/')
            .map(|(i, _)| i)
            .collect();
        ends.push(text.len());
        fits(&self.tokens, &text, &ends)
    }
}

/// True if the tokens fit the text up to one of these ends.
fn fits(tokens: &[Token], text: &[char], ends: &[usize]) -> bool {
    // Positions that can be reached: no backtracking, so that no pattern is slow.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; text.len() + 1];
        let mut open = false;
        for at in 0..=text.len() {
            match token {
                Token::Anything => {
                    open |= reached[at];
                    next[at] = open;
                }
                Token::Name => {
                    open = reached[at] || open && text[at - 1] != '/';
                    next[at] = open;
                }
                Token::Folders => {
                    // Zero folders, or anything that ends with a slash.
                    next[at] = reached[at] || open && at > 0 && text[at - 1] == '/';
                    open |= reached[at];
                }
                one => {
                    if at > 0 && reached[at - 1] && one.fits(text[at - 1]) {
                        next[at] = true;
                    }
                }
            }
        }
        reached = next;
    }
    ends.iter().any(|end| reached[*end])
}

impl Token {
    fn fits(&self, c: char) -> bool {
        match self {
            Token::Char(own) => *own == c,
            Token::One => c != '/',
            Token::Class { not, ranges } => ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *not,
            Token::Name | Token::Folders | Token::Anything => false,
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let bad = || Error::new("syntax error in pattern");
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                let slash = chars.next_if_eq(&'/').is_some();
                let at_end = chars.peek().is_none();
                // `**x` at the beginning is any ending with x; elsewhere `**` stands for folders, slash or not.
                let only_ending = tokens.is_empty() && !slash && !chars.clone().any(|c| "*?[\\".contains(c));
                tokens.push(if at_end || only_ending {
                    Token::Anything
                } else {
                    Token::Folders
                });
            }
            '*' => tokens.push(Token::Name),
            '?' => tokens.push(Token::One),
            '[' => tokens.push(class(&mut chars).ok_or_else(bad)?),
            '\\' => tokens.push(Token::Char(chars.next().ok_or_else(bad)?)),
            c => tokens.push(Token::Char(c)),
        }
    }
    Ok(tokens)
}

/// Behind `[`.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let not = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
            '\\' => chars.next(),
            c => Some(c),
        };
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Some(Token::Class { not, ranges });
        }
        if matches!(chars.peek(), Some(']' | '-')) {
            return None;
        }
        let low = one(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => one(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

/// True if a name or path of COPY has wildcards.
pub fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

/// Go's `filepath.Match` of one name, for sources of COPY.
///
/// # Errors
/// The pattern is none.
pub fn name_fits(pattern: &str, name: &str) -> Result<bool> {
    let mut tokens = tokens(pattern)?;
    // `**` has no meaning of its own there.
    for token in &mut tokens {
        if matches!(token, Token::Anything | Token::Folders) {
            *token = Token::Name;
        }
    }
    let text: Vec<char> = name.chars().collect();
    Ok(fits(&tokens, &text, &[text.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns).unwrap().matches(path)
    }

    #[test]
    fn patterns_as_docker_reads_them() {
        for (pattern, path, fits) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file/", true),
            ("**file", "dir/file", true),
            ("**file", "file", true),
            ("**file", "xfile", true),
            ("**file*", "dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/*.txt2", "dir/dir/file.txt", false),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abc/def", false),
            ("a\\*b", "a*b", true),
            ("*", "dir/x", true),
            ("dir", "dir/x/y", true),
            ("di", "dir/x", false),
            ("./x/", "x", true),
            ("util/docker/web", "util/docker/web/foo", true),
            ("docs/../x", "x", true),
        ] {
            assert_eq!(ignored(&[pattern], path), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn exceptions_take_back_in_order() {
        assert!(!ignored(&["*.md", "!README.md"], "README.md"));
        assert!(ignored(&["!README.md", "*.md"], "README.md"));
        assert!(!ignored(&["docs", "!docs/keep"], "docs/keep/x"));
        assert!(ignored(&["docs", "!docs/keep", "docs/keep/y"], "docs/keep/y"));
        let patterns = Patterns::new(&["docs", "!docs/a/*.txt"]).unwrap();
        assert!(patterns.may_have_exceptions_below("docs"));
        assert!(patterns.may_have_exceptions_below("docs/a"));
        assert!(!patterns.may_have_exceptions_below("docs/b"));
        assert!(Patterns::new(&["!"]).is_err() && Patterns::new(&["a["]).is_err());
        assert!(!ignored(&["# no"], "no"));
    }

    #[test]
    fn files_of_patterns() {
        let text = "\u{feff}# comment\n\n  a/b/ \n/abs\n!  /kept \n #x\n!\n";
        assert_eq!(read(text), ["a/b", "abs", "!kept", "#x", "!"]);
        for (path, cleaned) in [
            ("a//b/../c/.", "a/c"),
            ("/../x", "/x"),
            ("", "."),
            ("../x", "../x"),
        ] {
            assert_eq!(clean(path), cleaned);
        }
    }

    #[test]
    fn names_of_copy() {
        assert!(name_fits("*.txt", "a.txt").unwrap() && !name_fits("*.txt", "a.md").unwrap());
        assert!(name_fits("**", "any").unwrap() && name_fits("[", "x").is_err());
        assert!(has_wildcards("a*") && !has_wildcards("a\\*"));
    }
}
