//! Login, search and manifests: questions to registries that change nothing here.

use std::collections::HashMap;

use pontoon_image::Reference;
use pontoon_image::registry::SearchFilters;
use pontoon_proto::v1::{
    FoundImage, InspectManifestRequest, Platform, RegistryAuth, RegistryLoginRequest, RegistryLoginResponse,
    RegistryManifest, SearchFilterValues, SearchImagesRequest,
};

use super::pull::credentials;
use crate::{Engine, Error, Result};

impl Engine {
    /// Tries credentials at a registry.
    ///
    /// # Errors
    /// They are no good, or nobody answers.
    pub async fn registry_login(&self, request: RegistryLoginRequest) -> Result<RegistryLoginResponse> {
        let auth = request.auth.unwrap_or_default();
        let domain = domain(&auth.server_address);
        if domain.is_empty() || domain.contains(['/', '@', ' ']) {
            return Err(Error::Invalid(format!(
                "invalid registry address {:?}",
                auth.server_address
            )));
        }
        let logged_in = self
            .registries
            .login(&domain, &credentials(auth))
            .await
            .map_err(Error::Registry)?;
        Ok(RegistryLoginResponse {
            status: logged_in.status,
            identity_token: logged_in.identity_token,
        })
    }

    /// Searches a registry, Docker Hub if none is named.
    ///
    /// # Errors
    /// A filter that makes no sense, or the registry's.
    pub async fn search_images(&self, request: SearchImagesRequest) -> Result<Vec<FoundImage>> {
        let filters = filters(&request.filters)?;
        let credentials = credentials(request.auth.unwrap_or_default());
        let found = self
            .registries
            .search(&request.term, request.limit, &filters, &credentials)
            .await
            .map_err(Error::Registry)?;
        Ok(found
            .into_iter()
            .map(|found| FoundImage {
                name: found.name,
                description: found.description,
                star_count: found.star_count,
                is_official: found.is_official,
                is_automated: found.is_automated,
            })
            .collect())
    }

    /// Digest (`sha256:…`) of what a name stands for in its registry, without fetching anything.
    ///
    /// # Errors
    /// The registry's, or the name is bad.
    pub async fn resolve_digest(&self, name: &str, auth: RegistryAuth) -> Result<String> {
        let reference = Reference::parse(name).map_err(Error::Image)?;
        let digest = self.registries.digest(&reference, &credentials(auth)).await;
        digest.map(|digest| digest.to_string()).map_err(Error::Registry)
    }

    /// A manifest as the registry has it.
    ///
    /// # Errors
    /// The registry's, or the name is bad.
    pub async fn inspect_manifest(&self, request: InspectManifestRequest) -> Result<Vec<RegistryManifest>> {
        let reference = Reference::parse(&request.reference).map_err(Error::Image)?;
        let credentials = credentials(request.auth.unwrap_or_default());
        let found = self
            .registries
            .inspect(&reference, (request.verbose, request.insecure), &credentials)
            .await
            .map_err(Error::Registry)?;
        Ok(found
            .into_iter()
            .map(|manifest| RegistryManifest {
                reference: manifest.reference,
                media_type: manifest.media_type,
                content: manifest.bytes.into(),
                variant: manifest
                    .platform
                    .as_ref()
                    .and_then(|p| p.variant.clone())
                    .unwrap_or_default(),
                platform: manifest.platform.map(|p| Platform {
                    architecture: p.architecture,
                    os: p.os,
                }),
            })
            .collect())
    }
}

/// `host[:port]` of what `config.json` calls a registry: `https://index.docker.io/v1/` is Docker Hub.
fn domain(address: &str) -> String {
    let host = address
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap_or_default();
    match host {
        "" if address.is_empty() => "docker.io".to_owned(),
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

fn filters(given: &HashMap<String, SearchFilterValues>) -> Result<SearchFilters> {
    let mut filters = SearchFilters::default();
    for (key, SearchFilterValues { values }) in given {
        let value = values.last().map_or("", String::as_str);
        let bad = || Error::Invalid(format!("invalid filter '{key}={value}'"));
        let truth = || match value {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(bad()),
        };
        match key.as_str() {
            "is-official" => filters.official = truth()?,
            "is-automated" => filters.automated = truth()?,
            "stars" => filters.stars = value.parse().map_err(|_| bad())?,
            _ => return Err(Error::Invalid(format!("invalid filter '{key}'"))),
        }
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_config_files_are_registries() {
        for (address, host) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://reg.example/v2/", "reg.example"),
        ] {
            assert_eq!(domain(address), host);
        }
    }
}
