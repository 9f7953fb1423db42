//! `logs`.

use std::collections::{BTreeMap, HashMap};

use clap::Args;
use futures_util::FutureExt;
use pontoon_proto::v1::LogsRequest;
use tokio::io::AsyncWriteExt;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::{human, time};

/// `logs [OPTIONS] CONTAINER`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short = 'f', long)]
    follow: bool,
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
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_name = "string", allow_hyphen_values = true)]
    until: Option<String>,
    /// The container
    container: String,
}

/// Text to gather before it is written.
const CHUNK: usize = 64 << 10;

/// Lines that go to one of our streams with one write.
#[derive(Default)]
struct Printer {
    text: Vec<u8>,
    stderr: bool,
}

impl Printer {
    async fn flush(&mut self) -> std::io::Result<()> {
        if self.stderr {
            let mut stderr = tokio::io::stderr();
            stderr.write_all(&self.text).await?;
            stderr.flush().await?;
        } else {
            let mut stdout = tokio::io::stdout();
            stdout.write_all(&self.text).await?;
            stdout.flush().await?;
        }
        self.text.clear();
        Ok(())
    }
}

/// Reads `--tail`: "all" (or a negative number) is no limit.
///
/// # Errors
/// Quotes a text that is no number.
pub fn parse_tail(text: &str) -> Result<Option<u64>, Failure> {
    if text == "all" {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err(Failure::new(format!(
            "invalid value {text:?} for --tail: use a number of lines, or all"
        ))),
    }
}

/// Reads `--since` or `--until`; 0 is none. Told as Docker's daemon tells it.
///
/// # Errors
/// Quotes a text that is no point in time.
pub fn parse_time(flag: &str, text: Option<&str>) -> Result<i64, Failure> {
    match text {
        None | Some("") => Ok(0),
        Some(text) => {
            time::parse(text).map_err(|error| Failure::new(format!("invalid value for {flag:?}: {error}")))
        }
    }
}

/// Attributes as `--details` shows them: `a=1,b=2`, in the form of a URL's query.
pub fn details(attributes: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = attributes.iter().collect();
    let pairs: Vec<String> = sorted
        .iter()
        .map(|(name, value)| format!("{}={}", query_escape(name), query_escape(value)))
        .collect();
    pairs.join(",")
}

/// As Go's `url.QueryEscape`.
fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Runs `logs`.
///
/// # Errors
/// The daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let request = LogsRequest {
        target: arguments.container,
        follow: arguments.follow,
        stdout: true,
        stderr: true,
        tail: parse_tail(&arguments.tail)?,
        since: parse_time("since", arguments.since.as_deref())?,
        until: parse_time("until", arguments.until.as_deref())?,
        details: arguments.details,
    };
    let client = Client::connect(host).await?;
    let mut entries = client.engine().logs(request).await?.into_inner();
    let mut printer = Printer::default();
    loop {
        // What has come already is written at once: a write a line would cost more than all the rest.
        let next = match entries.message().now_or_never() {
            Some(next) => next,
            None => {
                printer.flush().await?;
                entries.message().await
            }
        };
        let Some(entry) = next? else { break };
        let stderr = entry.stream == 2;
        if printer.stderr != stderr || printer.text.len() >= CHUNK {
            printer.flush().await?;
            printer.stderr = stderr;
        }
        if arguments.timestamps {
            printer
                .text
                .extend_from_slice(human::rfc3339(entry.timestamp).as_bytes());
            printer.text.push(b' ');
        }
        if arguments.details {
            printer
                .text
                .extend_from_slice(details(&entry.attributes).as_bytes());
            printer.text.push(b' ');
        }
        printer.text.extend_from_slice(&entry.line);
    }
    printer.flush().await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_a_sorted_query() {
        let attributes = [("b", "x y/ä"), ("a.b-c_~", "1,2=3")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(details(&attributes), "a.b-c_~=1%2C2%3D3,b=x+y%2F%C3%A4");
        assert_eq!(details(&HashMap::new()), "");
    }
}
