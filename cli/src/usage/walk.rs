//! Walks the arguments before clap reads them: finds the command that they name, and takes `--switch=true|false`, which Go's flags
//! have and clap's switches have not. Called by [`cli::parse_from`](crate::cli::parse_from).

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// What the arguments name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The commands, without the program's name: ["stack", "deploy"].
    pub path: Vec<String>,
    /// The arguments for clap, the program's name first.
    pub arguments: Vec<OsString>,
    /// The text of each argument that clap could call wrong without quoting it whole: the cluster of short flags.
    pub clusters: Vec<String>,
    /// Where in `arguments` those of the innermost command begin; `None` if no command is named.
    pub command_end: Option<usize>,
}

impl Walked {
    /// The command's words.
    pub fn path_words(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

/// Walks the arguments; the first is the program's name.
///
/// # Errors
/// A switch whose value is no boolean: the path of its command and Docker's message.
pub fn walk(
    root: &Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Walked, (Vec<String>, String)> {
    let mut arguments = arguments.into_iter();
    let mut walked = Walked::default();
    walked.arguments.extend(arguments.next());
    let mut command = root;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default().to_owned();
        let mut value_follows = false;
        if text == "--" {
            walked.arguments.push(argument);
            break;
        } else if let Some(long) = text.strip_prefix("--") {
            match long.split_once('=') {
                Some((name, value)) if find_long(command, name).is_some_and(is_switch) => {
                    if boolean(value).ok_or_else(|| (walked.path.clone(), bad_boolean(value, &text)))? {
                        walked.arguments.push(format!("--{name}").into());
                    }
                    continue;
                }
                Some(_) => {}
                None => match find_long(command, long) {
                    Some(option) => value_follows = takes_value(option),
                    // Help, or a mistake of this command: what follows does not matter.
                    None => {
                        walked.arguments.push(argument);
                        break;
                    }
                },
            }
        } else if text.len() > 1 && text.starts_with('-') {
            if let Some((cluster, value)) = switch_value(command, &text) {
                if boolean(value).ok_or_else(|| (walked.path.clone(), bad_boolean(value, &text)))? {
                    walked.arguments.push(cluster.into());
                }
                continue;
            }
            walked.clusters.push(text[1..].to_owned());
            value_follows = short_wants_more(command, &text[1..]);
        } else if let Some(sub) = command
            .find_subcommand(&text)
            .filter(|_| command.has_subcommands())
        {
            command = sub;
            walked.path.push(sub.get_name().to_owned());
            walked.command_end = Some(walked.arguments.len() + 1);
        } else if command.has_subcommands() || command.get_positionals().any(Arg::is_trailing_var_arg_set) {
            // What follows belongs to a container's command, or to no command of ours.
            walked.arguments.push(argument);
            break;
        }
        walked.arguments.push(argument);
        if value_follows {
            walked.arguments.extend(arguments.next());
        }
    }
    walked.arguments.extend(arguments);
    Ok(walked)
}

fn find_long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long() == Some(name) || aliases.contains(&name)
    })
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether the option's value is the next argument.
fn takes_value(arg: &Arg) -> bool {
    let is_option = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    is_option && !arg.is_require_equals_set()
}

/// Whether a cluster such as `-ite` ends in an option whose value is the next argument.
fn short_wants_more(command: &Command, cluster: &str) -> bool {
    let mut letters = cluster.chars();
    while let Some(letter) = letters.next() {
        let option = command
            .get_arguments()
            .find(|arg| arg.get_short() == Some(letter));
        if option.is_some_and(takes_value) {
            return letters.as_str().is_empty();
        }
    }
    false
}

/// `-d` and the text of `-d=text`, if that is a switch.
fn switch_value<'a>(command: &Command, text: &'a str) -> Option<(&'a str, &'a str)> {
    let (flag, value) = text.split_once('=')?;
    let mut letters = flag.chars().skip(1);
    let (letter, rest) = (letters.next()?, letters.next());
    let option = command
        .get_arguments()
        .find(|arg| arg.get_short() == Some(letter))?;
    (rest.is_none() && is_switch(option)).then_some((flag, value))
}

/// Go's booleans.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn bad_boolean(value: &str, flag: &str) -> String {
    let name = flag.split('=').next().unwrap_or(flag);
    format!("invalid argument \"{value}\" for \"{name}\" flag: use true or false")
}
