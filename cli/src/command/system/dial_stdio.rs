//! `system dial-stdio`: standard input and output become a connection to the daemon's socket. A client on another host runs it
//! through ssh (`--host ssh://…`).

use clap::Args;
use tokio::io::AsyncWriteExt;

use crate::client::Address;
use crate::error::{Failure, Outcome};

/// `system dial-stdio`
#[derive(Args, Debug)]
pub struct Arguments {}

/// Copies bytes both ways until the daemon or the client ends the connection.
///
/// # Errors
/// The daemon's socket can't be reached.
pub async fn run(host: Option<&str>, _: Arguments) -> Outcome {
    let address = Address::parse(host)?;
    let Address::Unix(path) = &address else {
        return Err(Failure::new(format!(
            "system dial-stdio connects to a socket of this host only, not to {address}"
        )));
    };
    let socket = tokio::net::UnixStream::connect(path).await.map_err(|error| {
        Failure::new(format!(
            "Cannot connect to the Pontoon daemon at {address} ({error}). Is `pontoon daemon` running?"
        ))
    })?;
    let (mut from_daemon, mut to_daemon) = socket.into_split();
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let sent = async {
        tokio::io::copy(&mut input, &mut to_daemon).await?;
        to_daemon.shutdown().await
    };
    let received = async {
        tokio::io::copy(&mut from_daemon, &mut output).await?;
        output.flush().await
    };
    tokio::pin!(sent);
    tokio::select! {
        done = received => done?,
        done = &mut sent => done?,
    }
    Ok(0)
}
