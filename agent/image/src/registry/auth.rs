//! Who we are to a registry: challenges (RFC 9110, section 11.6.1), basic credentials, and tokens by the distribution token
//! specification: `GET` with scope and service, or `POST` (OAuth 2) with an identity token. Used by `session`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use base64::Engine as _;
use reqwest::{Client, Method, Url, header::HeaderValue};
use serde::Deserialize;

use super::{
    answer::{Refusal, body_up_to, clean},
    error::{Error, Result},
    session::{self, go},
    settings::RegistrySettings,
};

/// Name of this client for OAuth 2.
const CLIENT_ID: &str = "pontoon";
/// Bytes of a token server's answer.
const TOKEN_BYTES: usize = 1 << 20;
/// Least life of a token (token specification: "should not be less than 60 seconds").
const LEAST_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed that long before its end.
const SPARE: Duration = Duration::from_secs(10);

/// What a user has for a registry; all empty: nothing. Debug output hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password, or a personal access token.
    pub password: String,
    /// A refresh token, instead of a password.
    pub identity_token: String,
    /// A bearer token that is sent as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    fn basic(&self) -> Option<HeaderValue> {
        if self.username.is_empty() && self.password.is_empty() {
            return None;
        }
        let pair = format!("{}:{}", self.username, self.password);
        let text = base64::engine::general_purpose::STANDARD.encode(pair);
        secret(&format!("Basic {text}"))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    pub(super) parameters: HashMap<String, String>,
}

impl Challenge {
    /// All challenges of a header: `Bearer realm="x",service="y", Basic realm="z"`.
    pub(super) fn parse(header: &str) -> Vec<Challenge> {
        let mut challenges: Vec<Challenge> = Vec::new();
        let mut rest = header.trim_start_matches([' ', ',', '\t']);
        while !rest.is_empty() {
            let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.is_empty() {
                rest = after[1..].trim_start_matches([' ', ',', '\t']);
                continue;
            }
            if let Some(value) = after.trim_start().strip_prefix('=') {
                let (value, after) = parameter(value.trim_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.insert(word.to_ascii_lowercase(), value);
                }
                rest = after;
            } else {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: HashMap::new(),
                });
                rest = after;
            }
            rest = rest.trim_start_matches([' ', ',', '\t']);
        }
        challenges
    }

    fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// A token or quoted string, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

struct Token {
    value: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    #[serde(default)]
    expires_in: u64,
}

/// What one session knows about its authority.
pub(super) struct Authority {
    credentials: Credentials,
    /// Credentials are not sent to a token server in clear text when the registry itself is reached by HTTPS.
    secure: bool,
    challenge: std::sync::Mutex<Option<Challenge>>,
    /// By scope. Held while a token is fetched: layers that start together ask once.
    tokens: tokio::sync::Mutex<HashMap<String, Token>>,
}

impl Authority {
    pub(super) fn new(credentials: Credentials, base: &Url) -> Self {
        Authority {
            credentials,
            secure: base.scheme() == "https",
            challenge: std::sync::Mutex::default(),
            tokens: tokio::sync::Mutex::default(),
        }
    }

    /// Takes note of what the registry asks for; true if it is something that we can answer.
    pub(super) fn challenged(&self, headers: &[Challenge]) -> bool {
        let wanted = ["bearer", "basic"]
            .iter()
            .find_map(|scheme| headers.iter().find(|c| c.scheme == *scheme));
        let known = wanted.is_some();
        *self.challenge.lock().unwrap_or_else(|e| e.into_inner()) = wanted.cloned();
        known
    }

    /// Forgets a token that was not accepted.
    pub(super) async fn forget(&self, scope: &str) {
        self.tokens.lock().await.remove(scope);
    }

    /// The `Authorization` header for a scope (`repository:a/b:pull`, several separated by blanks); none if none is wanted.
    pub(super) async fn header(
        &self,
        client: &Client,
        settings: &RegistrySettings,
        scope: &str,
    ) -> Result<Option<HeaderValue>> {
        if !self.credentials.registry_token.is_empty() {
            return Ok(secret(&format!("Bearer {}", self.credentials.registry_token)));
        }
        let challenge = self.challenge.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let Some(challenge) = challenge else {
            return Ok(None);
        };
        if challenge.scheme == "basic" {
            return Ok(self.credentials.basic());
        }
        let mut tokens = self.tokens.lock().await;
        if let Some(token) = tokens.get(scope).filter(|t| t.until > Instant::now()) {
            return Ok(Some(token.value.clone()));
        }
        let answer = self.fetch(client, settings, &challenge, scope, false).await?;
        let text = if answer.token.is_empty() {
            &answer.access_token
        } else {
            &answer.token
        };
        let bad = || {
            Error::protocol(
                format!("token server {}", challenge.get("realm")),
                "no token in its answer",
            )
        };
        let value = secret(&format!("Bearer {text}")).filter(|_| !text.is_empty());
        let value = value.ok_or_else(bad)?;
        let life = Duration::from_secs(answer.expires_in).max(LEAST_LIFE) - SPARE;
        // Tokens of years are cut, so that the sum below can't overflow.
        let until = Instant::now() + life.min(Duration::from_secs(86_400));
        tokens.insert(
            scope.to_owned(),
            Token {
                value: value.clone(),
                until,
            },
        );
        Ok(Some(value))
    }

