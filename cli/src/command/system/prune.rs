//! `system prune`, and the question that every prune asks. The prunes of single kinds of objects use [`is_confirmed`] too.

use std::io::{BufRead, Write};

use clap::Args;
use pontoon_proto::v1::{PruneRequest, PruneResponse};

use crate::client::Client;
use crate::command::filters;
use crate::error::{Failure, Outcome};
use crate::output::{human, listing};

/// `system prune [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Remove all unused images not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

/// Prints a warning and asks whether to go on. Anything but `y` or `Y` means no, the end of input too.
pub fn is_confirmed(warning: &str) -> bool {
    listing::write(&format!("{warning}\nAre you sure you want to continue? [y/N] "));
    // Nothing to do about a terminal that takes no output: its answer counts.
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y")
}

/// Prints what a prune of one kind of object has removed.
pub fn tell(title: &str, pruned: &PruneResponse) {
    if !pruned.deleted.is_empty() {
        listing::write(&format!("{title}\n{}\n\n", pruned.deleted.join("\n")));
    }
    let reclaimed = i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX);
    listing::write(&format!("Total reclaimed space: {}\n", human::size(reclaimed)));
}

/// Runs `system prune`: containers first, so that what only they used goes too.
///
/// # Errors
/// A filter that a kind of object does not know, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    if arguments.volumes && arguments.filter.iter().any(|filter| filter.starts_with("until")) {
        return Err(Failure::new(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    let mut wanted = filters(&arguments.filter)?;
    if let Some(unknown) = wanted
        .keys()
        .find(|key| !matches!(key.as_str(), "until" | "label" | "label!"))
    {
        return Err(Failure::new(format!("invalid filter '{unknown}'")));
    }
    if !arguments.force && !is_confirmed(&warning(&arguments)) {
        return Ok(0);
    }
    let client = Client::connect(host).await?;
    let request = |filters| PruneRequest { filters };
    let mut reclaimed = 0u64;
    let mut tell = |title: &str, deleted: &[String], bytes: u64| {
        reclaimed += bytes;
        if !deleted.is_empty() {
            listing::write(&format!("{title}\n{}\n\n", deleted.join("\n")));
        }
    };
    let done = client
        .engine()
        .prune_containers(request(wanted.clone()))
        .await?
        .into_inner();
    tell("Deleted Containers:", &done.deleted, done.space_reclaimed);
    let done = client
        .engine()
        .prune_networks(request(wanted.clone()))
        .await?
        .into_inner();
    tell("Deleted Networks:", &done.deleted, done.space_reclaimed);
    if arguments.volumes {
        let done = client
            .engine()
            .prune_volumes(request(wanted.clone()))
            .await?
            .into_inner();
        tell("Deleted Volumes:", &done.deleted, done.space_reclaimed);
    }
    let dangling = pontoon_proto::v1::FilterValues {
        values: vec![(!arguments.all).to_string()],
    };
    wanted.insert("dangling".to_owned(), dangling);
    let mut cache = wanted.clone();
    let done = client.engine().prune_images(request(wanted)).await?.into_inner();
    tell("Deleted Images:", &done.deleted, done.space_reclaimed);
    // Cache has no labels.
    cache.retain(|key, _| key == "until");
    if arguments.all {
        let all = pontoon_proto::v1::FilterValues {
            values: vec!["true".to_owned()],
        };
        cache.insert("all".to_owned(), all);
    }
    let done = client
        .engine()
        .prune_build_cache(request(cache))
        .await?
        .into_inner();
    tell(
        "Deleted build cache objects:",
        &done.deleted,
        done.space_reclaimed,
    );
    let reclaimed = i64::try_from(reclaimed).unwrap_or(i64::MAX);
    listing::write(&format!("Total reclaimed space: {}\n", human::size(reclaimed)));
    Ok(0)
}

/// Docker's warning: what will go.
fn warning(arguments: &Arguments) -> String {
    let mut items = vec![
        "all stopped containers",
        "all networks not used by at least one container",
    ];
    if arguments.volumes {
        items.push("all anonymous volumes not used by at least one container");
    }
    items.push(if arguments.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    });
    items.push(if arguments.all {
        "all build cache"
    } else {
        "unused build cache"
    });
    let mut text = String::from("WARNING! This will remove:\n");
    for item in items {
        text.push_str(&format!("  - {item}\n"));
    }
    if !arguments.filter.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in &arguments.filter {
            text.push_str(&format!("  - {filter}\n"));
        }
    }
    text
}
