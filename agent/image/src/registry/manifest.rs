//! Manifests: fetched up to a bound, checked against their digest, told apart by their media type (OCI image spec manifest.md and
//! image-index.md, Docker's schema 2), and the one image of an index that is for a platform.

use reqwest::{Method, StatusCode, header};

use super::{
    answer::{body_up_to, clean},
    error::{Error, Result},
    platform::rank,
    session::Session,
};
use crate::{
    Digest, Limits, Platform, Reference,
    oci::{self, Descriptor, Document, Index, Manifest},
};

/// Asked for so that it can be refused by name.
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// How deep indexes may nest.
const DEPTH: usize = 4;

/// A manifest or an index as it came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    /// What the registry, or else the document, says it is.
    pub(super) media_type: String,
    pub(super) document: Document,
}

/// An image that a name stands for.
#[derive(Debug)]
pub(super) struct Resolved {
    /// What the name points at: an index, or the image's manifest itself.
    pub(super) top: Digest,
    /// The index that names the image, as it came.
    pub(super) index: Option<Vec<u8>>,
    /// The image's manifest, as it came.
    pub(super) bytes: Vec<u8>,
    pub(super) manifest: Manifest,
}

fn unusable(name: &str) -> impl FnOnce(crate::Error) -> Error + '_ {
    move |source| Error::Unusable {
        name: name.to_owned(),
        source,
    }
}

/// The media type to show: the registry's word, else the document's own.
fn kind(header: &str, document: &Document) -> String {
    let header = header.split(';').next().unwrap_or_default().trim();
    let own = match document {
        Document::Manifest(manifest) => (&manifest.media_type, oci::MANIFEST),
        Document::Index(index) => (&index.media_type, oci::INDEX),
    };
    match (header, own) {
        (header, _) if header.contains("+json") => header.to_owned(),
        (_, (own, general)) if own.is_empty() => general.to_owned(),
        (_, (own, _)) => own.clone(),
    }
}

/// Kinds of manifests that we take, and schema 1 so that it can be refused by name.
fn accepted() -> String {
    [
        oci::INDEX,
        oci::MANIFEST,
        oci::DOCKER_LIST,
        oci::DOCKER_MANIFEST,
        SCHEMA1,
    ]
    .join(", ")
}

impl Session {
    /// The digest that the registry gives for a tag, if it does.
    pub(super) async fn head(&self, tag: &str, name: &str) -> Result<Option<Digest>> {
        let url = self.repository_url(&format!("manifests/{tag}"))?;
        let response = self
            .send(Method::HEAD, &url, |request| {
                request.header(header::ACCEPT, accepted())
            })
            .await?;
        if !response.status().is_success() {
            return Err(self.missing(response, name).await);
        }
        let digest = response.headers().get("docker-content-digest");
        Ok(digest.and_then(|value| value.to_str().ok()?.parse().ok()))
    }

    /// Fetches one manifest by tag or digest. `name` is for messages.
    pub(super) async fn document(&self, which: &str, name: &str) -> Result<Received> {
        let url = self.repository_url(&format!("manifests/{which}"))?;
        let response = self
            .send(Method::GET, &url, |request| {
                request.header(header::ACCEPT, accepted())
            })
            .await?;
        if !response.status().is_success() {
            return Err(self.missing(response, name).await);
        }
        let text = |key: &str| -> String {
            let value = response.headers().get(key).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (header, promised) = (text("content-type"), text("docker-content-digest"));
        let patience = self.settings().patience;
        let limits = Limits::default();
        let most = usize::try_from(limits.json_bytes).unwrap_or(usize::MAX);
        let body = tokio::time::timeout(patience.window, body_up_to(response, most))
            .await
            .map_err(|_| Error::Stalled {
                what: format!("manifest of {name}"),
                window: patience.window,
            })??;
        let bytes =
            body.ok_or_else(|| Error::protocol(name, format!("its manifest has more than {most} bytes")))?;
        let digest = Digest::of(&bytes);
        let wanted = which.parse::<Digest>().or_else(|_| promised.parse());
        if let Ok(wanted) = wanted
            && wanted != digest
        {
            return Err(crate::Error::Corrupt {
                digest: wanted,
                reason: format!("the registry sent a manifest that is {digest}"),
            }
            .into());
        }
        let document = Document::parse(&header, &bytes, &limits).map_err(unusable(name))?;
        Ok(Received {
            media_type: kind(&header, &document),
            bytes,
            digest,
            document,
        })
    }

    /// Why a manifest (or a list of tags) could not be had.
    pub(super) async fn missing(&self, response: reqwest::Response, name: &str) -> Error {
        let refusal = self.refusal(&Method::GET, response).await;
        let has = |code: &str| refusal.codes.iter().any(|c| c == code);
        let repository = name.split('@').next().unwrap_or(name);
        let repository = match repository.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => repository,
            _ => repository,
        };
        let reason = |other: &str| {
            if refusal.reason.is_empty() {
                other.to_owned()
            } else {
                refusal.reason.clone()
            }
        };
        match refusal.status {
            StatusCode::NOT_FOUND if has("NAME_UNKNOWN") => Error::RepositoryUnknown {
                name: repository.into(),
                reason: reason(""),
            },
            StatusCode::NOT_FOUND => Error::ManifestUnknown {
                name: name.into(),
                reason: reason("the registry answers 404 Not Found"),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
                repository: repository.into(),
                reason: reason("requested access to the resource is denied"),
            },
            _ => refusal.into_error(),
        }
    }

