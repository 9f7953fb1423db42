//! `context …`: named addresses of daemons. Nothing here talks to a daemon.

mod archive;

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::system::print_formatted;
use crate::client::Address;
use crate::context::{Context, DEFAULT, Store, check_name};
use crate::error::{Failure, Outcome};
use crate::output::listing::{self, Column};

/// `pontoon context …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a context
    Create(CreateArguments),
    /// Export a context to a tar archive FILE or a tar stream on STDOUT.
    Export(ExportArguments),
    /// Import a context from a tar file
    Import(ImportArguments),
    /// Display detailed information on one or more contexts
    Inspect(InspectArguments),
    /// List contexts
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Remove one or more contexts
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Print the name of the current context
    Show(ShowArguments),
    /// Update a context
    Update(UpdateArguments),
    /// Set the current context
    Use(UseArguments),
}

/// `context create [OPTIONS] CONTEXT`
#[derive(Args, Debug)]
pub struct CreateArguments {
    /// Description of the context
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    description: String,
    /// Set the endpoint: host=unix:///path or host=ssh://[user@]host, or from=CONTEXT
    #[arg(long, value_name = "stringToString")]
    docker: Vec<String>,
    /// Create context from a named context
    #[arg(long, value_name = "string")]
    from: Option<String>,
    /// Name of the context
    #[arg(value_name = "CONTEXT")]
    name: String,
}

/// `context update [OPTIONS] CONTEXT`
#[derive(Args, Debug)]
pub struct UpdateArguments {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// Set the endpoint: host=unix:///path or host=ssh://[user@]host, or from=CONTEXT
    #[arg(long, value_name = "stringToString")]
    docker: Vec<String>,
    /// Name of the context
    #[arg(value_name = "CONTEXT")]
    name: String,
}

/// `context ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show context names
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// `context inspect [OPTIONS] [CONTEXT] [CONTEXT...]`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Names; the current context if none is given
    #[arg(value_name = "CONTEXT")]
    names: Vec<String>,
}

/// `context rm CONTEXT [CONTEXT...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Force the removal of a context in use
    #[arg(short = 'f', long)]
    force: bool,
    /// Names
    #[arg(value_name = "CONTEXT", required = true)]
    names: Vec<String>,
}

/// `context show`
#[derive(Args, Debug)]
pub struct ShowArguments {}

/// `context use CONTEXT`
#[derive(Args, Debug)]
pub struct UseArguments {
    /// Name
    #[arg(value_name = "CONTEXT")]
    name: String,
}

/// `context export CONTEXT [FILE|-]`
#[derive(Args, Debug)]
pub struct ExportArguments {
    /// Name
    #[arg(value_name = "CONTEXT")]
    name: String,
    /// Where to; `CONTEXT.dockercontext` if not given, `-` is standard output
    #[arg(value_name = "FILE")]
    file: Option<String>,
}

/// `context import CONTEXT FILE|-`
#[derive(Args, Debug)]
pub struct ImportArguments {
    /// Name
    #[arg(value_name = "CONTEXT")]
    name: String,
    /// Where from; `-` is standard input
    #[arg(value_name = "FILE")]
    file: String,
}

const COLUMNS: &[Column] = &[
    ("NAME", "_Marked"),
    ("DESCRIPTION", "Description"),
    ("DOCKER ENDPOINT", "DockerEndpoint"),
    ("ERROR", "Error"),
];

/// Runs a `context` command. `host` and `current` are the global options of these names.
///
/// # Errors
/// The command's.
pub fn dispatch(host: Option<&str>, current: Option<&str>, command: Command) -> Outcome {
    let store = Store::open()?;
    match command {
        Command::Create(arguments) => create(&store, &arguments),
        Command::Update(arguments) => update(&store, &arguments),
        Command::Ls(arguments) => list(&store, &current_name(&store, host, current)?, &arguments),
        Command::Inspect(arguments) => inspect(&store, &current_name(&store, host, current)?, &arguments),
        Command::Rm(arguments) => remove(&store, &arguments),
        Command::Show(ShowArguments {}) => {
            listing::write(&format!("{}\n", current_name(&store, host, current)?));
            Ok(0)
        }
        Command::Use(arguments) => {
            if arguments.name != DEFAULT {
                store.get(&arguments.name)?;
            }
            store.set_used(&arguments.name)?;
            listing::write(&format!("{}\n", arguments.name));
            eprintln!("Current context is now \"{}\"", arguments.name);
            if host.is_some_and(|host| !host.is_empty()) {
                eprintln!(
                    "Warning: PONTOON_HOST environment variable overrides the active context. To use \"{}\", either set \
                     the global --context flag, or unset PONTOON_HOST environment variable.",
                    arguments.name
                );
            }
            Ok(0)
        }
        Command::Export(arguments) => archive::export(&store, &arguments),
        Command::Import(arguments) => archive::import(&store, &arguments),
    }
}

/// Name of the context in force: an address given by hand is the default one's.
fn current_name(store: &Store, host: Option<&str>, context: Option<&str>) -> Result<String, Failure> {
    if host.is_some_and(|host| !host.is_empty()) {
        return Ok(DEFAULT.to_owned());
    }
    match context.filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.to_owned()),
        None => Ok(store.used()?.unwrap_or_else(|| DEFAULT.to_owned())),
    }
}

