//! One control connection: a hello, then requests answered in their order.

use std::{cell::RefCell, io, rc::Rc};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::Notify,
};

use super::server::Server;
use crate::protocol::{Hello, Operation, Outcome, PROTOCOL, Request, Response};

/// Serves a connection until it ends.
pub(crate) async fn serve(server: Rc<RefCell<Server>>, end: Rc<Notify>, stream: UnixStream) {
    if let Err(error) = exchange(server, end, stream).await {
        tracing::warn!(%error, "a control connection broke");
    }
}

async fn exchange(server: Rc<RefCell<Server>>, end: Rc<Notify>, stream: UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {peer} may not control netd"),
        ));
    }
    let (reader, mut writer) = stream.into_split();
    let (mut reader, mut line) = (BufReader::new(reader), String::new());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Hello {
        protocol: PROTOCOL,
        version,
        pid: std::process::id(),
    };
    writer.write_all(&encode(&hello)?).await?;
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let Request { id, op } = serde_json::from_str(&line)?;
        let last = matches!(op, Operation::Shutdown);
        let (outcome, revision) = if last {
            (Outcome::Done, 0)
        } else {
            let mut server = server.borrow_mut();
            let outcome = server.apply(op);
            (outcome, server.revision())
        };
        let answered = writer
            .write_all(&encode(&Response {
                id,
                revision,
                outcome,
            })?)
            .await;
        if last {
            end.notify_one();
        }
        answered?;
    }
}

fn encode(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
