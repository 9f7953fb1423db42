//! COPY and ADD: what is copied from where.

use super::dispatch::State;
use super::stages::{Planner, dockerfile_path};
use super::{Action, Copy, Source, SourceOf, Tree};
use crate::dockerfile::instruction;
use crate::dockerfile::words::{Lexer, Nothing};
use crate::dockerfile::{Heredoc, Step};
use crate::{Error, Result, ignore};

/// Where a copy takes its files from.
struct From {
    tree: Tree,
    /// The context's name, if it is one.
    context: Option<String>,
}

impl Planner<'_> {
    pub(super) fn copy(
        &mut self,
        number: usize,
        state: &mut State,
        copy: &instruction::Copy,
        step: &Step,
    ) -> Result<()> {
        let from = self.copy_from(number, copy, step)?;
        let copy = self.expand_copy(state, copy)?;
        if !copy.chmod.is_empty() {
            check_mode(&copy.chmod)?;
        }
        check_checksum(&copy)?;
        ignore::Patterns::new(&copy.excludes)?;
        let mut sources = Vec::new();
        for source in &copy.sources {
            sources.push(self.copy_source(&copy, source, &from, step)?);
        }
        for file in &copy.files {
            let what = SourceOf::Inline {
                name: file.name.clone(),
                data: file.content.clone(),
            };
            sources.push(Source { what, unpack: false });
        }
        let name = self.name_of(state, step, &step.code);
        let action = Action::Copy(Box::new(Copy {
            base: state.tree,
            sources,
            destination: destination(state.dir(), &copy.destination),
            chown: copy.chown.clone(),
            chmod: copy.chmod.clone(),
            excludes: copy.excludes.clone(),
            is_link: copy.link,
            is_add: copy.is_add,
        }));
        let made = self.push(name, step.lines, action, state.no_cache);
        state.tree = Some(made);
        state.add_history(history(&copy), Some(made));
        Ok(())
    }

    fn copy_from(&mut self, number: usize, copy: &instruction::Copy, step: &Step) -> Result<From> {
        if copy.from.is_empty() {
            return Ok(From {
                tree: None,
                context: Some(String::new()),
            });
        }
        if self.lexer.word(&copy.from, &Nothing)? != copy.from {
            return Err(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
                    .into(),
            );
        }
        let (tree, context) = self.from(number, &copy.from, "copy", step.lines)?;
        Ok(From { tree, context })
    }

    /// Puts variables in.
    fn expand_copy(&self, state: &State, copy: &instruction::Copy) -> Result<instruction::Copy> {
        let word = |text: &String| self.lexer.word(text, state);
        let raw = Lexer {
            skip_quotes: true,
            ..Lexer::new('\\')
        };
        let mut expanded = copy.clone();
        expanded.sources = copy.sources.iter().map(word).collect::<Result<_>>()?;
        expanded.destination = word(&copy.destination)?;
        expanded.chown = word(&copy.chown)?;
        expanded.chmod = word(&copy.chmod)?;
        expanded.checksum = word(&copy.checksum)?;
        for file in &mut expanded.files {
            let content = file.text();
            *file = Heredoc {
                content: if file.expand {
                    raw.word(&content, state)?
                } else {
                    content
                },
                ..file.clone()
            };
        }
        Ok(expanded)
    }

    fn copy_source(
        &mut self,
        copy: &instruction::Copy,
        text: &str,
        from: &From,
        step: &Step,
    ) -> Result<Source> {
        if is_git(text) {
            if !copy.is_add {
                return Err("source can't be a git ref for COPY".into());
            }
            let what = SourceOf::Git {
                url: text.to_owned(),
                keep_git_dir: copy.keep_git_dir.unwrap_or_default(),
                checksum: copy.checksum.clone(),
            };
            return Ok(Source { what, unpack: false });
        }
        if is_url(text) {
            if !copy.is_add {
                return Err("source can't be a URL for COPY".into());
            }
            let what = SourceOf::Url {
                url: text.to_owned(),
                name: url_name(text),
                checksum: copy.checksum.clone(),
            };
            return Ok(Source {
                what,
                unpack: copy.unpack.unwrap_or_default(),
            });
        }
        let (path, below) = match (copy.parents, text.split_once("/./")) {
            (false, _) => (dockerfile_path(text), None),
            (true, Some((parent, below))) => (dockerfile_path(parent), Some(dockerfile_path(below))),
            (true, None) => ("/".to_owned(), Some(dockerfile_path(text))),
        };
        let tree = match &from.context {
            Some(name) => {
                // With --parents the whole path is needed, and wildcards may be anywhere in it.
                let whole = below
                    .as_ref()
                    .map_or_else(|| path.clone(), |below| format!("{path}/{below}"));
                self.take_path(name, &whole);
                Some(self.context(name, step.lines))
            }
            None => from.tree,
        };
        Ok(Source {
            what: SourceOf::Tree {
                tree,
                path,
                below,
                is_context: from.context.is_some(),
            },
            unpack: copy.unpack.unwrap_or(copy.is_add),
        })
    }
}

