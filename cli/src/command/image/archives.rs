//! `load`, `save` and `import`: archives to and from the daemon, as streams.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use pontoon_proto::v1::{
    ImportImageRequest, ImportOptions, LoadImagesRequest, SaveImagesRequest, load_images_response::Event,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::{human, listing};

/// Bytes of an archive sent at once.
const CHUNK: usize = 256 * 1024;

/// `load [OPTIONS]`
#[derive(Args, Debug)]
pub struct LoadArguments {
    /// Read from tar archive file, instead of STDIN
    #[arg(short = 'i', long, value_name = "string")]
    input: Option<PathBuf>,
    /// Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
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
    let first = tokio_stream::once(LoadImagesRequest {
        platform: arguments.platform,
        data: bytes::Bytes::new(),
    });
    let rest = chunks(archive, |data| LoadImagesRequest {
        data,
        platform: String::new(),
    });
    let requests = tokio_stream::StreamExt::chain(first, rest);
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
    /// Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
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
            platform: arguments.platform,
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
