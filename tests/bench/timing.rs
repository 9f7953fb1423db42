//! Whole commands timed from fork to reaped, without polling (the harness's runner polls, which would add to short times), and
//! contestants run in turn so that the machine's load falls on all of them alike. Used by the latency figures.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::report::{Samples, progress};

/// Rounds that are run and not counted: caches fill, compiled filters are written.
const WARM_UP: usize = 2;

/// Something that competes.
pub struct Contestant<'a> {
    /// Its name in the report.
    pub name: String,
    /// Makes its command of a round; the number is never the same twice.
    pub command: Box<dyn Fn(usize) -> Command + 'a>,
}

impl<'a> Contestant<'a> {
    /// One by name.
    pub fn new(name: &str, command: impl Fn(usize) -> Command + 'a) -> Self {
        Self {
            name: name.to_owned(),
            command: Box::new(command),
        }
    }
}

/// Runs all contestants `rounds` times in turn, each round starting with another one. Milliseconds.
///
/// # Errors
/// When a command fails, with what it said.
pub fn compete(contestants: &[Contestant<'_>], rounds: usize) -> Result<Vec<Samples>> {
    let mut all = vec![Samples::default(); contestants.len()];
    let mut runs = 0;
    for round in 0..WARM_UP + rounds {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            runs += 1;
            let time = timed((contestants[which].command)(runs))?;
            if round >= WARM_UP {
                all[which].push(time.as_secs_f64() * 1000.0);
            }
        }
        if (round + 1) % 5 == 0 {
            progress(&format!("round {} of {}", round + 1, WARM_UP + rounds));
        }
    }
    Ok(all)
}

/// How long a command takes that must succeed.
///
/// # Errors
/// When it can't be run or fails, with its standard error.
pub fn timed(mut command: Command) -> Result<Duration> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {command:?}"))?;
    let time = start.elapsed();
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(time)
}
