//! Where a build's files are: a folder, an archive on standard input, a repository. What is no folder becomes a temporary one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use pontoon_build::ignore::{self, Patterns};
use pontoon_image::archive::{ExtractOptions, Extractor, Kind, Place, TarReader, plain};
use pontoon_image::{Limits, build};

use super::options::Arguments;
use crate::error::Failure;

const DOCKERFILE: &str = "Dockerfile";

/// The main context and the Dockerfile.
pub struct Source {
    folder: Option<PathBuf>,
    dockerfile: Vec<u8>,
    name: String,
    /// Patterns of the Dockerfile's own, if it has such a file.
    ignore_file: Option<PathBuf>,
    _temporary: Option<tempfile::TempDir>,
}

/// A named context.
pub enum Named {
    /// Files.
    Folder(PathBuf, Option<tempfile::TempDir>),
    /// What the daemon has by itself: an image.
    Far(String),
}

impl Named {
    /// Its folder, if it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Named::Folder(path, _) => Some(path.clone()),
            Named::Far(_) => None,
        }
    }

    /// What the daemon is told.
    pub fn said(&self) -> String {
        match self {
            Named::Folder(..) => String::new(),
            Named::Far(text) => text.clone(),
        }
    }
}

fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("ERROR: {what}: {error}"))
}

impl Source {
    /// Finds the context and reads the Dockerfile.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(arguments: &Arguments) -> Result<Self, Failure> {
        let context = arguments.context.as_str();
        let from_stdin = arguments.file.as_deref() == Some("-");
        if context == "-" {
            if from_stdin {
                return Err(Failure::new(
                    "ERROR: invalid argument: can't use stdin for both build context and dockerfile",
                ));
            }
            return Self::of_stdin(arguments);
        }
        let (folder, temporary) = fetched(context).await?;
        if !folder.is_dir() {
            let reason = if folder.exists() {
                "not a directory"
            } else {
                "path not found"
            };
            return Err(Failure::new(format!(
                "ERROR: unable to prepare context: path \"{context}\" {reason}"
            )));
        }
        if from_stdin {
            let mut dockerfile = Vec::new();
            std::io::stdin().lock().read_to_end(&mut dockerfile)?;
            return Ok(Self {
                folder: Some(folder),
                dockerfile,
                name: DOCKERFILE.into(),
                ignore_file: None,
                _temporary: temporary,
            });
        }
        let is_remote = temporary.is_some();
        Self::of_folder(folder, temporary, arguments.file.as_deref(), is_remote)
    }

    /// `-`: an archive with the Dockerfile in it, or the Dockerfile itself.
    fn of_stdin(arguments: &Arguments) -> Result<Self, Failure> {
        let mut input = tempfile::tempfile()?;
        std::io::copy(&mut std::io::stdin().lock(), &mut input)?;
        std::io::Seek::rewind(&mut input)?;
        let mut head = Vec::new();
        let is_archive = plain(&mut input)
            .and_then(|plain| plain.take(512).read_to_end(&mut head))
            .is_ok_and(|_| head.get(257..262).is_some_and(|magic| magic == b"ustar"));
        std::io::Seek::rewind(&mut input)?;
        if is_archive {
            let temporary = tempfile::tempdir()?;
            extract(input, temporary.path())?;
            let folder = temporary.path().to_owned();
            return Self::of_folder(folder, Some(temporary), arguments.file.as_deref(), true);
        }
        if let Some(name) = &arguments.file {
            return Err(Failure::new(format!(
                "ERROR: ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles ({name})"
            )));
        }
        let mut dockerfile = Vec::new();
        input.read_to_end(&mut dockerfile)?;
        Ok(Self {
            folder: None,
            dockerfile,
            name: DOCKERFILE.into(),
            ignore_file: None,
            _temporary: None,
        })
    }

    /// `file` is looked for where the client is, of a context that came from elsewhere in there.
    fn of_folder(
        folder: PathBuf,
        temporary: Option<tempfile::TempDir>,
        file: Option<&str>,
        is_remote: bool,
    ) -> Result<Self, Failure> {
        let path = match file {
            None => folder.join(DOCKERFILE),
            Some(file) if is_remote => {
                let tree = build::Tree::folder(&folder).map_err(|e| failed("cannot open the context", e))?;
                let resolved = tree.resolve(file.as_bytes()).map_err(|e| failed(file, e))?;
                folder.join(String::from_utf8_lossy(&resolved.path).into_owned())
            }
            Some(file) => PathBuf::from(file),
        };
        let shown = path
            .file_name()
            .map_or_else(|| DOCKERFILE.into(), |name| name.to_string_lossy().into_owned());
        let dockerfile = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::new(format!(
                "ERROR: failed to solve: failed to read dockerfile: open {shown}: no such file or directory"
            )),
            _ => failed(
                "failed to read dockerfile",
                format!("{}: {error}", path.display()),
            ),
        })?;
        let mut own = path.into_os_string();
        own.push(".dockerignore");
        Ok(Self {
            folder: Some(folder),
            dockerfile,
            name: file.map_or(shown, str::to_owned),
            ignore_file: Some(own.into()),
            _temporary: temporary,
        })
    }

    /// The context's folder; `None`: it has no files.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    /// The Dockerfile's content.
    pub fn dockerfile(&self) -> &[u8] {
        &self.dockerfile
    }

    /// Its name as messages show it.
    pub fn dockerfile_name(&self) -> &str {
        &self.name
    }

    /// What is not sent.
    pub fn ignored(&self) -> Result<Patterns, Failure> {
        let folder = self.folder.clone().unwrap_or_default();
        ignored(&folder, self.ignore_file.as_deref())
    }
}

