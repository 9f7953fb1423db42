//! `--cache-from` and `--cache-to`: results of steps come from and go to other builders as an image whose configuration says which of
//! its layers are which step's result ([`CachedStep`]). It is the built image itself (`inline`), or one of its own in a registry or a
//! folder of the client. Keys are content, so what another host has made is found here by the same Dockerfile and files.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_build::plan::Plan;
use pontoon_image::{
    CachedStep, ContainerUse, Digest, ImageConfig, ImageStore, NewImage, Reference, RemoveOptions, Stack,
};
use pontoon_proto::v1::BuildOption;

use super::cache::Made;
use super::solve::Solved;
use super::{Build, Failure, Outcome, finish};
use crate::engine::blocking;
use crate::{Error, Result};
use pontoon_image::archive::ChunkReader;

/// Steps that one image may name.
const STEPS: usize = 4096;

/// Results of a build's steps by their keys.
#[derive(Default)]
pub(super) struct Results(Mutex<BTreeMap<String, (Stack, Made)>>);

impl Results {
    /// Notes a result.
    pub(super) fn remember(&self, key: &str, stack: &Stack, made: &Made) {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(key.to_owned(), (stack.clone(), made.clone()));
    }

    fn all(&self) -> BTreeMap<String, (Stack, Made)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a cache goes.
enum Target {
    /// Into the image that is built.
    Inline,
    /// To a registry, under this name.
    Registry(Reference),
    /// To the client.
    Folder,
}

/// What `--cache-to` wants, and whether the results of all stages go with it.
fn target(option: &BuildOption) -> Outcome<(Target, bool)> {
    let kind = option.r#type.as_str();
    let mut is_whole = false;
    let mut reference = None;
    for (key, value) in &option.attributes {
        match (kind, key.as_str(), value.as_str()) {
            ("registry" | "local", "mode", "max") => is_whole = true,
            (_, "mode", "min") | ("local", "dest", _) => {}
            ("registry", "ref", name) => reference = Some(parse(name)?),
            ("inline" | "registry" | "local", _, _) => {
                let text = format!("--cache-to type={kind}: {key}={value} is not supported by this builder");
                return Err(Failure::new(text));
            }
            _ => {}
        }
    }
    match (kind, reference) {
        ("inline", _) => Ok((Target::Inline, false)),
        ("local", _) => Ok((Target::Folder, is_whole)),
        ("registry", Some(reference)) => Ok((Target::Registry(reference), is_whole)),
        ("registry", None) => Err(Failure::new("--cache-to type=registry needs ref=NAME")),
        _ => Err(unknown("cache-to", kind)),
    }
}

/// What `--cache-from` names; `None`: what the client sends.
fn source(option: &BuildOption) -> Outcome<Option<Reference>> {
    match (option.r#type.as_str(), option.attributes.get("ref")) {
        ("local", _) => Ok(None),
        ("registry", Some(name)) => parse(name).map(Some),
        ("registry", None) => Err(Failure::new("--cache-from type=registry needs ref=NAME")),
        (kind, _) => Err(unknown("cache-from", kind)),
    }
}

fn unknown(flag: &str, kind: &str) -> Failure {
    Failure::new(format!(
        "--{flag} type={kind} is not supported by this builder: use registry, local or inline"
    ))
}

fn parse(name: &str) -> Outcome<Reference> {
    match Reference::parse(name) {
        Ok(reference) => Ok(reference.with_default_tag()),
        Err(error) => Err(Failure::new(format!("invalid cache reference {name:?}: {error}"))),
    }
}

impl Build {
    /// Refuses caches that can't be had before anything is done.
    pub(super) fn check_caches(&self) -> Outcome<()> {
        for option in &self.start.cache_from {
            source(option)?;
        }
        for option in &self.start.cache_to {
            let (target, _) = target(option)?;
            let names = |tag: &String| Reference::parse(tag).map(Reference::with_default_tag).ok();
            if let Target::Registry(reference) = target
                && self
                    .start
                    .tags
                    .iter()
                    .filter_map(names)
                    .any(|tag| tag == reference)
            {
                return Err(Failure::new(format!(
                    "--cache-to ref={} is the name of the image itself: give the cache another one, or use type=inline",
                    reference.familiar()
                )));
            }
        }
        Ok(())
    }

