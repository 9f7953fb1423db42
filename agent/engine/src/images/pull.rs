//! `pull`: for the command line with everything there is to show, and quietly for tasks, builds and whoever needs an image. A client
//! that leaves ends its pull, and nothing of it is seen.

use std::sync::Arc;

use pontoon_image::registry::{Credentials, Progress, PullOptions, Pulled, Step};
use pontoon_image::{Image, Platform, Reference};
use pontoon_proto::v1::{
    PullImageRequest, PulledImage, RegistryAuth, TransferStep, pull_image_response::Event,
};
use tokio::sync::mpsc;

use crate::{Engine, Error, Result};

/// What a pull has to tell. Not bounded: a layer tells at most ten times a second.
pub(crate) type PullEvents = mpsc::UnboundedReceiver<Result<Event>>;

impl Engine {
    /// Pulls an image, or all tags of a repository. Dropping the receiver ends it.
    pub(crate) fn pull_image(self: &Arc<Self>, request: PullImageRequest) -> PullEvents {
        let (events, receiver) = mpsc::unbounded_channel();
        let engine = self.clone();
        self.tasks.spawn(async move {
            let stop = engine.stop.clone();
            let pull = engine.pull_telling(request, &events);
            let outcome = tokio::select! {
                outcome = pull => outcome,
                () = events.closed() => return,
                () = stop.cancelled() => Err(Error::ShuttingDown("the pull was ended")),
            };
            if let Err(error) = outcome {
                // The client may have gone meanwhile.
                let _ = events.send(Err(error));
            }
        });
        receiver
    }

    async fn pull_telling(
        self: &Arc<Self>,
        request: PullImageRequest,
        events: &mpsc::UnboundedSender<Result<Event>>,
    ) -> Result<()> {
        let reference = Reference::parse(&request.reference).map_err(Error::Image)?;
        let options = options(&request.platform, request.auth.unwrap_or_default())?;
        let whole = reference.tag().is_none() && reference.digest().is_none();
        let progress = {
            let events = events.clone();
            Progress::new(move |step| drop(events.send(Ok(Event::Step(shown(step))))))
        };
        let line = |text: String| progress.say("", text);
        let references = match (request.all_tags, whole) {
            (true, false) => return Err(Error::Invalid("tag can't be used with --all-tags/-a".to_owned())),
            (true, true) => self.remote_tags(&reference, &options.credentials).await?,
            (false, _) => vec![reference.clone().with_default_tag()],
        };
        let mut any_new = false;
        for tagged in &references {
            let pulled = self.pull_one(tagged, &options, &progress).await?;
            any_new |= pulled.new;
            line(format!("Digest: {}", pulled.digest));
            let event = PulledImage {
                reference: tagged.to_string(),
                id: pulled.id.to_string(),
                digest: pulled.digest.to_string(),
                new: pulled.new,
            };
            // Whoever no longer listens ends the pull by itself.
            let _ = events.send(Ok(Event::Pulled(event)));
        }
        let name = match references.as_slice() {
            [one] if !request.all_tags => one.familiar(),
            _ => reference.familiar_name(),
        };
        line(if any_new {
            format!("Status: Downloaded newer image for {name}")
        } else {
            format!("Status: Image is up to date for {name}")
        });
        Ok(())
    }

    /// Pulls what is not here: for tasks and builds. `platform` empty is this machine's.
    ///
    /// # Errors
    /// The registry's, or the name is bad.
    pub async fn find_or_pull(
        self: &Arc<Self>,
        name: &str,
        platform: &str,
        auth: RegistryAuth,
    ) -> Result<Image> {
        match self.find_image(name).await {
            Err(Error::NoSuchImage(_)) => self.pull_quietly(name, platform, auth).await,
            found => found,
        }
    }

    /// Pulls an image whether it is here or not, and tells nobody.
    ///
    /// # Errors
    /// The registry's, or the name is bad.
    pub async fn pull_quietly(
        self: &Arc<Self>,
        name: &str,
        platform: &str,
        auth: RegistryAuth,
    ) -> Result<Image> {
        let reference = Reference::parse(name).map_err(Error::Image)?.with_default_tag();
        let options = options(platform, auth)?;
        let progress = Progress::none();
        let pull = self.pull_one(&reference, &options, &progress);
        let pulled = tokio::select! {
            pulled = pull => pulled?,
            () = self.stop.cancelled() => return Err(Error::ShuttingDown("the pull was ended")),
        };
        self.find_image(&pulled.id.to_string()).await
    }

    async fn pull_one(
        self: &Arc<Self>,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Pulled> {
        let pulled = self
            .registries
            .pull(&self.images, reference, options, progress)
            .await
            .map_err(Error::Registry)?;
        self.tell_image("pull", &reference.familiar(), Some(&reference.familiar_name()));
        Ok(pulled)
    }

    async fn remote_tags(&self, repository: &Reference, credentials: &Credentials) -> Result<Vec<Reference>> {
        let tags = self
            .registries
            .tags(repository, credentials)
            .await
            .map_err(Error::Registry)?;
        tags.iter()
            .map(|tag| repository.with_tag(tag).map_err(Error::Image))
            .collect()
    }
}

fn options(platform: &str, auth: RegistryAuth) -> Result<PullOptions> {
    Ok(PullOptions {
        platform: parse_platform(platform)?,
        credentials: credentials(auth),
    })
}

/// `os[/arch[/variant]]`; none if it is empty.
pub(super) fn parse_platform(text: &str) -> Result<Option<Platform>> {
    if text.is_empty() {
        return Ok(None);
    }
    Platform::parse(text).map(Some).map_err(Error::Image)
}

/// What came with a call.
pub(super) fn credentials(auth: RegistryAuth) -> Credentials {
    Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

/// A step on the wire.
pub(super) fn shown(step: Step) -> TransferStep {
    TransferStep {
        id: step.id,
        status: step.status,
        current: step.current,
        total: step.total,
    }
}
