//! The Dockerfile language: text → lines → instructions → stages. Words and behaviour are those of BuildKit's frontend.
//!
//! - `lines`: directives, continuation lines, here-documents; `words` and `pattern`: quotes and variables;
//! - [`instruction`]: what each instruction says; `mount`: `RUN --mount`; `flags`: `--name=value` before arguments;
//! - [`Dockerfile`], [`Stage`]: the file as a whole.

mod flags;
pub mod instruction;
mod lines;
mod mount;
mod pattern;
pub mod words;

pub use instruction::{Instruction, Step};
pub use lines::Heredoc;
pub use mount::{Mount, MountKind, Sharing};

use crate::{Error, Lines, Result};

/// A whole Dockerfile, understood but with its variables as they are written.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<(Vec<instruction::Argument>, Lines)>,
    /// Stages in order; at least one.
    pub stages: Vec<Stage>,
    /// The escape character.
    pub escape: char,
    /// What `# syntax=` names.
    pub syntax: Option<String>,
    /// Things that are legal but likely mistakes, with their lines.
    pub warnings: Vec<(String, Lines)>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What it begins with, variables not put in.
    pub base: String,
    /// Its name, in lower case; empty without one.
    pub name: String,
    /// `--platform`, variables not put in.
    pub platform: String,
    /// Its instructions.
    pub steps: Vec<Step>,
    /// Lines of its `FROM`.
    pub lines: Lines,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// The first mistake, with its lines.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = lines::parse(text)?;
        check_syntax(parsed.syntax.as_ref())?;
        let skip_warnings = parsed
            .check
            .as_deref()
            .is_some_and(|c| c.replace(' ', "").contains("skip=all"));
        let mut file = Self {
            arguments: Vec::new(),
            stages: Vec::new(),
            escape: parsed.escape,
            syntax: parsed.syntax.map(|(name, _)| name),
            warnings: Vec::new(),
        };
        for line in parsed.empty_continuations {
            let at = Lines {
                first: line,
                last: line,
            };
            file.warnings.push(("Empty continuation line".into(), at));
        }
        for node in &parsed.nodes {
            let wrong = |e: Error| {
                let text = format!(
                    "dockerfile parse error on line {}: {}",
                    node.lines.first, e.message
                );
                Error::new(text).at(node.lines)
            };
            if node.name.eq_ignore_ascii_case("from") {
                file.stages.push(stage(node).map_err(wrong)?);
                continue;
            }
            let instruction = instruction::understand(node, parsed.escape).map_err(wrong)?;
            match (file.stages.last_mut(), instruction) {
                (None, Instruction::Arg(arguments)) => file.arguments.push((arguments, node.lines)),
                (None, _) => return Err(Error::new("no build stage in current context").at(node.lines)),
                (Some(stage), instruction) => stage.steps.push(Step {
                    instruction,
                    code: node.original.trim().to_owned(),
                    lines: node.lines,
                    is_trigger: false,
                }),
            }
        }
        if file.stages.is_empty() {
            return Err(Error::new("dockerfile contains no stages to build"));
        }
        if skip_warnings {
            file.warnings.clear();
        }
        Ok(file)
    }
}

/// The built-in language is what `docker/dockerfile` images of all versions speak; any other program is not run.
fn check_syntax(syntax: Option<&(String, usize)>) -> Result<()> {
    let Some((name, line)) = syntax else { return Ok(()) };
    let name = name.split(' ').next().unwrap_or_default();
    let plain = name.strip_prefix("docker.io/").unwrap_or(name);
    let plain = plain.split([':', '@']).next().unwrap_or_default();
    if matches!(
        plain,
        "docker/dockerfile" | "docker/dockerfile-upstream" | "dockerfile" | "dockerfile.v0"
    ) {
        return Ok(());
    }
    let text = format!(
        "the syntax {name} is another frontend, and this builder runs none: remove the directive or name docker/dockerfile:1"
    );
    Err(Error::new(text).at(Lines {
        first: *line,
        last: *line,
    }))
}

fn stage(node: &lines::Node) -> Result<Stage> {
    let words: Vec<&str> = node.rest.split_ascii_whitespace().collect();
    let (base, name) = match words[..] {
        [base] => (base, ""),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, name),
        _ => return Err("FROM requires either one or three arguments".into()),
    };
    let lower = name.to_lowercase();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let begins_well = lower.starts_with(|c: char| c.is_ascii_lowercase());
    if !name.is_empty() && (!begins_well || !lower.chars().all(plain)) {
        return Err(Error::new(format!(
            "invalid name for build stage: {}, name can't start with a number or contain symbols",
            crate::quote::text(name)
        )));
    }
    let mut flags = flags::Flags::new(&node.flags, &["platform"], &[], &[])?;
    Ok(Stage {
        base: base.to_owned(),
        name: lower,
        platform: flags.take("platform").unwrap_or_default(),
        steps: Vec::new(),
        lines: node.lines,
    })
}

/// Reads a trigger of `ONBUILD`; its lines are those of the `FROM` that brought it in.
///
/// # Errors
/// It is no instruction.
pub fn trigger(expression: &str, escape: char, lines: Lines) -> Result<Step> {
    let node = lines::parse_one(expression, lines)?;
    Ok(Step {
        instruction: instruction::understand(&node, escape).map_err(|e| e.at(lines))?,
        code: node.original.trim().to_owned(),
        lines,
        is_trigger: true,
    })
}

#[cfg(test)]
mod tests;
