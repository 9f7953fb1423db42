//! `pull`, and the pull of `run` and `create`.

use clap::Args;
use pontoon_image::Reference;
use pontoon_proto::v1::{PullImageRequest, pull_image_response::Event};

use crate::client::Client;
use crate::credentials;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::output::transfer::{Stream, View};

/// `pull [OPTIONS] NAME[:TAG|@DIGEST]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Download all tagged images in the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Skip image verification (default true)
    #[arg(long, value_name = "bool", default_value_t = true, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", action = clap::ArgAction::Set, hide_default_value = true)]
    disable_content_trust: bool,
    /// Set platform if server is multi-platform capable
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true,
        env = "PONTOON_DEFAULT_PLATFORM",
        hide_env = true
    )]
    platform: String,
    /// Suppress verbose output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// Runs `pull`.
///
/// # Errors
/// The name is bad, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    refuse_trust(arguments.disable_content_trust)?;
    let reference = parse(&arguments.name)?;
    let whole = reference.tag().is_none() && reference.digest().is_none();
    if arguments.all_tags && !whole {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    if whole && !arguments.all_tags && !arguments.quiet {
        listing::write("Using default tag: latest\n");
    }
    let stream = if arguments.quiet {
        Stream::Nowhere
    } else {
        Stream::Stdout
    };
    let request = PullImageRequest {
        reference: arguments.name,
        all_tags: arguments.all_tags,
        platform: arguments.platform,
        auth: None,
    };
    let client = Client::connect(host).await?;
    pull(&client, request, stream).await?;
    let shown = if arguments.all_tags {
        reference.name()
    } else {
        reference.with_default_tag().to_string()
    };
    listing::write(&format!("{shown}\n"));
    Ok(0)
}

/// Pulls with the user's credentials and shows how it goes.
///
/// # Errors
/// The credentials can't be read, or the daemon's.
pub async fn pull(client: &Client, mut request: PullImageRequest, stream: Stream) -> Result<(), Failure> {
    request.auth = Some(credentials::for_image(&request.reference)?);
    let mut events = client.engine().pull_image(request).await?.into_inner();
    let mut view = View::new(stream);
    while let Some(message) = events.message().await? {
        match message.event {
            Some(Event::Step(step)) => view.show(&step),
            Some(Event::Pulled(_)) | None => {}
        }
    }
    Ok(())
}

/// The reference of a command line, with the client's own words for a bad one.
pub(super) fn parse(name: &str) -> Result<Reference, Failure> {
    Reference::parse(name).map_err(|error| Failure::new(error.to_string()))
}

/// Docker's content trust (Notary) is refused by name.
pub(super) fn refuse_trust(disabled: bool) -> Result<(), Failure> {
    if disabled {
        return Ok(());
    }
    Err(Failure::new(
        "--disable-content-trust=false: content trust is not supported: pull by digest (NAME@sha256:...) instead",
    ))
}
