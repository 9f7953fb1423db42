//! One blob to a registry (distribution spec, "Pushing blobs"): is it there, can it be taken from a neighbour, else it is sent: a small
//! one in one request, a large one as a stream that goes on where it broke off.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Method, Response, StatusCode, Url, header};

use super::{
    error::{Error, Result},
    progress::Progress,
    session::{Session, back_off},
};
use crate::Digest;

/// Up to this size a blob is sent in one request.
const WHOLE: u64 = 1 << 20;
/// Bytes read from the disk at once.
const PIECE: u64 = 256 << 10;
/// How often the flow of an upload is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A blob to send.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) content: Content,
}

/// Where its bytes are. An open file stays readable when its name goes.
#[derive(Clone, Debug)]
pub(super) enum Content {
    File(Arc<File>),
    Bytes(Bytes),
}

/// How a blob came to be in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    Exists,
    /// Taken from this repository.
    Mounted(String),
    Sent,
}

/// Where an upload stands.
struct Upload {
    location: Url,
    sent: u64,
}

/// True if the repository has the blob.
pub(super) async fn exists(session: &Session, digest: &Digest) -> Result<bool> {
    let url = session.repository_url(&format!("blobs/{digest}"))?;
    let response = session.send(Method::HEAD, &url, |request| request).await?;
    match response.status() {
        StatusCode::OK => Ok(true),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
        _ => Err(refused(session, Method::HEAD, response).await),
    }
}

/// Brings a blob into the repository. `neighbour`: a repository of the registry that probably has it.
pub(super) async fn upload(
    session: &Session,
    blob: &Blob,
    neighbour: Option<&str>,
    (progress, id): (&Progress, &str),
) -> Result<Uploaded> {
    if exists(session, &blob.digest).await? {
        return Ok(Uploaded::Exists);
    }
    let mut begun = None;
    if let Some(neighbour) = neighbour {
        match mount(session, &blob.digest, neighbour).await? {
            Mount::Done => return Ok(Uploaded::Mounted(neighbour.to_owned())),
            Mount::Begun(upload) => begun = Some(upload),
            Mount::Refused => {}
        }
    }
    let mut attempt = 0;
    let mut upload = begun;
    loop {
        let error = match send(session, blob, &mut upload, (progress, id)).await {
            Ok(()) => return Ok(Uploaded::Sent),
            Err(error) => error,
        };
        attempt += 1;
        let passing = error.is_passing() || matches!(error, Error::TooManyRequests { .. });
        let pause = match &error {
            Error::TooManyRequests {
                retry_after: Some(wait),
                ..
            } if *wait <= session.settings().patience.longest_pause => *wait,
            _ => back_off(session.settings(), attempt),
        };
        if !passing || attempt >= session.settings().max_attempts.max(1) {
            return Err(error);
        }
        tracing::debug!(digest = %blob.digest, %error, "upload is tried again");
        tokio::time::sleep(pause).await;
        // Where did it stop? A registry that does not say gets it all again.
        upload = match upload {
            Some(begun) => state(session, &begun).await.ok().flatten(),
            None => None,
        };
    }
}

enum Mount {
    Done,
    Begun(Upload),
    Refused,
}

/// Takes a blob from another repository of the registry, if that works.
pub(super) async fn mounted(session: &Session, digest: &Digest, neighbour: &str) -> Result<bool> {
    Ok(matches!(mount(session, digest, neighbour).await?, Mount::Done))
}

async fn mount(session: &Session, digest: &Digest, neighbour: &str) -> Result<Mount> {
    let mut url = session.repository_url("blobs/uploads/")?;
    url.query_pairs_mut()
        .append_pair("mount", &digest.to_string())
        .append_pair("from", neighbour);
    let response = session
        .send_reading(neighbour, Method::POST, &url, |request| {
            request.header(header::CONTENT_LENGTH, "0")
        })
        .await;
    match response {
        Ok(response) if response.status() == StatusCode::CREATED => Ok(Mount::Done),
        Ok(response) if response.status() == StatusCode::ACCEPTED => Ok(location(session, &response)
            .map_or(Mount::Refused, |location| {
                Mount::Begun(Upload { location, sent: 0 })
            })),
        // A neighbour that may not be read is no error: the blob is sent.
        Ok(_) | Err(Error::Unauthorized(_) | Error::NoCredentials { .. } | Error::Status { .. }) => {
            Ok(Mount::Refused)
        }
        Err(error) => Err(error),
    }
}

