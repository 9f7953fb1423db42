//! A connection to a daemon of another host: ssh(1) runs `pontoon system dial-stdio` there, and its standard streams are the
//! connection. Keys, known hosts, jumps and agents are ssh's business. Used by [`Client::connect`](super::Client::connect).

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The streams of a running ssh, which ends when they are dropped.
#[derive(Debug)]
pub struct SshStream {
    input: ChildStdin,
    output: ChildStdout,
    _child: Child,
}

impl SshStream {
    /// Starts ssh. That the far side can't be reached shows as an early end of the stream; ssh itself has said why by then,
    /// on stderr.
    pub fn open(destination: &str, port: Option<u16>, socket: Option<&str>) -> io::Result<Self> {
        let mut command = Command::new("ssh");
        if let Some(port) = port {
            command.arg("-p").arg(port.to_string());
        }
        command.args(["-o", "ConnectTimeout=30", "-T", "--", destination, "pontoon"]);
        if let Some(socket) = socket {
            // The far shell reads this line.
            command.arg(format!("--host='unix://{}'", socket.replace('\'', r"'\''")));
        }
        let mut child = command
            .args(["system", "dial-stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("run ssh: {error}")))?;
        let missing = || io::Error::other("ssh has no standard streams");
        Ok(Self {
            input: child.stdin.take().ok_or_else(missing)?,
            output: child.stdout.take().ok_or_else(missing)?,
            _child: child,
        })
    }
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buf)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}
