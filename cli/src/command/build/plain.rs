//! `--progress plain`: one line a thing that happens, in BuildKit's form, on standard error. Lines of a step stay together; where
//! another one comes in between, the first is marked as going on.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use pontoon_proto::v1::{BuildLog, BuildStep, build_response::Event};

use super::Show;
use crate::output::human;

/// How long a step may be silent before another one's lines come in between.
const SILENCE: Duration = Duration::from_millis(500);

/// Prints lines.
#[derive(Default)]
pub struct Plain {
    current: Option<u32>,
    steps: BTreeMap<u32, Step>,
    /// When the current step's last line was printed.
    printed: Option<Instant>,
    warnings: Vec<String>,
}

#[derive(Default)]
struct Step {
    name: String,
    started_at: i64,
    is_done: bool,
    /// Its end is printed.
    is_told: bool,
    /// Lines that wait.
    lines: Vec<String>,
    /// Output without its newline yet.
    rest: Vec<u8>,
}

/// Seconds between two times, as BuildKit writes them.
pub fn seconds(from: i64, to: i64) -> f64 {
    (to.saturating_sub(from)).max(0) as f64 / 1e9
}

impl Plain {
    fn line(&mut self, number: u32, text: String) {
        self.steps.entry(number).or_default().lines.push(text);
    }

    /// Prints what waits. A step goes on until it is done or silent; `all`: nothing is held back.
    fn flush(&mut self, all: bool) -> String {
        let mut out = String::new();
        loop {
            if let Some(number) = self.current
                && let Some(step) = self.steps.get_mut(&number)
            {
                for line in step.lines.drain(..) {
                    out.push_str(&format!("#{number} {line}\n"));
                    self.printed = Some(Instant::now());
                }
                step.is_told = step.is_done;
                let is_silent = self.printed.is_none_or(|at| at.elapsed() >= SILENCE);
                if !step.is_told && !is_silent && !all {
                    return out;
                }
            }
            let waiting = |(number, step): &(&u32, &Step)| {
                Some(**number) != self.current && !step.is_told && !step.lines.is_empty()
            };
            let Some(next) = self.steps.iter().find(waiting).map(|(number, _)| *number) else {
                return out;
            };
            if let Some(last) = self.current {
                if self.steps.get(&last).is_some_and(|step| !step.is_told) {
                    out.push_str(&format!("#{last} ...\n"));
                }
                out.push('\n');
            }
            out.push_str(&format!("#{next} {}\n", self.steps[&next].name));
            self.current = Some(next);
            self.printed = Some(Instant::now());
        }
    }

    fn step(&mut self, step: &BuildStep) {
        let known = self.steps.entry(step.number).or_default();
        known.name.clone_from(&step.name);
        known.started_at = step.started_at;
        if step.completed_at == 0 {
            return;
        }
        let rest = std::mem::take(&mut known.rest);
        if !rest.is_empty() {
            let text = format!(
                "{:.3} {}",
                seconds(step.started_at, step.completed_at),
                String::from_utf8_lossy(&rest)
            );
            self.line(step.number, text);
        }
        let text = match step.error.as_str() {
            "" if step.cached => "CACHED".to_owned(),
            "" => format!("DONE {:.1}s", seconds(step.started_at, step.completed_at)),
            "CANCELED" => "CANCELED".to_owned(),
            error => format!("ERROR: {error}"),
        };
        self.line(step.number, text);
        if let Some(known) = self.steps.get_mut(&step.number) {
            known.is_done = true;
        }
    }

    fn log(&mut self, log: &BuildLog) {
        let Some(step) = self.steps.get_mut(&log.number) else {
            return;
        };
        step.rest.extend_from_slice(&log.data);
        let started_at = step.started_at;
        let mut lines = Vec::new();
        while let Some(end) = step.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = step.rest.drain(..=end).collect();
            lines.push(
                String::from_utf8_lossy(&line)
                    .trim_end_matches(['\r', '\n'])
                    .to_owned(),
            );
        }
        let time = seconds(started_at, log.time);
        for line in lines {
            self.line(log.number, format!("{time:.3} {line}").trim_end().to_owned());
        }
    }
}

impl Show for Plain {
    fn event(&mut self, event: Option<&Event>) {
        match event {
            Some(Event::Step(step)) => self.step(step),
            Some(Event::Log(log)) => self.log(log),
            Some(Event::Status(status)) => {
                let size = match status.current {
                    0 => String::new(),
                    bytes => format!(" {}", human::size(bytes)),
                };
                let done = if status.done { " done" } else { "" };
                self.line(status.number, format!("{}{size}{done}", status.id));
            }
            Some(Event::Warning(warning)) => {
                self.warnings
                    .push(format!("{} (line {})", warning.message, warning.first_line));
            }
            _ => {}
        }
        let text = self.flush(false);
        // Nobody may be reading any more.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn finish(&mut self, _: bool) {
        let mut out = self.flush(true);
        if !self.warnings.is_empty() {
            let count = self.warnings.len();
            let s = if count == 1 { "" } else { "s" };
            out.push_str(&format!("\n {count} warning{s} found:\n"));
            for warning in &self.warnings {
                out.push_str(&format!(" - {warning}\n"));
            }
        }
        let _ = std::io::stderr().lock().write_all(out.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_step_stay_together() {
        let mut plain = Plain::default();
        let step = |number, completed_at, cached| BuildStep {
            number,
            name: format!("step {number}"),
            started_at: 1_000_000_000,
            completed_at,
            cached,
            ..BuildStep::default()
        };
        let log = |number, text: &'static str| BuildLog {
            number,
            data: bytes::Bytes::from_static(text.as_bytes()),
            time: 1_500_000_000,
            ..BuildLog::default()
        };
        plain.step(&step(1, 0, false));
        plain.step(&step(2, 0, false));
        plain.log(&log(1, "one\nha"));
        let mut out = plain.flush(false);
        plain.log(&log(2, "two\n"));
        out += &plain.flush(false);
        plain.log(&log(1, "lf\nend"));
        plain.step(&step(1, 3_000_000_000, false));
        out += &plain.flush(false);
        plain.step(&step(2, 2_000_000_000, true));
        out += &plain.flush(true);
        assert_eq!(
            out,
            "#1 step 1\n#1 0.500 one\n#1 0.500 half\n#1 2.000 end\n#1 DONE 2.0s\n\n#2 step 2\n#2 0.500 two\n#2 CACHED\n"
        );
    }
}
