//! `--cache-from` and `--cache-to`: results of steps come from and go to other builders as an image whose configuration says which of
//! its layers are which step's result ([`CachedStep`]). It is the built image itself (`inline`), or one of its own in a registry or a
//! folder of the client. Keys are content, so what another host has made is found here by the same Dockerfile and files.
//!
//! - `options`: what the flags say; `layers`: results as an image's layers, and back

mod layers;
mod options;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_build::plan::Plan;
use pontoon_image::archive::ChunkReader;
use pontoon_image::{CachedStep, ImageConfig, NewImage, Reference, RemoveOptions, Stack};

use super::cache::Made;
use super::solve::Solved;
use super::{Build, Failure, Outcome, finish};
use crate::engine::blocking;
use crate::{Engine, Error, Result};
use layers::{gather, take};
use options::{Target, source, target};

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
        let is_here = self.engine.images.get(&pinned).is_ok();
        if !is_here {
            self.engine.build_cache.mark_taken(&self.dir, &pinned)?;
        }
        let pull = Box::pin(self.engine.pull_quietly(&pinned, &self.start.platform, auth));
        tokio::select! {
            pulled = pull => drop(pulled?),
            () = self.stop.cancelled() => return Err(Failure::cancelled()),
        }
        let engine = self.engine.clone();
        Ok(blocking(move || {
            let taken = take(&engine, &pinned);
            if !is_here {
                forget(&engine, &pinned)?;
            }
            taken
        })
        .await?)
    }

    /// From a folder of the client, which sends it as an archive.
    async fn take_from_client(self: &Arc<Self>, number: usize) -> Outcome<()> {
        let name = format!("cache-from:{number}");
        let chunks = self.incoming.expect(&name);
        self.engine.build_cache.mark_taken(&self.dir, "")?;
        self.reporter.need(name, vec!["/".into()]).await;
        let engine = self.engine.clone();
        let taken = blocking(move || {
            let loaded = engine.images.load(ChunkReader::new(chunks), &mut |_| {});
            let loaded = loaded.map_err(Error::Image)?;
            let mut taken = Ok(());
            for image in &loaded {
                let id = image.id.to_string();
                taken = taken.and_then(|()| take(&engine, &id));
                let is_named = engine
                    .images
                    .get(&id)
                    .is_ok_and(|image| !image.repo_tags.is_empty());
                if !is_named {
                    forget(&engine, &id)?;
                }
            }
            taken
        });
        Ok(taken.await?)
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
        self.let_go(&image, Vec::new()).await;
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
        let image = self.cache_image(config, stack, vec![reference.clone()]).await?;
        let pushed = self.push(std::slice::from_ref(&name), "exporting cache to").await;
        self.let_go(&image, vec![reference]).await;
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
                annotations: BTreeMap::new(),
                is_passing: true,
            };
            let id = images.compose(image).map_err(Error::Image)?;
            Ok(id.to_string())
        })
        .await
    }
}

/// Removes an image that was here only for its cache.
fn forget(engine: &Engine, name: &str) -> Result<()> {
    let options = RemoveOptions {
        force: true,
        ..RemoveOptions::default()
    };
    let removed = engine.images.remove(name, &options, &|_| Vec::new());
    removed.map(drop).map_err(Error::Image)
}
