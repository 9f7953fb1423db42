//! What each instruction says: its arguments in their form (words, JSON, `name=value` pairs), with the mistakes that show without
//! knowing any variable. Words of errors are BuildKit's.

use serde_json::Value;

use super::flags::Flags;
use super::lines::{Heredoc, Node};
use super::mount::Mount;
use crate::{Error, Lines, Result, suggest};

/// All instructions, for suggestions.
const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it says.
    pub instruction: Instruction,
    /// As it is written, on one line.
    pub code: String,
    /// Where.
    pub lines: Lines,
    /// It came from a base image's ONBUILD.
    pub is_trigger: bool,
}

/// `name=value` of ENV and LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// Written in the old form `NAME value`.
    pub legacy: bool,
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let between = if self.legacy { " " } else { "=" };
        write!(f, "{}{between}{}", self.name, self.value)
    }
}

/// `NAME` or `NAME=default` of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Name.
    pub name: String,
    /// Default, variables not put in.
    pub value: Option<String>,
}

/// A command line of RUN, CMD or ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// Words of the JSON form, or one text for the shell.
    pub words: Vec<String>,
    /// It is a text for the shell.
    pub is_shell: bool,
    /// Here-documents.
    pub files: Vec<Heredoc>,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// What runs.
    pub line: CommandLine,
    /// `--mount` as written.
    pub mounts: Vec<String>,
    /// What `from` of each mount names; empty: none.
    pub from: Vec<String>,
    /// `--network`: `default`, `none` or `host`.
    pub network: String,
    /// `--security`: `sandbox` or `insecure`.
    pub security: String,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// It is ADD.
    pub is_add: bool,
    /// Paths, and URLs of ADD.
    pub sources: Vec<String>,
    /// Here-documents that become files.
    pub files: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// `--from`; empty: the context.
    pub from: String,
    /// `--chown`.
    pub chown: String,
    /// `--chmod`.
    pub chmod: String,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub excludes: Vec<String>,
    /// `--checksum`.
    pub checksum: String,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK; durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    /// `NONE`, `CMD …` or `CMD-SHELL line`.
    pub test: Vec<String>,
    /// Between checks.
    pub interval: i64,
    /// For one check.
    pub timeout: i64,
    /// In which failures don't count.
    pub start_period: i64,
    /// Between checks in it.
    pub start_interval: i64,
    /// Failures in a row.
    pub retries: i64,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the language's own names")]
pub enum Instruction {
    Add(Copy),
    Arg(Vec<Argument>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(Vec<Pair>),
    Expose(Vec<String>),
    Healthcheck(Check),
    Label(Vec<Pair>),
    Maintainer(String),
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// Understands a line.
pub(super) fn understand(node: &Node, escape: char) -> Result<Instruction> {
    let name = node.name.to_ascii_uppercase();
    let rest = node.rest.as_str();
    let at_least_one = || Error::new(format!("{name} requires at least one argument"));
    let no_flags = || Flags::new(&node.flags, &[], &[], &[]).map(drop);
    let exactly_one = || match rest {
        "" => Err(Error::new(format!("{name} requires exactly one argument"))),
        text => no_flags().map(|()| text.to_owned()),
    };
    Ok(match name.as_str() {
        "ADD" => Instruction::Add(copy(node, &name)?),
        "COPY" => Instruction::Copy(copy(node, &name)?),
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "CMD" => {
            no_flags()?;
            Instruction::Cmd(command_line(node)?)
        }
        "ENTRYPOINT" => {
            no_flags()?;
            Instruction::Entrypoint(command_line(node)?)
        }
        "ENV" | "LABEL" => {
            no_flags()?;
            let pairs = pairs(rest, &name, escape)?;
            match name.as_str() {
                "ENV" => Instruction::Env(pairs),
                _ => Instruction::Label(pairs),
            }
        }
        "EXPOSE" => {
            let mut ports: Vec<String> = rest.split_ascii_whitespace().map(str::to_owned).collect();
            if ports.is_empty() {
                return Err(at_least_one());
            }
            no_flags()?;
            ports.sort();
            Instruction::Expose(ports)
        }
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(node)?),
        "MAINTAINER" => Instruction::Maintainer(exactly_one()?),
        "ONBUILD" => Instruction::Onbuild(onbuild(node, escape)?),
        "RUN" => Instruction::Run(run(node)?),
        "SHELL" => {
            no_flags()?;
            match json(rest)? {
                Some(words) if words.is_empty() => return Err(at_least_one()),
                Some(words) => Instruction::Shell(words),
                None if rest.is_empty() => return Err(at_least_one()),
                None => {
                    let text = format!(
                        "SHELL requires the arguments to be in JSON form: {}",
                        node.original.trim()
                    );
                    return Err(Error::new(text));
                }
            }
        }
        "STOPSIGNAL" => Instruction::StopSignal(exactly_one()?),
        "USER" => Instruction::User(exactly_one()?),
        "WORKDIR" => Instruction::Workdir(exactly_one()?),
        "VOLUME" => {
            if rest.is_empty() {
                return Err(at_least_one());
            }
            no_flags()?;
            let paths = list(rest)?;
            let paths: Vec<String> = paths.iter().map(|path| path.trim().to_owned()).collect();
            if paths.iter().any(String::is_empty) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            Instruction::Volume(paths)
        }
        _ => {
            let text = format!("unknown instruction: {}", node.name);
            return Err(suggest::with(text, &node.name, NAMES).into());
        }
    })
}

/// A JSON array of strings; `None` when it is not JSON.
fn json(text: &str) -> Result<Option<Vec<String>>> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else {
        return Ok(None);
    };
    let words = values.into_iter().map(|value| match value {
        Value::String(word) => Ok(word),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".into()),
    });
    words.collect::<Result<Vec<_>>>().map(Some)
}

