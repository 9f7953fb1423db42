//! COPY, ADD and WORKDIR: which files go where, as BuildKit copies them. The files are looked up without a mount and become the
//! entries of a layer (`layer`, which also says what they are for the cache); `paths`: what patterns stand for.

mod layer;
mod paths;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use pontoon_build::ignore::{self, Patterns};
use pontoon_image::archive::{Head, IdMap, Kind, Node};
use pontoon_image::build::{Mode, Tree};

use crate::{Error, Result};
pub(super) use layer::digest_below;
pub(super) use paths::expand;
use paths::{join, parent};

/// What is copied from.
#[derive(Clone)]
pub(super) enum Taken {
    /// Paths of a tree.
    Tree {
        tree: Arc<Tree>,
        /// Absolute; may have wildcards.
        path: String,
        below: Option<String>,
    },
    /// One file.
    File { name: String, data: Vec<u8>, mode: u32 },
}

/// How it is copied.
pub(super) struct Options<'o> {
    /// Absolute; a slash at its end says that it is a folder.
    pub(super) destination: &'o str,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<Mode>,
    pub(super) excludes: &'o Patterns,
    /// The time of folders that are made, in seconds.
    pub(super) now: i64,
    /// No file is later.
    pub(super) latest: Option<i64>,
}

impl<'o> Options<'o> {
    /// To the root of an empty tree, everything as it is.
    pub(super) fn to_root(excludes: &'o Patterns, now: i64) -> Self {
        Options {
            destination: "/",
            owner: None,
            mode: None,
            excludes,
            now,
            latest: None,
        }
    }
}

enum Content {
    /// A folder that did not exist, or one whose attributes are copied.
    Folder,
    Node {
        tree: Arc<Tree>,
        path: Vec<u8>,
    },
    Data(Vec<u8>),
}

struct Item {
    head: Head,
    content: Content,
    /// Of a file with several names.
    inode: Option<(u64, u64)>,
    /// Made on the way: its time does not matter.
    is_made: bool,
    /// In the `.git` of a commit, which says what it is.
    is_of_commit: bool,
}

/// Entries of a layer by their path.
pub(super) struct Selection<'s> {
    base: &'s Tree,
    options: Options<'s>,
    items: BTreeMap<Vec<u8>, Item>,
    /// Commits that come with their `.git`.
    commits: Vec<String>,
    /// What is added now is such a commit's.
    is_commit: bool,
}

fn files(path: &[u8]) -> impl Fn(io::Error) -> Error {
    let shown = format!("/{}", String::from_utf8_lossy(path));
    move |source| Error::Io {
        what: format!("read {shown}"),
        source,
    }
}

impl<'s> Selection<'s> {
    pub(super) fn new(base: &'s Tree, options: Options<'s>) -> Self {
        Self {
            base,
            options,
            items: BTreeMap::new(),
            commits: Vec::new(),
            is_commit: false,
        }
    }

    /// What is added from now on comes from another source, perhaps a commit with its `.git`.
    pub(super) fn begin_source(&mut self, commit: Option<&str>) {
        self.is_commit = commit.is_some();
        self.commits.extend(commit.map(str::to_owned));
    }

