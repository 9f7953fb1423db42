//! `version`, and the commands under `system`: `info`, `events`, `df`, `prune`.

pub mod df;
pub mod dial_stdio;
pub mod events;
pub mod info;
pub mod prune;

use clap::{Args, Subcommand};
use pontoon_proto::v1::VersionRequest;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::output::template::Template;

/// `pontoon system …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show disk usage
    Df(df::Arguments),
    /// Proxy the stdio stream to the daemon connection. Should not be invoked manually.
    #[command(hide = true)]
    DialStdio(dial_stdio::Arguments),
    /// Get real time events from the server
    Events(events::Arguments),
    /// Display system-wide information
    Info(info::Arguments),
    /// Remove unused data
    Prune(prune::Arguments),
}

/// Runs a `system` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Df(arguments) => df::run(host, arguments).await,
        Command::DialStdio(arguments) => dial_stdio::run(host, arguments).await,
        Command::Events(arguments) => events::run(host, arguments).await,
        Command::Info(arguments) => info::run(host, arguments).await,
        Command::Prune(arguments) => prune::run(host, arguments).await,
    }
}

/// `version [OPTIONS]`
#[derive(Args, Debug)]
pub struct VersionArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
}

/// Docker's exit status for a template that can't be read; one that does not fit ends with 1.
pub const BAD_TEMPLATE: u8 = 64;

/// Prints a value by a template or as JSON.
///
/// # Errors
/// When the template is malformed or names a field that is not there.
pub fn print_formatted(format: &str, value: &Value) -> Result<(), Failure> {
    let text = match format {
        "json" => value.to_string(),
        template => Template::parse(template)
            .map_err(|error| Failure::new(error).with_code(BAD_TEMPLATE))?
            .render(value)
            .map_err(Failure::new)?,
    };
    listing::write(&format!("{text}\n"));
    Ok(())
}

/// Runs `version`.
///
/// # Errors
/// When the daemon does not answer, after the client's part is printed.
pub async fn version(host: Option<&str>, arguments: VersionArguments) -> Outcome {
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"), "APIVersion": "v1",
        "Os": std::env::consts::OS, "Arch": human_arch(std::env::consts::ARCH),
    });
    let answered = match Client::connect(host).await {
        Ok(connection) => connection
            .engine()
            .version(VersionRequest {})
            .await
            .map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let (server, failure) = match answered {
        Ok(response) => {
            let server = response.into_inner();
            let server = json!({
                "Version": server.version, "ApiVersion": server.api_version, "GitCommit": server.git_commit,
                "Os": server.os, "Arch": server.arch, "KernelVersion": server.kernel_version, "BuildTime": server.built_at,
            });
            (server, None)
        }
        Err(failure) => (Value::Null, Some(failure)),
    };
    if let Some(format) = &arguments.format {
        print_formatted(format, &json!({ "Client": client, "Server": server }))?;
    } else {
        let mut text = String::from("Client: Pontoon\n");
        let mut lines = |title: &str, value: &Value| {
            text.push_str(&format!(" {title:<18}{}\n", value.as_str().unwrap_or_default()))
        };
        lines("Version:", &client["Version"]);
        lines("API version:", &client["APIVersion"]);
        lines(
            "OS/Arch:",
            &Value::from(format!(
                "{}/{}",
                std::env::consts::OS,
                human_arch(std::env::consts::ARCH)
            )),
        );
        if !server.is_null() {
            let platform = format!(
                "{}/{}",
                server["Os"].as_str().unwrap_or_default(),
                server["Arch"].as_str().unwrap_or_default()
            );
            text.push_str("\nServer: Pontoon Engine\n");
            let mut lines = |title: &str, value: &Value| {
                text.push_str(&format!(" {title:<18}{}\n", value.as_str().unwrap_or_default()))
            };
            lines("Version:", &server["Version"]);
            lines("API version:", &server["ApiVersion"]);
            lines("OS/Arch:", &Value::from(platform));
            lines("Kernel version:", &server["KernelVersion"]);
        }
        listing::write(&text);
    }
    failure.map_or(Ok(0), Err)
}

/// GOARCH names of the architectures we know.
fn human_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
