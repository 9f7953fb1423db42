//! The `pontoon` binary: client, daemon, and the daemon's hidden helpers in one.
//!
//! # Layout
//! - [`cli`]: grammar; [`usage`]: help and mistakes; [`command`]: the client's commands; [`output`]: what they print; [`stdio`], [`terminal`]: interactive sessions
//! - [`compose`]: stack files
//! - [`client`]: the way to a daemon, [`context`]: its named addresses; [`credentials`]: what the user has for registries; [`error`]: how commands fail
//! - [`daemon`]: the parts of a node put together
//!
//! `shim`, `shim-log`, `archive`, `init` and `netd` are re-executions of this binary by the daemon, `oci` is an OCI runtime's command
//! line. They are dispatched before anything else, as what clones into a container must stay a process with one thread.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "doc comments of flags are help texts, in the manner of man pages"
)]

use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::process::ExitCode;

mod cli;
mod client;
mod command;
mod compose;
mod context;
mod credentials;
mod daemon;
mod error;
mod generic;
mod output;
mod stdio;
mod terminal;
mod usage;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if pontoon_runtime::is_init(arguments.next().as_deref()) {
        return pontoon_runtime::init_main(arguments);
    }
    match arguments.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("shim") => with_folder(arguments, pontoon_runtime::shim_main),
        Some("netd") => with_folder(arguments, pontoon_dataplane::netd_main),
        Some("archive") => pontoon_engine::archive_main(),
        Some("shim-log") => pontoon_runtime::shim_log_main(arguments),
        Some("oci") => command::oci::main(arguments),
        _ => client_main(),
    }
}

/// Runs a hidden subcommand that takes its folder.
fn with_folder(mut arguments: impl Iterator<Item = OsString>, run: fn(&OsStr) -> ExitCode) -> ExitCode {
    match arguments.next() {
        Some(folder) => run(&folder),
        None => {
            eprintln!("this command is the daemon's own: it needs the folder that the daemon gives it");
            ExitCode::FAILURE
        }
    }
}

fn client_main() -> ExitCode {
    let result = cli::parse().and_then(|cli| {
        let mut builder = if cli.is_daemon() {
            // More threads than processors never run at once.
            pontoon_runtime::bound_arenas(std::thread::available_parallelism().map_or(2, NonZero::get));
            tokio::runtime::Builder::new_multi_thread()
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let runtime = builder.enable_all().build()?;
        let outcome = runtime.block_on(cli.run());
        // A thread that still reads the terminal must not keep the process.
        runtime.shutdown_background();
        outcome
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("{failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}
