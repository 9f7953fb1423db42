//! Where a build's files are: a folder, an archive on standard input or at a web address, a repository. What is no folder becomes
//! a temporary one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use pontoon_build::ignore::{self, Patterns};
use pontoon_image::archive::{ExtractOptions, Extractor, Kind, Place, TarReader, plain};
use pontoon_image::{Limits, build};

use super::options::Arguments;
use super::remote;
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
    Folder {
        /// Where they are.
        path: PathBuf,
        /// What it goes with.
        _temporary: Option<tempfile::TempDir>,
    },
    /// What the daemon has by itself: an image.
    Far(String),
}

impl Named {
    /// Its folder, if it is one.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Named::Folder { path, .. } => Some(path.clone()),
            Named::Far(_) => None,
        }
    }

    /// What the daemon is told.
    pub fn said(&self) -> String {
        match self {
            Named::Folder { .. } => String::new(),
            Named::Far(text) => text.clone(),
        }
    }
}

pub(super) fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Failure {
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
            let mut input = tempfile::tempfile()?;
            std::io::copy(&mut std::io::stdin().lock(), &mut input)?;
            input.rewind()?;
            return Self::of_file(input, arguments, "stdin");
        }
        if !Path::new(context).exists() && remote::is_web(context) && !remote::is_git(context) {
            if from_stdin {
                return Err(Failure::new(format!(
                    "ERROR: the Dockerfile of the remote context {context} can't come from standard input"
                )));
            }
            return Self::of_file(remote::download(context).await?, arguments, context);
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

    /// An archive with the Dockerfile in it, or the Dockerfile itself.
    fn of_file(mut input: File, arguments: &Arguments, from: &str) -> Result<Self, Failure> {
        let mut head = Vec::new();
        let is_archive = plain(&mut input)
            .and_then(|plain| plain.take(512).read_to_end(&mut head))
            .is_ok_and(|_| head.get(257..262).is_some_and(|magic| magic == b"ustar"));
        input.rewind()?;
        if is_archive {
            let temporary = tempfile::tempdir()?;
            extract(input, temporary.path())?;
            let folder = temporary.path().to_owned();
            return Self::of_folder(folder, Some(temporary), arguments.file.as_deref(), true);
        }
        if let Some(name) = &arguments.file {
            return Err(Failure::new(format!(
                "ERROR: ambiguous Dockerfile source: both {from} and flag correspond to Dockerfiles ({name})"
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
            // Links of a context that somebody else made lead nowhere else.
            file if is_remote => {
                let file = file.unwrap_or(DOCKERFILE);
                let tree = build::Tree::folder(&folder).map_err(|e| failed("cannot open the context", e))?;
                let resolved = tree.resolve(file.as_bytes()).map_err(|e| failed(file, e))?;
                folder.join(String::from_utf8_lossy(&resolved.path).into_owned())
            }
            None => folder.join(DOCKERFILE),
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
            Named::Folder {
                path: folder,
                _temporary: temporary,
            }
        };
        contexts.insert(name.to_owned(), context);
    }
    Ok(contexts)
}

/// A folder as it is, or a repository in a temporary one.
async fn fetched(context: &str) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    if !Path::new(context).exists() && remote::is_git(context) {
        let temporary = tempfile::tempdir()?;
        let folder = remote::clone(context, temporary.path()).await?;
        return Ok((folder, Some(temporary)));
    }
    if !Path::new(context).exists() && remote::is_web(context) {
        let temporary = tempfile::tempdir()?;
        extract(remote::download(context).await?, temporary.path())?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    }
    Ok((PathBuf::from(context), None))
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
    Ok(())
}
