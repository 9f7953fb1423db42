//! The program inside the containers of the tests and the demo: a web server that says which task it is, a client that asks it by
//! name, and small probes (DNS, UDP and TCP echo). Static, so that it runs in an image made from nothing.
//!
//! # Layout
//! - [`serve`]: the server; [`call`]: `get` and `call`, the client; [`dns`]: `resolve` and the client's look-ups; [`echo`]
//!
//! The look-ups are made here and not by the C library, so that a test sees every record and no cache.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

mod call;
mod dns;
mod echo;
mod serve;

const USAGE: &str = "usage:
  web serve [PORT]                 answer HTTP with who this is (default 8080)
  web get URL                      print one answer
  web call URL [SECONDS] [COUNT]   ask again and again, print one line an answer
  web resolve NAME [aaaa|ptr]      print a name's addresses, sorted
  web echo PORT                    echo TCP and UDP
  web udp HOST:PORT TEXT           send a datagram, print the answer
  web tcp HOST:PORT TEXT           send a line, print the answer
  web unix PATH TEXT               send text to a socket in the file system, print the answer
  web sleep                        wait for SIGTERM";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = tokio::select! {
        outcome = run(&arguments) => outcome,
        outcome = told_to_end() => outcome,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("web: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve"] => serve::run(8080).await,
        ["serve", port] => serve::run(port.parse().context("the port is no number")?).await,
        ["get", url] => {
            print!("{}", call::get(url).await?);
            Ok(())
        }
        ["call", url] => call::repeat(url, Duration::from_secs(1), None).await,
        ["call", url, every] => call::repeat(url, seconds(every)?, None).await,
        ["call", url, every, count] => {
            let count = count.parse().context("the count is no number")?;
            call::repeat(url, seconds(every)?, Some(count)).await
        }
        ["resolve", name] => dns::print(name, dns::Kind::A).await,
        ["resolve", name, "aaaa"] => dns::print(name, dns::Kind::Aaaa).await,
        ["resolve", name, "ptr"] => dns::print(name, dns::Kind::Ptr).await,
        ["echo", port] => echo::run(port.parse().context("the port is no number")?).await,
        ["udp", target, text] => echo::udp(target, text).await,
        ["tcp", target, text] => echo::tcp(target, text).await,
        ["unix", path, text] => echo::unix(path, text).await,
        ["sleep"] => std::future::pending().await,
        _ => bail!("{USAGE}"),
    }
}

/// As process 1 of a container this program gets no signal that it does not handle.
async fn told_to_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds: f64 = text.parse().context("the period is no number of seconds")?;
    Duration::try_from_secs_f64(seconds).context("the period is out of range")
}
