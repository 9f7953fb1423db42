//! `system df`: disk use by kind of object, with what a prune would give back.

use clap::Args;
use pontoon_proto::v1::{
    BuildCacheRecord, Container, ContainerState, DiskUsageRequest, DiskUsageResponse, ImageUsage, Volume,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::container::list::row as container_row;
use crate::error::{Failure, Outcome};
use crate::output::listing::{self, Column};
use crate::output::{human, template::Template};

/// `system df [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short = 'v', long)]
    verbose: bool,
}

const COLUMNS: &[Column] = &[
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];
const IMAGES: &[Column] = &[
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];
const CONTAINERS: &[Column] = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "Size"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
];
const VOLUMES: &[Column] = &[("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")];
const CACHE: &[Column] = &[
    ("CACHE ID", "ID"),
    ("CACHE TYPE", "CacheType"),
    ("SIZE", "Size"),
    ("CREATED", "CreatedSince"),
    ("LAST USED", "LastUsedSince"),
    ("USAGE", "UsageCount"),
    ("SHARED", "Shared"),
];

/// Runs `system df`.
///
/// # Errors
/// A malformed template, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let usage = client
        .engine()
        .disk_usage(DiskUsageRequest::default())
        .await?
        .into_inner();
    if arguments.verbose {
        verbose(&usage, arguments.format.as_deref())?;
    } else {
        listing::print(arguments.format.as_deref(), COLUMNS, &[], &summary(&usage))?;
    }
    Ok(0)
}

/// A line a kind of object, in Docker's order.
fn summary(usage: &DiskUsageResponse) -> Vec<Value> {
    let used_images = usage.images.iter().filter(|image| users(image) > 0);
    let active = |container: &&Container| {
        matches!(
            container.state(),
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
        )
    };
    let written: i64 = usage.containers.iter().map(|container| container.size_rw).sum();
    let idle: i64 = usage
        .containers
        .iter()
        .filter(|container| !active(container))
        .map(|container| container.size_rw)
        .sum();
    let stored: i64 = usage.volumes.iter().map(|volume| volume.size.max(0)).sum();
    let unused: i64 = usage
        .volumes
        .iter()
        .filter(|volume| volume.ref_count <= 0)
        .map(|volume| volume.size.max(0))
        .sum();
    // Blobs lie beside the layers, for each in the same measure.
    let stored_images = usage.layers_size + usage.blobs_size;
    vec![
        line(
            "Images",
            usage.images.len(),
            used_images.count(),
            stored_images,
            share((stored_images - usage.held_size).max(0), stored_images),
        ),
        line(
            "Containers",
            usage.containers.len(),
            usage.containers.iter().filter(active).count(),
            written,
            share(idle, written),
        ),
        line(
            "Local Volumes",
            usage.volumes.len(),
            usage.volumes.iter().filter(|volume| volume.ref_count > 0).count(),
            stored,
            share(unused, stored),
        ),
        line(
            "Build Cache",
            usage.build_cache.len(),
            usage.build_cache.iter().filter(|record| record.in_use).count(),
            cache_size(usage, |_| true),
            human::size(cache_size(usage, |record| !record.in_use && !record.shared)),
        ),
    ]
}

/// Bytes of the build cache's entries that fit.
fn cache_size(usage: &DiskUsageResponse, fits: impl Fn(&BuildCacheRecord) -> bool) -> i64 {
    usage
        .build_cache
        .iter()
        .filter(|record| fits(record))
        .map(|record| record.size)
        .sum()
}

fn cache_row(record: &BuildCacheRecord) -> Value {
    json!({
        "ID": record.id.chars().take(12).collect::<String>(), "CacheType": record.r#type, "Size": human::size(record.size),
        "CreatedSince": human::ago(record.created_at), "LastUsedSince": human::ago(record.last_used_at),
        "UsageCount": record.usage_count.to_string(), "Shared": record.shared, "InUse": record.in_use,
        "Description": record.description,
    })
}

fn line(kind: &str, total: usize, active: usize, size: i64, reclaimable: String) -> Value {
    json!({
        "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(), "Size": human::size(size),
        "Reclaimable": reclaimable,
    })
}

/// "12MB (50%)": bytes, and their share of a sum that is not zero.
fn share(part: i64, whole: i64) -> String {
    match whole {
        ..=0 => human::size(part),
        whole => format!("{} ({}%)", human::size(part), part.saturating_mul(100) / whole),
    }
}

fn users(usage: &ImageUsage) -> u64 {
    usage.image.as_ref().map_or(0, |image| image.containers)
}