async fn send(
    session: &Session,
    blob: &Blob,
    upload: &mut Option<Upload>,
    shown: (&Progress, &str),
) -> Result<()> {
    let mut current = match upload.take() {
        Some(begun) => begun,
        None => begin(session).await?,
    };
    if blob.size <= WHOLE && current.sent == 0 {
        let response = put(session, blob, &current, Some((blob, shown))).await?;
        return finished(session, blob, response).await;
    }
    if current.sent < blob.size {
        *upload = Some(Upload {
            location: current.location.clone(),
            sent: current.sent,
        });
        let response = patch(session, blob, &current, shown).await?;
        if !response.status().is_success() {
            *upload = None;
            return Err(refused(session, Method::PATCH, response).await);
        }
        current = Upload {
            location: location(session, &response).unwrap_or(current.location),
            sent: blob.size,
        };
        *upload = Some(Upload {
            location: current.location.clone(),
            sent: current.sent,
        });
    }
    let response = put(session, blob, &current, None).await?;
    finished(session, blob, response).await
}

async fn begin(session: &Session) -> Result<Upload> {
    let url = session.repository_url("blobs/uploads/")?;
    let response = session
        .send(Method::POST, &url, |request| {
            request.header(header::CONTENT_LENGTH, "0")
        })
        .await?;
    if response.status() != StatusCode::ACCEPTED {
        return Err(refused(session, Method::POST, response).await);
    }
    let location = location(session, &response)
        .ok_or_else(|| Error::protocol(url.as_str(), "the registry does not say where to upload to"))?;
    Ok(Upload { location, sent: 0 })
}

/// How much of an upload the registry has; `None` when it forgot.
async fn state(session: &Session, upload: &Upload) -> Result<Option<Upload>> {
    let response = session
        .send(Method::GET, &upload.location, |request| request)
        .await?;
    if response.status() != StatusCode::NO_CONTENT {
        return Ok(None);
    }
    let last = response
        .headers()
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|range| range.trim_start_matches("bytes=").split_once('-'))
        .and_then(|(_, last)| last.parse::<u64>().ok());
    let location = location(session, &response).unwrap_or_else(|| upload.location.clone());
    // `0-0` is what registries answer when they have nothing: one byte more or less is not worth the doubt.
    Ok(last.filter(|last| *last > 0).map(|last| Upload {
        location,
        sent: last + 1,
    }))
}

/// Where the registry wants the next request.
fn location(session: &Session, response: &Response) -> Option<Url> {
    let text = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let url = response.url().join(text).ok()?;
    // A registry behind a proxy may not know that it is reached by HTTPS; credentials never go back to clear text.
    let base = &session.endpoint.base;
    if base.scheme() == "https" && url.scheme() == "http" && url.host_str() == base.host_str() {
        let mut url = url;
        url.set_scheme("https").ok()?;
        url.set_port(base.port()).ok()?;
        return Some(url);
    }
    matches!(url.scheme(), "http" | "https").then_some(url)
}

async fn patch(
    session: &Session,
    blob: &Blob,
    upload: &Upload,
    shown: (&Progress, &str),
) -> Result<Response> {
    let (from, length) = (upload.sent, blob.size - upload.sent);
    let sent = Arc::new(AtomicU64::new(from));
    let request = session.send_once(Method::PATCH, &upload.location, |request| {
        let request = request
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(body(&blob.content, from, blob.size, sent.clone()));
        // Old registries take a range only where it is needed.
        match from {
            0 => request,
            _ => request.header(header::CONTENT_RANGE, format!("{from}-{}", blob.size - 1)),
        }
    });
    watched(session, blob, request, &sent, shown).await
}

