//! One blob into the store: streamed, resumed by `Range` where the connection breaks, given up where next to nothing moves. The
//! store's writer (on a thread of its own) hashes, counts and keeps what has come. Called by `pull`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, header};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    answer::{body_up_to, shown},
    error::{Cause, Error, Result},
    progress::Meter,
    session::{Session, back_off},
    settings::Patience,
    share::Share,
};
use crate::{BlobWriter, Ingest, Transfer, oci::Descriptor};

/// Pieces on their way from the network to the disk.
const PIECES: usize = 32;
/// A broken connection does not count as a failed attempt when so much has come since the last one.
const WORTH: u64 = 1 << 20;

/// Fetches a blob, unless the store has it or somebody else is just fetching it. False: nothing was fetched.
pub(super) async fn download(
    session: &Session,
    ingest: &Share,
    blob: &Descriptor,
    mut meter: Meter,
) -> Result<bool> {
    let Some(sink) = Sink::open(ingest, blob).await? else {
        return Ok(false);
    };
    let resumed = sink.sent > 0;
    match fetch(session, sink, blob, &mut meter).await {
        // What an earlier, broken-off pull has left was no good: the whole blob once more.
        Err(Error::Image(crate::Error::Corrupt { .. })) if resumed => match Sink::open(ingest, blob).await? {
            Some(sink) => fetch(session, sink, blob, &mut meter).await?,
            None => return Ok(false),
        },
        other => other?,
    }
    Ok(true)
}

async fn fetch(session: &Session, mut sink: Sink, blob: &Descriptor, meter: &mut Meter) -> Result<()> {
    let (mut attempt, mut counted) = (0, sink.sent);
    while sink.sent < blob.size {
        let error = match receive(session, blob, &mut sink, meter).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        if sink.sent >= counted + WORTH {
            (attempt, counted) = (0, sink.sent);
        }
        attempt += 1;
        if !error.is_passing() || attempt >= session.settings().max_attempts.max(1) {
            return Err(error);
        }
        tracing::debug!(digest = %blob.digest, at = sink.sent, %error, "download is resumed");
        tokio::time::sleep(back_off(session.settings(), attempt)).await;
    }
    sink.finish().await
}

/// One request, from where the file ends.
async fn receive(session: &Session, blob: &Descriptor, sink: &mut Sink, meter: &mut Meter) -> Result<()> {
    let url = session.repository_url(&format!("blobs/{}", blob.digest))?;
    let from = sink.sent;
    let response = session
        .send(Method::GET, &url, |request| match from {
            0 => request,
            _ => request.header(header::RANGE, format!("bytes={from}-")),
        })
        .await?;
    let mut skip = match response.status() {
        // The registry ignores ranges: what is there already is skipped; its digest covers both.
        StatusCode::OK => from,
        StatusCode::PARTIAL_CONTENT => {
            check_range(&response, from, blob)?;
            0
        }
        StatusCode::RANGE_NOT_SATISFIABLE => return Err(short(blob, from)),
        _ => return Err(refused(session, response, blob).await),
    };
    let what = format!("blob {}", blob.digest);
    let mut flow = Flow::new(response, session.settings().patience, what);
    while let Some(piece) = flow.next().await? {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= skipped as u64;
        let piece = piece.slice(skipped..);
        if !piece.is_empty() {
            sink.write(piece).await?;
            meter.at(sink.sent.min(blob.size));
        }
    }
    if sink.sent < blob.size && sink.sent == from {
        return Err(short(blob, from));
    }
    Ok(())
}

fn short(blob: &Descriptor, there: u64) -> Error {
    crate::Error::corrupt(
        blob.digest,
        format!("the registry has only {there} of its {} bytes", blob.size),
    )
    .into()
}

fn check_range(response: &Response, from: u64, blob: &Descriptor) -> Result<()> {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if range.starts_with(&format!("bytes {from}-")) {
        return Ok(());
    }
    Err(Error::protocol(
        format!("blob {}", blob.digest),
        format!("asked to go on at {from}, the registry sends {range:?}"),
    ))
}

async fn refused(session: &Session, response: Response, blob: &Descriptor) -> Error {
    let status = response.status();
    let refusal = session.refusal(&Method::GET, response).await;
    let reason = if refusal.reason.is_empty() {
        "requested access to the resource is denied".to_owned()
    } else {
        refusal.reason.clone()
    };
    match status {
        StatusCode::NOT_FOUND => crate::Error::corrupt(blob.digest, "the registry does not have it").into(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
            repository: session.repository.clone(),
            reason,
        },
        _ => refusal.into_error(),
    }
}

