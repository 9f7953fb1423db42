//! `search`: by Docker Hub's API (`v1/search`), and in the list of repositories (`_catalog`) where a registry has only that.

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::{
    answer::{body_up_to, clean},
    auth::Credentials,
    client::Registry,
    error::{Error, Result},
    session::{Purpose, Session},
};

/// Where Docker Hub answers searches.
const HUB: &str = "index.docker.io";
/// Bytes of an answer.
const ANSWER_BYTES: usize = 8 << 20;
/// Most results of a search.
const MOST: u32 = 100;
/// Results if no number is asked for, as in Docker.
const USUAL: u32 = 25;

/// One repository that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name, with the registry unless that is Docker Hub.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// Users who like it.
    pub star_count: i64,
    /// Docker's own.
    pub is_official: bool,
    /// Built by Docker Hub (no longer told).
    pub is_automated: bool,
}

/// Which results are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchFilters {
    /// Only (or no) official ones.
    pub official: Option<bool>,
    /// Only (or no) automated ones.
    pub automated: Option<bool>,
    /// At least so many stars.
    pub stars: i64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Found>,
}

impl Registry {
    /// Searches for `[REGISTRY/]TERM`. `limit` 0 is the usual number.
    ///
    /// # Errors
    /// The registry's, or a limit that makes no sense.
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        filters: &SearchFilters,
        credentials: &Credentials,
    ) -> Result<Vec<Found>> {
        if limit > MOST {
            return Err(Error::Settings(format!(
                "limit {limit} is outside the range of [1, {MOST}]"
            )));
        }
        if term.contains("://") {
            return Err(Error::Settings(format!(
                "invalid repository name: repository name ({term}) should not have a scheme"
            )));
        }
        let limit = if limit == 0 { USUAL } else { limit };
        let (domain, term) = split(term);
        let host = if domain == "docker.io" { HUB } else { domain };
        let session = Session::first(&self.shared(), (host, ""), Purpose::Registry, credentials).await?;
        let mut found = match session.v1_search(term, limit).await? {
            Some(found) => found,
            None => session.search_catalog(term).await?,
        };
        if domain != "docker.io" {
            for one in &mut found {
                one.name = format!("{domain}/{}", one.name);
            }
        }
        let fits = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        found.retain(|one| {
            fits(filters.official, one.is_official)
                && fits(filters.automated, one.is_automated)
                && one.star_count >= filters.stars
        });
        // A stable sort: what is equal stays in the registry's order.
        found.sort_by_key(|one| std::cmp::Reverse(one.star_count));
        found.truncate(limit as usize);
        Ok(found)
    }
}

/// Registry and term, as in `registry.example:5000/app`.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((domain, rest)) if domain.contains(['.', ':']) || domain == "localhost" => {
            if matches!(domain, "docker.io" | "index.docker.io") {
                ("docker.io", rest)
            } else {
                (domain, rest)
            }
        }
        _ => ("docker.io", term),
    }
}

impl Session {
    /// `None` if the registry has no such search.
    async fn v1_search(&self, term: &str, limit: u32) -> Result<Option<Vec<Found>>> {
        let mut url: Url = self.url("v1/search")?;
        url.query_pairs_mut()
            .append_pair("q", term.strip_prefix("library/").unwrap_or(term))
            .append_pair("n", &limit.to_string());
        let response = self.send(Method::GET, &url, |request| request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => return Ok(None),
            _ => return Err(self.refusal(&Method::GET, response).await.into_error()),
        }
        let bad = |reason: &str| Error::protocol("search", reason);
        let window = self.settings().patience.window;
        let body = tokio::time::timeout(window, body_up_to(response, ANSWER_BYTES))
            .await
            .map_err(|_| bad("the registry does not finish its answer"))??;
        let body = body.ok_or_else(|| bad("the answer is too long"))?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| bad("the answer is not understood"))?;
        let cleaned = |one: Found| Found {
            name: clean(&one.name),
            description: clean(&one.description),
            ..one
        };
        Ok(Some(answer.results.into_iter().map(cleaned).collect()))
    }

    async fn search_catalog(&self, term: &str) -> Result<Vec<Found>> {
        let names = self.catalog().await?;
        let found = names.into_iter().filter(|name| name.contains(term));
        Ok(found
            .map(|name| Found {
                name: clean(&name),
                ..Found::default()
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_name_its_registry() {
        assert_eq!(split("nginx"), ("docker.io", "nginx"));
        assert_eq!(split("user/app"), ("docker.io", "user/app"));
        assert_eq!(split("docker.io/user/app"), ("docker.io", "user/app"));
        assert_eq!(split("localhost/x"), ("localhost", "x"));
        assert_eq!(split("r.example:5000/"), ("r.example:5000", ""));
    }
}
