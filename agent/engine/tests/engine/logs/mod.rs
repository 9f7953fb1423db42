//! Log drivers with real containers. Here is what the cases share: containers with a log, its lines, a client that types
//! and listens.

mod files;
mod journald;
mod options;
mod receivers;
mod syslog;

use std::path::PathBuf;

use pontoon_engine::{StdioEvent, StdioInput, StdioSession};
use pontoon_proto::v1::{CreateContainerRequest, LogDriver, LogEntry, LogsRequest};

use crate::bed::{Bed, all_streams, next, sh, with};

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [
        files::cases(),
        journald::cases(),
        options::cases(),
        receivers::cases(),
        syslog::cases(),
    ]
    .concat()
}

fn driver(name: &str, options: &[(&str, &str)]) -> Option<LogDriver> {
    Some(LogDriver {
        name: name.into(),
        options: options
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
    })
}

fn logged(script: &str, name: &str, options: &[(&str, &str)]) -> CreateContainerRequest {
    with(sh(script), |_, host| host.log = driver(name, options))
}

async fn read(bed: &Bed, request: LogsRequest) -> Vec<LogEntry> {
    let mut entries = bed.engine.logs(&request).map_err(|e| e.chain()).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = next(&mut entries).await {
        all.push(entry.unwrap());
    }
    all
}

fn text(entries: &[LogEntry], stream: u32) -> String {
    let lines = entries.iter().filter(|entry| entry.stream == stream);
    lines.map(|entry| String::from_utf8_lossy(&entry.line)).collect()
}

fn folder(bed: &Bed, id: &str) -> PathBuf {
    bed.path().join("data/engine/containers").join(id)
}

/// What the container's shim has told, while it runs.
fn shim_log(bed: &Bed, id: &str) -> String {
    let path = bed.path().join("run/shim").join(id).join("shim.log");
    std::fs::read_to_string(path).unwrap_or_default()
}

async fn say(session: &StdioSession, text: &str) {
    session
        .input
        .send(StdioInput::Stdin(text.to_owned().into()))
        .await
        .unwrap();
}

async fn hear(session: &mut StdioSession, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        // Only the end can still become what is waited for.
        let surplus = seen.len().saturating_sub(wanted.len());
        seen = seen.chars().skip(surplus).collect();
        match next(&mut session.output).await {
            Some(Ok(StdioEvent::Output(_, bytes))) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{wanted:?} was not said but {seen:?}, then {other:?}"),
        }
    }
}

/// Starts a container whose stdin is open, with a client.
async fn with_stdin(bed: &Bed, id: &str) -> StdioSession {
    let session = bed.engine.attach(id, all_streams(), false).await.unwrap();
    bed.engine.start(id).await.map_err(|e| e.chain()).unwrap();
    session
}