    /// The image that a reference stands for, on a platform; this machine's if none is wanted.
    pub(super) async fn resolve(&self, reference: &Reference, wanted: Option<&Platform>) -> Result<Resolved> {
        let name = reference.familiar();
        let mut which = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let (mut top, mut size, mut index) = (None, None, None);
        for _ in 0..=DEPTH {
            let received = self.document(&which, &name).await?;
            if let Some(size) = size.filter(|size| *size != received.bytes.len() as u64) {
                return Err(crate::Error::Corrupt {
                    digest: received.digest,
                    reason: format!("{} bytes, not {size}", received.bytes.len()),
                }
                .into());
            }
            let top = *top.get_or_insert(received.digest);
            match received.document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        top,
                        index,
                        bytes: received.bytes,
                        manifest,
                    });
                }
                Document::Index(entries) => {
                    let host = Platform::host();
                    let entry = choose(&entries, wanted.unwrap_or(&host))?;
                    which = entry.digest.to_string();
                    size = Some(entry.size);
                    index.get_or_insert(received.bytes);
                }
            }
        }
        Err(Error::protocol(
            name,
            format!("image indexes nest deeper than {DEPTH}"),
        ))
    }
}

/// The best entry of an index for a platform; the first of several equals.
fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor> {
    let image = |entry: &&Descriptor| !entry.is_attestation();
    let ranked = index.manifests.iter().filter(image).filter_map(|entry| {
        let rank = match &entry.platform {
            Some(platform) => rank(wanted, platform)?,
            // An entry that says nothing, or an index in the index: taken if nothing better is there.
            None => usize::MAX,
        };
        Some((rank, entry))
    });
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.ok_or_else(|| {
        let mut found: Vec<String> = index
            .manifests
            .iter()
            .filter(image)
            .filter_map(|entry| entry.platform.as_ref().map(|p| clean(&p.to_string())))
            .collect();
        found.sort();
        found.dedup();
        found.truncate(32);
        Error::NoMatchingManifest {
            wanted: wanted.to_string(),
            found,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_entry_is_chosen() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let entry = |name: &str, platform: &str, attestation: bool| {
            let mut parts = platform.split('/');
            let mut entry = serde_json::json!({
                "mediaType": oci::MANIFEST, "digest": digest(name), "size": 1,
                "platform": {"os": parts.next(), "architecture": parts.next(), "variant": parts.next()},
            });
            if attestation {
                entry["annotations"] =
                    serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
            }
            entry
        };
        let index: Index = serde_json::from_value(serde_json::json!({"schemaVersion": 2, "manifests": [
            entry("att", "linux/amd64", true),
            entry("386", "linux/386", false),
            entry("v3", "linux/amd64/v3", false),
            entry("amd", "linux/amd64", false),
            entry("arm6", "linux/arm/v6", false),
            entry("arm7", "linux/arm/v7", false),
        ]}))
        .unwrap();
        let wanted = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: Some(variant.to_owned()).filter(|v| !v.is_empty()),
        };
        assert_eq!(
            choose(&index, &wanted("amd64", "")).unwrap().digest,
            digest("amd")
        );
        assert_eq!(
            choose(&index, &wanted("arm64", "")).unwrap().digest,
            digest("arm7")
        );
        assert_eq!(
            choose(&index, &wanted("arm", "v6")).unwrap().digest,
            digest("arm6")
        );
        let error = choose(&index, &wanted("s390x", "")).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "no matching manifest for linux/s390x in the manifest list entries (it has linux/386, "
            ),
            "{error}"
        );
    }
}
