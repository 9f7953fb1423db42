//! Compose files: read, checked and turned into the services and networks of a stack. Used by `pontoon stack`.
//!
//! # Layout
//! - [`yaml`]: text to a tree with places; [`interpolate`]: variables; [`merge`]: several files to one; [`emit`]: back to text
//! - [`reader`]: tables of keys, typed values; [`service`], [`deploy`], [`depends`], [`ports`], [`mounts`], [`network`], [`volume`]:
//!   the tables;
//!   [`refused`]: keys that are not honoured
//! - [`convert`]: a stack's name put in, to the cluster's specs
//! - [`mistake`]: what is wrong, and where
//!
//! Everything happens before the first request to a daemon, and all mistakes of all files are told at once.

mod convert;
mod depends;
mod deploy;
mod emit;
mod interpolate;
mod merge;
mod mistake;
mod mounts;
mod network;
mod ports;
mod reader;
mod refused;
mod service;
mod volume;
mod yaml;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use convert::{IMAGE_LABEL, NAMESPACE_LABEL, Plan, check_stack_name};
pub use emit::emit;
pub use interpolate::Lookup;
pub use mistake::{Error, Mistake, Position};
use network::Network;
use reader::{Field, Reader};
use service::Service;
use volume::Volume;
use yaml::{Key, Node};

/// A file's name and text.
#[derive(Debug)]
pub struct Source {
    /// As the user named it.
    pub name: Arc<str>,
    /// What it says.
    pub text: String,
}

/// A stack as its files describe it, in their order.
#[derive(Debug, Default)]
pub struct Stack {
    services: Vec<(Key, Service)>,
    networks: Vec<(Key, Network)>,
    volumes: Vec<(Key, Volume)>,
}

/// What came of a stack's files.
#[derive(Debug)]
pub struct Loaded {
    /// The stack.
    pub stack: Stack,
    /// Variables that are not set, have no default, and count as empty.
    pub unset: Vec<String>,
}

const TOP: &[Field<Stack>] = &[
    ("services", |s, r, n| {
        for (key, node) in r.entries(n) {
            let service = r.within(&key.text, || service::read(r, node));
            s.services.push((key.clone(), service));
        }
    }),
    ("networks", |s, r, n| {
        for (key, node) in r.entries(n) {
            let network = r.within(&key.text, || network::read(r, node));
            s.networks.push((key.clone(), network));
        }
    }),
    ("volumes", |s, r, n| {
        for (key, node) in r.entries(n) {
            let volume = r.within(&key.text, || volume::read(r, node));
            s.volumes.push((key.clone(), volume));
        }
    }),
    // Obsolete: every version reads the same.
    ("version", |_, r, n| drop(r.text(n))),
    // The stack's name is the command line's.
    ("name", |_, r, n| drop(r.text(n))),
];

/// Reads files; `-` is stdin.
///
/// # Errors
/// [`Error::Read`].
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<Source>, Error> {
    let read = |path: &PathBuf| {
        let name = path.display().to_string();
        let text = if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(path)
        };
        let name: Arc<str> = if name == "-" { "stdin".into() } else { name.into() };
        match text {
            Ok(text) => Ok(Source { name, text }),
            Err(source) => Err(Error::Read {
                file: name.to_string(),
                source,
            }),
        }
    };
    paths.iter().map(read).collect()
}

/// The folder that the relative paths of a stack start from: that of its first file.
///
/// # Errors
/// [`Error::Read`] when the working folder is not known.
pub fn base_folder(paths: &[PathBuf]) -> Result<PathBuf, Error> {
    let first = paths.first().filter(|path| path.as_os_str() != "-");
    let folder = first.and_then(|path| path.parent()).unwrap_or(Path::new(""));
    if folder.as_os_str().is_empty() {
        return std::env::current_dir().map_err(|source| Error::Read {
            file: ".".to_owned(),
            source,
        });
    }
    std::path::absolute(folder).map_err(|source| Error::Read {
        file: folder.display().to_string(),
        source,
    })
}

/// The files merged to one tree, for `stack config`; without `lookup` variables stay as they are written.
///
/// # Errors
/// [`Error::Mistakes`] of YAML and of variables.
pub fn merged(sources: &[Source], lookup: Option<Lookup<'_>>) -> Result<Node, Error> {
    let mut mistakes = Vec::new();
    let trees = trees(sources, lookup, &mut Vec::new(), &mut mistakes);
    let merged = trees.into_iter().reduce(merge::merge);
    match merged {
        Some(root) if mistakes.is_empty() => Ok(root),
        _ => Err(Error::Mistakes(mistakes)),
    }
}

