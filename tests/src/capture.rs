//! What crosses the switch: tcpdump in the switch's namespace. Used by tests that must see packets and not only answers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process;
use crate::wait::{SHORT, wait_until};
use crate::wire::{self, Wire};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    lines: Receiver<String>,
}

impl Capture {
    /// Starts to capture on a port of the switch; returns when packets are being seen.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn start(wire: &Wire, interface: &str, filter: &str) -> Result<Self> {
        let mut command: Command = wire::enter(&wire::path(&wire.switch()));
        command
            .args([
                "tcpdump",
                "-i",
                interface,
                "-n",
                "--immediate-mode",
                "-l",
                "-A",
                "-s",
                "0",
                filter,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start tcpdump")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut said = String::new();
        let mut stderr = BufReader::new(stderr);
        // Its notice says that the socket is open.
        while !said.contains("listening on") {
            let read = stderr.read_line(&mut said).context("cannot read from tcpdump")?;
            ensure!(read > 0, "tcpdump ended: {said}");
        }
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
            // The other messages of tcpdump are of no interest, but its pipe must stay open as long as it runs.
            drop(stderr);
        });
        Ok(Self { child, lines })
    }

    /// Waits until `text` was seen, ends the capture and returns everything it printed.
    ///
    /// # Errors
    /// When the text is not seen in time, with what was.
    pub fn finish_with(self, text: &str) -> Result<String> {
        let mut seen = String::new();
        wait_until(&format!("{text:?} is seen on the wire"), SHORT, || {
            seen.extend(self.lines.try_iter());
            ensure!(seen.contains(text), "seen:\n{seen}");
            Ok(())
        })?;
        seen.push_str(&self.finish()?);
        Ok(seen)
    }

    /// Ends the capture and returns everything it printed.
    ///
    /// # Errors
    /// When tcpdump does not end.
    pub fn finish(mut self) -> Result<String> {
        self.interrupt()?;
        process::end(&mut self.child, SHORT)?;
        Ok(self.lines.iter().collect())
    }

    fn interrupt(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process id out of range")?, Signal::INT).context("cannot end tcpdump")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
