//! The user's terminal: raw mode with a sure way back, its size, and the keys that detach.

use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::Failure;

/// Whether stdin and stdout are a terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Rows and columns of the terminal on stdout (or stdin), if there is one.
pub fn size() -> Option<(u16, u16)> {
    let stdout = std::io::stdout();
    let stdin = std::io::stdin();
    let size = tcgetwinsize(stdout.as_fd())
        .or_else(|_| tcgetwinsize(stdin.as_fd()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// What is typed is not shown, for as long as it lives: passwords.
#[derive(Debug)]
pub struct Hidden {
    before: Termios,
}

impl Hidden {
    /// Switches the echo of stdin off.
    ///
    /// # Errors
    /// When stdin is not a terminal.
    pub fn enter() -> Result<Self, Failure> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(|_| Failure::new("the input device is not a TTY"))?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &silent)
            .map_err(|e| Failure::new(format!("switch the terminal's echo off: {e}")))?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing can be done when the terminal has gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}

/// Raw mode on stdin for as long as it lives.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches stdin to raw mode.
    ///
    /// # Errors
    /// When stdin is not a terminal.
    pub fn enter() -> Result<Self, Failure> {
        let stdin = std::io::stdin();
        let fd: BorrowedFd<'_> = stdin.as_fd();
        let before = tcgetattr(fd).map_err(|_| Failure::new("the input device is not a TTY"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(fd, OptionalActions::Now, &raw)
            .map_err(|e| Failure::new(format!("set terminal to raw mode: {e}")))?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done when the terminal has gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}

/// A key sequence that detaches, such as `ctrl-p,ctrl-q`, and how much of it was typed.
#[derive(Debug)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Docker's default.
    pub const DEFAULT: &'static str = "ctrl-p,ctrl-q";

    /// Reads `a` or `ctrl-x` items separated by commas; empty: nothing detaches.
    ///
    /// # Errors
    /// Names the item that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let key = match (item.strip_prefix("ctrl-"), item.as_bytes()) {
                (Some(name), _) => match name.as_bytes() {
                    [letter @ b'a'..=b'z'] => letter - b'a' + 1,
                    [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => sign & 0x1f,
                    _ => {
                        return Err(format!(
                            "invalid detach keys ({text}): unknown character: '{item}'"
                        ));
                    }
                },
                (None, [letter]) => *letter,
                _ => {
                    return Err(format!(
                        "invalid detach keys ({text}): unknown character: '{item}'"
                    ));
                }
            };
            keys.push(key);
        }
        Ok(Self { keys, matched: 0 })
    }

    /// Passes typed bytes through. `None` when the sequence is complete; keys held back while it may still become
    /// complete are let go when it does not.
    pub fn filter(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return None;
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(byte) && self.keys.len() > 1);
            if self.matched == 0 {
                out.push(*byte);
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        let mut keys = DetachKeys::parse(DetachKeys::DEFAULT).unwrap();
        assert_eq!(keys.filter(b"ab"), Some(b"ab".to_vec()));
        assert_eq!(keys.filter(b"a\x10"), Some(b"a".to_vec()));
        assert_eq!(keys.filter(b"b"), Some(b"\x10b".to_vec()));
        assert_eq!(keys.filter(b"\x10\x10"), Some(b"\x10".to_vec()));
        assert_eq!(keys.filter(b"\x11"), None);
        assert!(DetachKeys::parse("ctrl-?").is_err());
        assert!(DetachKeys::parse("word").is_err());
        assert_eq!(
            DetachKeys::parse("").unwrap().filter(b"\x10\x11"),
            Some(b"\x10\x11".to_vec())
        );
    }
}
