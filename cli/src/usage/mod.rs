//! Mistakes of usage and help texts in Docker's words. [`cli`](crate::cli) lets clap parse; what clap says is told here anew, as
//! scripts and people know it from Docker: `unknown flag: --foo`, the usage line, `Run 'pontoon run --help' for more information`.
//!
//! # Layout
//! - [`walk`]: which command the arguments name; [`help`]: help texts; [`explain`] in this file: clap's errors to Docker's.

pub mod help;
pub mod walk;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::error::{EXIT_ENGINE, Failure};
use walk::Walked;

/// Lets every option take the next argument as its value, whatever that begins with, as Go's flags do: `-m -1` is a bad
/// size, not an unknown flag `-1`.
pub fn take_any_value(command: Command) -> Command {
    let is_option = |arg: &Arg| {
        !arg.is_positional()
            && !arg.is_require_equals_set()
            && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
    };
    command
        .mut_args(|arg| {
            let any = is_option(&arg);
            if any { arg.allow_hyphen_values(true) } else { arg }
        })
        .mut_subcommands(take_any_value)
}

/// The command at a path.
pub fn command_at<'a>(root: &'a Command, path: &[String]) -> &'a Command {
    path.iter().fold(root, |command, name| {
        command.find_subcommand(name).unwrap_or(command)
    })
}

/// A mistake in a flag: Docker's exit status 125 for it, how the command is used, and where to look.
pub fn flag_mistake(root: &Command, path: &[String], message: &str) -> Failure {
    let usage = help::usage(command_at(root, path), path);
    let text = format!(
        "{message}\n\nUsage:  {}\n\nRun '{} --help' for more information",
        usage.trim_end(),
        named(path)
    );
    Failure::new(text).with_code(EXIT_ENGINE)
}

/// A failure of `run` or `create` that is not the program's own: Docker's client says whose message it is and where to look.
pub fn run_failure(command: &str, failure: Failure) -> Failure {
    if failure.code != EXIT_ENGINE || failure.message.is_empty() {
        return failure;
    }
    let text = format!(
        "pontoon: {}\n\nRun 'pontoon {command} --help' for more information",
        failure.message
    );
    Failure::new(text).with_code(failure.code)
}

fn named(path: &[String]) -> String {
    ["pontoon".to_owned()]
        .iter()
        .chain(path)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Tells clap's error in Docker's words.
pub fn explain(error: &clap::Error, root: &Command, walked: &Walked) -> Failure {
    let path = walked.path.as_slice();
    let command = command_at(root, path);
    let subject = context(error, ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let mut words = path.to_vec();
            words.push(context(error, ContextKind::InvalidSubcommand));
            let name = named(path);
            // Of the commands below the root, Docker tells the group's usage too.
            let usage = if path.is_empty() {
                String::new()
            } else {
                format!("\n\nUsage:  {name}")
            };
            Failure::new(format!(
                "pontoon: unknown command: {}{usage}\n\nRun '{name} --help' for more information",
                named(&words)
            ))
        }
        ErrorKind::UnknownArgument if subject.starts_with("--") => {
            let name = subject.split('=').next().unwrap_or_default();
            flag_mistake(root, path, &format!("unknown flag: {name}"))
        }
        ErrorKind::UnknownArgument if subject.starts_with('-') && subject.len() > 1 => {
            let letter = subject.chars().nth(1).unwrap_or_default();
            let cluster = walked.clusters.iter().find(|cluster| cluster.contains(letter));
            let cluster = cluster.map_or(&subject[1..], String::as_str);
            flag_mistake(
                root,
                path,
                &format!("unknown shorthand flag: '{letter}' in -{cluster}"),
            )
        }
        ErrorKind::MissingRequiredArgument if subject.contains("--") => {
            let flags: Vec<&str> = subject
                .split_whitespace()
                .filter_map(|word| word.strip_prefix("--"))
                .collect();
            let message = format!("required flag(s) \"{}\" not set", flags.join("\", \""));
            flag_mistake(root, path, &message).with_code(1)
        }
        ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues
            if !subject.starts_with("--") =>
        {
            arguments_mistake(command, path)
        }
        ErrorKind::InvalidValue
        | ErrorKind::ValueValidation
        | ErrorKind::TooManyValues
        | ErrorKind::NoEquals => value_mistake(error, root, path, &subject),
        ErrorKind::ArgumentConflict => {
            let other = context(error, ContextKind::PriorArg);
            let message = format!(
                "conflicting options: {} and {} can't be used together",
                flag_of(&subject),
                flag_of(&other)
            );
            flag_mistake(root, path, &message)
        }
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            flag_mistake(root, path, first.strip_prefix("error: ").unwrap_or(first))
        }
    }
}