/// JSON, or words.
fn list(text: &str) -> Result<Vec<String>> {
    Ok(match json(text)? {
        Some(words) => words,
        None => text.split_ascii_whitespace().map(str::to_owned).collect(),
    })
}

fn command_line(node: &Node) -> Result<CommandLine> {
    let (words, is_shell) = match json(&node.rest)? {
        Some(words) => (words, false),
        None if node.rest.is_empty() => (Vec::new(), true),
        None => (vec![node.rest.clone()], true),
    };
    Ok(CommandLine {
        words,
        is_shell,
        files: node.heredocs.clone(),
    })
}

fn run(node: &Node) -> Result<Run> {
    let mut flags = Flags::new(&node.flags, &["network", "security"], &["mount", "device"], &[])?;
    if !flags.take_all("device").is_empty() {
        return Err(
            "RUN --device needs CDI devices, which this builder does not have: remove the flag".into(),
        );
    }
    let mounts = flags.take_all("mount");
    let mut from = Vec::new();
    for mount in &mounts {
        from.push(Mount::check(mount)?.from);
    }
    let one_of = |given: Option<String>, default: &str, known: &[&str], what: &str| match given {
        None => Ok(default.to_owned()),
        Some(value) if known.contains(&value.as_str()) => Ok(value),
        Some(value) => Err(Error::new(suggest::with(
            format!("{what} {} is not valid", crate::quote::text(&value)),
            &value,
            known.iter().copied(),
        ))),
    };
    let network = one_of(
        flags.take("network"),
        "default",
        &["default", "none", "host"],
        "network mode",
    )?;
    let security = one_of(
        flags.take("security"),
        "sandbox",
        &["sandbox", "insecure"],
        "security",
    )?;
    Ok(Run {
        line: command_line(node)?,
        mounts,
        from,
        network,
        security,
    })
}

fn copy(node: &Node, name: &str) -> Result<Copy> {
    let mut words = list(&node.rest)?;
    let destination = words.pop().filter(|_| !words.is_empty()).ok_or_else(|| {
        Error::new(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ))
    })?;
    let is_add = name == "ADD";
    let mut flags = if is_add {
        Flags::new(
            &node.flags,
            &["chown", "chmod", "checksum"],
            &["exclude"],
            &["link", "keep-git-dir", "unpack"],
        )?
    } else {
        Flags::new(
            &node.flags,
            &["chown", "chmod", "from"],
            &["exclude"],
            &["link", "parents"],
        )?
    };
    if Heredoc::parse(&destination)?.is_some() {
        return Err(Error::new(format!(
            "{name} cannot accept a heredoc as a destination"
        )));
    }
    let (mut sources, mut files) = (Vec::new(), Vec::new());
    for word in words {
        match Heredoc::parse(&word)? {
            Some(mark) => {
                let found = node.heredocs.iter().find(|heredoc| heredoc.name == mark.name);
                files.push(found.cloned().unwrap_or(mark));
            }
            None => sources.push(word),
        }
    }
    Ok(Copy {
        is_add,
        sources,
        files,
        destination,
        from: flags.take("from").unwrap_or_default(),
        chown: flags.take("chown").unwrap_or_default(),
        chmod: flags.take("chmod").unwrap_or_default(),
        link: flags.switch("link").unwrap_or_default(),
        parents: flags.switch("parents").unwrap_or_default(),
        excludes: flags.take_all("exclude"),
        checksum: flags.take("checksum").unwrap_or_default(),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    })
}