/// Ends an upload; with the whole blob, if it is small.
async fn put(
    session: &Session,
    blob: &Blob,
    upload: &Upload,
    whole: Option<(&Blob, (&Progress, &str))>,
) -> Result<Response> {
    let mut url = upload.location.clone();
    url.query_pairs_mut()
        .append_pair("digest", &blob.digest.to_string());
    let Some((blob, shown)) = whole else {
        return session
            .send_once(Method::PUT, &url, |request| {
                request.header(header::CONTENT_LENGTH, "0")
            })
            .await;
    };
    let sent = Arc::new(AtomicU64::new(0));
    let request = session.send_once(Method::PUT, &url, |request| {
        request
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, blob.size)
            .body(body(&blob.content, 0, blob.size, sent.clone()))
    });
    watched(session, blob, request, &sent, shown).await
}

/// Waits for an upload's answer as long as bytes are taken.
async fn watched(
    session: &Session,
    blob: &Blob,
    request: impl Future<Output = Result<Response>>,
    sent: &AtomicU64,
    (progress, id): (&Progress, &str),
) -> Result<Response> {
    let patience = session.settings().patience;
    let mut meter = progress.meter(id, "Pushing", blob.size);
    let mut request = std::pin::pin!(request);
    meter.at(sent.load(Ordering::Relaxed));
    let (mut mark, mut since) = (sent.load(Ordering::Relaxed), tokio::time::Instant::now());
    loop {
        tokio::select! {
            answer = &mut request => return answer,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = sent.load(Ordering::Relaxed);
        meter.at(now);
        if since.elapsed() < patience.window {
            continue;
        }
        // Once all is sent the answer's own time runs.
        if now < blob.size && now - mark < patience.window_bytes.min(blob.size - now) {
            return Err(Error::Stalled {
                what: format!("upload of {}", blob.digest),
                window: patience.window,
            });
        }
        (mark, since) = (now, tokio::time::Instant::now());
    }
}

/// The blob's bytes from `from` on.
fn body(content: &Content, from: u64, size: u64, sent: Arc<AtomicU64>) -> Body {
    sent.store(from, Ordering::Relaxed);
    let file = match content {
        Content::Bytes(bytes) => {
            let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
            sent.store(size, Ordering::Relaxed);
            return Body::from(bytes.slice(start..));
        }
        Content::File(file) => file.clone(),
    };
    let pieces = stream::try_unfold((file, from), move |(file, at)| {
        let sent = sent.clone();
        async move {
            sent.store(at, Ordering::Relaxed);
            if at >= size {
                return Ok(None);
            }
            let length = PIECE.min(size - at);
            let reader = file.clone();
            let piece = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
                reader.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            })
            .await
            .map_err(std::io::Error::other)??;
            Ok::<_, std::io::Error>(Some((piece, (file, at + length))))
        }
    });
    Body::wrap_stream(pieces)
}

async fn finished(session: &Session, blob: &Blob, response: Response) -> Result<()> {
    if response.status() != StatusCode::CREATED && response.status() != StatusCode::NO_CONTENT {
        return Err(refused(session, Method::PUT, response).await);
    }
    let said = response
        .headers()
        .get("docker-content-digest")
        .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
    match said {
        Some(said) if said != blob.digest => Err(Error::protocol(
            format!("upload of {}", blob.digest),
            format!("the registry stored {said}"),
        )),
        _ => Ok(()),
    }
}

/// Why a push is refused, in Docker's words.
pub(super) async fn refused(session: &Session, method: Method, response: Response) -> Error {
    let status = response.status();
    let refusal = session.refusal(&method, response).await;
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::Unauthorized(if refusal.reason.is_empty() {
                "denied: requested access to the resource is denied".to_owned()
            } else {
                refusal.reason
            })
        }
        _ => refusal.into_error(),
    }
}