/// Text of an error's context.
fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    }
}

/// `--name` of clap's `--name <string>`.
fn flag_of(subject: &str) -> &str {
    subject.split([' ', '=', '<', '[']).next().unwrap_or(subject)
}

/// `"-e, --env"` of the flag that clap calls `--env <list>`.
fn flag_name(command: &Command, subject: &str) -> String {
    let name = flag_of(subject);
    let named = |arg: &&Arg| arg.get_long().is_some_and(|long| name == format!("--{long}"));
    match command.get_arguments().find(named).and_then(Arg::get_short) {
        Some(short) => format!("-{short}, {name}"),
        None => name.to_owned(),
    }
}

fn value_mistake(error: &clap::Error, root: &Command, path: &[String], subject: &str) -> Failure {
    let value = context(error, ContextKind::InvalidValue);
    if value.is_empty() && error.kind() == ErrorKind::InvalidValue {
        return flag_mistake(
            root,
            path,
            &format!("flag needs an argument: {}", flag_of(subject)),
        );
    }
    let source = std::error::Error::source(error);
    let mut reason = source.map(ToString::to_string).unwrap_or_default();
    if source.is_some_and(|source| source.is::<std::num::ParseIntError>()) {
        let why = match value.parse::<i128>() {
            Ok(number) if number < 0 => "it must not be negative",
            Ok(_) => "the number is too large",
            Err(_) => "use a whole number",
        };
        why.clone_into(&mut reason);
    }
    let known = context(error, ContextKind::ValidValue);
    if !known.is_empty() {
        reason = format!("use one of {}", known.split(' ').collect::<Vec<_>>().join(", "));
    }
    let what = if subject.starts_with('-') {
        format!("\"{}\" flag", flag_name(command_at(root, path), subject))
    } else {
        subject.trim_matches(['<', '>', '[', ']', '.']).to_owned()
    };
    let reason = if reason.is_empty() {
        reason
    } else {
        format!(": {reason}")
    };
    flag_mistake(
        root,
        path,
        &format!("invalid argument \"{value}\" for {what}{reason}"),
    )
}

/// Too many or too few arguments.
fn arguments_mistake(command: &Command, path: &[String]) -> Failure {
    let (mut least, mut most) = (0_usize, Some(0_usize));
    for arg in command.get_positionals() {
        least += usize::from(arg.is_required_set());
        let many = matches!(arg.get_action(), ArgAction::Append);
        most = if many { None } else { most.map(|most| most + 1) };
    }
    let count = |number: usize| {
        if number == 1 {
            "1 argument".to_owned()
        } else {
            format!("{number} arguments")
        }
    };
    let needs = match (least, most) {
        (_, Some(0)) => "accepts no arguments".to_owned(),
        (least, Some(most)) if least == most => format!("requires {}", count(least)),
        (0, Some(most)) => format!("accepts at most {}", count(most)),
        (least, Some(most)) => format!("requires at least {least} and at most {}", count(most)),
        (least, None) => format!("requires at least {}", count(least)),
    };
    let name = named(path);
    let usage = help::usage(command, path);
    // Docker's words, to the letter.
    let verb = if most == Some(0) { "Run" } else { "See" };
    Failure::new(format!(
        "pontoon: '{name}' {needs}\n\nUsage:  {}\n\n{verb} '{name} --help' for more information",
        usage.trim_end()
    ))
}

#[cfg(test)]
mod tests;
