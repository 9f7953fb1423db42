//! What a service's image is pinned to, as this node finds it: an image that is here under that name, else what the registry has.
//! Called by the controller, through its trait.

use std::sync::Arc;
use std::time::Duration;

use pontoon_controller::ImageResolver;
use pontoon_engine::Engine;
use pontoon_image::Reference;
use pontoon_proto::v1::RegistryAuth;

use super::describe;

/// Longest that a registry is asked about an image which is here: without a way out a service is made all the same.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest that it is asked about one which is not.
const LONGEST: Duration = Duration::from_secs(60);

/// Resolves with the node's engine.
#[derive(Debug)]
pub struct Resolver(pub Arc<Engine>);

#[tonic::async_trait]
impl ImageResolver for Resolver {
    fn name(&self, image: &str) -> Option<String> {
        let reference = Reference::parse(image).ok()?;
        Some(reference.with_default_tag().familiar())
    }

    async fn resolve(&self, image: &str, auth: RegistryAuth) -> Result<String, String> {
        let reference = Reference::parse(image).map_err(|error| describe(&error))?;
        let reference = reference.with_default_tag();
        let store = self.0.images().clone();
        let name = reference.familiar();
        let wanted = name.clone();
        let found = tokio::task::spawn_blocking(move || store.get(&wanted))
            .await
            .map_err(|_| "the daemon stops".to_owned())?;
        // A word that is the beginning of an id is a name here all the same.
        let local = found.ok().filter(|found| found.repo_tags.contains(&name));
        let Some(local) = local else {
            let asked = tokio::time::timeout(LONGEST, self.0.resolve_digest(&name, auth)).await;
            return match asked {
                Ok(answer) => answer.map_err(|error| error.chain()),
                Err(_) => Err(format!("no answer in {} seconds", LONGEST.as_secs())),
            };
        };
        let here = local.index.unwrap_or(local.manifest).to_string();
        let repository = format!("{}@", reference.familiar_name());
        let mut digests = local.repo_digests.iter();
        if !digests.any(|digest| digest.starts_with(&repository)) {
            // Made or loaded here: no registry knows it, or not this one.
            return Ok(here);
        }
        // A tag may have moved on in its registry since it was pulled.
        match tokio::time::timeout(PATIENCE, self.0.resolve_digest(&name, auth)).await {
            Ok(Ok(digest)) => Ok(digest),
            Ok(Err(_)) | Err(_) => Ok(here),
        }
    }
}
