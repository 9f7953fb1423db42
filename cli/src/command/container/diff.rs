//! `diff`: what a container has changed of its image's file system.

use clap::Args;
use pontoon_proto::v1::{ChangeKind, ContainerRequest};

use crate::client::Client;
use crate::error::Outcome;
use crate::output::listing;

/// `diff CONTAINER`
#[derive(Args, Debug)]
pub struct Arguments {
    /// The container
    container: String,
}

/// Runs `diff`.
///
/// # Errors
/// The daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let request = ContainerRequest {
        target: arguments.container,
    };
    let client = Client::connect(host).await?;
    let changes = client.engine().container_changes(request).await?.into_inner();
    for change in changes.changes {
        let letter = match change.kind() {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        listing::write(&format!("{letter} {}\n", change.path));
    }
    Ok(0)
}