/// The address that `--docker` describes; `None` if it was not given.
fn endpoint(store: &Store, options: &[String]) -> Result<Option<String>, Failure> {
    let mut found = None;
    for pair in options.iter().flat_map(|text| text.split(',')) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::new(format!(
                "invalid --docker {pair:?}: use host=ADDRESS or from=CONTEXT"
            ))
        })?;
        match key {
            "host" => found = Some(value.to_owned()),
            "from" if value == DEFAULT => found = Some(String::new()),
            "from" => found = Some(store.get(value)?.host().to_owned()),
            "ca" | "cert" | "key" | "skip-tls-verify" => {
                return Err(Failure::new(format!(
                    "--docker {key} is not supported: connections are unix:// or ssh://, and ssh brings its own keys"
                )));
            }
            _ => {
                return Err(Failure::new(format!(
                    "unrecognized config key: {key}: use host or from"
                )));
            }
        }
    }
    Ok(found)
}

fn create(store: &Store, arguments: &CreateArguments) -> Outcome {
    check_name(&arguments.name)?;
    if store.contains(&arguments.name) {
        return Err(Failure::new(format!(
            "context \"{}\" already exists",
            arguments.name
        )));
    }
    let given = endpoint(store, &arguments.docker)?;
    let (host, description) = match (&arguments.from, given) {
        (Some(_), Some(_)) => {
            return Err(Failure::new("cannot use --docker flag when --from is set"));
        }
        (Some(from), None) => {
            let source = by_name(store, from)?;
            (source.host().to_owned(), source.metadata.description)
        }
        (None, Some(host)) => (host, String::new()),
        (None, None) => {
            return Err(Failure::new(
                "docker endpoint configuration is required: use --docker host=ADDRESS, or --from CONTEXT",
            ));
        }
    };
    let description = Some(&arguments.description)
        .filter(|text| !text.is_empty())
        .cloned()
        .unwrap_or(description);
    store.put(&Context::new(&arguments.name, &host, &description))?;
    listing::write(&format!("{}\n", arguments.name));
    eprintln!("Successfully created context \"{}\"", arguments.name);
    Ok(0)
}

fn update(store: &Store, arguments: &UpdateArguments) -> Outcome {
    check_name(&arguments.name)?;
    let mut context = store.get(&arguments.name)?;
    if let Some(description) = &arguments.description {
        context.metadata.description.clone_from(description);
    }
    if let Some(host) = endpoint(store, &arguments.docker)? {
        context.set_host(&host);
    }
    store.put(&context)?;
    listing::write(&format!("{}\n", arguments.name));
    eprintln!("Successfully updated context \"{}\"", arguments.name);
    Ok(0)
}

/// One by name; the default one is made of what is in force without contexts.
fn by_name(store: &Store, name: &str) -> Result<Context, Failure> {
    if name != DEFAULT {
        return store.get(name);
    }
    let host = std::env::var("PONTOON_HOST").ok().filter(|host| !host.is_empty());
    let address = Address::parse(host.as_deref())?.to_string();
    Ok(Context::new(DEFAULT, &address, ""))
}

fn list(store: &Store, current: &str, arguments: &ListArguments) -> Outcome {
    let mut contexts = vec![by_name(store, DEFAULT)?];
    contexts[0].metadata.description = "Current PONTOON_HOST based configuration".to_owned();
    contexts.extend(store.list()?);
    contexts.sort_by(|a, b| a.name.cmp(&b.name));
    if arguments.quiet {
        let names: String = contexts
            .iter()
            .map(|context| format!("{}\n", context.name))
            .collect();
        listing::write(&names);
        return Ok(0);
    }
    let rows: Vec<Value> = contexts
        .iter()
        .map(|context| {
            let is_current = context.name == current;
            json!({
                "Name": context.name, "_Marked": format!("{}{}", context.name, if is_current { " *" } else { "" }),
                "Description": context.metadata.description, "DockerEndpoint": context.host(), "Current": is_current,
                "Error": "",
            })
        })
        .collect();
    listing::print(
        arguments.format.as_deref(),
        COLUMNS,
        &[("NAME", "Name"), ("CURRENT", "Current")],
        &rows,
    )?;
    Ok(0)
}

fn inspect(store: &Store, current: &str, arguments: &InspectArguments) -> Outcome {
    let names = match arguments.names.as_slice() {
        [] => vec![current.to_owned()],
        names => names.to_vec(),
    };
    let mut found = Vec::new();
    for name in &names {
        let context = by_name(store, name)?;
        found.push(json!({
            "Name": context.name, "Metadata": context.metadata, "Endpoints": context.endpoints,
            "TLSMaterial": {},
        }));
    }
    match &arguments.format {
        Some(format) => {
            for value in &found {
                print_formatted(format, value)?;
            }
        }
        None => listing::write(&format!("{:#}\n", Value::Array(found))),
    }
    Ok(0)
}

fn remove(store: &Store, arguments: &RemoveArguments) -> Outcome {
    let current = store.used()?;
    let mut failures = Vec::new();
    for name in &arguments.names {
        match remove_one(store, current.as_deref(), name, arguments.force) {
            Ok(()) => listing::write(&format!("{name}\n")),
            Err(failure) => failures.push(failure.message),
        }
    }
    match failures.as_slice() {
        [] => Ok(0),
        failures => Err(Failure::new(failures.join("\n"))),
    }
}

fn remove_one(store: &Store, current: Option<&str>, name: &str, force: bool) -> Result<(), Failure> {
    if name == DEFAULT {
        return Err(Failure::new("context \"default\" cannot be removed"));
    }
    if current == Some(name) {
        if !force {
            return Err(Failure::new(format!(
                "context \"{name}\" is in use, set -f flag to force remove"
            )));
        }
        store.set_used(DEFAULT)?;
    }
    store.remove(name)
}

/// Whether a path is standard input or output.
fn is_standard(path: &str) -> bool {
    Path::new(path) == Path::new("-")
}
