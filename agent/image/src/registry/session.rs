//! Requests to one repository of one registry: the address that answers, credentials, retries with growing pauses. `manifest`,
//! `download`, `upload` and the others send through it.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};

use super::{
    answer::{Refusal, shown},
    auth::{Authority, Challenge, Credentials},
    client::Shared,
    endpoint::{Endpoint, endpoints},
    error::{Cause, Error, Result},
    settings::RegistrySettings,
};

/// One address of a registry that answers, and what it needs to know of us.
pub(super) struct Session {
    pub(super) endpoint: Endpoint,
    /// `library/busybox`; empty for what concerns no repository.
    pub(super) repository: String,
    pub(super) shared: Arc<Shared>,
    authority: Authority,
    scope: String,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Pull,
    Push,
    /// The registry itself: login, catalog.
    Registry,
}

impl Session {
    /// Opens a session with an address of a registry.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        endpoint: Endpoint,
        repository: &str,
        purpose: Purpose,
        credentials: &Credentials,
    ) -> Result<Self> {
        let credentials = if endpoint.mirror {
            Credentials::default()
        } else {
            credentials.clone()
        };
        let scope = match purpose {
            Purpose::Pull => format!("repository:{repository}:pull"),
            Purpose::Push => format!("repository:{repository}:pull,push"),
            Purpose::Registry => String::new(),
        };
        let session = Session {
            authority: Authority::new(credentials, &endpoint.base),
            endpoint,
            repository: repository.to_owned(),
            shared: shared.clone(),
            scope,
        };
        session.ping().await?;
        Ok(session)
    }

    /// The first address of a registry that answers, and those that are left after it.
    ///
    /// # Errors
    /// What the last address said.
    pub(super) async fn first(
        shared: &Arc<Shared>,
        (domain, repository): (&str, &str),
        purpose: Purpose,
        credentials: &Credentials,
    ) -> Result<Self> {
        let mut last = None;
        for endpoint in endpoints(shared, domain, purpose == Purpose::Pull).await? {
            match Session::open(shared, endpoint, repository, purpose, credentials).await {
                Err(error) if error.is_unreachable() => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::protocol(domain, "the registry has no address")))
    }

    /// Asks whether a registry is there and what it wants to know.
    async fn ping(&self) -> Result<()> {
        let url = self.url("v2/")?;
        let response = attempts_of(&self.shared.settings, "Get", Again::Answered, || {
            self.endpoint.client.get(url.clone())
        })
        .await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.authority.challenged(&challenges(&response));
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> &RegistrySettings {
        &self.shared.settings
    }

    /// A path below the registry's address.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        self.endpoint
            .base
            .join(path)
            .map_err(|error| Error::protocol("registry address", format!("{path:?}: {error}")))
    }

    /// `v2/<repository>/<rest>`
    pub(super) fn repository_url(&self, rest: &str) -> Result<Url> {
        self.url(&format!("v2/{}/{rest}", self.repository))
    }

    /// Sends a request, again if that may help, with what the registry wants to know of us.
    ///
    /// # Errors
    /// Nobody answers, or there are no (good) credentials. Other answers are given back whatever their status.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        add: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        self.send_scoped(&self.scope, method, url, Again::Always, add)
            .await
    }

    /// [`Session::send`], tried once: for what is repeated by the caller.
    pub(super) async fn send_once(
        &self,
        method: Method,
        url: &Url,
        add: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        self.send_scoped(&self.scope, method, url, Again::Never, add)
            .await
    }

    /// [`Session::send`] with the right to read another repository as well.
    pub(super) async fn send_reading(
        &self,
        other: &str,
        method: Method,
        url: &Url,
        add: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let scope = format!("{} repository:{other}:pull", self.scope);
        self.send_scoped(&scope, method, url, Again::Always, add).await
    }

    async fn send_scoped(
        &self,
        scope: &str,
        method: Method,
        url: &Url,
        again: Again,
        add: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let client = &self.endpoint.client;
        let mut renewed = false;
        loop {
            // Nothing of ours goes to the hosts that a registry sends us to.
            let ours = same_origin(&self.endpoint.base, url);
            let authorization = if ours {
                self.authority.header(client, self.settings(), scope).await?
            } else {
                None
            };
            let make = || {
                let request = add(client.request(method.clone(), url.clone()));
                match &authorization {
                    Some(value) => request.header(header::AUTHORIZATION, value.clone()),
                    None => request,
                }
            };
            let response = attempts_of(self.settings(), go(&method), again, make).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !ours || !same_origin(url, response.url()) {
                return Ok(response);
            }
            // A token that has run out, or a registry that asks only where it matters.
            let known = self.authority.challenged(&challenges(&response));
            if renewed || !known {
                if authorization.is_none() {
                    return Err(self.no_credentials(&method, url));
                }
                return Ok(response);
            }
            renewed = true;
            self.authority.forget(scope).await;
        }
    }

    fn no_credentials(&self, method: &Method, url: &Url) -> Error {
        Error::NoCredentials {
            method: go(method).into(),
            url: shown(url),
            host: self.endpoint.base.host_str().unwrap_or_default().to_owned()
                + &self
                    .endpoint
                    .base
                    .port()
                    .map(|port| format!(":{port}"))
                    .unwrap_or_default(),
        }
    }

    /// Reads an answer that is no good.
    pub(super) async fn refusal(&self, method: &Method, response: Response) -> Refusal {
        Refusal::read(go(method), response, self.settings().patience.answer).await
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }
}

