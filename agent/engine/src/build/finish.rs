//! The end of a build: the image's history and configuration, its tags, and other outputs.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_build::ignore::Patterns;
use pontoon_build::plan::{HISTORY_COMMENT, Plan};
use pontoon_image::build::Tree;
use pontoon_image::{ContainerUse, HistoryEntry, ImageConfig, NewImage, Reference, RemoveOptions};
use pontoon_proto::v1::{BuildOption, BuildResult, PushImageRequest};

use super::copy::{Options, Selection, Taken};
use super::progress::Begun;
use super::solve::Solved;
use super::{Build, Failure, Outcome, images};
use crate::engine::blocking;
use crate::{Error, Result, id};

/// Bytes of a piece of output.
const PIECE: usize = 256 << 10;

/// Where a build's result goes.
enum Output {
    /// Into the image store.
    Store {
        /// Names besides the build's own.
        names: Vec<String>,
        /// And from there to their registries.
        push: bool,
    },
    /// As an archive of the image.
    Image,
    /// As an archive of the files.
    Files,
}

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
        let mut config = configuration(plan, &solved);
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
        let mut result = BuildResult::default();
        let needs_image = stored || archives.iter().any(|(_, output)| matches!(output, Output::Image));
        if needs_image {
            let names = if stored { tags.clone() } else { Vec::new() };
            result = self.compose(config, &solved, names).await?;
        }
        if is_pushed {
            self.push(&tags, "pushing").await?;
        }
        for (number, output) in archives {
            match output {
                Output::Image => self.send_image(number, &result.image_id, &tags).await?,
                _ => self.send_files(number, &solved).await?,
            }
        }
        self.give_caches(plan, &solved).await?;
        if needs_image && !stored {
            self.forget_image(&result.image_id).await;
        }
        Ok(result)
    }

    async fn compose(&self, config: ImageConfig, solved: &Solved, tags: Vec<String>) -> Outcome<BuildResult> {
        let begun = self.reporter.begin("exporting to image").await;
        begun.status("exporting layers", 0, true).await;
        let (engine, stack) = (self.engine.clone(), solved.stack.clone());
        let names = tags.clone();
        let composed = blocking(move || {
            let references = names
                .iter()
                .map(|name| Reference::parse(name).map(Reference::with_default_tag));
            let references = references.collect::<Result<Vec<_>, _>>().map_err(Error::Image)?;
            let image = NewImage {
                config,
                stack,
                references: references.clone(),
            };
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
                    tags,
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

    async fn send_image(self: &Arc<Self>, number: u32, image: &str, tags: &[String]) -> Outcome<()> {
        let begun = self.reporter.begin("exporting to client tarball").await;
        let (build, image, tags) = (self.clone(), image.to_owned(), tags.to_vec());
        let sent = blocking(move || {
            let mut out = build.pieces(number);
            build
                .engine
                .images
                .save_as(&image, &tags, &mut out)
                .map_err(Error::Image)?;
            out.flush().map_err(sending)
        });
        self.told(&begun, number, sent.await).await
    }

    async fn send_files(self: &Arc<Self>, number: u32, solved: &Solved) -> Outcome<()> {
        let begun = self.reporter.begin("exporting to client directory").await;
        let (build, stack) = (self.clone(), solved.stack.clone());
        let sent = blocking(move || {
            let base = Tree::empty();
            let nothing = Patterns::default();
            let options = Options {
                destination: "/",
                owner: None,
                mode: None,
                excludes: &nothing,
                now: id::now() / 1_000_000_000,
                latest: build.epoch(),
            };
            let mut selection = Selection::new(&base, options);
            selection.add(Taken::Tree {
                tree: Arc::new(build.engine.images.tree(&stack).map_err(Error::Image)?),
                path: "/".into(),
                below: None,
            })?;
            let mut out = build.pieces(number);
            selection
                .write(&mut out)
                .and_then(|()| out.flush())
                .map_err(sending)
        });
        self.told(&begun, number, sent.await).await
    }

    pub(super) async fn told(&self, begun: &Begun, number: u32, sent: Result<()>) -> Outcome<()> {
        match sent {
            Ok(()) => {
                self.reporter.output(number, Bytes::new(), true).await;
                begun.done().await;
                Ok(())
            }
            Err(error) => {
                begun.failed(error.chain()).await;
                Err(error.into())
            }
        }
    }

    pub(super) fn pieces(self: &Arc<Self>, number: u32) -> std::io::BufWriter<Pieces> {
        let pieces = Pieces {
            build: self.clone(),
            number,
            runtime: tokio::runtime::Handle::current(),
        };
        std::io::BufWriter::with_capacity(PIECE, pieces)
    }

    /// An image that was made for an archive only.
    pub(super) async fn forget_image(&self, image: &str) {
        let (images, image) = (self.engine.images.clone(), image.to_owned());
        let unused = |_: &pontoon_image::ImageId| Vec::<ContainerUse>::new();
        let removed = blocking(move || {
            if !images.get(&image).map_err(Error::Image)?.repo_tags.is_empty() {
                return Ok(());
            }
            images
                .remove(&image, &RemoveOptions::default(), &unused)
                .map(drop)
                .map_err(Error::Image)
        });
        if let Err(error) = removed.await {
            tracing::warn!(
                error = error.chain(),
                "could not remove a build's temporary image"
            );
        }
    }
}

pub(super) fn sending(source: std::io::Error) -> Error {
    Error::Io {
        what: "send the build's output".into(),
        source,
    }
}

/// Sends what is written to the client.
pub(super) struct Pieces {
    build: Arc<Build>,
    number: u32,
    runtime: tokio::runtime::Handle,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.build.stop.is_cancelled() {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let data = Bytes::copy_from_slice(bytes);
        self.runtime
            .block_on(self.build.reporter.output(self.number, data, false));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Understands one `--output`; the client has taken out what is its own (`dest`).
fn output_of(option: &BuildOption) -> Outcome<Output> {
    let mut names = Vec::new();
    let kind = option.r#type.as_str();
    let stores = matches!(kind, "image" | "docker" | "registry") && !option.attributes.contains_key("dest");
    for (key, value) in &option.attributes {
        match (kind, key.as_str(), value.as_str()) {
            (_, "dest", _) => {}
            ("image" | "docker" | "registry" | "oci", "name", names_given) => {
                names.extend(names_given.split(',').map(str::to_owned));
            }
            ("image" | "docker", "push", "true" | "false") => {}
            ("registry", "push", "true") => {}
            _ => {
                return Err(Failure::new(format!(
                    "--output type={kind}: {key}={value} is not supported by this builder"
                )));
            }
        }
    }
    match kind {
        "image" | "docker" | "registry" if stores => Ok(Output::Store {
            names,
            push: kind == "registry" || option.attributes.get("push").is_some_and(|push| push == "true"),
        }),
        "docker" | "oci" => Ok(Output::Image),
        "local" | "tar" => Ok(Output::Files),
        other => Err(Failure::new(format!("exporter \"{other}\" could not be found"))),
    }
}

/// The configuration with its history: times are those at which the layers were made, so that a build out of the cache gives the
/// same image again.
fn configuration(plan: &Plan, solved: &Solved) -> ImageConfig {
    let mut config = plan.config.clone();
    let mut history = plan.base_history.clone();
    let total = solved.stack.layers().len();
    let own: usize = solved_layers(plan, solved);
    let base = total - own.min(total);
    // A base without a history, or one that does not fit its layers, would make the whole not fit.
    let said = history.iter().filter(|entry| !entry.empty_layer).count();
    history.extend((said..base).map(|_| HistoryEntry::default()));
    for extra in history.iter_mut().filter(|entry| !entry.empty_layer).skip(base) {
        extra.empty_layer = true;
    }
    let text = |nanoseconds: i64| {
        let time =
            jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        time.to_string()
    };
    let epoch = plan
        .epoch
        .map(|seconds| text(seconds.saturating_mul(1_000_000_000)));
    let first = plan
        .history
        .iter()
        .filter_map(|entry| entry.step.and_then(|step| solved.steps[step]))
        .map(|(_, time)| time)
        .next();
    let base_time = history.iter().rev().find_map(|entry| entry.created.clone());
    let mut now = epoch.clone().or(first.map(text)).or(base_time);
    let mut layers = base;
    for entry in &plan.history {
        let made = entry.step.and_then(|step| solved.steps[step]);
        if epoch.is_none()
            && let Some((_, time)) = made
        {
            now = Some(text(time));
        }
        let has_layer = made.is_some_and(|(count, _)| count > layers);
        if has_layer {
            layers += 1;
        }
        history.push(HistoryEntry {
            created: now.clone(),
            created_by: Some(entry.created_by.clone()),
            author: entry.author.clone(),
            comment: Some(HISTORY_COMMENT.into()),
            empty_layer: !has_layer,
        });
    }
    // Layers of a named context and the like have no instruction.
    while layers < total {
        layers += 1;
        history.push(HistoryEntry {
            created: now.clone(),
            comment: Some(HISTORY_COMMENT.into()),
            ..HistoryEntry::default()
        });
    }
    config.created = now;
    config.history = history;
    config
}

/// How many of the layers the plan's history has made.
fn solved_layers(plan: &Plan, solved: &Solved) -> usize {
    let counts = plan
        .history
        .iter()
        .filter_map(|entry| entry.step.and_then(|step| solved.steps[step]));
    let counts: Vec<usize> = counts.map(|(count, _)| count).collect();
    let steps = plan.history.iter().filter_map(|entry| entry.step).next();
    let before = steps.map(|step| match &plan.steps[step].action {
        pontoon_build::plan::Action::Run(run) => run.base,
        pontoon_build::plan::Action::Copy(copy) => copy.base,
        pontoon_build::plan::Action::Folder { base, .. } => *base,
        _ => None,
    });
    let before = before
        .flatten()
        .and_then(|step| solved.steps[step])
        .map_or(0, |(count, _)| count);
    counts.last().map_or(0, |last| last.saturating_sub(before))
}
