//! `swarm unlock` and `swarm unlock-key`: the key that a manager with autolock asks for after a restart.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use pontoon_proto::v1::{
    GetClusterRequest, GetUnlockKeyRequest, LocalNodeState, RotateUnlockKeyRequest, SwarmStatusRequest,
    SwarmUnlockRequest,
};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::terminal::Hidden;

/// `swarm unlock-key [OPTIONS]`
#[derive(Args, Debug)]
pub struct KeyArguments {
    /// Only display token
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Rotate unlock key
    #[arg(long)]
    rotate: bool,
}

/// Runs `swarm unlock`.
pub(super) async fn unlock(client: &Client) -> Outcome {
    let status = client.swarm().status(SwarmStatusRequest {}).await?.into_inner();
    // Only a locked node is worth typing a key for.
    match status.state() {
        LocalNodeState::Inactive => return Err(Failure::new("Error: This node is not part of a swarm")),
        LocalNodeState::Locked => {}
        _ => return Err(Failure::new("Error: swarm is not locked")),
    }
    let key = read_key()?;
    client.swarm().unlock(SwarmUnlockRequest { key }).await?;
    Ok(0)
}

/// From the terminal without echo, else the first line of stdin.
fn read_key() -> Result<String, Failure> {
    let terminal = std::io::stdin().is_terminal();
    let mut line = String::new();
    if terminal {
        let hidden = Hidden::enter()?;
        listing::write("Enter unlock key: ");
        std::io::stdout().flush()?;
        std::io::stdin().lock().read_line(&mut line)?;
        drop(hidden);
        listing::write("\n");
    } else {
        std::io::stdin().lock().read_line(&mut line)?;
    }
    Ok(line.trim().to_owned())
}

/// Runs `swarm unlock-key`.
pub(super) async fn key(client: &Client, arguments: &KeyArguments) -> Outcome {
    let control = || client.control();
    let key = if arguments.rotate {
        let cluster = control().get_cluster(GetClusterRequest {}).await?.into_inner();
        if !cluster.spec.is_some_and(|spec| spec.autolock_managers) {
            return Err(Failure::new("cannot rotate because autolock is not turned on"));
        }
        let made = control().rotate_unlock_key(RotateUnlockKeyRequest {}).await?;
        if !arguments.quiet {
            listing::write("Successfully rotated manager unlock key.\n\n");
        }
        made.into_inner().key
    } else {
        fetch(client).await?
    };
    if key.is_empty() {
        return Err(Failure::new("no unlock key is set"));
    }
    if arguments.quiet {
        listing::write(&format!("{key}\n"));
    } else {
        explain(&key);
    }
    Ok(0)
}

/// The unlock key in force; empty without autolock.
pub(super) async fn fetch(client: &Client) -> Result<String, Failure> {
    let answer = client.control().get_unlock_key(GetUnlockKeyRequest {}).await;
    Ok(answer?.into_inner().key)
}

/// Prints the key and what it is for.
pub(super) fn explain(key: &str) {
    listing::write(&format!(
        "To unlock a swarm manager after it restarts, run the `pontoon swarm unlock`\n\
         command and provide the following key:\n\n    {key}\n\n\
         Remember to store this key in a password manager, since without it you\n\
         will not be able to restart the manager.\n"
    ));
}