    /// Asks for a refresh token, as `login` does; empty if the server gives none, or wants no token at all.
    pub(super) async fn identity_token(
        &self,
        client: &Client,
        settings: &RegistrySettings,
    ) -> Result<String> {
        let challenge = self.challenge.lock().unwrap_or_else(|e| e.into_inner()).clone();
        match challenge.filter(|c| c.scheme == "bearer") {
            Some(challenge) => {
                let answer = self.fetch(client, settings, &challenge, "", true).await?;
                Ok(answer.refresh_token)
            }
            None => Ok(String::new()),
        }
    }

    async fn fetch(
        &self,
        client: &Client,
        settings: &RegistrySettings,
        challenge: &Challenge,
        scope: &str,
        offline: bool,
    ) -> Result<TokenAnswer> {
        let realm = challenge.get("realm");
        let url = Url::parse(realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
        let url = url.ok_or_else(|| {
            Error::protocol(
                "authentication",
                format!("the registry names no token server but {:?}", clean(realm)),
            )
        })?;
        let identity = &self.credentials.identity_token;
        let has_secret = !identity.is_empty() || !self.credentials.password.is_empty();
        if self.secure && url.scheme() != "https" && has_secret {
            return Err(Error::protocol(
                "authentication",
                format!(
                    "the registry wants credentials sent to {} without encryption",
                    clean(realm)
                ),
            ));
        }
        let service = challenge.get("service");
        let response = if identity.is_empty() {
            self.get_token(client, settings, (url, service, scope, offline))
                .await?
        } else {
            let form = form(&[
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT_ID),
                ("scope", scope),
                ("refresh_token", identity),
            ]);
            session::attempts(settings, "Post", || {
                client
                    .request(Method::POST, url.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.clone())
            })
            .await?
        };
        if !response.status().is_success() {
            let refusal = Refusal::read("Get", response, settings.patience.answer).await;
            return Err(refusal.into_error());
        }
        let body = tokio::time::timeout(settings.patience.window, body_up_to(response, TOKEN_BYTES))
            .await
            .map_err(|_| Error::Stalled {
                what: format!("token server {}", clean(realm)),
                window: settings.patience.window,
            })??;
        let bad = || {
            Error::protocol(
                format!("token server {}", clean(realm)),
                "its answer is not understood",
            )
        };
        serde_json::from_slice(&body.ok_or_else(bad)?).map_err(|_| bad())
    }

    async fn get_token(
        &self,
        client: &Client,
        settings: &RegistrySettings,
        (mut url, service, scope, offline): (Url, &str, &str, bool),
    ) -> Result<reqwest::Response> {
        {
            let mut query = url.query_pairs_mut();
            if !service.is_empty() {
                query.append_pair("service", service);
            }
            for scope in scope.split(' ').filter(|s| !s.is_empty()) {
                query.append_pair("scope", scope);
            }
            if !self.credentials.username.is_empty() {
                query.append_pair("account", &self.credentials.username);
            }
            if offline {
                query.append_pair("client_id", CLIENT_ID);
                query.append_pair("offline_token", "true");
            }
        }
        let basic = self.credentials.basic();
        session::attempts(settings, go(&Method::GET), || {
            let request = client.request(Method::GET, url.clone());
            match &basic {
                Some(basic) => request.header("authorization", basic.clone()),
                None => request,
            }
        })
        .await
    }
}

/// A form's body.
fn form(fields: &[(&str, &str)]) -> String {
    // The encoding of forms and of queries is one.
    let mut url = Url::parse("http://form/").expect("a constant address");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_all_kinds() {
        let header = r#"Bearer realm="https://auth.example/token",service="reg, one",scope="repository:a/b:pull,push""#;
        let challenges = Challenge::parse(header);
        assert_eq!(challenges.len(), 1);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].get("service"), "reg, one");
        assert_eq!(challenges[0].get("scope"), "repository:a/b:pull,push");

        let two = Challenge::parse(r#"Negotiate, BASIC Realm="a \"b\"" , bearer realm=x,service=y"#);
        let schemes: Vec<&str> = two.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(two[1].get("realm"), "a \"b\"");
        assert_eq!(two[2].get("service"), "y");

        for odd in [
            "",
            ",",
            "=",
            "= =",
            "\"",
            "Basic realm=\"",
            "a=b",
            "Bearer ,,realm=,",
        ] {
            let _ = Challenge::parse(odd);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials {
            username: "u".into(),
            password: "hush".into(),
            ..Credentials::default()
        };
        assert!(!format!("{credentials:?}").contains("hush"));
        assert_eq!(form(&[("a", "x y&z"), ("b", "")]), "a=x+y%26z&b=");
    }
}