fn onbuild(node: &Node, escape: char) -> Result<String> {
    let mut words = node.rest.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return Err("ONBUILD requires at least one argument".into());
    };
    Flags::new(&node.flags, &[], &[], &[])?;
    match first.to_ascii_uppercase().as_str() {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        name @ ("MAINTAINER" | "FROM") => {
            return Err(Error::new(format!("{name} isn't allowed as an ONBUILD trigger")));
        }
        _ => {}
    }
    let original = node.original.trim_start();
    let mut expression = original
        .get(node.name.len()..)
        .unwrap_or_default()
        .trim_start()
        .to_owned();
    for heredoc in &node.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    // A mistake in it shows here, not in somebody else's build.
    super::trigger(&expression, escape, node.lines)?;
    Ok(expression)
}

fn healthcheck(node: &Node) -> Result<Check> {
    let (kind, rest) = node
        .rest
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((&node.rest, ""));
    let rest = rest.trim_start();
    let kind = kind.to_ascii_uppercase();
    match kind.as_str() {
        "" => return Err("HEALTHCHECK requires at least one argument".into()),
        "NONE" if rest.is_empty() => {
            return Ok(Check {
                test: vec![kind],
                ..Check::default()
            });
        }
        "NONE" => return Err("HEALTHCHECK NONE takes no arguments".into()),
        _ => {}
    }
    let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
    let mut flags = Flags::new(&node.flags, &names, &[], &[])?;
    if kind != "CMD" {
        let text = format!(
            "Unknown type {} in HEALTHCHECK (try CMD)",
            crate::quote::text(&kind)
        );
        return Err(Error::new(text));
    }
    let mut test = match json(rest)? {
        Some(words) => [vec![kind], words].concat(),
        None => vec!["CMD-SHELL".into(), rest.to_owned()],
    };
    test.retain(|word| !word.is_empty());
    if test.len() < 2 {
        return Err("Missing command after HEALTHCHECK CMD".into());
    }
    let mut interval = |name: &str| match flags.take(name) {
        None => Ok(0),
        Some(text) => match pontoon_image::instruction_duration(&text).map_err(Error::new)? {
            n @ 1..1_000_000 => {
                let _ = n;
                Err(Error::new(format!("Interval \"{name}\" cannot be less than 1ms")))
            }
            n => Ok(n),
        },
    };
    let mut check = Check {
        test,
        interval: interval("interval")?,
        timeout: interval("timeout")?,
        start_period: interval("start-period")?,
        start_interval: interval("start-interval")?,
        retries: 0,
    };
    if let Some(text) = flags.take("retries") {
        let invalid = |_| {
            Error::new(format!(
                "strconv.ParseInt: parsing {}: invalid syntax",
                crate::quote::text(&text)
            ))
        };
        let retries: i32 = text.parse().map_err(invalid)?;
        if retries < 0 {
            return Err(Error::new(format!("--retries cannot be negative ({retries})")));
        }
        check.retries = i64::from(retries);
    }
    Ok(check)
}

fn arguments(rest: &str, escape: char) -> Result<Vec<Argument>> {
    let words = quoted_words(rest, escape);
    if words.is_empty() {
        return Err("ARG requires at least one argument".into());
    }
    let argument = |word: String| match word.split_once('=') {
        Some(("", _)) => Err("ARG names can not be blank".into()),
        Some((name, value)) => Ok(Argument {
            name: name.to_owned(),
            value: Some(value.to_owned()),
        }),
        None => Ok(Argument {
            name: word,
            value: None,
        }),
    };
    words.into_iter().map(argument).collect()
}

fn pairs(rest: &str, instruction: &str, escape: char) -> Result<Vec<Pair>> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else {
        return Err(Error::new(format!(
            "{instruction} requires at least one argument"
        )));
    };
    if !first.contains('=') {
        let parts = rest.split_once(|c: char| c.is_ascii_whitespace());
        let (name, value) =
            parts.ok_or_else(|| Error::new(format!("{instruction} must have two arguments")))?;
        return Ok(vec![Pair {
            name: name.to_owned(),
            value: value.trim_start().to_owned(),
            legacy: true,
        }]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::new(format!("{instruction} names can not be blank"))),
        Some((name, value)) => Ok(Pair {
            name: name.to_owned(),
            value: value.to_owned(),
            legacy: false,
        }),
        None => Err(Error::new(format!(
            "Syntax error - can't find = in {}. Must be of the form: name=value",
            crate::quote::text(word)
        ))),
    };
    words.iter().map(pair).collect()
}

/// Splits at white space outside quotes; quotes and escapes stay as they are written.
fn quoted_words(rest: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut open) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if open {
                words.push(std::mem::take(&mut word));
                open = false;
            }
            continue;
        }
        open = true;
        if Some(c) == quote {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        } else if c == escape && quote != Some('\'') {
            // At the end of the line it means nothing.
            let Some(next) = chars.next() else { break };
            word.extend([c, next]);
            continue;
        }
        word.push(c);
    }
    if open && !(word.is_empty()) {
        words.push(word);
    }
    words
}
