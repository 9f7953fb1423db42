//! Base images of a build: those that are here, for the platform that is wanted; the others are pulled.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_build::plan::{Base, Images, Platform};
use pontoon_image::Reference;

use super::Build;

/// Finds base images and tells of each once.
pub(super) struct Shelf {
    build: Arc<Build>,
    found: HashMap<(String, Platform), Base>,
}

impl Shelf {
    pub(super) fn new(build: Arc<Build>) -> Self {
        Self {
            build,
            found: HashMap::new(),
        }
    }

    fn find(&self, name: &str, platform: &Platform) -> Result<Base, String> {
        let reference = Reference::parse(name)
            .map_err(|error| format!("failed to parse stage name \"{name}\": {error}"))?;
        let full = reference.clone().with_default_tag();
        let shown = full_name(&full);
        let wanted = pontoon_image::Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: Some(platform.variant.clone()).filter(|v| !v.is_empty()),
        };
        let engine = &self.build.engine;
        let here = engine.images.get_platform(&full.familiar(), &wanted);
        let image = match here {
            Ok(image) if !self.build.start.pull => image,
            Ok(_) | Err(pontoon_image::Error::NotFound(_) | pontoon_image::Error::PlatformMissing { .. }) => {
                let auth = self.build.auth(&full);
                let (familiar, platform) = (full.familiar(), platform.to_string());
                let stop = self.build.stop.clone();
                let pulled = tokio::runtime::Handle::current().block_on(async {
                    let pull = Box::pin(engine.pull_quietly(&familiar, &platform, auth));
                    tokio::select! {
                        pulled = pull => pulled.map_err(|error| error.chain()),
                        () = stop.cancelled() => Err("the build was cancelled".to_owned()),
                    }
                });
                pulled.map_err(|error| {
                    format!("{name}: failed to resolve source metadata for {shown}: {error}")
                })?
            }
            Err(other) => {
                return Err(format!(
                    "{name}: failed to resolve source metadata for {shown}: {other}"
                ));
            }
        };
        let own = Platform {
            os: image.config.os.clone(),
            architecture: image.config.architecture.clone(),
            variant: image.config.variant.clone().unwrap_or_default(),
        };
        if (own.os.as_str(), own.architecture.as_str())
            != (platform.os.as_str(), platform.architecture.as_str())
        {
            return Err(format!(
                "{name}: image {shown} is for {own}, the build wants {platform}: load or pull it for that platform"
            ));
        }
        Ok(Base {
            name: shown,
            id: image.id.to_string(),
            config: image.config,
        })
    }
}

impl Build {
    /// What the client has for a registry.
    pub(super) fn auth(&self, reference: &Reference) -> pontoon_proto::v1::RegistryAuth {
        self.start
            .registry_auth
            .get(reference.domain())
            .cloned()
            .unwrap_or_default()
    }
}

/// `docker.io/library/busybox:latest`.
pub(super) fn full_name(reference: &Reference) -> String {
    let mut name = reference.name();
    if let Some(tag) = reference.tag() {
        name.push_str(&format!(":{tag}"));
    }
    if let Some(digest) = reference.digest() {
        name.push_str(&format!("@{digest}"));
    }
    name
}

impl Images for Shelf {
    fn image(&mut self, name: &str, platform: &Platform) -> Result<Base, String> {
        let key = (name.to_owned(), platform.clone());
        if let Some(known) = self.found.get(&key) {
            return Ok(known.clone());
        }
        let shown =
            Reference::parse(name).map_or_else(|_| name.to_owned(), |r| full_name(&r.with_default_tag()));
        let runtime = tokio::runtime::Handle::current();
        let reporter = self.build.reporter.clone();
        let begun = runtime.block_on(reporter.begin(&format!("[internal] load metadata for {shown}")));
        let found = self.find(name, platform);
        match &found {
            Ok(base) => {
                self.found.insert(key, base.clone());
                runtime.block_on(begun.done());
            }
            Err(error) => runtime.block_on(begun.failed(error.clone())),
        }
        found
    }
}
