//! `images`, `image ls`.

use clap::Args;
use pontoon_proto::v1::ListImagesRequest;
use serde_json::json;

use crate::client::Client;
use crate::command::filters;
use crate::error::{Failure, Outcome};
use crate::output::human;
use crate::output::listing::{self, Column};

/// `images [OPTIONS] [REPOSITORY[:TAG]]`
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Show all images (default hides intermediate and dangling images)
    #[arg(short = 'a', long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// List multi-platform images as a tree (EXPERIMENTAL)
    #[arg(long)]
    tree: bool,
    /// Only this repository, or this tag of it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

const DIGEST: Column = ("DIGEST", "Digest");

/// Runs `images`.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn list(host: Option<&str>, arguments: ListArguments) -> Outcome {
    if arguments.tree {
        return Err(Failure::new(
            "--tree is not supported: list with --all, and see one platform with `image inspect --platform`",
        ));
    }
    let request = ListImagesRequest {
        all: arguments.all,
        reference: arguments.reference.unwrap_or_default(),
        filters: filters(&arguments.filter)?,
    };
    let images = Client::connect(host)
        .await?
        .engine()
        .list_images(request)
        .await?
        .into_inner()
        .images;
    let mut rows = Vec::new();
    for image in &images {
        let shown_id = if arguments.no_trunc {
            image.id.as_str()
        } else {
            human::short_id(&image.id)
        };
        let none = vec!["<none>:<none>".to_owned()];
        let tags = if image.repo_tags.is_empty() {
            &none
        } else {
            &image.repo_tags
        };
        for tag in tags {
            let (repository, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
            let digest = image
                .repo_digests
                .iter()
                .filter_map(|digest| digest.split_once('@'));
            let digest = digest
                .filter(|(name, _)| *name == repository)
                .map(|(_, digest)| digest)
                .next();
            rows.push(json!({
                "ID": shown_id, "Repository": repository, "Tag": tag, "Digest": digest.unwrap_or("<none>"),
                "CreatedSince": if image.created_at == 0 { "N/A".to_owned() } else { human::ago(image.created_at) },
                "CreatedAt": human::local_time(image.created_at), "Size": human::size(image.size),
                "VirtualSize": human::size(image.size), "Containers": image.containers.to_string(),
                "SharedSize": "N/A", "UniqueSize": "N/A",
            }));
        }
    }
    let mut columns: Vec<Column> = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if arguments.digests {
        columns.push(DIGEST);
    }
    columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
    if arguments.quiet {
        rows.dedup_by(|a, b| a["ID"] == b["ID"]);
    }
    let quiet = arguments.quiet.then_some("{{.ID}}");
    let headings = [DIGEST, ("CREATED AT", "CreatedAt"), ("CONTAINERS", "Containers")];
    listing::print(quiet.or(arguments.format.as_deref()), &columns, &headings, &rows)?;
    Ok(0)
}