fn challenges(response: &Response) -> Vec<Challenge> {
    response
        .headers()
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(Challenge::parse)
        .collect()
}

fn same_origin(a: &Url, b: &Url) -> bool {
    (a.scheme(), a.host_str(), a.port_or_known_default())
        == (b.scheme(), b.host_str(), b.port_or_known_default())
}

/// A method as Go's client names it in its errors.
pub(super) fn go(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        Method::DELETE => "Delete",
        _ => "Get",
    }
}

/// Sends a request until there is an answer that does not ask for another try.
///
/// # Errors
/// No answer, or `429` for longer than we wait.
pub(super) async fn attempts(
    settings: &RegistrySettings,
    method: &str,
    make: impl Fn() -> RequestBuilder,
) -> Result<Response> {
    attempts_of(settings, method, Again::Always, make).await
}

/// When a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Always,
    /// When somebody has answered: whether anybody is there is the question.
    Answered,
    Never,
}

async fn attempts_of(
    settings: &RegistrySettings,
    method: &str,
    again: Again,
    make: impl Fn() -> RequestBuilder,
) -> Result<Response> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let last = again == Again::Never || attempt >= settings.max_attempts.max(1);
        let pause = match once(settings, method, make()).await {
            Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS && again != Again::Never => {
                let refusal = Refusal::read(method, response, settings.patience.answer).await;
                let wanted = refusal.retry_after.unwrap_or_else(|| back_off(settings, attempt));
                if last || wanted > settings.patience.longest_pause {
                    return Err(refusal.into_error());
                }
                wanted.max(back_off(settings, attempt))
            }
            Ok(response) if is_passing(response.status()) => {
                if last {
                    return Ok(response);
                }
                back_off(settings, attempt)
            }
            Ok(response) => return Ok(response),
            Err(error) if error.is_passing() && again == Again::Always && !last => {
                back_off(settings, attempt)
            }
            Err(error) => return Err(error),
        };
        tokio::time::sleep(pause).await;
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// The pause after the `attempt`-th try: doubled each time, and of random length, so that a fleet does not come back at once.
pub(super) fn back_off(settings: &RegistrySettings, attempt: u32) -> Duration {
    let patience = &settings.patience;
    let full = patience
        .back_off
        .saturating_mul(1 << attempt.saturating_sub(1).min(16));
    full.min(patience.longest_pause)
        .mul_f64(rand::random_range(0.5..1.0))
}

async fn once(settings: &RegistrySettings, method: &str, request: RequestBuilder) -> Result<Response> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| Error::protocol("request", error.to_string()))?;
    let url = shown(request.url());
    let failed = |source| Error::Transport {
        method: method.into(),
        url: url.clone(),
        source,
    };
    let silence = settings.patience.answer;
    match tokio::time::timeout(silence, client.execute(request)).await {
        Ok(answer) => answer.map_err(|error| failed(Cause::Http(error))),
        Err(_) => Err(failed(Cause::Silence(silence))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let settings = RegistrySettings::default();
        for (attempt, full) in [
            (1, 500),
            (2, 1000),
            (3, 2000),
            (6, 16_000),
            (8, 60_000),
            (200, 60_000),
        ] {
            let full = Duration::from_millis(full);
            let pauses: Vec<Duration> = (0..50).map(|_| back_off(&settings, attempt)).collect();
            assert!(
                pauses.iter().all(|pause| *pause >= full / 2 && *pause <= full),
                "{attempt}: {pauses:?}"
            );
            assert!(
                pauses.iter().any(|pause| *pause != pauses[0]),
                "a fleet would come back at once"
            );
        }
    }
}