    /// Takes in what `--cache-from` names. A cache that can't be had is told of and does not matter.
    pub(super) async fn take_caches(self: &Arc<Self>) -> Outcome<()> {
        if self.start.no_cache {
            return Ok(());
        }
        for (number, option) in self.start.cache_from.iter().enumerate() {
            let reference = source(option)?;
            let shown = reference
                .as_ref()
                .map_or_else(|| "local".to_owned(), Reference::familiar);
            let begun = self
                .reporter
                .begin(&format!("importing cache manifest from {shown}"))
                .await;
            let taken = match &reference {
                Some(reference) => Box::pin(self.take_from_registry(reference)).await,
                None => self.take_from_client(number).await,
            };
            match taken {
                Ok(()) => begun.done().await,
                Err(_) if self.stop.is_cancelled() => return Err(Failure::cancelled()),
                Err(failure) => begun.failed(failure.message).await,
            }
        }
        Ok(())
    }

    /// From a registry, by digest, so that no name of this host changes; from an image of that name here if there is no answer.
    async fn take_from_registry(self: &Arc<Self>, reference: &Reference) -> Outcome<()> {
        let (auth, name) = (self.auth(reference), reference.familiar());
        let resolved = self.engine.resolve_digest(&name, auth.clone());
        let resolved = tokio::select! {
            resolved = resolved => resolved,
            () = self.stop.cancelled() => return Err(Failure::cancelled()),
        };
        let digest = match resolved {
            Ok(digest) => digest,
            Err(error) => {
                let engine = self.engine.clone();
                let found = blocking(move || take(&engine, &name)).await;
                return found.map_err(|_| error.into());
            }
        };
        let pinned = format!("{}@{digest}", reference.familiar_name());
        let was_here = self.engine.images.get(&pinned).is_ok();
        let pull = Box::pin(self.engine.pull_quietly(&pinned, &self.start.platform, auth));
        tokio::select! {
            pulled = pull => drop(pulled?),
            () = self.stop.cancelled() => return Err(Failure::cancelled()),
        }
        let engine = self.engine.clone();
        Ok(blocking(move || {
            let taken = take(&engine, &pinned);
            if !was_here {
                let unused = |_: &pontoon_image::ImageId| Vec::<ContainerUse>::new();
                let options = RemoveOptions::default();
                engine
                    .images
                    .remove(&pinned, &options, &unused)
                    .map_err(Error::Image)?;
            }
            taken
        })
        .await?)
    }

    /// From a folder of the client, which sends it as an archive.
    async fn take_from_client(self: &Arc<Self>, number: usize) -> Outcome<()> {
        let name = format!("cache-from:{number}");
        let chunks = self.incoming.expect(&name);
        self.reporter.need(name, vec!["/".into()]).await;
        let engine = self.engine.clone();
        let images = blocking(move || {
            let loaded = engine.images.load(ChunkReader::new(chunks), &mut |_| {});
            let loaded = loaded.map_err(Error::Image)?;
            let ids: Vec<String> = loaded.iter().map(|image| image.id.to_string()).collect();
            for id in &ids {
                take(&engine, id)?;
            }
            Ok(ids)
        });
        for image in images.await? {
            self.forget_image(&image).await;
        }
        Ok(())
    }

