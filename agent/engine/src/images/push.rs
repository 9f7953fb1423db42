//! `push`: one tag or all of a repository, with everything there is to show. A client that leaves ends its push.

use std::sync::Arc;

use pontoon_image::registry::Progress;
use pontoon_image::{ListOptions, Reference};
use pontoon_proto::v1::{PushImageRequest, PushedImage, push_image_response::Event};
use tokio::sync::mpsc;

use super::pull::{credentials, parse_platform, shown};
use crate::engine::blocking;
use crate::{Engine, Error, Result};

/// What a push has to tell. Not bounded: a layer tells at most ten times a second.
pub(crate) type PushEvents = mpsc::UnboundedReceiver<Result<Event>>;

impl Engine {
    /// Pushes a tag, or all tags of a repository. Dropping the receiver ends it.
    pub(crate) fn push_image(self: &Arc<Self>, request: PushImageRequest) -> PushEvents {
        let (events, receiver) = mpsc::unbounded_channel();
        let engine = self.clone();
        self.tasks.spawn(async move {
            let stop = engine.stop.clone();
            let push = engine.push_telling(request, &events);
            let outcome = tokio::select! {
                outcome = push => outcome,
                () = events.closed() => return,
                () = stop.cancelled() => Err(Error::ShuttingDown("the push was ended")),
            };
            if let Err(error) = outcome {
                // The client may have gone meanwhile.
                let _ = events.send(Err(error));
            }
        });
        receiver
    }

    async fn push_telling(
        self: &Arc<Self>,
        request: PushImageRequest,
        events: &mpsc::UnboundedSender<Result<Event>>,
    ) -> Result<()> {
        let reference = Reference::parse(&request.reference).map_err(Error::Image)?;
        let platform = parse_platform(&request.platform)?;
        let credentials = credentials(request.auth.unwrap_or_default());
        if reference.digest().is_some() {
            return Err(Error::Invalid("cannot push a digest reference".to_owned()));
        }
        let progress = {
            let events = events.clone();
            Progress::new(move |step| drop(events.send(Ok(Event::Step(shown(step))))))
        };
        let references = match (request.all_tags, reference.tag().is_some()) {
            (true, true) => return Err(Error::Invalid("tag can't be used with --all-tags/-a".to_owned())),
            (true, false) => self.local_tags(&reference).await?,
            (false, _) => vec![reference.clone().with_default_tag()],
        };
        progress.say(
            "",
            format!("The push refers to repository [{}]", reference.name()),
        );
        for tagged in references {
            let pushed = self
                .registries
                .push(
                    &self.images,
                    &tagged,
                    (platform.as_ref(), &credentials),
                    &progress,
                )
                .await
                .map_err(Error::Registry)?;
            progress.say(
                "",
                format!("{}: digest: {} size: {}", pushed.tag, pushed.digest, pushed.size),
            );
            self.tell_image("push", &tagged.familiar(), Some(&tagged.familiar_name()));
            let event = PushedImage {
                tag: pushed.tag,
                digest: pushed.digest.to_string(),
                size: pushed.size,
            };
            // Whoever no longer listens ends the push by itself.
            let _ = events.send(Ok(Event::Pushed(event)));
        }
        Ok(())
    }

    /// Tags of a repository that are here, sorted.
    async fn local_tags(&self, repository: &Reference) -> Result<Vec<Reference>> {
        let (images, name) = (self.images.clone(), repository.name());
        let mut tags = blocking(move || {
            let listed = images.list(&ListOptions::default()).map_err(Error::Image)?;
            let tags = listed.iter().flat_map(|image| &image.repo_tags);
            let parsed = tags.filter_map(|tag| Reference::parse(tag).ok());
            Ok(parsed.filter(|tag| tag.name() == name).collect::<Vec<_>>())
        })
        .await?;
        tags.sort();
        if tags.is_empty() {
            return Err(Error::Invalid(format!(
                "An image does not exist locally with the tag: {}",
                repository.familiar_name()
            )));
        }
        Ok(tags)
    }
}
