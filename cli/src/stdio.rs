//! Streams between this terminal and a container: the client's side of `attach`, `run` and `exec`.
//!
//! Two directions run at once: stdin to requests (with detach keys, window size and signals), responses to stdout and stderr. The
//! session ends when the daemon ends the stream, or the user detaches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tonic::Streaming;

use pontoon_proto::v1::{StdioResponse, TerminalSize, stdio_response::Response};

use crate::error::Failure;
use crate::terminal::{self, DetachKeys};

/// So many SIGINT or SIGTERM end the client, whatever the process makes of them.
const GIVE_UP: u32 = 3;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The stream is complete; the exit code if it told one.
    Finished(Option<i32>),
    /// The user typed the detach keys.
    Detached,
}

/// What the user's side sends.
#[derive(Debug)]
pub enum Input {
    /// Bytes for stdin.
    Data(Vec<u8>),
    /// End of stdin.
    Close,
    /// The window changed.
    Resize(TerminalSize),
    /// The number of a signal to pass on.
    Signal(i32),
}

/// What to forward.
#[derive(Debug)]
pub struct Options {
    /// Read our stdin.
    pub stdin: bool,
    /// The other side has a terminal: send sizes and watch for detach keys.
    pub tty: bool,
    /// Signals that come to us go to the process.
    pub proxy_signals: bool,
    /// Detaches when typed.
    pub detach_keys: DetachKeys,
}

/// Starts forwarding this terminal's input through `send`; it stops when `send` fails or the user detaches (`None` is sent).
pub fn forward_input<F, Fut>(options: Options, mut send: F) -> mpsc::Receiver<()>
where
    F: FnMut(Input) -> Fut + Send + 'static,
    Fut: Future<Output = bool> + Send + 'static,
{
    let (detached_tx, detached_rx) = mpsc::channel(1);
    let (input_tx, mut input_rx) = mpsc::channel::<Option<Input>>(16);
    if options.stdin {
        tokio::spawn(read_stdin(options.detach_keys, options.tty, input_tx.clone()));
    }
    if options.tty {
        tokio::spawn(watch_size(input_tx.clone()));
    }
    if options.proxy_signals {
        watch_signals(&input_tx);
    }
    tokio::spawn(async move {
        while let Some(input) = input_rx.recv().await {
            match input {
                Some(input) => {
                    if !send(input).await {
                        return;
                    }
                }
                None => {
                    let _ = detached_tx.send(()).await;
                    return;
                }
            }
        }
        // Keep the sender: a dropped one would look like a detachment.
        detached_tx.closed().await;
    });
    detached_rx
}

async fn read_stdin(mut keys: DetachKeys, tty: bool, to: mpsc::Sender<Option<Input>>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let typed = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                let _ = to.send(Some(Input::Close)).await;
                return;
            }
            Ok(count) => &buffer[..count],
        };
        let data = if tty {
            keys.filter(typed)
        } else {
            Some(typed.to_vec())
        };
        let Some(data) = data else {
            let _ = to.send(None).await;
            return;
        };
        if !data.is_empty() && to.send(Some(Input::Data(data))).await.is_err() {
            return;
        }
    }
}

async fn watch_size(to: mpsc::Sender<Option<Input>>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((rows, columns)) = terminal::size() {
            let size = TerminalSize {
                rows: rows.into(),
                columns: columns.into(),
            };
            if to.send(Some(Input::Resize(size))).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Signals that are passed on: those that Docker's client does, which is all that can be caught but what tells of our own faults,
/// and SIGCHLD, SIGPIPE and SIGURG, which concern nobody else. Those of real time have numbers only.
const PROXIED: [Signal; 20] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::ABORT,
    Signal::ALARM,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::CONT,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::WINCH,
    Signal::IO,
    Signal::POWER,
    Signal::SYS,
    Signal::VTALARM,
    Signal::PROF,
    Signal::XCPU,
    Signal::XFSZ,
];
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Sends on what comes to us; from its return on no signal is lost.
fn watch_signals(to: &mpsc::Sender<Option<Input>>) {
    let ends = Arc::new(AtomicU32::new(0));
    for number in PROXIED.map(Signal::as_raw).into_iter().chain(REAL_TIME) {
        // One that is not on this system, or is the C library's own.
        let Ok(mut signals) = signal(SignalKind::from_raw(number)) else {
            continue;
        };
        let is_end = [Signal::INT, Signal::TERM].map(Signal::as_raw).contains(&number);
        let (to, ends) = (to.clone(), ends.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // A process that ignores them must not keep the user: Docker's client gives up at the third, too.
                if is_end && ends.fetch_add(1, Ordering::Relaxed) + 1 == GIVE_UP {
                    eprintln!("\ngot {GIVE_UP} SIGTERM/SIGINTs, forcefully exiting");
                    std::process::exit(1);
                }
                if to.send(Some(Input::Signal(number))).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Copies what the daemon sends to our stdout and stderr until the end, or until the user detaches.
///
/// # Errors
/// The daemon's, or when our own stdout can't be written.
pub async fn copy_output(
    mut responses: Streaming<StdioResponse>,
    mut detached: mpsc::Receiver<()>,
) -> Result<End, Failure> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut exit_code = None;
    loop {
        let response = tokio::select! {
            response = responses.message() => response?,
            Some(()) = detached.recv() => {
                stdout.flush().await?;
                return Ok(End::Detached);
            }
        };
        match response.and_then(|response| response.response) {
            Some(Response::Stdout(data)) => {
                stdout.write_all(&data).await?;
                stdout.flush().await?;
            }
            Some(Response::Stderr(data)) => {
                stderr.write_all(&data).await?;
                stderr.flush().await?;
            }
            Some(Response::ExitCode(code)) => exit_code = Some(code),
            Some(Response::Attached(_)) => {}
            None => {
                stdout.flush().await?;
                return Ok(End::Finished(exit_code));
            }
        }
    }
}
