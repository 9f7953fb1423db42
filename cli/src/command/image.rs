//! Image commands, under their own names and under `image`.

pub mod archives;
pub mod check;
pub mod list;
pub mod prune;

use clap::{Args, Subcommand};
use pontoon_proto::v1::{ImageRequest, RemoveImageRequest, TagImageRequest, removed_image::What};
use serde_json::{Value, json};

use archives::{ImportArguments, LoadArguments, SaveArguments};
use list::ListArguments;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::human;
use crate::output::listing::{self, Column};

/// `pontoon image …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<super::build::Arguments>),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Load an image from a tar archive or STDIN
    Load(LoadArguments),
    /// Import the contents from a tarball to create a filesystem image
    Import(ImportArguments),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(SaveArguments),
    /// Remove one or more images
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(TagArguments),
    /// Show the history of an image
    History(HistoryArguments),
    /// Download an image from a registry
    Pull(super::registry::pull::Arguments),
    /// Upload an image to a registry
    Push(super::registry::push::Arguments),
    /// Remove unused images
    Prune(prune::Arguments),
    /// Compare the image store with its digests and counts, and repair it
    Check(check::Arguments),
    /// Display detailed information on one or more images
    Inspect(super::inspect::ImageArguments),
}

/// Runs an `image` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Build(arguments) => Box::pin(super::build::run(host, arguments)).await,
        Command::Check(arguments) => check::run(host, arguments).await,
        Command::Ls(arguments) => list::list(host, arguments).await,
        Command::Load(arguments) => archives::load(host, arguments).await,
        Command::Import(arguments) => archives::import(host, arguments).await,
        Command::Save(arguments) => archives::save(host, arguments).await,
        Command::Rm(arguments) => remove(host, arguments).await,
        Command::Tag(arguments) => tag(host, arguments).await,
        Command::History(arguments) => history(host, arguments).await,
        Command::Pull(arguments) => super::registry::pull::run(host, arguments).await,
        Command::Push(arguments) => super::registry::push::run(host, arguments).await,
        Command::Prune(arguments) => prune::run(host, arguments).await,
        Command::Inspect(arguments) => super::inspect::image(host, arguments).await,
    }
}

/// `rmi [OPTIONS] IMAGE [IMAGE...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Force removal of the image
    #[arg(short = 'f', long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    platform: Vec<String>,
    /// Images to remove
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs `rmi`.
///
/// # Errors
/// The daemon's, one line an image.
pub async fn remove(host: Option<&str>, arguments: RemoveArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let mut failures = Vec::new();
    for target in arguments.images {
        let request = RemoveImageRequest {
            target,
            force: arguments.force,
            no_prune: arguments.no_prune,
            platforms: arguments.platform.clone(),
        };
        match client.engine().remove_image(request).await {
            Ok(response) => {
                for removed in response.into_inner().removed {
                    match removed.what {
                        Some(What::Untagged(name)) => listing::write(&format!("Untagged: {name}\n")),
                        Some(What::Deleted(id)) => listing::write(&format!("Deleted: {id}\n")),
                        None => {}
                    }
                }
            }
            Err(status) => failures.push(Failure::from(status).message),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

/// `tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]`
#[derive(Args, Debug)]
pub struct TagArguments {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its further name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Runs `tag`.
///
/// # Errors
/// The daemon's.
pub async fn tag(host: Option<&str>, arguments: TagArguments) -> Outcome {
    let request = TagImageRequest {
        source: arguments.source,
        target: arguments.target,
    };
    Client::connect(host).await?.engine().tag_image(request).await?;
    Ok(0)
}

/// `history [OPTIONS] IMAGE`
#[derive(Args, Debug)]
pub struct HistoryArguments {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates in human readable format (default true)
    #[arg(short = 'H', long, value_name = "bool", default_value_t = true, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", action = clap::ArgAction::Set, hide_default_value = true)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    /// Only show image IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image
    image: String,
}

/// Runs `history`.
///
/// # Errors
/// A malformed template, or the daemon's.
pub async fn history(host: Option<&str>, arguments: HistoryArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let entries = client
        .engine()
        .image_history(ImageRequest {
            target: arguments.image,
            platform: arguments.platform,
        })
        .await?
        .into_inner()
        .entries;
    let rows: Vec<Value> = entries
        .iter()
        .map(|entry| {
            let cut = !arguments.no_trunc && entry.created_by.chars().count() > 45;
            let created_by = if cut {
                entry.created_by.chars().take(44).chain(['…']).collect()
            } else {
                entry.created_by.clone()
            };
            let id = if arguments.no_trunc { entry.id.as_str() } else { human::short_id(&entry.id) };
            json!({
                "ID": if id.is_empty() { "<missing>" } else { id },
                "CreatedSince": if arguments.human { human::ago(entry.created_at) } else { human::rfc3339(entry.created_at) },
                "CreatedAt": human::rfc3339(entry.created_at), "CreatedBy": created_by,
                "Size": if arguments.human { human::size(entry.size) } else { entry.size.to_string() },
                "Comment": entry.comment, "Tags": entry.tags.join(","),
            })
        })
        .collect();
    let columns: &[Column] = &[
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    let quiet = arguments.quiet.then_some("{{.ID}}");
    listing::print(
        quiet.or(arguments.format.as_deref()),
        columns,
        &[("CREATED AT", "CreatedAt")],
        &rows,
    )?;
    Ok(0)
}
