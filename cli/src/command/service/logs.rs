//! `service logs`.

use clap::Args;
use pontoon_proto::v1::{LogSelector, ServiceLogEntry, ServiceLogsRequest};
use tokio::io::AsyncWriteExt;

use crate::client::Client;
use crate::command::container::logs::{details, parse_tail, parse_time};
use crate::error::Outcome;
use crate::output::human;

/// `service logs [OPTIONS] SERVICE|TASK`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short = 'f', long)]
    follow: bool,
    /// Do not map IDs to Names in output
    #[arg(long)]
    no_resolve: bool,
    /// Do not include task IDs in output
    #[arg(long)]
    no_task_ids: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Do not neatly format logs
    #[arg(long)]
    raw: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string", allow_hyphen_values = true)]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(
        short = 'n',
        long,
        value_name = "string",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,
    /// Show timestamps
    #[arg(short = 't', long)]
    timestamps: bool,
    /// A service or a task
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

/// Runs `service logs`.
///
/// # Errors
/// The daemon's.
pub async fn run(client: &Client, arguments: Arguments) -> Outcome {
    let selector = LogSelector {
        target: arguments.target.clone(),
        follow: arguments.follow,
        tail: parse_tail(&arguments.tail)?,
        since: parse_time("since", arguments.since.as_deref())?,
        until: 0,
        details: arguments.details,
    };
    let mut entries = client
        .control()
        .service_logs(ServiceLogsRequest {
            selector: Some(selector),
        })
        .await?
        .into_inner();
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(entry) = entries.message().await? {
        if !entry.warning.is_empty() {
            eprintln!(
                "warning: incomplete log stream. some logs could not be retrieved: {}",
                entry.warning
            );
            continue;
        }
        let mut line = prefix(&entry, &arguments).into_bytes();
        if arguments.details {
            line.extend_from_slice(details(&entry.attributes).as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(&entry.line);
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if entry.stream == 2 {
            stderr.write_all(&line).await?;
            stderr.flush().await?;
        } else {
            stdout.write_all(&line).await?;
            stdout.flush().await?;
        }
    }
    Ok(0)
}

fn prefix(entry: &ServiceLogEntry, arguments: &Arguments) -> String {
    let time = if arguments.timestamps {
        format!("{} ", human::rfc3339(entry.timestamp))
    } else {
        String::new()
    };
    if arguments.raw {
        return time;
    }
    let node = if arguments.no_resolve || entry.node_hostname.is_empty() {
        &entry.node_id
    } else {
        &entry.node_hostname
    };
    let slot = if entry.slot > 0 {
        entry.slot.to_string()
    } else {
        entry.node_id.clone()
    };
    let task = if arguments.no_trunc {
        entry.task_id.as_str()
    } else {
        human::short_id(&entry.task_id)
    };
    let task = if arguments.no_task_ids {
        String::new()
    } else {
        format!(".{task}")
    };
    format!("{time}{}.{slot}{task}@{node}    | ", entry.service_name)
}
