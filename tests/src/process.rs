//! A command's run: its output, its deadline, and checks with messages that show everything. Used for `pontoon` itself and for
//! the tools of the harness (`ip`, `nft`, `tcpdump`).

use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// No command of a test takes longer than this unless something hangs.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(180);

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit status; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output without surrounding blank space, when the command succeeded.
    ///
    /// # Errors
    /// When the exit status was not 0.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "failed: {self}");
        Ok(self.stdout.trim().to_owned())
    }

    /// Checks the exit status and that standard error contains every one of the texts (in any case of letters).
    ///
    /// # Errors
    /// When the status is another or a text is missing.
    pub fn fails(self, code: i32, texts: &[&str]) -> Result<Self> {
        ensure!(
            self.code == code,
            "exit status {} instead of {code}: {self}",
            self.code
        );
        let said = self.stderr.to_lowercase();
        for text in texts {
            ensure!(
                said.contains(&text.to_lowercase()),
                "standard error does not say {text:?}: {self}"
            );
        }
        Ok(self)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}--- stderr\n{}---",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command to its end with nothing on standard input.
///
/// # Errors
/// When it can't be started or passes [`COMMAND_DEADLINE`]; a bad exit status is no error here.
pub fn run(command: Command) -> Result<Output> {
    run_with_input(command, &[])
}

/// Runs a command to its end and feeds it `input`.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(mut command: Command, input: &[u8]) -> Result<Output> {
    let shown = shown(&command);
    command
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        if let Some(mut stdin) = stdin {
            // A command that stops reading early closes the pipe: its own business.
            scope.spawn(move || stdin.write_all(input));
        }
        let stdout = scope.spawn(move || text(stdout));
        let stderr = scope.spawn(move || text(stderr));
        let code = end(&mut child, COMMAND_DEADLINE);
        let output = Output {
            command: shown.clone(),
            code: code.as_ref().copied().unwrap_or(-1),
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
        };
        code.with_context(|| output.to_string())?;
        Ok(output)
    })
}

/// Runs a tool of the harness that must succeed; returns what it printed.
///
/// # Errors
/// When it fails.
pub fn tool(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = run(command)?;
    ensure!(output.code == 0, "{output}");
    Ok(output.stdout)
}

/// Waits for a child's end; kills it at the deadline.
///
/// # Errors
/// When it had to be killed.
pub fn end(child: &mut Child, patience: Duration) -> Result<i32> {
    use std::os::unix::process::ExitStatusExt;
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        }
        if Instant::now() >= deadline {
            child.kill().context("cannot kill a child")?;
            child.wait().context("cannot wait for a child")?;
            bail!("still running after {patience:?}, killed");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