/// A small blob (a configuration), checked.
pub(super) async fn small_blob(session: &Session, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    let Descriptor { digest, size, .. } = blob;
    if *size > limit {
        return Err(Error::protocol(
            format!("blob {digest}"),
            format!("{size} bytes where at most {limit} are taken"),
        ));
    }
    let url = session.repository_url(&format!("blobs/{digest}"))?;
    let response = session.send(Method::GET, &url, |request| request).await?;
    if !response.status().is_success() {
        return Err(refused(session, response, blob).await);
    }
    let window = session.settings().patience.window;
    let most = usize::try_from(*size).unwrap_or(usize::MAX);
    let body = tokio::time::timeout(window, body_up_to(response, most))
        .await
        .map_err(|_| Error::Stalled {
            what: format!("blob {digest}"),
            window,
        })??;
    let wrong = |reason: String| crate::Error::corrupt(*digest, reason);
    let body = body.ok_or_else(|| wrong(format!("the registry sends more than its {size} bytes")))?;
    let found = crate::Digest::of(&body);
    if found != *digest {
        return Err(wrong(format!("what arrived is {found}")).into());
    }
    Ok(body)
}

/// A body piece by piece, as long as enough of it comes.
struct Flow {
    response: Response,
    patience: Patience,
    what: String,
    /// Time spent waiting in this window. Waiting for our own disk does not count.
    waited: Duration,
    got: u64,
}

impl Flow {
    fn new(response: Response, patience: Patience, what: String) -> Self {
        Flow {
            response,
            patience,
            what,
            waited: Duration::ZERO,
            got: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let left = self.patience.window.saturating_sub(self.waited);
            let begun = Instant::now();
            let piece = tokio::time::timeout(left, self.response.chunk()).await;
            self.waited += begun.elapsed();
            let piece = match piece {
                Ok(Ok(piece)) => piece,
                Ok(Err(source)) => {
                    return Err(Error::Transport {
                        method: "read".into(),
                        url: shown(self.response.url()),
                        source: Cause::Http(source),
                    });
                }
                Err(_) => {
                    self.turn()?;
                    continue;
                }
            };
            self.got += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            if self.waited >= self.patience.window && piece.is_some() {
                self.turn()?;
            }
            return Ok(piece);
        }
    }

    /// Ends a window, and the transfer if too little came in it.
    fn turn(&mut self) -> Result<()> {
        if self.got < self.patience.window_bytes {
            return Err(Error::Stalled {
                what: self.what.clone(),
                window: self.patience.window,
            });
        }
        self.waited = Duration::ZERO;
        self.got = 0;
        Ok(())
    }
}

/// What the writer's thread is told. Without an end the writer is dropped: what has come stays for another time.
enum Piece {
    Bytes(Bytes),
    End,
}

/// The store's end of a download.
struct Sink {
    pieces: Option<mpsc::Sender<Piece>>,
    thread: Option<JoinHandle<crate::Result<()>>>,
    sent: u64,
}

impl Sink {
    /// Waits while another pull fetches the same blob; `None` when the store has it.
    async fn open(ingest: &Share, blob: &Descriptor) -> Result<Option<Self>> {
        let (pieces, receiver) = mpsc::channel(PIECES);
        let (tell, offset) = oneshot::channel();
        let (ingest, blob) = (ingest.clone(), blob.clone());
        let thread = tokio::task::spawn_blocking(move || {
            match ingest.blob(&blob)? {
                Transfer::Present => Ok(()),
                Transfer::Needed(writer) => {
                    // Nobody listens: the pull was given up while we waited.
                    if tell.send(writer.offset()).is_err() {
                        return Ok(());
                    }
                    write(&ingest, writer, receiver)
                }
            }
        });
        let Ok(sent) = offset.await else {
            thread.await.map_err(|_| Error::Cancelled)??;
            return Ok(None);
        };
        Ok(Some(Sink {
            pieces: Some(pieces),
            thread: Some(thread),
            sent,
        }))
    }

    async fn write(&mut self, piece: Bytes) -> Result<()> {
        let length = piece.len() as u64;
        self.send(Piece::Bytes(piece)).await?;
        self.sent += length;
        Ok(())
    }

    async fn send(&mut self, piece: Piece) -> Result<()> {
        let sent = match &self.pieces {
            Some(pieces) => pieces.send(piece).await.is_ok(),
            None => false,
        };
        if sent {
            return Ok(());
        }
        // The writer is gone because the disk is full, or too much has come: it says so itself.
        self.wait().await?;
        Err(Error::Cancelled)
    }

    /// The blob is whole: checks it.
    async fn finish(mut self) -> Result<()> {
        self.send(Piece::End).await?;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<()> {
        self.pieces = None;
        match self.thread.take() {
            Some(thread) => Ok(thread.await.map_err(|_| Error::Cancelled)??),
            None => Err(Error::Cancelled),
        }
    }
}

fn write(
    ingest: &Ingest,
    mut writer: Box<BlobWriter>,
    mut pieces: mpsc::Receiver<Piece>,
) -> crate::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => writer.write(&bytes)?,
            Piece::End => return ingest.finish(writer),
        }
    }
    Ok(())
}
