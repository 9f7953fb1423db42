//! Files of containers on the wire: archives as streams of chunks.

use std::io;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use pontoon_proto::v1::{
    Chunk, ContainerPathRequest, ContainerRequest, CopyFromContainerResponse, CopyToContainerRequest, Empty,
    copy_from_container_response, copy_to_container_request,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Answer, BoxStream, done, status};
use crate::Engine;

/// Chunks of an upload that wait for the helper.
const CHUNKS: usize = 8;

pub(super) async fn export(engine: &Arc<Engine>, request: &ContainerRequest) -> Answer<BoxStream<Chunk>> {
    let chunks = engine
        .export(&request.target)
        .await
        .map_err(|error| status(&error))?;
    let chunks = ReceiverStream::new(chunks);
    let chunks = chunks.map(|chunk| chunk.map(|data| Chunk { data }).map_err(|error| status(&error)));
    Ok(Response::new(Box::pin(chunks)))
}

pub(super) async fn copy_out(
    engine: &Arc<Engine>,
    request: &ContainerPathRequest,
) -> Answer<BoxStream<CopyFromContainerResponse>> {
    use copy_from_container_response::Response as Part;
    let answer = |response| CopyFromContainerResponse {
        response: Some(response),
    };
    let (stat, chunks) = engine.copy_out(request).await.map_err(|error| status(&error))?;
    let first = stream::iter([Ok(answer(Part::Stat(stat)))]);
    let rest = ReceiverStream::new(chunks).map(move |chunk| match chunk {
        Ok(data) => Ok(answer(Part::Data(data))),
        Err(error) => Err(status(&error)),
    });
    Ok(Response::new(Box::pin(first.chain(rest))))
}

pub(super) async fn copy_in(
    engine: &Arc<Engine>,
    mut requests: Streaming<CopyToContainerRequest>,
) -> Answer<Empty> {
    use copy_to_container_request::Request;
    let first = requests.message().await?.and_then(|message| message.request);
    let Some(Request::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message of a copy must say where it goes",
        ));
    };
    let (sender, archive) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        loop {
            let chunk = match requests.message().await {
                Ok(Some(message)) => match message.request {
                    Some(Request::Data(data)) => Ok(data),
                    _ => continue,
                },
                Ok(None) => return,
                Err(status) => Err(io::Error::other(status.message().to_owned())),
            };
            let broken = chunk.is_err();
            if sender.send(chunk).await.is_err() || broken {
                return;
            }
        }
    });
    done(engine.copy_in(start, archive).await)
}