/// Every object. A template sees the lists `.Images`, `.Containers`, `.Volumes`, `.BuildCache`.
fn verbose(usage: &DiskUsageResponse, format: Option<&str>) -> Result<(), Failure> {
    let images: Vec<Value> = usage.images.iter().flat_map(image_rows).collect();
    let containers: Vec<Value> = usage
        .containers
        .iter()
        .map(|container| {
            let mut row = container_row(container, false);
            row["Size"] = Value::from(human::short_size(container.size_rw));
            row
        })
        .collect();
    let volumes: Vec<Value> = usage.volumes.iter().map(volume_row).collect();
    let cache: Vec<Value> = usage.build_cache.iter().map(cache_row).collect();
    let value =
        json!({ "Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": cache });
    let text = match format {
        Some("json") => format!("{value}\n"),
        None | Some("" | "table") => {
            let section = |title: &str, columns: &[Column], rows: &[Value]| {
                Ok::<_, Failure>(format!(
                    "{title}\n\n{}",
                    listing::render(None, columns, &[], rows)?
                ))
            };
            [
                section("Images space usage:", IMAGES, &images)?,
                section("Containers space usage:", CONTAINERS, &containers)?,
                section("Local Volumes space usage:", VOLUMES, &volumes)?,
                section(
                    &format!("Build cache usage: {}", human::size(cache_size(usage, |_| true))),
                    CACHE,
                    &cache,
                )?,
            ]
            .join("\n")
        }
        Some(template) => {
            let template = Template::parse(template).map_err(Failure::new)?;
            format!("{}\n", template.render(&value).map_err(Failure::new)?)
        }
    };
    listing::write(&text);
    Ok(())
}

/// A row a name, as `images` has it.
fn image_rows(usage: &ImageUsage) -> Vec<Value> {
    let image = usage.image.clone().unwrap_or_default();
    let names: Vec<(String, String)> = image
        .repo_tags
        .iter()
        .filter_map(|name| name.rsplit_once(':'))
        .map(|(repository, tag)| (repository.to_owned(), tag.to_owned()))
        .collect();
    let nameless = || vec![("<none>".to_owned(), "<none>".to_owned())];
    let names = if names.is_empty() { nameless() } else { names };
    names
        .into_iter()
        .map(|(repository, tag)| {
            json!({
                "Repository": repository, "Tag": tag, "ID": human::short_id(&image.id),
                "CreatedSince": human::ago(image.created_at), "Size": human::size(image.size),
                "SharedSize": human::size(usage.shared_size),
                "UniqueSize": human::size(image.size - usage.shared_size), "Containers": image.containers.to_string(),
            })
        })
        .collect()
}

fn volume_row(volume: &Volume) -> Value {
    json!({
        "Name": volume.name, "Links": volume.ref_count.to_string(), "Size": human::size(volume.size),
        "Driver": volume.driver, "Mountpoint": volume.mountpoint, "Scope": volume.scope,
    })
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::Image;

    use super::*;

    #[test]
    fn sums_add_up() {
        let image = |size, shared_size, containers| ImageUsage {
            image: Some(Image {
                size,
                containers,
                ..Image::default()
            }),
            shared_size,
        };
        let container = |state: ContainerState, size_rw| Container {
            state: state.into(),
            size_rw,
            ..Container::default()
        };
        let volume = |size, ref_count| Volume {
            size,
            ref_count,
            ..Volume::default()
        };
        let usage = DiskUsageResponse {
            // 100 bytes are one layer of both.
            layers_size: 400,
            blobs_size: 50,
            // The first image's layers and its 40 bytes of blobs.
            held_size: 240,
            images: vec![image(200, 100, 1), image(300, 100, 0)],
            containers: vec![
                container(ContainerState::Running, 30),
                container(ContainerState::Exited, 10),
            ],
            volumes: vec![volume(0, 2), volume(50, 0)],
            build_cache: vec![
                BuildCacheRecord {
                    size: 30,
                    in_use: true,
                    ..BuildCacheRecord::default()
                },
                BuildCacheRecord {
                    size: 12,
                    ..BuildCacheRecord::default()
                },
            ],
        };
        let lines: Vec<String> = summary(&usage)
            .iter()
            .map(|line| {
                COLUMNS
                    .iter()
                    .map(|(_, field)| line[*field].as_str().unwrap())
                    .collect::<Vec<_>>()
                    .join("|")
            })
            .collect();
        assert_eq!(
            lines,
            [
                "Images|2|1|450B|210B (46%)",
                "Containers|2|1|40B|10B (25%)",
                "Local Volumes|2|1|50B|50B (100%)",
                "Build Cache|2|1|42B|12B"
            ]
        );
    }
}
