//! Image commands, under their own names and under `image`.

pub mod prune;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    ImageRequest, ImportImageRequest, ImportOptions, ListImagesRequest, LoadImagesRequest,
    RemoveImageRequest, SaveImagesRequest, TagImageRequest, load_images_response::Event, removed_image::What,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::filters;
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::human;
use crate::output::listing::{self, Column};

/// Bytes of an archive sent at once.
const CHUNK: usize = 256 * 1024;

/// `pontoon image …`
#[derive(Debug, Subcommand)]
pub enum Command {
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
    /// Display detailed information on one or more images
    Inspect(super::inspect::KindArguments),
}

/// Runs an `image` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Ls(arguments) => list(host, arguments).await,
        Command::Load(arguments) => load(host, arguments).await,
        Command::Import(arguments) => import(host, arguments).await,
        Command::Save(arguments) => save(host, arguments).await,
        Command::Rm(arguments) => remove(host, arguments).await,
        Command::Tag(arguments) => tag(host, arguments).await,
        Command::History(arguments) => history(host, arguments).await,
        Command::Pull(arguments) => super::registry::pull::run(host, arguments).await,
        Command::Push(arguments) => super::registry::push::run(host, arguments).await,
        Command::Prune(arguments) => prune::run(host, arguments).await,
        Command::Inspect(arguments) => {
            super::inspect::one_kind(host, super::inspect::Kind::Image, arguments).await
        }
    }
}

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

/// `load [OPTIONS]`
#[derive(Args, Debug)]
pub struct LoadArguments {
    /// Read from tar archive file, instead of STDIN
    #[arg(short = 'i', long, value_name = "string")]
    input: Option<PathBuf>,
    /// Suppress the load output
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Runs `load`.
///
/// # Errors
/// When stdin is a terminal and no file is named, when the file can't be read, or the daemon's.
pub async fn load(host: Option<&str>, arguments: LoadArguments) -> Outcome {
    let archive = open_archive(arguments.input.as_ref()).await?;
    let client = Client::connect(host).await?;
    let requests = chunks(archive, |data| LoadImagesRequest { data });
    let mut events = client.engine().load_images(requests).await?.into_inner();
    let show_progress = !arguments.quiet && std::io::stderr().is_terminal();
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Loaded(loaded)) if loaded.references.is_empty() => {
                listing::write(&format!("Loaded image ID: {}\n", loaded.id));
            }
            Some(Event::Loaded(loaded)) => {
                for reference in loaded.references {
                    listing::write(&format!("Loaded image: {reference}\n"));
                }
            }
            Some(Event::Progress(progress)) if show_progress => {
                let (current, total) = (human::size(progress.current), human::size(progress.total));
                let end = if progress.current >= progress.total {
                    "\n"
                } else {
                    ""
                };
                eprint!(
                    "\r\x1b[K{}: Loading layer {current}/{total}{end}",
                    human::short_id(&progress.layer)
                );
            }
            Some(Event::Progress(_)) | None => {}
        }
    }
    Ok(0)
}

async fn open_archive(path: Option<&PathBuf>) -> Result<Box<dyn AsyncRead + Send + Unpin>, Failure> {
    match path {
        Some(path) => {
            let file = tokio::fs::File::open(path).await;
            Ok(Box::new(file.map_err(|error| {
                Failure::new(format!("open {}: {error}", path.display()))
            })?))
        }
        None if std::io::stdin().is_terminal() => Err(Failure::new(
            "requested load from stdin, but stdin is empty: name a file, or redirect one",
        )),
        None => Ok(Box::new(tokio::io::stdin())),
    }
}

/// Reads an archive as a stream of requests. A read error ends the stream early: the daemon then finds the archive cut.
fn chunks<T: Send + 'static>(
    mut archive: Box<dyn AsyncRead + Send + Unpin>,
    request: impl Fn(bytes::Bytes) -> T + Send + 'static,
) -> ReceiverStream<T> {
    let (requests, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
            match archive.read_buf(&mut chunk).await {
                Ok(0) => return,
                Err(error) => return eprintln!("read archive: {error}"),
                Ok(_) => {}
            }
            if requests.send(request(chunk.freeze())).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// `import [OPTIONS] file|- [REPOSITORY[:TAG]]`
#[derive(Args, Debug)]
pub struct ImportArguments {
    /// Apply Dockerfile instruction to the created image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(
        short = 'm',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    message: String,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    /// A tar file, or - for STDIN
    file: String,
    /// Name for the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// Runs `import`.
///
/// # Errors
/// When the file can't be read, or the daemon's.
pub async fn import(host: Option<&str>, arguments: ImportArguments) -> Outcome {
    if arguments.file.starts_with("http://") || arguments.file.starts_with("https://") {
        return Err(Failure::new(
            "this version imports files and STDIN: fetch the URL first and give its file",
        ));
    }
    let path = (arguments.file != "-").then(|| PathBuf::from(&arguments.file));
    let archive = open_archive(path.as_ref()).await?;
    let options = ImportOptions {
        reference: arguments.reference.unwrap_or_default(),
        message: arguments.message,
        changes: arguments.change,
        platform: arguments.platform,
    };
    let client = Client::connect(host).await?;
    let first = tokio_stream::once(ImportImageRequest {
        options: Some(options),
        data: bytes::Bytes::new(),
    });
    let rest = chunks(archive, |data| ImportImageRequest { options: None, data });
    let requests = tokio_stream::StreamExt::chain(first, rest);
    let imported = client.engine().import_image(requests).await?.into_inner();
    listing::write(&format!("{}\n", imported.id));
    Ok(0)
}

/// `save [OPTIONS] IMAGE [IMAGE...]`
#[derive(Args, Debug)]
pub struct SaveArguments {
    /// Write to a file, instead of STDOUT
    #[arg(short = 'o', long, value_name = "string")]
    output: Option<PathBuf>,
    /// Images to save
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs `save`.
///
/// # Errors
/// When stdout is a terminal and no file is named, or the daemon's; a partly written file is removed.
pub async fn save(host: Option<&str>, arguments: SaveArguments) -> Outcome {
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let client = Client::connect(host).await?;
    let mut data = client
        .engine()
        .save_images(SaveImagesRequest {
            names: arguments.images,
        })
        .await?
        .into_inner();
    let Some(path) = arguments.output else {
        let mut stdout = tokio::io::stdout();
        while let Some(chunk) = data.message().await? {
            stdout.write_all(&chunk.data).await?;
        }
        stdout.flush().await?;
        return Ok(0);
    };
    let partial = path.with_extension(format!("pontoon-{}", std::process::id()));
    let written = async {
        let mut file = tokio::fs::File::create(&partial).await?;
        while let Some(chunk) = data.message().await? {
            file.write_all(&chunk.data).await?;
        }
        file.flush().await?;
        tokio::fs::rename(&partial, &path).await?;
        Ok::<(), Failure>(())
    };
    if let Err(failure) = written.await {
        let _ = tokio::fs::remove_file(&partial).await;
        return Err(failure);
    }
    Ok(0)
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
