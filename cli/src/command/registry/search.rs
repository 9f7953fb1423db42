//! `search`.

use clap::Args;
use pontoon_proto::v1::{SearchFilterValues, SearchImagesRequest};
use serde_json::{Value, json};

use super::super::filters;
use crate::client::Client;
use crate::credentials;
use crate::error::{Failure, Outcome};
use crate::output::listing::{self, Column};

/// Characters of a description in the table.
const DESCRIPTION: usize = 45;

/// `search [OPTIONS] TERM`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Pretty-print search using a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Max number of search results
    #[arg(long, value_name = "int")]
    limit: Option<i64>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// What to look for, after a registry's address if it is not Docker Hub
    #[arg(value_name = "TERM")]
    term: String,
}

/// Runs `search`.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let limit = arguments.limit.unwrap_or(0);
    let limit = u32::try_from(limit)
        .ok()
        .filter(|limit| *limit <= 100)
        .ok_or_else(|| {
            Failure::new(format!(
                "Error response from daemon: limit {limit} is outside the range of [1, 100]"
            ))
        })?;
    let registry = match arguments.term.split_once('/') {
        Some((domain, _)) if domain.contains(['.', ':']) || domain == "localhost" => domain,
        _ => "docker.io",
    };
    let request = SearchImagesRequest {
        auth: Some(credentials::for_registry(registry)?),
        term: arguments.term.clone(),
        limit,
        filters: filters(&arguments.filter)?
            .into_iter()
            .map(|(key, values)| {
                (
                    key,
                    SearchFilterValues {
                        values: values.values,
                    },
                )
            })
            .collect(),
    };
    let found = Client::connect(host)
        .await?
        .engine()
        .search_images(request)
        .await?
        .into_inner()
        .images;
    let mark = |is: bool| if is { "[OK]" } else { "" };
    let rows: Vec<Value> = found
        .iter()
        .map(|image| {
            json!({
                "Name": image.name, "Description": description(&image.description, arguments.no_trunc),
                "StarCount": image.star_count.to_string(), "IsOfficial": mark(image.is_official),
                "IsAutomated": mark(image.is_automated),
            })
        })
        .collect();
    let columns: &[Column] = &[
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("STARS", "StarCount"),
        ("OFFICIAL", "IsOfficial"),
    ];
    listing::print(
        arguments.format.as_deref(),
        columns,
        &[("AUTOMATED", "IsAutomated")],
        &rows,
    )?;
    Ok(0)
}

/// One line, cut as Docker cuts it.
fn description(text: &str, whole: bool) -> String {
    let line = text.replace(['\n', '\r'], " ");
    if whole || line.chars().count() <= DESCRIPTION {
        return line;
    }
    line.chars().take(DESCRIPTION - 1).chain(['…']).collect()
}