/// Reads a stack from its files.
///
/// # Errors
/// [`Error::Mistakes`]: all of them, in the files' order.
pub fn load(sources: &[Source], base: &Path, lookup: Lookup<'_>) -> Result<Loaded, Error> {
    let (mut unset, mut mistakes) = (Vec::new(), Vec::new());
    let trees = trees(sources, Some(lookup), &mut unset, &mut mistakes);
    // Each file by itself, as a later one may cover an earlier one's mistake; what is missing only the whole can tell.
    let is_whole = trees.len() == 1;
    let mut stack = Stack::default();
    for tree in &trees {
        stack = read_stack(tree, base, lookup, is_whole, &mut mistakes);
    }
    if !is_whole
        && mistakes.is_empty()
        && let Some(root) = trees.into_iter().reduce(merge::merge)
    {
        stack = read_stack(&root, base, lookup, true, &mut mistakes);
    }
    if mistakes.is_empty() {
        return Ok(Loaded { stack, unset });
    }
    let place = |mistake: &Mistake| {
        let file = sources.iter().position(|source| source.name == mistake.at.file);
        (file, mistake.at.line, mistake.at.column)
    };
    mistakes.sort_by_key(place);
    mistakes.dedup();
    Err(Error::Mistakes(mistakes))
}

fn trees(
    sources: &[Source],
    lookup: Option<Lookup<'_>>,
    unset: &mut Vec<String>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Node> {
    let mut trees = Vec::new();
    for source in sources {
        match yaml::parse(&source.name, &source.text) {
            Ok(mut tree) => {
                if let Some(lookup) = lookup {
                    interpolate::interpolate(&mut tree, lookup, unset, mistakes);
                }
                trees.push(tree);
            }
            Err(more) => mistakes.extend(more),
        }
    }
    trees
}

fn read_stack(
    root: &Node,
    base: &Path,
    lookup: Lookup<'_>,
    is_whole: bool,
    mistakes: &mut Vec<Mistake>,
) -> Stack {
    let reader = Reader::new(base, lookup);
    let mut stack = Stack::default();
    reader.fields(root, &mut stack, TOP, refused::TOP);
    if is_whole {
        stack.check(&reader, root);
    }
    mistakes.extend(reader.into_mistakes());
    stack
}

impl Stack {
    /// What only the whole can tell: missing parts, and names that lead nowhere.
    fn check(&self, reader: &Reader<'_>, root: &Node) {
        if self.services.is_empty() {
            reader.mistake(&root.at, "there are no services");
        }
        for (key, service) in &self.services {
            let path = format!("services.{}", key.text);
            reader.within(&path, || {
                if service.container.image.is_empty() {
                    reader.mistake(&key.at, "image is required");
                }
                let mut seen: Vec<&str> = Vec::new();
                for attachment in service.networks.iter().flatten() {
                    let name = attachment.network.as_str();
                    let is_known = name == "default" || self.networks.iter().any(|(key, _)| key.text == name);
                    if !is_known {
                        let message =
                            format_args!("undefined network {name:?}: declare it under networks at the top");
                        reader.mistake(&attachment.at, message);
                    } else if seen.contains(&name) {
                        reader.mistake(&attachment.at, format_args!("network {name:?} is given twice"));
                    }
                    seen.push(name);
                }
                self.check_dependencies(reader, key, service);
                self.check_volumes(reader, service);
            });
        }
    }
}

impl Stack {
    /// Volumes have to be declared: what a name without a declaration stands for is nobody's guess.
    fn check_volumes(&self, reader: &Reader<'_>, service: &Service) {
        for written in &service.mounts {
            let name = written.mount.source.as_str();
            let is_volume = written.mount.r#type() == pontoon_proto::v1::MountType::Volume;
            let is_known = name.is_empty() || self.volumes.iter().any(|(key, _)| key.text == name);
            if is_volume && !is_known {
                let message = format_args!("undefined volume {name:?}: declare it under volumes at the top");
                reader.mistake(&written.at, message);
            }
        }
    }
}

#[cfg(test)]
mod tests;
