//! What a service's image is pinned to, as this node finds it: an image that is here under that name, else what the registry has.
//! Called by the controller, through its trait.

use std::sync::Arc;

use pontoon_controller::ImageResolver;
use pontoon_engine::Engine;
use pontoon_image::Reference;

use super::describe;

/// Resolves with the node's engine.
#[derive(Debug)]
pub struct Resolver(pub Arc<Engine>);

#[tonic::async_trait]
impl ImageResolver for Resolver {
    async fn resolve(&self, image: &str) -> Result<String, String> {
        let reference = Reference::parse(image).map_err(|error| describe(&error))?;
        let reference = reference.with_default_tag();
        let store = self.0.images().clone();
        let name = reference.familiar();
        let wanted = name.clone();
        let found = tokio::task::spawn_blocking(move || store.get(&wanted))
            .await
            .map_err(|_| "the daemon stops".to_owned())?;
        match found {
            // A word that is the beginning of an id is a name here all the same.
            Ok(found) if found.repo_tags.contains(&name) => {
                let digest = found.index.unwrap_or(found.manifest);
                Ok(format!("{name}@{digest}"))
            }
            Ok(_) => Err(format!("No such image: {name}")),
            Err(error) => Err(describe(&error)),
        }
    }
}
