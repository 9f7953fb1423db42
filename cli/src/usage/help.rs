//! Help texts in Docker's layout, made from clap's description of the commands. Used by [`cli`](crate::cli) for `--help` and by
//! [`explain`](super::explain) for the usage line.

use clap::{Arg, ArgAction, Command};

/// Commands of daily use, in Docker's order.
const COMMON: &[&str] = &["run", "exec", "ps", "images", "load", "version", "info"];
/// Commands whose objects are the cluster's.
const SWARM: &[&str] = &["node", "service", "stack", "swarm"];

/// `pontoon run [OPTIONS] IMAGE [COMMAND] [ARG...]`
pub fn usage(command: &Command, path: &[String]) -> String {
    let mut words = vec!["pontoon".to_owned()];
    words.extend(path.iter().cloned());
    let has_options = command
        .get_arguments()
        .any(|arg| !arg.is_positional() && arg.get_id() != "help");
    if has_options {
        words.push("[OPTIONS]".to_owned());
    }
    if command.has_subcommands() {
        words.push("COMMAND".to_owned());
    }
    words.extend(command.get_positionals().map(positional));
    words.join(" ")
}

/// All usage lines: a command that can be called in several ways has them as its `before_help`.
fn usages(command: &Command, path: &[String]) -> String {
    let Some(lines) = command.get_before_help() else {
        return usage(command, path);
    };
    let name = [&["pontoon".to_owned()], path].concat().join(" ");
    let lines = lines.to_string();
    let lines: Vec<String> = lines.lines().map(|line| format!("{name} {line}")).collect();
    lines.join("\n\t")
}

fn positional(arg: &Arg) -> String {
    let id = arg.get_id().as_str().to_uppercase();
    let names: Vec<&str> = arg.get_value_names().map_or(vec![id.as_str()], |names| {
        names.iter().map(|name| name.as_str()).collect()
    });
    let first = names.first().copied().unwrap_or_default();
    let many = matches!(arg.get_action(), ArgAction::Append);
    match (names.get(1), many, arg.is_required_set()) {
        (Some(second), _, _) => format!("{first} [{second}] [ARG...]"),
        (None, true, true) => format!("{first} [{first}...]"),
        (None, true, false) => format!("[{first}...]"),
        (None, false, true) => first.to_owned(),
        (None, false, false) => format!("[{first}]"),
    }
}

/// The whole text of `--help`.
pub fn help(command: &Command, path: &[String]) -> String {
    let mut about = command.get_about().map(ToString::to_string).unwrap_or_default();
    if let Some(more) = command.get_after_help() {
        about.push_str(&format!("\n\n{more}"));
    }
    let mut text = format!("\nUsage:  {}\n\n{about}\n", usages(command, path));
    if path.is_empty() {
        root_commands(command, &mut text);
    } else if command.has_subcommands() {
        section("Commands", &subcommands(command, |_| true), &mut text);
    }
    let title = if path.is_empty() {
        "Global Options"
    } else {
        "Options"
    };
    let mut options: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| {
            !arg.is_positional() && !arg.is_hide_set() && (path.is_empty() || arg.get_id() != "help")
        })
        .collect();
    options.sort_by_key(|arg| arg.get_long());
    let options: Vec<(String, String)> = options
        .into_iter()
        .map(|arg| {
            (
                option(arg),
                arg.get_help().map(ToString::to_string).unwrap_or_default(),
            )
        })
        .collect();
    section(title, &options, &mut text);
    if command.has_subcommands() {
        let words = ["pontoon".to_owned()]
            .iter()
            .chain(path)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ");
        text.push_str(&format!(
            "\nRun '{words} COMMAND --help' for more information on a command.\n"
        ));
    }
    text
}

fn root_commands(command: &Command, text: &mut String) {
    let is_group = |sub: &Command| sub.has_subcommands();
    let mut common = subcommands(command, |sub| COMMON.contains(&sub.get_name()));
    common.sort_by_key(|(name, _)| COMMON.iter().position(|common| common == name));
    section("Common Commands", &common, text);
    let in_swarm = |sub: &Command| SWARM.contains(&sub.get_name());
    let management = subcommands(command, |sub| is_group(sub) && !in_swarm(sub));
    section("Management Commands", &management, text);
    section("Swarm Commands", &subcommands(command, in_swarm), text);
    let other = |sub: &Command| !is_group(sub) && !COMMON.contains(&sub.get_name());
    section("Commands", &subcommands(command, other), text);
}

fn subcommands(command: &Command, wanted: impl Fn(&Command) -> bool) -> Vec<(String, String)> {
    let shown = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && wanted(sub));
    let mut all: Vec<(String, String)> = shown
        .map(|sub| {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            (sub.get_name().to_owned(), about)
        })
        .collect();
    all.sort();
    all
}

/// `-e, --env list`
fn option(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    let mut text = match arg.get_short() {
        Some(short) => format!("-{short}, --{long}"),
        None => format!("    --{long}"),
    };
    if matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
        && let Some(name) = arg.get_value_names().and_then(|names| names.first())
        && name != "bool"
    {
        text.push_str(&format!(" {name}"));
    }
    text
}

fn section(title: &str, rows: &[(String, String)], text: &mut String) {
    if rows.is_empty() {
        return;
    }
    let width = rows
        .iter()
        .map(|(left, _)| left.chars().count())
        .max()
        .unwrap_or(0)
        + 3;
    text.push_str(&format!("\n{title}:\n"));
    for (left, right) in rows {
        // A text of several lines stays in its column.
        for (at, right) in right.split('\n').enumerate() {
            let left = if at == 0 { left.as_str() } else { "" };
            let line = format!("  {left:<width$}{right}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}