/// Patterns of a folder: those of the Dockerfile if it has its own, else `.dockerignore`.
pub fn ignored(folder: &Path, own: Option<&Path>) -> Result<Patterns, Failure> {
    let files = own
        .map(Path::to_owned)
        .into_iter()
        .chain([folder.join(".dockerignore")]);
    for path in files {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("error reading", format!("{}: {error}", path.display()))),
        };
        let patterns = ignore::read(&String::from_utf8_lossy(&text));
        return Patterns::new(&patterns).map_err(|error| failed(path.display(), error.message));
    }
    Ok(Patterns::default())
}

/// `--build-context NAME=VALUE`.
pub async fn named(arguments: &Arguments) -> Result<HashMap<String, Named>, Failure> {
    let mut contexts = HashMap::new();
    for text in &arguments.build_context {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| {
                Failure::new(format!(
                    "ERROR: invalid context value: {text}, expected key=value"
                ))
            })?;
        let context = if value.starts_with("docker-image://") {
            Named::Far(value.to_owned())
        } else if value.starts_with("oci-layout://") || value.starts_with("target:") {
            return Err(Failure::new(format!(
                "ERROR: build context {value} is not supported: name a folder, a repository or docker-image://"
            )));
        } else {
            let (folder, temporary) = fetched(value).await?;
            if !folder.is_dir() {
                return Err(Failure::new(format!(
                    "ERROR: build context {name}: {value} is not a directory"
                )));
            }
            Named::Folder(folder, temporary)
        };
        contexts.insert(name.to_owned(), context);
    }
    Ok(contexts)
}

/// A folder as it is, or a repository in a temporary one.
async fn fetched(context: &str) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    if !Path::new(context).exists() && is_git(context) {
        let temporary = tempfile::tempdir()?;
        let folder = clone(context, temporary.path()).await?;
        return Ok((folder, Some(temporary)));
    }
    if context.starts_with("http://") || context.starts_with("https://") {
        return Err(Failure::new(format!(
            "ERROR: a context from the URL {context} is not supported: download the archive and give it on standard input, or name a repository (…​.git)"
        )));
    }
    Ok((PathBuf::from(context), None))
}

fn is_git(text: &str) -> bool {
    let before = text.split(['#', '?']).next().unwrap_or_default();
    let scp_like = before
        .split_once(':')
        .is_some_and(|(host, path)| host.contains('@') && !host.contains('/') && !path.starts_with("//"));
    let is_web = text.starts_with("http://") || text.starts_with("https://");
    ["git://", "ssh://", "file://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
        || text.starts_with("github.com/")
        || scp_like
        || is_web && before.ends_with(".git")
}

/// Clones a repository with the client's git: `remote#ref:folder`.
async fn clone(context: &str, into: &Path) -> Result<PathBuf, Failure> {
    let (remote, fragment) = context.split_once('#').unwrap_or((context, ""));
    let remote = match remote.strip_prefix("github.com/") {
        Some(path) => format!("https://github.com/{path}"),
        None => remote.to_owned(),
    };
    let (reference, below) = fragment.split_once(':').unwrap_or((fragment, ""));
    let reference = if reference.is_empty() { "HEAD" } else { reference };
    if remote.starts_with('-') || reference.starts_with('-') {
        return Err(Failure::new(format!("ERROR: invalid repository {context}")));
    }
    git(into, &["init", "-q", "."]).await?;
    git(into, &["remote", "add", "origin", "--", &remote]).await?;
    let target = match git(
        into,
        &[
            "fetch",
            "-q",
            "--depth",
            "1",
            "--no-tags",
            "origin",
            "--",
            reference,
        ],
    )
    .await
    {
        Ok(()) => "FETCH_HEAD",
        Err(_) => {
            git(into, &["fetch", "-q", "--tags", "origin"]).await?;
            reference
        }
    };
    git(into, &["checkout", "-q", "--detach", target]).await?;
    git(
        into,
        &[
            "submodule",
            "update",
            "-q",
            "--init",
            "--recursive",
            "--depth",
            "1",
        ],
    )
    .await?;
    std::fs::remove_dir_all(into.join(".git")).map_err(|e| failed("remove .git", e))?;
    let tree = build::Tree::folder(into).map_err(|e| failed("cannot open the repository", e))?;
    let resolved = tree.resolve(below.as_bytes()).map_err(|e| failed(below, e))?;
    Ok(into.join(String::from_utf8_lossy(&resolved.path).into_owned()))
}

async fn git(dir: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let output = tokio::process::Command::new("git")
        .args(["-c", "protocol.ext.allow=never"])
        .args(arguments)
        .current_dir(dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(
                "ERROR: unable to prepare context: unable to find 'git': install it, or clone the repository yourself",
            ));
        }
        other => other?,
    };
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let what = arguments.first().copied().unwrap_or_default();
    Err(failed(
        format!("unable to prepare context: git {what} failed"),
        words,
    ))
}

fn extract(archive: impl Read, into: &Path) -> Result<(), Failure> {
    let wrong = |error: &dyn std::fmt::Display| failed("unable to prepare context", error);
    let root = std::fs::File::open(into)?;
    let mut extractor = Extractor::new(Place::beneath(root.into()), ExtractOptions::default());
    let limits = Limits::default();
    let mut reader = TarReader::new(plain(archive)?, &limits);
    while let Some(entry) = reader.next_entry().map_err(|e| wrong(&e))? {
        if !matches!(entry.kind, Kind::Char | Kind::Block) {
            extractor.entry(&entry, &mut reader).map_err(|e| wrong(&e))?;
        }
    }
    extractor.finish().map_err(|e| wrong(&e))?;
    std::io::stderr().flush().ok();
    Ok(())
}
