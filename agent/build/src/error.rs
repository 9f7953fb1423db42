//! A mistake in a Dockerfile or in what a build was asked for, with the lines that it is about.

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// First and last line, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// The first.
    pub first: usize,
    /// The last; not before the first.
    pub last: usize,
}

/// What is wrong, in BuildKit's words where it has words for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong.
    pub message: String,
    /// Where in the Dockerfile; `None` when it is about something else.
    pub lines: Option<Lines>,
}

impl Error {
    /// A mistake without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            lines: None,
        }
    }

    /// The same mistake at a place, unless it has one.
    #[must_use]
    pub fn at(mut self, lines: Lines) -> Self {
        self.lines.get_or_insert(lines);
        self
    }

    /// Shows the lines of the Dockerfile as BuildKit does: those at fault marked with `>>>`, some around them. Empty without a
    /// place.
    pub fn excerpt(&self, name: &str, text: &str) -> String {
        self.lines
            .map_or_else(String::new, |lines| excerpt(name, text, lines))
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

/// Lines of a Dockerfile around a place (BuildKit's `errdefs.Source.Print`).
pub fn excerpt(name: &str, text: &str, at: Lines) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let (mut start, mut end) = (at.first, at.last.min(lines.len()));
    if start < 1 || start > lines.len() {
        return String::new();
    }
    let padding = if end == start { 4 } else { 2 };
    let mut padded = 0;
    // One more is counted than is shown in each round: BuildKit's way to end at the file's edges.
    while padded < padding {
        if start > 1 {
            start -= 1;
            padded += 1;
        }
        if end != lines.len() {
            end += 1;
            padded += 1;
        }
        padded += 1;
    }
    let bar = "--------------------\n";
    let mut out = format!("{name}:{}\n{bar}", at.first);
    for number in start..=end {
        let mark = if (at.first..=at.last).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        let line = lines[number - 1].trim_end_matches('\r');
        out.push_str(&format!(" {number:3} | {mark} {line}\n"));
    }
    out + bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_marks_the_lines() {
        let text = "FROM a\nRUN x\nRUN false\nRUN y\nRUN z\nRUN w\n";
        let one = Error::new("x").at(Lines { first: 3, last: 3 });
        assert_eq!(
            one.excerpt("Dockerfile", text),
            "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN x\n   3 | >>> RUN false\n   4 |     RUN y\n   \
             5 |     RUN z\n--------------------\n"
        );
        assert_eq!(excerpt("D", "a", Lines { first: 7, last: 9 }), "");
        assert!(excerpt("D", "a", Lines { first: 1, last: 9 }).contains(">>> a"));
    }
}
