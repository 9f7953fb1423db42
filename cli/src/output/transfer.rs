//! The live view of a pull or push: a line a layer on a terminal, each rewritten in place with its bar; otherwise plain lines of what
//! has no bar (moby `pkg/jsonmessage`). Used by `pull`, `push` and `run`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use pontoon_proto::v1::TransferStep;

use super::human;
use crate::terminal;

/// Where the view goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `pull` and `push`.
    Stdout,
    /// `run`, whose stdout is the container's.
    Stderr,
    /// `--quiet`.
    Nowhere,
}

/// The view.
#[derive(Debug)]
pub struct View {
    stream: Stream,
    screen: Screen,
}

impl View {
    /// A view on a stream.
    pub fn new(stream: Stream) -> Self {
        let is_terminal = match stream {
            Stream::Stdout => std::io::stdout().is_terminal(),
            Stream::Stderr => std::io::stderr().is_terminal(),
            Stream::Nowhere => false,
        };
        let width = terminal::size().map_or(200, |(_, columns)| usize::from(columns));
        Self {
            stream,
            screen: Screen::new(is_terminal.then_some(width)),
        }
    }

    /// Shows a step.
    pub fn show(&mut self, step: &TransferStep) {
        let text = self.screen.step(step);
        match self.stream {
            Stream::Stdout => {
                super::listing::write(&text);
                // Bars have no newline at their end.
                let _ = std::io::stdout().flush();
            }
            // Nothing can be told when stderr is gone.
            Stream::Stderr => drop(std::io::stderr().write_all(text.as_bytes())),
            Stream::Nowhere => {}
        }
    }
}

/// Which line belongs to whom.
#[derive(Debug, Default)]
struct Screen {
    /// Columns of the terminal; `None`: no terminal.
    width: Option<usize>,
    lines: HashMap<String, usize>,
}

impl Screen {
    fn new(width: Option<usize>) -> Self {
        Self {
            width,
            lines: HashMap::new(),
        }
    }

    /// What is to be written for a step.
    fn step(&mut self, step: &TransferStep) -> String {
        let managed = !step.id.is_empty() && !step.status.starts_with("Pulling from ");
        let id = if step.id.is_empty() {
            String::new()
        } else {
            format!("{}: ", step.id)
        };
        let Some(width) = self.width else {
            // Bars are for terminals.
            return if step.total > 0 {
                String::new()
            } else {
                format!("{id}{}\n", step.status)
            };
        };
        if !managed {
            self.lines.clear();
            return format!("{id}{}\n", step.status);
        }
        let mut text = String::new();
        let known = self.lines.len();
        let line = *self.lines.entry(step.id.clone()).or_insert_with(|| {
            text.push('\n');
            known
        });
        let up = self.lines.len() - line;
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "\x1b[{up}A\x1b[2K\r{id}{} {}\r\x1b[{up}B",
            step.status,
            bar(step, width)
        );
        text
    }
}

/// `[=====>      ]  1.2MB/3.4MB`
fn bar(step: &TransferStep, width: usize) -> String {
    if step.total == 0 {
        return String::new();
    }
    let size = |bytes: u64| human::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let done = step.current.min(step.total);
    let filled = usize::try_from(u128::from(done) * 50 / u128::from(step.total)).unwrap_or(50);
    let mut text = String::new();
    if width > 110 {
        text = format!("[{}>{}] ", "=".repeat(filled), " ".repeat(50 - filled));
    }
    // Writing to a String can't fail.
    let _ = write!(text, "{:>8}/{}", size(step.current), size(step.total));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, status: &str, current: u64, total: u64) -> TransferStep {
        TransferStep {
            id: id.to_owned(),
            status: status.to_owned(),
            current,
            total,
        }
    }

    #[test]
    fn plain_lines_without_a_terminal() {
        let mut screen = Screen::new(None);
        let text: String = [
            step("latest", "Pulling from library/x", 0, 0),
            step("abc", "Pulling fs layer", 0, 0),
            step("abc", "Downloading", 5, 10),
            step("abc", "Pull complete", 0, 0),
            step("", "Digest: sha256:0", 0, 0),
        ]
        .iter()
        .map(|step| screen.step(step))
        .collect();
        assert_eq!(
            text,
            "latest: Pulling from library/x\nabc: Pulling fs layer\nabc: Pull complete\nDigest: sha256:0\n"
        );
    }

    #[test]
    fn each_layer_has_its_line_on_a_terminal() {
        let mut screen = Screen::new(Some(120));
        assert_eq!(
            screen.step(&step("a", "Waiting", 0, 0)),
            "\n\x1b[1A\x1b[2K\ra: Waiting \r\x1b[1B"
        );
        assert_eq!(
            screen.step(&step("b", "Waiting", 0, 0)),
            "\n\x1b[1A\x1b[2K\rb: Waiting \r\x1b[1B"
        );
        let text = screen.step(&step("a", "Downloading", 1_000_000, 2_000_000));
        assert!(text.starts_with("\x1b[2A\x1b[2K\ra: Downloading ["), "{text:?}");
        assert!(
            text.contains(&format!("[{}>{}]      1MB/2MB\r", "=".repeat(25), " ".repeat(25))),
            "{text:?}"
        );
        assert_eq!(screen.step(&step("", "done", 0, 0)), "done\n");
        // After a line of its own the lines begin anew.
        assert!(screen.step(&step("b", "Waiting", 0, 0)).starts_with("\n\x1b[1A"));
        let narrow = Screen::new(Some(80)).step(&step("a", "Downloading", 1, 2));
        assert!(
            !narrow.contains('['.to_string().repeat(2).as_str()) && narrow.contains("1B/2B"),
            "{narrow:?}"
        );
    }
}
