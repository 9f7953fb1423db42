//! `images`, `image ls`.

use clap::Args;
use pontoon_proto::v1::{Image, ListImagesRequest};
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
    let asked = |format: &String| format.contains(".Digest");
    let with_digests = arguments.digests || arguments.format.as_ref().is_some_and(asked);
    let mut rows = Vec::new();
    for image in &images {
        let shown_id = if arguments.no_trunc {
            image.id.as_str()
        } else {
            human::short_id(&image.id)
        };
        for (repository, tag, digest) in shown_names(image, with_digests) {
            rows.push(json!({
                "ID": shown_id, "Repository": repository, "Tag": tag, "Digest": digest,
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
    let quiet = arguments.quiet.then_some("{{.ID}}");
    let headings = [DIGEST, ("CREATED AT", "CreatedAt"), ("CONTAINERS", "Containers")];
    listing::print(quiet.or(arguments.format.as_deref()), &columns, &headings, &rows)?;
    Ok(0)
}

const NONE: &str = "<none>";

/// Repository, tag and digest of each line of an image, as Docker shows them: a line for each tag, with digests one for each digest
/// of it; repositories that have it by digest alone have lines of their own.
fn shown_names(image: &Image, with_digests: bool) -> Vec<(&str, &str, &str)> {
    let tags = image.repo_tags.iter().filter_map(|name| name.rsplit_once(':'));
    let digests = || image.repo_digests.iter().filter_map(|name| name.split_once('@'));
    let mut lines = Vec::new();
    for (repository, tag) in tags.clone() {
        let before = lines.len();
        let own = digests().filter(|(name, _)| with_digests && *name == repository);
        lines.extend(own.map(|(_, digest)| (repository, tag, digest)));
        if lines.len() == before {
            lines.push((repository, tag, NONE));
        }
    }
    for (repository, digest) in digests() {
        let digest = if with_digests { digest } else { NONE };
        let is_tagged = tags.clone().any(|(name, _)| name == repository);
        if !is_tagged && !lines.contains(&(repository, NONE, digest)) {
            lines.push((repository, NONE, digest));
        }
    }
    if lines.is_empty() {
        lines.push((NONE, NONE, NONE));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{Image, NONE, shown_names};

    #[test]
    fn names_are_shown_as_docker_does() {
        let image = |tags: &[&str], digests: &[&str]| Image {
            repo_tags: tags.iter().map(ToString::to_string).collect(),
            repo_digests: digests.iter().map(ToString::to_string).collect(),
            ..Image::default()
        };
        assert_eq!(shown_names(&image(&[], &[]), true), [(NONE, NONE, NONE)]);
        let both = image(
            &["r:5000/a:1", "b:2"],
            &["r:5000/a@sha256:x", "c@sha256:x", "c@sha256:y"],
        );
        assert_eq!(
            shown_names(&both, false),
            [("r:5000/a", "1", NONE), ("b", "2", NONE), ("c", NONE, NONE)]
        );
        assert_eq!(
            shown_names(&both, true),
            [
                ("r:5000/a", "1", "sha256:x"),
                ("b", "2", NONE),
                ("c", NONE, "sha256:x"),
                ("c", NONE, "sha256:y")
            ]
        );
    }
}
