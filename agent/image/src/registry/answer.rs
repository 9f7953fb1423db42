//! Answers of registries: bodies read up to a bound, and what an error answer says, in Docker's words (distribution
//! `registry/api/errcode`).

use std::time::{Duration, SystemTime};

use reqwest::{Response, StatusCode, header};
use serde::Deserialize;

use super::error::{Cause, Error, Result};

/// Bytes of an error answer that are looked at.
const ERROR_BYTES: usize = 64 << 10;
/// Characters of a registry's message that are passed on.
const MESSAGE_CHARS: usize = 1024;

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
    /// Token servers of the older kind, and Docker Hub at times.
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// An answer other than the one hoped for.
pub(super) struct Refusal {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) status: StatusCode,
    /// The registry's error codes.
    pub(super) codes: Vec<String>,
    /// `code in words: message`, may be empty.
    pub(super) reason: String,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads what an error answer says.
    pub(super) async fn read(method: &str, response: Response, patience: Duration) -> Self {
        let (url, status) = (shown(response.url()), response.status());
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| pause(value.to_str().ok()?, SystemTime::now()));
        let body = tokio::time::timeout(patience, body_up_to(response, ERROR_BYTES)).await;
        let body = body.ok().and_then(Result::ok).flatten().unwrap_or_default();
        let (codes, reason) = words(&body);
        Refusal {
            method: method.into(),
            url,
            status,
            codes,
            reason,
            retry_after,
        }
    }

    /// As the general error for it.
    pub(super) fn into_error(self) -> Error {
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let reason = self.reason.trim_start_matches("toomanyrequests: ");
            return Error::TooManyRequests {
                reason: if reason.is_empty() {
                    "the registry limits requests"
                } else {
                    reason
                }
                .into(),
                retry_after: self.retry_after,
            };
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let reason = match self.reason.as_str() {
                "" => "unauthorized: authentication required".to_owned(),
                said if said.contains("unauthorized") || said.contains("denied") => said.to_owned(),
                said => format!("unauthorized: {said}"),
            };
            return Error::Unauthorized(format!("{} {:?}: {reason}", self.method, self.url));
        }
        Error::Status {
            method: self.method,
            url: self.url,
            status: status_text(self.status),
            reason: self.reason,
        }
    }
}

/// `404 Not Found`
pub(super) fn status_text(status: StatusCode) -> String {
    format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or(""))
        .trim_end()
        .to_owned()
}

/// Codes and their text.
fn words(body: &[u8]) -> (Vec<String>, String) {
    let Ok(parsed) = serde_json::from_slice::<Errors>(body) else {
        return (Vec::new(), String::new());
    };
    let codes = parsed.errors.iter().map(|e| clean(&e.code)).collect();
    let lines: Vec<String> = parsed
        .errors
        .iter()
        .map(|e| {
            let code = clean(&e.code).to_lowercase().replace('_', " ");
            let message = clean(&e.message);
            match (code.is_empty(), message.is_empty()) {
                (true, _) => message,
                (_, true) => code,
                _ => format!("{code}: {message}"),
            }
        })
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return (codes, clean(&parsed.details));
    }
    (codes, lines.join("; "))
}

/// A stranger's text for the user's terminal: no control characters, not too long.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MESSAGE_CHARS)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// An address for messages: without what may be secret in it (signed addresses of storage).
pub(super) fn shown(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    let secret = url.query().is_some_and(|query| {
        ["ignature", "oken", "xpires", "_state"]
            .iter()
            .any(|w| query.contains(w))
    });
    if secret {
        url.set_query(Some("..."));
    }
    // Neither fails for an address that has a host.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()?;
    let now = jiff::Timestamp::try_from(now).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// The whole body, `None` when it has more than `limit` bytes.
pub(super) async fn body_up_to(mut response: Response, limit: usize) -> Result<Option<Vec<u8>>> {
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Ok(None);
    }
    let url = shown(response.url());
    let broken = |source| Error::Transport {
        method: "read".into(),
        url: url.clone(),
        source: Cause::Http(source),
    };
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_dockers_words() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"x":1}}]}"#;
        assert_eq!(
            words(body),
            (
                vec!["MANIFEST_UNKNOWN".to_owned()],
                "manifest unknown: manifest unknown".to_owned()
            )
        );
        let two = br#"{"errors":[{"code":"DENIED","message":"a\u001b[31m"},{"message":"b"}]}"#;
        assert_eq!(words(two).1, "denied: a [31m; b");
        assert_eq!(words(br#"{"details":"incorrect"}"#).1, "incorrect");
        assert_eq!(words(b"<html>"), (Vec::new(), String::new()));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(pause("7", now), Some(Duration::from_secs(7)));
        assert_eq!(
            pause("Sun, 06 Nov 1994 08:49:47 GMT", now),
            Some(Duration::from_secs(10))
        );
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:27 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("soon", now), None);
    }

    #[test]
    fn secrets_of_addresses_are_not_shown() {
        let url = reqwest::Url::parse("https://u:p@s3.example/b?X-Amz-Signature=abc").unwrap();
        assert_eq!(shown(&url), "https://s3.example/b?...");
    }
}