    /// What goes into the image for `--cache-to type=inline`.
    pub(super) fn inline_cache(&self, solved: &Solved) -> Outcome<Vec<CachedStep>> {
        for option in &self.start.cache_to {
            if let (Target::Inline, _) = target(option)? {
                let gathered = gather(&self.engine.images, &solved.stack, &self.results.all(), false);
                return Ok(gathered?.1);
            }
        }
        Ok(Vec::new())
    }

    /// Sends results where `--cache-to` wants them.
    pub(super) async fn give_caches(self: &Arc<Self>, plan: &Plan, solved: &Solved) -> Outcome<()> {
        for (number, option) in self.start.cache_to.iter().enumerate() {
            let (target, is_whole) = target(option)?;
            if matches!(target, Target::Inline) {
                continue;
            }
            let (images, stack, results) = (
                self.engine.images.clone(),
                solved.stack.clone(),
                self.results.all(),
            );
            let gathered = blocking(move || gather(&images, &stack, &results, is_whole)).await;
            let (stack, cache) = gathered?;
            let config = ImageConfig {
                architecture: plan.config.architecture.clone(),
                os: plan.config.os.clone(),
                variant: plan.config.variant.clone(),
                cache,
                ..ImageConfig::default()
            };
            match target {
                Target::Registry(reference) => self.push_cache(config, stack, reference).await?,
                _ => {
                    let output = self.start.outputs.len() + number;
                    let output = u32::try_from(output).unwrap_or(u32::MAX);
                    self.send_cache(config, stack, output).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_cache(self: &Arc<Self>, config: ImageConfig, stack: Stack, output: u32) -> Outcome<()> {
        let begun = self.reporter.begin("exporting cache to client directory").await;
        let image = self.cache_image(config, stack, Vec::new()).await?;
        let (build, id) = (self.clone(), image.clone());
        let sent = blocking(move || {
            let mut out = build.pieces(output);
            let saved = build.engine.images.save_as(&id, &[], &mut out);
            saved.map_err(Error::Image)?;
            out.flush().map_err(finish::sending)
        })
        .await;
        self.forget_image(&image).await;
        self.told(&begun, output, sent).await
    }

    /// Pushes under a name that is the cache's only as long as that takes.
    async fn push_cache(
        self: &Arc<Self>,
        config: ImageConfig,
        stack: Stack,
        reference: Reference,
    ) -> Outcome<()> {
        let name = reference.familiar();
        let before = self
            .engine
            .images
            .get(&name)
            .ok()
            .map(|image| image.id.to_string());
        self.cache_image(config, stack, vec![reference]).await?;
        let pushed = self.push(std::slice::from_ref(&name), "exporting cache to").await;
        let engine = self.engine.clone();
        let restored = blocking(move || {
            let unused = |_: &pontoon_image::ImageId| Vec::<ContainerUse>::new();
            let removed = engine.images.remove(&name, &RemoveOptions::default(), &unused);
            removed.map_err(Error::Image)?;
            match before {
                Some(id) => engine.images.tag(&id, &name).map_err(Error::Image),
                None => Ok(()),
            }
        });
        restored.await?;
        pushed
    }

    async fn cache_image(
        &self,
        config: ImageConfig,
        stack: Stack,
        references: Vec<Reference>,
    ) -> Result<String> {
        let images = self.engine.images.clone();
        blocking(move || {
            let image = NewImage {
                config,
                stack,
                references,
            };
            let id = images.compose(image).map_err(Error::Image)?;
            Ok(id.to_string())
        })
        .await
    }
}

/// A stack with the layers of results: those of the built image, and if `is_whole` those of the others on top, in whatever order. It
/// is no file system that makes sense, but each layer is there once.
fn gather(
    images: &ImageStore,
    built: &Stack,
    results: &BTreeMap<String, (Stack, Made)>,
    is_whole: bool,
) -> Result<(Stack, Vec<CachedStep>)> {
    let mut whole = built.clone();
    let mut places: HashMap<Digest, usize> = HashMap::new();
    for (place, layer) in built.layers().enumerate() {
        places.entry(layer.diff_id).or_insert(place);
    }
    let mut steps = Vec::new();
    for (key, (stack, made)) in results {
        let count = stack.layers().len();
        let layers = if built.lowest(count).chain() == stack.chain() {
            (0..count).collect()
        } else if is_whole {
            let mut layers = Vec::new();
            for layer in stack.layers() {
                let place = match places.entry(layer.diff_id) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(vacant) => {
                        let (blob, _) = images.open_blob(&layer.blob.digest).map_err(Error::Image)?;
                        whole = images.layer_of_archive(blob, &whole).map_err(Error::Image)?;
                        *vacant.insert(whole.layers().len() - 1)
                    }
                };
                layers.push(place);
            }
            layers
        } else {
            continue;
        };
        steps.push(CachedStep {
            key: key.clone(),
            description: made.description.clone(),
            created_at: made.created_at,
            layers,
            below: made.below,
        });
    }
    Ok((whole, steps))
}

/// Keeps the results that an image holds.
fn take(engine: &crate::Engine, image: &str) -> Result<()> {
    let images = &engine.images;
    let found = images.get(image).map_err(|error| Error::image(image, error))?;
    if found.config.cache.is_empty() {
        return Err(Error::Invalid(format!(
            "{image} holds no build cache of this builder"
        )));
    }
    let all = images.stack(&found.id).map_err(Error::Image)?;
    let blobs: Vec<Digest> = all.layers().map(|layer| layer.blob.digest).collect();
    for step in found.config.cache.iter().take(STEPS) {
        // The key becomes a file's name.
        let is_key = Digest::from_hex(&step.key).is_some();
        if !is_key || step.layers.iter().any(|place| *place >= blobs.len()) {
            return Err(Error::Invalid(format!("the build cache of {image} is damaged")));
        }
        if engine.build_cache.has(&step.key) {
            continue;
        }
        let stack = if step.layers.iter().copied().eq(0..step.layers.len()) {
            all.lowest(step.layers.len())
        } else {
            let mut stack = Stack::empty();
            for place in &step.layers {
                let (blob, _) = images.open_blob(&blobs[*place]).map_err(Error::Image)?;
                stack = images.layer_of_archive(blob, &stack).map_err(Error::Image)?;
            }
            stack
        };
        let made = Made {
            description: step.description.clone(),
            created_at: step.created_at,
            below: step.below,
        };
        engine.build_cache.keep(images, &step.key, &stack, &made)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(kind: &str, attributes: &[(&str, &str)]) -> BuildOption {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        BuildOption {
            r#type: kind.into(),
            attributes: attributes.iter().map(text).collect(),
        }
    }

    #[test]
    fn caches_are_understood_or_refused_by_name() {
        let refused = |given: BuildOption, text: &str| {
            let message = target(&given).err().map(|failure| failure.message);
            assert!(message.clone().is_some_and(|m| m.contains(text)), "{message:?}");
        };
        assert!(matches!(
            target(&option("inline", &[])),
            Ok((Target::Inline, false))
        ));
        assert!(matches!(
            target(&option("local", &[("dest", "x"), ("mode", "max")])),
            Ok((Target::Folder, true))
        ));
        let (registry, _) = target(&option("registry", &[("ref", "a/b")])).unwrap();
        assert!(matches!(registry, Target::Registry(name) if name.familiar() == "a/b:latest"));
        refused(option("gha", &[]), "--cache-to type=gha is not supported");
        refused(option("registry", &[]), "needs ref=NAME");
        refused(option("inline", &[("mode", "max")]), "mode=max is not supported");
        refused(option("local", &[("compression", "zstd")]), "compression=zstd");
        refused(option("registry", &[("ref", "A")]), "invalid cache reference");
        assert!(source(&option("s3", &[])).is_err());
        assert!(matches!(source(&option("local", &[("src", "x")])), Ok(None)));
    }
}
