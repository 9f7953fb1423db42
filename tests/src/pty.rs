//! A command on a terminal: what `-it` needs. `setsid --ctty` makes the pty the command's controlling terminal, as that can't be done
//! from safe code. Used by suites of the command line.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process;
use crate::wait::{SHORT, wait_until};

/// A command whose standard streams are a terminal.
#[derive(Debug)]
pub struct Session {
    child: Child,
    master: File,
    seen: Arc<Mutex<String>>,
}

impl Session {
    /// Starts a command on a new terminal of `rows` by `columns`.
    ///
    /// # Errors
    /// When the terminal or the process can't be made.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Result<Self> {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("no pty")?;
        grantpt(&master).context("cannot grant the pty")?;
        unlockpt(&master).context("cannot unlock the pty")?;
        let name = ptsname(&master, Vec::new()).context("the pty has no name")?;
        resize(&master, rows, columns)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal =
            File::from(open(name.as_c_str(), flags, Mode::empty()).context("cannot open the terminal")?);
        let mut leader = Command::new("setsid");
        leader
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        leader.env("TERM", "xterm");
        let child = leader
            .stdin(Stdio::from(
                terminal.try_clone().context("cannot share the terminal")?,
            ))
            .stdout(Stdio::from(
                terminal.try_clone().context("cannot share the terminal")?,
            ))
            .stderr(Stdio::from(terminal))
            .spawn()
            .context("cannot start a session")?;
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shared) = (
            master.try_clone().context("cannot share the pty")?,
            Arc::clone(&seen),
        );
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO: the last process that had the terminal is gone.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                if let Ok(mut seen) = shared.lock() {
                    seen.push_str(&text);
                }
            }
        });
        Ok(Self { child, master, seen })
    }

    /// Types text.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.master.write_all(text.as_bytes()).context("cannot type")
    }

    /// Waits until the terminal has shown `text`.
    ///
    /// # Errors
    /// At the deadline, with what it has shown.
    pub fn expect(&self, text: &str) -> Result<()> {
        wait_until(&format!("the terminal shows {text:?}"), SHORT, || {
            let seen = self.shown();
            ensure!(seen.contains(text), "it shows {seen:?}");
            Ok(())
        })
    }

    /// Everything shown so far.
    pub fn shown(&self) -> String {
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    /// Changes the terminal's size.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        resize(&self.master, rows, columns)
    }

    /// Waits for the command's end and returns its exit status.
    ///
    /// # Errors
    /// When it does not end, with what the terminal shows.
    pub fn end(&mut self) -> Result<i32> {
        process::end(&mut self.child, SHORT).with_context(|| format!("the terminal shows {:?}", self.shown()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn resize(master: impl std::os::fd::AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).context("cannot set the terminal's size")
}
