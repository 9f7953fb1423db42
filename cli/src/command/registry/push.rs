//! `push`.

use clap::Args;
use pontoon_proto::v1::{PushImageRequest, push_image_response::Event};

use super::pull::{parse, refuse_trust};
use crate::client::Client;
use crate::credentials;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::output::transfer::{Stream, View};

/// `push [OPTIONS] NAME[:TAG]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Push all tags of an image to the repository
    #[arg(short = 'a', long)]
    all_tags: bool,
    /// Skip image signing (default true)
    #[arg(long, value_name = "bool", default_value_t = true, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", action = clap::ArgAction::Set, hide_default_value = true)]
    disable_content_trust: bool,
    /// Push a platform-specific manifest as a single-platform image to the registry. 'os[/arch[/variant]]': Explicit platform
    /// (eg. linux/amd64)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    /// Suppress verbose output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

/// Runs `push`.
///
/// # Errors
/// The name is bad, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    refuse_trust(arguments.disable_content_trust)?;
    let reference = parse(&arguments.name)?;
    if arguments.all_tags && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    if reference.tag().is_none() && reference.digest().is_none() && !arguments.all_tags && !arguments.quiet {
        listing::write("Using default tag: latest\n");
    }
    let request = PushImageRequest {
        auth: Some(credentials::for_registry(reference.domain())?),
        reference: arguments.name,
        all_tags: arguments.all_tags,
        platform: arguments.platform,
    };
    let mut view = View::new(if arguments.quiet {
        Stream::Nowhere
    } else {
        Stream::Stdout
    });
    let client = Client::connect(host).await?;
    let mut events = client.engine().push_image(request).await?.into_inner();
    while let Some(message) = events.message().await? {
        match message.event {
            Some(Event::Step(step)) => view.show(&step),
            Some(Event::Pushed(_)) | None => {}
        }
    }
    if arguments.quiet {
        let shown = if arguments.all_tags {
            reference.name()
        } else {
            reference.with_default_tag().to_string()
        };
        listing::write(&format!("{shown}\n"));
    }
    Ok(0)
}
