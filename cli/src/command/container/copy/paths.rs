//! Paths of `cp` as texts: a final slash or `/.` means something, so they stay what the user gave. Go's `filepath`
//! functions as far as moby's `archive/copy.go` uses them, and that file's decisions.

use crate::error::Failure;

/// One side of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Path, with a final slash or `/.` where the user gave one.
    pub path: String,
    /// It is there.
    pub exists: bool,
    /// It is a folder.
    pub is_dir: bool,
    /// Name that the user gave, when a link has led to another.
    pub rebase: Option<String>,
}

/// Another first name for an archive's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The name that they have.
    pub old: String,
    /// The one that they get.
    pub new: String,
}

impl Rename {
    /// A name after the change.
    pub fn apply(&self, name: &[u8]) -> Vec<u8> {
        let old = if self.old == "/" { "" } else { &self.old };
        match name.strip_prefix(old.as_bytes()) {
            Some(rest) if old.is_empty() && !rest.starts_with(b"/") => {
                [self.new.as_bytes(), b"/", rest].concat()
            }
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => [self.new.as_bytes(), rest].concat(),
            _ => name.to_vec(),
        }
    }
}

/// `CONTAINER:PATH`, or a path of this host: an absolute one, one with a dot before the colon, or one without colon.
pub fn split_argument(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.starts_with('.') => {
            (Some(container).filter(|name| !name.is_empty()), path)
        }
        _ => (None, argument),
    }
}

/// `filepath.Abs`, keeping a final slash or `/.`.
///
/// # Errors
/// The current folder is gone.
pub fn absolute(path: &str) -> Result<String, Failure> {
    let full = if path.starts_with('/') {
        clean(path)
    } else {
        let here = std::env::current_dir()?;
        clean(&format!("{}/{path}", here.to_string_lossy()))
    };
    Ok(keep_end(full, path))
}

/// `filepath.Clean`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        match name {
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    let joined = names.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `filepath.Base`.
fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

fn is_current_dir(path: &str) -> bool {
    base(path) == "." && !path.ends_with('/')
}

/// Gives a cleaned path the end of the original.
fn keep_end(mut cleaned: String, original: &str) -> String {
    if !is_current_dir(&cleaned) && is_current_dir(original) {
        if !cleaned.ends_with('/') {
            cleaned.push('/');
        }
        cleaned.push('.');
    }
    if !cleaned.ends_with('/') && original.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
}

/// Folder and last name, which is `.` for a path that ends so.
pub fn split_entry(path: &str) -> (String, String) {
    let mut cleaned = clean(path);
    if is_current_dir(path) {
        cleaned.push_str("/.");
    }
    let name = base(&cleaned).to_owned();
    let folder = match cleaned.rfind('/') {
        Some(slash) => clean(&cleaned[..=slash]),
        None => ".".to_owned(),
    };
    (folder, name)
}

/// Where a link leads, relative ones from its folder.
pub fn link_target(link: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    clean(&format!("{}/{target}", split_entry(link).0))
}

/// What a followed link's path becomes: the end of the original stays, and so does its name.
pub fn rebase_name(original: &str, resolved: &str) -> (String, Option<String>) {
    let mut resolved = resolved.to_owned();
    if is_current_dir(original) && !is_current_dir(&resolved) {
        resolved.push_str("/.");
    }
    if original.ends_with('/') && !resolved.ends_with('/') {
        resolved.push('/');
    }
    let name = base(original);
    let rebase = (name != base(&resolved)).then(|| name.to_owned());
    (resolved, rebase)
}

/// The folder that the archive is extracted into, and the new first name of its entries.
///
/// # Errors
/// Docker's texts for a folder onto a file, and a file into a folder that is not there.
pub fn prepare(source: &Info, destination: &Info) -> Result<(String, Option<String>), Failure> {
    let (folder, name) = split_entry(&destination.path);
    let asserts_folder = destination.path.ends_with('/') || is_current_dir(&destination.path);
    match (destination.exists, destination.is_dir, source.is_dir) {
        (true, true, _) => Ok((destination.path.clone(), None)),
        (true, false, true) => Err(Failure::new("cannot copy directory")),
        (false, _, false) if asserts_folder => Err(Failure::new("no such directory")),
        _ => Ok((folder, Some(name))),
    }
}

/// Go's `os.ModeDir`.
pub fn is_dir(mode: u32) -> bool {
    mode & 1 << 31 != 0
}

/// Go's `os.ModeSymlink`.
pub fn is_symlink(mode: u32) -> bool {
    mode & 1 << 27 != 0
}

/// Go's `os.ModeDevice`.
pub fn is_device(mode: u32) -> bool {
    mode & 1 << 26 != 0
}