/// An absolute path with the slash at its end kept, which says that it is a folder.
fn destination(dir: &str, text: &str) -> String {
    let full = match text {
        path if path.starts_with('/') => ignore::clean(path),
        path => ignore::clean(&format!("{dir}/{path}")),
    };
    let is_folder =
        text.is_empty() || text.ends_with('/') || text == "." || text.ends_with("/.") || text == "..";
    if is_folder && !full.ends_with('/') {
        full + "/"
    } else {
        full
    }
}

fn history(copy: &instruction::Copy) -> String {
    let mut text = if copy.is_add { "ADD" } else { "COPY" }.to_owned();
    if copy.parents {
        text.push_str(" --parents");
    }
    if !copy.chown.is_empty() {
        text.push_str(&format!(" --chown={}", copy.chown));
    }
    if !copy.chmod.is_empty() {
        text.push_str(&format!(" --chmod={}", copy.chmod));
    }
    for source in &copy.sources {
        text.push_str(&format!(" {source}"));
    }
    for file in &copy.files {
        text.push_str(&format!(" <<{}", file.name));
    }
    text + &format!(" {} # buildkit", copy.destination)
}

fn check_checksum(copy: &instruction::Copy) -> Result<()> {
    if copy.checksum.is_empty() {
        return Ok(());
    }
    match copy.sources.as_slice() {
        [source] if is_url(source) || is_git(source) => Ok(()),
        [_] => Err("checksum requires HTTP(S) or Git sources".into()),
        _ => Err("checksum can't be specified for multiple sources".into()),
    }
}

/// Octal up to 07777, or symbolic: `u=rwX,go=rX`.
fn check_mode(text: &str) -> Result<()> {
    let wrong = || {
        Error::new(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ))
    };
    if text.chars().all(|c| c.is_ascii_digit()) {
        let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
        return if mode <= 0o7777 { Ok(()) } else { Err(wrong()) };
    }
    pontoon_image::Mode::parse(text).map(drop).ok_or_else(wrong)
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// A remote repository: `git@…`, `git://`, `ssh://`, or a web address that ends in `.git`.
pub(crate) fn is_git(text: &str) -> bool {
    let before = text.split(['#', '?']).next().unwrap_or_default();
    let scp_like = before.split_once(':').is_some_and(|(host, path)| {
        host.contains('@') && !host.contains('/') && !path.starts_with("//") && !path.is_empty()
    });
    text.starts_with("git://")
        || text.starts_with("ssh://")
        || scp_like
        || is_url(text) && before.ends_with(".git")
}

/// The file's name of a web address.
fn url_name(url: &str) -> String {
    let path = url
        .split_once("://")
        .map_or(url, |(_, rest)| rest)
        .split(['?', '#'])
        .next()
        .unwrap_or_default();
    let name = path
        .split_once('/')
        .map_or("", |(_, path)| path)
        .rsplit('/')
        .find(|part| !part.is_empty());
    name.unwrap_or("__unnamed__").to_owned()
}
