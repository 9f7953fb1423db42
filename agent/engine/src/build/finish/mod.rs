//! The end of a build: the image with its tags, and other outputs.
//!
//! - `history`: the image's configuration; `outputs`: what `--output` says; `send`: what the client gets

mod history;
mod outputs;
mod send;

use std::sync::Arc;

use pontoon_build::plan::Plan;
use pontoon_image::{NewImage, Reference};
use pontoon_proto::v1::{BuildResult, PushImageRequest};

use super::solve::Solved;
use super::{Build, Failure, Outcome, images};
use crate::engine::blocking;
use crate::{Error, Result};
use outputs::{Output, output_of};
pub(super) use send::sending;

impl Build {
    /// Refuses what can't be done before anything is.
    pub(super) fn check_options(&self) -> Outcome<()> {
        for tag in &self.start.tags {
            let invalid = |error: pontoon_image::Error| {
                let text = format!("invalid tag \"{tag}\": {error}");
                Failure::new(text)
            };
            if Reference::parse(tag).map_err(invalid)?.digest().is_some() {
                return Err(Failure::new(format!(
                    "invalid tag \"{tag}\": a digest can't be a tag"
                )));
            }
        }
        for output in &self.start.outputs {
            output_of(output)?;
        }
        self.check_caches()?;
        for allowed in &self.start.allow {
            if !matches!(allowed.as_str(), "network.host" | "security.insecure") {
                return Err(Failure::new(format!("invalid entitlement {allowed}")));
            }
        }
        Ok(())
    }

    pub(super) async fn finish(self: &Arc<Self>, plan: &Plan, solved: Solved) -> Outcome<BuildResult> {
        let mut config = history::configuration(plan, &solved);
        config.cache = self.inline_cache(&solved)?;
        let mut tags = self.start.tags.clone();
        let mut archives = Vec::new();
        let mut stored = self.start.outputs.is_empty();
        let mut is_pushed = false;
        for (number, output) in self.start.outputs.iter().enumerate() {
            match output_of(output)? {
                Output::Store { names, push } => {
                    stored = true;
                    is_pushed |= push;
                    tags.extend(names);
                }
                other => archives.push((u32::try_from(number).unwrap_or_default(), other)),
            }
        }
        if is_pushed && tags.is_empty() {
            return Err(Failure::new("tag is needed when pushing to registry"));
        }
        if !stored && !archives.iter().any(|(_, output)| matches!(output, Output::Image)) {
            let nothing = BuildResult::default();
            return self
                .hand_out(plan, &solved, &nothing, archives)
                .await
                .map(|()| nothing);
        }
        let mut image = NewImage {
            config,
            stack: solved.stack.clone(),
            references: Vec::new(),
            annotations: self.start.annotations.clone().into_iter().collect(),
            is_passing: !stored,
        };
        if stored {
            let references = tags
                .iter()
                .map(|tag| Reference::parse(tag).map(Reference::with_default_tag));
            image.references = references.collect::<Result<_, _>>().map_err(Error::Image)?;
        }
        let mut result = self.compose(image).await?;
        result.tags = tags;
        let mut handed = match is_pushed {
            true => self.push(&result.tags, "pushing").await,
            false => Ok(()),
        };
        if handed.is_ok() {
            handed = self.hand_out(plan, &solved, &result, archives).await;
        }
        if !stored {
            self.let_go(&result.image_id, Vec::new()).await;
        }
        handed.map(|()| result)
    }

    /// Sends the client's outputs, and caches where they go.
    async fn hand_out(
        self: &Arc<Self>,
        plan: &Plan,
        solved: &Solved,
        result: &BuildResult,
        archives: Vec<(u32, Output)>,
    ) -> Outcome<()> {
        for (number, output) in archives {
            match output {
                Output::Image => self.send_image(number, &result.image_id, &result.tags).await?,
                _ => self.send_files(number, solved).await?,
            }
        }
        self.give_caches(plan, solved).await
    }

    async fn compose(&self, image: NewImage) -> Outcome<BuildResult> {
        let begun = self.reporter.begin("exporting to image").await;
        begun.status("exporting layers", 0, true).await;
        let engine = self.engine.clone();
        let composed = blocking(move || {
            let references = image.references.clone();
            let id = engine.images.compose(image).map_err(Error::Image)?;
            let manifest = engine.images.get(&id.to_string()).map_err(Error::Image)?.manifest;
            for reference in &references {
                engine.tell_image("tag", &id.to_string(), Some(&reference.familiar()));
            }
            let names = references.iter().map(images::full_name).collect::<Vec<_>>();
            Ok((id.to_string(), manifest.to_string(), names))
        });
        match composed.await {
            Ok((image_id, manifest_digest, names)) => {
                begun.status(&format!("writing image {image_id}"), 0, true).await;
                for name in &names {
                    begun.status(&format!("naming to {name}"), 0, true).await;
                }
                begun.done().await;
                Ok(BuildResult {
                    image_id,
                    manifest_digest,
                    ..BuildResult::default()
                })
            }
            Err(error) => {
                begun.failed(error.chain()).await;
                Err(error.into())
            }
        }
    }

    /// Pushes what was built, under each of its names.
    pub(super) async fn push(&self, tags: &[String], what: &str) -> Outcome<()> {
        for tag in tags {
            let reference = Reference::parse(tag).map_err(Error::Image)?.with_default_tag();
            let begun = self
                .reporter
                .begin(&format!("{what} {}", images::full_name(&reference)))
                .await;
            let request = PushImageRequest {
                reference: reference.familiar(),
                auth: Some(self.auth(&reference)),
                ..PushImageRequest::default()
            };
            let mut events = self.engine.push_image(request);
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = self.stop.cancelled() => return Err(Failure::cancelled()),
                };
                match event {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        begun.failed(error.chain()).await;
                        let text = format!(
                            "failed to push {}: {}",
                            images::full_name(&reference),
                            error.chain()
                        );
                        return Err(Failure::new(text));
                    }
                    None => break,
                }
            }
            begun.done().await;
        }
        Ok(())
    }

    /// Ends what an image was composed for that was only passing.
    pub(super) async fn let_go(&self, image: &str, references: Vec<Reference>) {
        let (images, image) = (self.engine.images.clone(), image.to_owned());
        let gone = blocking(move || {
            let id = image.parse().map_err(|_| Error::NoSuchImage(image.clone()))?;
            images.let_go(&id, &references).map_err(Error::Image)
        });
        if let Err(error) = gone.await {
            tracing::warn!(
                error = error.chain(),
                "could not remove a build's temporary image"
            );
        }
    }
}
