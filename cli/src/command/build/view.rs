//! Live progress on a terminal, in BuildKit's look: a line a step with its time, below a running one its last output. The lines are
//! drawn over at each change; when there are more than the terminal has, the oldest finished ones are left out.

use std::collections::BTreeMap;
use std::io::Write;

use pontoon_proto::v1::{BuildLog, BuildStep, build_response::Event};

use super::Show;
use super::plain::seconds;
use crate::output::human;
use crate::terminal;

/// Lines of output that are shown of a running step.
const LINES: usize = 6;
/// Bytes that are kept of a line without an end.
const REST: usize = 16 << 10;

/// Draws.
#[derive(Default)]
pub struct View {
    steps: BTreeMap<u32, Step>,
    began: i64,
    /// Lines that the last drawing took.
    drawn: usize,
    changed: bool,
    warnings: Vec<String>,
}

#[derive(Default)]
struct Step {
    step: BuildStep,
    output: Vec<String>,
    rest: Vec<u8>,
    statuses: BTreeMap<String, String>,
}

impl Step {
    fn is_running(&self) -> bool {
        self.step.completed_at == 0
    }

    fn log(&mut self, log: &BuildLog) {
        self.rest.extend_from_slice(&log.data);
        // A program that draws a line over again has nothing but carriage returns.
        while let Some(end) = self.rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let text: String = String::from_utf8_lossy(&line)
                .chars()
                .filter(|c| !c.is_control())
                .collect();
            if !text.is_empty() || line == b"\n" {
                self.output.push(text);
            }
        }
        let over = self.rest.len().saturating_sub(REST);
        self.rest.drain(..over);
        let over = self.output.len().saturating_sub(LINES);
        self.output.drain(..over);
    }
}

/// A line with something at its right end, cut to the terminal's width.
fn line(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(right.chars().count() + 1);
    let mut left: String = left.chars().take(room).collect();
    let used = left.chars().count();
    left.extend(std::iter::repeat_n(' ', room.saturating_sub(used)));
    format!("{left} {right}")
}

impl View {
    fn lines(&self, now: i64, width: usize, height: usize, ended: Option<bool>) -> Vec<String> {
        let done = self.steps.values().filter(|step| !step.is_running()).count();
        let mark = match ended {
            Some(false) => " FINISHED",
            Some(true) => " ERROR",
            None => "",
        };
        let mut lines = vec![format!(
            "[+] Building {:.1}s ({done}/{}){mark}",
            seconds(self.began, now),
            self.steps.len()
        )];
        let mut blocks: Vec<(bool, Vec<String>)> = self
            .steps
            .values()
            .map(|step| (step.is_running(), self.block(step, now, width)))
            .collect();
        while ended.is_none() && blocks.iter().map(|(_, block)| block.len()).sum::<usize>() + 2 > height {
            // Finished ones first.
            let Some(oldest) = blocks.iter().position(|(running, _)| !running) else {
                break;
            };
            blocks.remove(oldest);
        }
        lines.extend(blocks.into_iter().flat_map(|(_, block)| block));
        lines
    }

    fn block(&self, step: &Step, now: i64, width: usize) -> Vec<String> {
        let end = if step.is_running() {
            now
        } else {
            step.step.completed_at
        };
        let time = format!("{:.1}s", seconds(step.step.started_at, end));
        let (cached, color) = match &step.step {
            BuildStep { cached: true, .. } => ("CACHED ", "\x1b[34m"),
            BuildStep { error, .. } if error == "CANCELED" => ("CANCELED ", "\x1b[33m"),
            BuildStep { error, .. } if !error.is_empty() => ("ERROR ", "\x1b[31m"),
            _ if step.is_running() => ("", ""),
            _ => ("", "\x1b[34m"),
        };
        let text = line(&format!(" => {cached}{}", step.step.name), &time, width);
        let mut lines = vec![if color.is_empty() {
            text
        } else {
            format!("{color}{text}\x1b[0m")
        }];
        for (id, value) in &step.statuses {
            lines.push(line(&format!(" => => {id}{value}"), "", width));
        }
        if step.is_running() {
            lines.extend(
                step.output
                    .iter()
                    .map(|output| line(&format!(" => => # {output}"), "", width)),
            );
        }
        lines
    }

    fn draw(&mut self, ended: Option<bool>) {
        let (rows, columns) = terminal::size().unwrap_or((24, 80));
        let lines = self.lines(human::now(), usize::from(columns), usize::from(rows), ended);
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        for line in &lines {
            out.push_str(line);
            out.push('\n');
        }
        self.drawn = lines.len();
        self.changed = false;
        let _ = std::io::stderr().lock().write_all(out.as_bytes());
    }
}

impl Show for View {
    fn event(&mut self, event: Option<&Event>) {
        match event {
            // A clock's tick: times go on.
            None => {
                if self.changed || self.steps.values().any(Step::is_running) {
                    self.draw(None);
                }
                return;
            }
            Some(Event::Step(step)) => {
                if self.began == 0 {
                    self.began = step.started_at;
                }
                self.steps.entry(step.number).or_default().step = step.clone();
            }
            Some(Event::Log(log)) => self.steps.entry(log.number).or_default().log(log),
            Some(Event::Status(status)) => {
                let text = match status.current {
                    0 => String::new(),
                    bytes => format!(" {}", human::size(bytes)),
                };
                self.steps
                    .entry(status.number)
                    .or_default()
                    .statuses
                    .insert(status.id.clone(), text);
            }
            Some(Event::Warning(warning)) => {
                self.warnings
                    .push(format!("{} (line {})", warning.message, warning.first_line));
            }
            Some(_) => return,
        }
        self.changed = true;
    }

    fn finish(&mut self, failed: bool) {
        self.draw(Some(failed));
        let count = self.warnings.len();
        if count > 0 {
            let s = if count == 1 { "" } else { "s" };
            let lines: String = self
                .warnings
                .iter()
                .map(|warning| format!(" - {warning}\n"))
                .collect();
            let _ = std::io::stderr()
                .lock()
                .write_all(format!("\n {count} warning{s} found:\n{lines}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_drawn_with_their_times() {
        let mut view = View::default();
        let second = 1_000_000_000;
        let step = |number, name: &str, completed_at, cached| {
            Event::Step(BuildStep {
                number,
                name: name.into(),
                started_at: second,
                completed_at,
                cached,
                ..BuildStep::default()
            })
        };
        view.event(Some(&step(1, "[1/2] FROM a", 2 * second, true)));
        view.event(Some(&step(2, "[2/2] RUN b", 0, false)));
        let log = BuildLog {
            number: 2,
            data: bytes::Bytes::from_static(b"one\ntwo\nhalf"),
            ..BuildLog::default()
        };
        view.event(Some(&Event::Log(log)));
        let lines = view.lines(3 * second, 40, 24, None);
        assert_eq!(lines[0], "[+] Building 2.0s (1/2)");
        assert!(
            lines[1].contains(" => CACHED [1/2] FROM a") && lines[1].contains("1.0s"),
            "{lines:?}"
        );
        assert_eq!(lines[2].chars().count(), 40);
        assert_eq!(lines[3].trim_end(), " => => # one");
        assert_eq!(lines.len(), 5);
        let few = view.lines(3 * second, 40, 5, None);
        assert!(!few.iter().any(|line| line.contains("FROM a")), "{few:?}");
    }
}
