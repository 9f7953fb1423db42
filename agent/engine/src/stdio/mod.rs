//! Streams between clients and processes: `attach` to a container, `exec` of a further process. A session is two channels;
//! a slow client slows the process down, one that goes away does not hold it up.

mod attach;
mod exec;

pub(crate) use exec::Started;

use bytes::Bytes;
use pontoon_runtime::{Attachment, OutputReader, ShimClient, StdinWriter};
use tokio::sync::mpsc;

pub use pontoon_runtime::{AttachOptions, StdStream};

use crate::container::Container;
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result};

/// Pieces of output that wait for the client.
const OUTPUT: usize = 8;
/// Pieces of input that wait for the process.
const INPUT: usize = 8;

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StdioEvent {
    /// Output.
    Output(StdStream, Bytes),
    /// The process has ended; nothing follows.
    Exit(i32),
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StdioInput {
    /// Input.
    Stdin(Bytes),
    /// End of input.
    Close,
    /// The client's terminal has this size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// A signal for an exec'd process, by number.
    Signal(i32),
}

/// A client's side of the streams. They end with the process; dropping `output` detaches.
#[derive(Debug)]
pub struct StdioSession {
    /// The container's or exec's id.
    pub id: String,
    /// What the process writes.
    pub output: mpsc::Receiver<Result<StdioEvent>>,
    /// What it reads.
    pub input: mpsc::Sender<StdioInput>,
}

/// Streams that were joined to a process.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The container's shim.
    pub shim: ShimClient,
    /// The streams.
    pub attachment: Attachment,
}

type Output = mpsc::Sender<Result<StdioEvent>>;

fn channels() -> (
    Output,
    mpsc::Receiver<Result<StdioEvent>>,
    mpsc::Sender<StdioInput>,
    mpsc::Receiver<StdioInput>,
) {
    let (output, from_process) = mpsc::channel(OUTPUT);
    let (to_process, input) = mpsc::channel(INPUT);
    (output, from_process, to_process, input)
}

/// Whose streams are carried.
#[derive(Clone, Copy)]
enum Owner<'a> {
    /// A container's own process.
    Container(&'a Engine, &'a Container),
    /// A further process, by its id.
    Exec(&'a str),
}

/// Carries bytes both ways until the output ends or the client goes.
async fn carry(joined: Joined, owner: Owner<'_>, output: &Output, input: mpsc::Receiver<StdioInput>) {
    let (reader, writer) = joined.attachment.split();
    tokio::select! {
        () = carry_output(reader, output) => {}
        () = carry_input(&joined.shim, owner, writer, input) => {}
        () = output.closed() => {}
    }
}

async fn carry_output(mut reader: OutputReader, output: &Output) {
    loop {
        let event = match reader.next().await {
            Ok(Some((stream, bytes))) => Ok(StdioEvent::Output(stream, bytes)),
            Ok(None) => return,
            Err(error) => Err(Error::runtime("read output", error)),
        };
        let failed = event.is_err();
        if output.send(event).await.is_err() || failed {
            return;
        }
    }
}

/// Never ends by itself: a client that sends no more may still listen.
async fn carry_input(
    shim: &ShimClient,
    owner: Owner<'_>,
    mut writer: StdinWriter,
    mut input: mpsc::Receiver<StdioInput>,
) {
    let exec = match owner {
        Owner::Container(..) => None,
        Owner::Exec(id) => Some(id),
    };
    while let Some(request) = input.recv().await {
        let done = match request {
            StdioInput::Stdin(bytes) => writer.write(&bytes).await,
            StdioInput::Close => writer.close().await,
            StdioInput::Resize { rows, columns } => {
                if let Owner::Container(engine, container) = owner {
                    let (rows, columns) = (u32::from(rows), u32::from(columns));
                    engine.emit_for(container, ContainerEventKind::Resized { rows, columns });
                }
                shim.resize(exec, rows, columns).await
            }
            StdioInput::Signal(number) => match exec {
                Some(exec) => shim.kill_exec(exec, number).await,
                None => shim.kill(number, false).await,
            },
        };
        if let Err(error) = done {
            // The process may just have ended; its output tells.
            tracing::debug!(error = error.chain(), "input not delivered");
        }
    }
    // Keeps the writer: dropping it would end the attachment's input side early.
    std::future::pending::<()>().await;
}
