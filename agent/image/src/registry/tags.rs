//! Lists that come in pages: the tags of a repository, the repositories of a registry (distribution spec, "Listing Tags"; `_catalog`
//! is Docker's registry's).

use reqwest::{Method, Response, Url, header};
use serde::Deserialize;

use super::{
    answer::{body_up_to, clean},
    auth::Credentials,
    client::Registry,
    endpoint::endpoints,
    error::{Error, Result},
    session::{Purpose, Session},
};
use crate::Reference;

/// Bytes of one page.
const PAGE_BYTES: usize = 8 << 20;
/// Pages, and names in all: a registry must not keep us reading.
const PAGES: usize = 1000;
const NAMES: usize = 200_000;
/// Names asked for at once.
const AT_ONCE: usize = 1000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

impl Registry {
    /// All tags of a repository, sorted.
    ///
    /// # Errors
    /// The registry's.
    pub async fn tags(&self, repository: &Reference, credentials: &Credentials) -> Result<Vec<String>> {
        let shared = self.shared();
        let mut last = None;
        for endpoint in endpoints(&shared, repository.domain(), true).await? {
            let mirror = endpoint.mirror;
            let opened =
                Session::open(&shared, endpoint, repository.path(), Purpose::Pull, credentials).await;
            let outcome = match opened {
                Ok(session) => session.tags(&repository.familiar_name()).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if mirror || error.is_unreachable() => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::protocol(repository.domain(), "the registry has no address")))
    }
}

impl Session {
    async fn tags(&self, name: &str) -> Result<Vec<String>> {
        let url = self.repository_url(&format!("tags/list?n={AT_ONCE}"))?;
        let mut tags = self.pages(url, name, |page| page.tags).await?;
        // What is no tag can't be pulled by one.
        tags.retain(|tag| Reference::parse("x").is_ok_and(|x| x.with_tag(tag).is_ok()));
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// The repositories of the registry.
    pub(super) async fn catalog(&self) -> Result<Vec<String>> {
        let url = self.url(&format!("v2/_catalog?n={AT_ONCE}"))?;
        let mut names = self.pages(url, "catalog", |page| page.repositories).await?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn pages(
        &self,
        mut url: Url,
        name: &str,
        part: impl Fn(Page) -> Option<Vec<String>>,
    ) -> Result<Vec<String>> {
        let bad = |reason: &str| Error::protocol(format!("list of {name}"), reason);
        let mut names = Vec::new();
        for _ in 0..PAGES {
            let response = self.send(Method::GET, &url, |request| request).await?;
            if !response.status().is_success() {
                return Err(self.missing(response, name).await);
            }
            let next = next(&response, &url);
            let window = self.settings().patience.window;
            let body = tokio::time::timeout(window, body_up_to(response, PAGE_BYTES))
                .await
                .map_err(|_| Error::Stalled {
                    what: format!("list of {name}"),
                    window,
                })??;
            let body = body.ok_or_else(|| bad("a page is too long"))?;
            let page: Page = serde_json::from_slice(&body).map_err(|_| bad("it is not understood"))?;
            names.extend(part(page).unwrap_or_default());
            if names.len() > NAMES {
                return Err(bad("it has too many names"));
            }
            match next {
                Some(next) => url = next,
                None => return Ok(names),
            }
        }
        Err(bad("it has too many pages"))
    }
}

/// The page that a `Link` header names (RFC 8288), on the same registry.
fn next(response: &Response, url: &Url) -> Option<Url> {
    let link = response.headers().get(header::LINK)?.to_str().ok()?;
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.contains("next") {
        return None;
    }
    let next = url.join(&clean(target)).ok()?;
    let same =
        (next.host_str(), next.port_or_known_default()) == (url.host_str(), url.port_or_known_default());
    (same && next != *url).then_some(next)
}