    /// Makes a folder with those above it.
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        let path = self.resolve(path)?;
        self.make_folders(&path)
    }

    /// Adds a source.
    pub(super) fn add(&mut self, from: Taken) -> Result<()> {
        match from {
            Taken::File { name, data, mode } => self.file(&name, data, mode),
            Taken::Tree { tree, path, below } => {
                let found = expand(&tree, &path)?;
                if found.is_empty() && !ignore::has_wildcards(&path) {
                    return Err(not_found(&path));
                }
                match below {
                    Some(below) => self.with_parents(&tree, &found, &below),
                    None => found.iter().try_for_each(|path| self.path(&tree, path)),
                }
            }
        }
    }

    /// Where a path of the base leads, links followed.
    fn resolve(&self, path: &str) -> Result<Vec<u8>> {
        let resolved = self
            .base
            .resolve(path.as_bytes())
            .map_err(files(path.as_bytes()))?;
        Ok(resolved.path)
    }

    fn is_folder(&self, path: &[u8]) -> Result<bool> {
        if let Some(item) = self.items.get(path) {
            return Ok(item.head.kind == Kind::Dir);
        }
        Ok(self
            .base
            .get(path)
            .map_err(files(path))?
            .is_some_and(|node| node.is_dir()))
    }

    /// Where a file goes that is called `name`.
    fn target(&mut self, name: &[u8]) -> Result<Vec<u8>> {
        let destination = self.options.destination;
        let path = self.resolve(destination)?;
        if destination.ends_with('/') || self.is_folder(&path)? {
            self.make_folders(&path)?;
            return Ok(join(&path, name));
        }
        self.make_folders(parent(&path))?;
        Ok(path)
    }

    fn file(&mut self, name: &str, data: Vec<u8>, mode: u32) -> Result<()> {
        let path = self.target(name.as_bytes())?;
        let mut head = Head::file(path.clone());
        head.size = data.len() as u64;
        head.mode = mode;
        head.mtime = self.options.now;
        self.put(path, head, Content::Data(data), None, false)
    }

    /// One path: a folder's content, or a file.
    fn path(&mut self, tree: &Arc<Tree>, path: &[u8]) -> Result<()> {
        let resolved = tree.resolve(path).map_err(files(path))?;
        let Some(node) = resolved.node else {
            return Err(not_found(&String::from_utf8_lossy(path)));
        };
        if node.is_dir() {
            let target = self.resolve(self.options.destination)?;
            self.make_folders(&target)?;
            return self.content(tree, &resolved.path, &target, b"");
        }
        let name = path
            .rsplit(|b| *b == b'/')
            .find(|part| !part.is_empty())
            .unwrap_or(path);
        if self.options.excludes.matches(&String::from_utf8_lossy(name)) {
            return Ok(());
        }
        let target = self.target(name)?;
        self.node(tree, &resolved.path, &node, target)
    }

    /// What is in a folder; `below` is the path in the source, which patterns are about.
    fn content(&mut self, tree: &Arc<Tree>, from: &[u8], to: &[u8], below: &[u8]) -> Result<()> {
        for name in tree.names(from).map_err(files(from))? {
            let (source, target, below) = (join(from, &name), join(to, &name), join(below, &name));
            let Some(node) = tree.get(&source).map_err(files(&source))? else {
                continue;
            };
            let shown = String::from_utf8_lossy(&below).into_owned();
            let excluded = self.options.excludes.matches(&shown);
            if node.is_dir() {
                if excluded && !self.options.excludes.may_have_exceptions_below(&shown) {
                    continue;
                }
                if !excluded {
                    self.node(tree, &source, &node, target.clone())?;
                }
                self.content(tree, &source, &target, &below)?;
            } else if !excluded {
                self.node(tree, &source, &node, target)?;
            }
        }
        Ok(())
    }

    /// `--parents`: paths keep their folders below the destination.
    fn with_parents(&mut self, tree: &Arc<Tree>, roots: &[Vec<u8>], below: &str) -> Result<()> {
        let destination = self.resolve(self.options.destination)?;
        let mut any = false;
        for root in roots {
            let full = join(root, below.trim_start_matches('/').as_bytes());
            for path in expand(tree, &String::from_utf8_lossy(&full))? {
                any = true;
                let relative = path.get(root.len()..).unwrap_or_default();
                let relative: Vec<u8> = relative.iter().copied().skip_while(|b| *b == b'/').collect();
                let target = join(&destination, &relative);
                self.parents(tree, root, &destination, &relative)?;
                let Some(node) = tree.get(&path).map_err(files(&path))? else {
                    continue;
                };
                self.node(tree, &path, &node, target.clone())?;
                if node.is_dir() {
                    self.content(tree, &path, &target, &relative)?;
                }
            }
        }
        if !any && !ignore::has_wildcards(below) {
            return Err(not_found(below));
        }
        Ok(())
    }

    fn parents(&mut self, tree: &Arc<Tree>, root: &[u8], destination: &[u8], relative: &[u8]) -> Result<()> {
        self.make_folders(destination)?;
        for (slash, _) in relative.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let source = join(root, &relative[..slash]);
            let target = join(destination, &relative[..slash]);
            if let Some(node) = tree.get(&source).map_err(files(&source))?.filter(Node::is_dir) {
                self.node(tree, &source, &node, target)?;
            }
        }
        Ok(())
    }

    /// Folders up to `path` that don't exist.
    fn make_folders(&mut self, path: &[u8]) -> Result<()> {
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        for end in ends.chain([path.len()]).filter(|end| *end > 0) {
            let part = &path[..end];
            if self.items.contains_key(part) {
                continue;
            }
            match self.base.get(part).map_err(files(part))? {
                Some(node) if node.is_dir() => continue,
                Some(_) => return Err(no_folder(part)),
                None => {}
            }
            let (uid, gid) = self.options.owner.unwrap_or_default();
            let head = Head {
                kind: Kind::Dir,
                mode: 0o755,
                uid,
                gid,
                mtime: self.options.now,
                ..Head::file(part)
            };
            let item = Item {
                head,
                content: Content::Folder,
                inode: None,
                is_made: true,
                is_of_commit: false,
            };
            self.items.insert(part.to_owned(), item);
        }
        Ok(())
    }

    fn node(&mut self, tree: &Arc<Tree>, source: &[u8], node: &Node, target: Vec<u8>) -> Result<()> {
        let Some(head) = node.head(&target, &IdMap::default()).map_err(files(source))? else {
            return Ok(());
        };
        let several = node.stat.st_nlink > 1 && !node.is_dir();
        let inode = several.then_some((node.stat.st_dev, node.stat.st_ino));
        let content = match head.kind {
            Kind::Dir => Content::Folder,
            Kind::File => Content::Node {
                tree: tree.clone(),
                path: source.to_owned(),
            },
            _ => Content::Data(Vec::new()),
        };
        let is_of_commit = self.is_commit && (source == b".git" || source.starts_with(b".git/"));
        self.put(target, head, content, inode, is_of_commit)
    }

    fn put(
        &mut self,
        path: Vec<u8>,
        mut head: Head,
        content: Content,
        inode: Option<(u64, u64)>,
        is_of_commit: bool,
    ) -> Result<()> {
        let is_dir = head.kind == Kind::Dir;
        let old_is_dir = match self.items.get(&path) {
            Some(item) => Some(item.head.kind == Kind::Dir),
            None => self
                .base
                .get(&path)
                .map_err(files(&path))?
                .map(|node| node.is_dir()),
        };
        match old_is_dir {
            Some(false) if is_dir => return Err(no_folder(&path)),
            Some(true) if !is_dir => {
                let shown = String::from_utf8_lossy(&path);
                return Err(Error::Files(format!(
                    "cannot replace to directory /{shown} with file"
                )));
            }
            _ => {}
        }
        if let Some((uid, gid)) = self.options.owner {
            (head.uid, head.gid) = (uid, gid);
        }
        if head.kind != Kind::Symlink
            && let Some(mode) = &self.options.mode
        {
            head.mode = mode.apply(head.mode, is_dir);
        }
        let item = Item {
            head,
            content,
            inode,
            is_made: false,
            is_of_commit,
        };
        self.items.insert(path, item);
        Ok(())
    }
}

fn not_found(path: &str) -> Error {
    let path = path.trim_start_matches('/');
    Error::Files(format!("failed to compute cache key: \"/{path}\": not found"))
}

fn no_folder(path: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(path);
    Error::Files(format!("cannot copy to non-directory: /{shown}"))
}
