//! What the demo shows: headings, commands as a user types them, their output. Colours only on a terminal.

use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

use anyhow::Result;
use pontoon_tests::Host;

/// Where the demo writes.
pub struct Screen {
    colours: bool,
    began: Instant,
}

impl Screen {
    /// Standard output.
    pub fn new() -> Self {
        Self {
            colours: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            began: Instant::now(),
        }
    }

    /// The next step, with the time since the beginning.
    pub fn heading(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f32();
        self.line(&format!(
            "\n{} {}",
            self.paint("2", &format!("[{seconds:5.1} s]")),
            self.paint("1;36", text)
        ));
    }

    /// A line of explanation.
    pub fn note(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// Runs a `pontoon` command on a host, shows it and what it prints.
    pub fn run(&self, host: &Host, args: &[&str]) -> Result<String> {
        self.command(host, args);
        let said = host.ok(args)?;
        for line in said.lines() {
            self.line(&format!("  {line}"));
        }
        Ok(said)
    }

    /// Shows a command as it is typed on a host.
    pub fn command(&self, host: &Host, args: &[&str]) {
        let typed: Vec<String> = args.iter().map(|word| shell_word(word)).collect();
        let prompt = self.paint("32", &format!("{}#", host.name()));
        self.line(&format!(
            "{prompt} {}",
            self.paint("1", &format!("pontoon {}", typed.join(" ")))
        ));
    }

    /// Shows a program other than `pontoon` as it is typed on a host.
    pub fn other_command(&self, host: &Host, line: &str) {
        let prompt = self.paint("32", &format!("{}#", host.name()));
        self.line(&format!("{prompt} {}", self.paint("1", line)));
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&self, text: &str) {
        // A reader that went away (`make demo | head`) must not keep the hosts from being removed.
        let _ = writeln!(stdout(), "{text}");
        let _ = stdout().flush();
    }
}

fn shell_word(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
