//! Attach and exec on the wire: the first message names what is wanted, the first answer says that it is there.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use pontoon_proto::v1::{
    AttachRequest, ExecRequest, StdioResponse, TerminalSize, attach_request, exec_request, stdio_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Answer, BoxStream, status};
use crate::stdio::{AttachOptions, StdStream, StdioEvent, StdioInput, StdioSession};
use crate::{Engine, signal};

pub(super) async fn attach(
    engine: &Arc<Engine>,
    mut requests: Streaming<AttachRequest>,
) -> Answer<BoxStream<StdioResponse>> {
    use attach_request::Request;
    let first = requests.message().await?.and_then(|message| message.request);
    let Some(Request::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message of attach must be its start",
        ));
    };
    let options = AttachOptions {
        stdin: start.stdin,
        stdout: start.stdout,
        stderr: start.stderr,
    };
    let session = engine
        .attach(&start.target, options, start.logs)
        .await
        .map_err(|error| status(&error))?;
    let read = |message: AttachRequest| match message.request? {
        Request::Stdin(bytes) => Some(StdioInput::Stdin(bytes)),
        Request::StdinClose(close) => close.then_some(StdioInput::Close),
        Request::Resize(size) => Some(resize(size)),
        Request::Start(_) => None,
    };
    tokio::spawn(forward(requests, session.input.clone(), read));
    Ok(Response::new(respond(session)))
}

pub(super) async fn exec(
    engine: &Arc<Engine>,
    mut requests: Streaming<ExecRequest>,
) -> Answer<BoxStream<StdioResponse>> {
    use exec_request::Request;
    let first = requests.message().await?.and_then(|message| message.request);
    let Some(Request::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message of exec must be its start",
        ));
    };
    let session = engine.exec(start).await.map_err(|error| status(&error))?;
    let read = |message: ExecRequest| match message.request? {
        Request::Stdin(bytes) => Some(StdioInput::Stdin(bytes)),
        Request::StdinClose(close) => close.then_some(StdioInput::Close),
        Request::Resize(size) => Some(resize(size)),
        // A client's mistake here has no way back but the log.
        Request::Signal(name) => signal::parse(&name).ok().map(StdioInput::Signal),
        Request::Start(_) => None,
    };
    tokio::spawn(forward(requests, session.input.clone(), read));
    Ok(Response::new(respond(session)))
}

fn resize(size: TerminalSize) -> StdioInput {
    let clamp = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    StdioInput::Resize {
        rows: clamp(size.rows),
        columns: clamp(size.columns),
    }
}

/// Carries a client's messages until it or the session ends.
async fn forward<T>(
    mut requests: Streaming<T>,
    input: mpsc::Sender<StdioInput>,
    read: impl Fn(T) -> Option<StdioInput>,
) {
    loop {
        let message = tokio::select! {
            message = requests.message() => message,
            () = input.closed() => return,
        };
        let Ok(Some(message)) = message else { return };
        if let Some(message) = read(message)
            && input.send(message).await.is_err()
        {
            return;
        }
    }
}

fn respond(session: StdioSession) -> BoxStream<StdioResponse> {
    use stdio_response::Response;
    let answer = |response| StdioResponse {
        response: Some(response),
    };
    let attached = stream::iter([Ok(answer(Response::Attached(session.id)))]);
    let events = ReceiverStream::new(session.output).map(move |event| match event {
        Ok(StdioEvent::Output(StdStream::Stdout, bytes)) => Ok(answer(Response::Stdout(bytes))),
        Ok(StdioEvent::Output(StdStream::Stderr, bytes)) => Ok(answer(Response::Stderr(bytes))),
        Ok(StdioEvent::Exit(code)) => Ok(answer(Response::ExitCode(code))),
        Err(error) => Err(status(&error)),
    });
    Box::pin(attached.chain(events))
}
