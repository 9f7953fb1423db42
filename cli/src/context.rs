//! Named addresses of daemons, kept for the client in `~/.pontoon` (or `PONTOON_CONFIG_DIR`), in Docker's layout:
//! `contexts/meta/<sha256 of the name>/meta.json`, and the current one's name in `config.json`. Used by `context …` and, before
//! every other command, to find the daemon ([`host`]).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::client::Address;
use crate::error::Failure;

/// The context that is always there: what `PONTOON_HOST` says, or the local socket.
pub const DEFAULT: &str = "default";
const ENDPOINT: &str = "docker";

/// A context as `meta.json` has it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Context {
    /// What users call it.
    pub name: String,
    /// What users say of it.
    #[serde(default)]
    pub metadata: Metadata,
    /// Where it leads, under the key `docker`.
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// What users say of a context.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Metadata {
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Where a context leads.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Endpoint {
    /// As `--host` takes it.
    #[serde(default)]
    pub host: String,
    /// Docker's, kept as it is.
    #[serde(default, rename = "SkipTLSVerify")]
    pub skip_tls_verify: bool,
}

impl Context {
    /// A new one.
    pub fn new(name: &str, host: &str, description: &str) -> Self {
        let endpoint = Endpoint {
            host: host.to_owned(),
            skip_tls_verify: false,
        };
        Self {
            name: name.to_owned(),
            metadata: Metadata {
                description: description.to_owned(),
            },
            endpoints: [(ENDPOINT.to_owned(), endpoint)].into(),
        }
    }

    /// Address of the daemon.
    pub fn host(&self) -> &str {
        self.endpoints.get(ENDPOINT).map_or("", |endpoint| &endpoint.host)
    }

    /// Another address.
    pub fn set_host(&mut self, host: &str) {
        self.endpoints.entry(ENDPOINT.to_owned()).or_default().host = host.to_owned();
    }
}

/// The folder of contexts.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The user's.
    ///
    /// # Errors
    /// Neither `PONTOON_CONFIG_DIR` nor `HOME` is set.
    pub fn open() -> Result<Self, Failure> {
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = set("PONTOON_CONFIG_DIR").or_else(|| set("HOME").map(|home| home.join(".pontoon")));
        root.map(|root| Self { root })
            .ok_or_else(|| Failure::new("no folder for contexts: set HOME or PONTOON_CONFIG_DIR"))
    }

    /// One at another place.
    #[cfg(test)]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// All contexts but the default one, by name.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn list(&self) -> Result<Vec<Context>, Failure> {
        let meta = self.root.join("contexts/meta");
        let entries = match std::fs::read_dir(&meta) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &meta, &error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", &meta, &error))?;
            found.extend(read(&entry.path().join("meta.json"))?);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// One by name.
    ///
    /// # Errors
    /// There is none, or its file can't be read.
    pub fn get(&self, name: &str) -> Result<Context, Failure> {
        read(&self.file(name))?.ok_or_else(|| {
            Failure::new(format!(
                "context \"{name}\": context not found: {}: no such file or directory",
                self.file(name).display()
            ))
        })
    }

    /// Whether there is one of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    /// Writes one, whole or not at all.
    ///
    /// # Errors
    /// The name or its address is bad, or the file can't be written.
    pub fn put(&self, context: &Context) -> Result<(), Failure> {
        check_name(&context.name)?;
        Address::parse(Some(context.host()))?;
        let text = serde_json::to_string(context)
            .map_err(|error| Failure::new(format!("write context {}: {error}", context.name)))?;
        replace(&self.file(&context.name), &text)
    }

    /// Removes one.
    ///
    /// # Errors
    /// There is none, or its folder can't be removed.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        let folder = self.folder(name);
        std::fs::remove_dir_all(&folder).map_err(|error| failed("remove", &folder, &error))
    }

    /// Name of the current context as `context use` left it.
    ///
    /// # Errors
    /// The settings can't be read.
    pub fn used(&self) -> Result<Option<String>, Failure> {
        let settings = self.settings()?;
        let name = settings.get("currentContext").and_then(Value::as_str);
        Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
    }

    /// Makes one the current; other settings stay as they are.
    ///
    /// # Errors
    /// The settings can't be read or written.
    pub fn set_used(&self, name: &str) -> Result<(), Failure> {
        let mut settings = self.settings()?;
        if name == DEFAULT {
            settings.remove("currentContext");
        } else {
            settings.insert("currentContext".to_owned(), Value::from(name));
        }
        replace(&self.config(), &format!("{:#}\n", Value::Object(settings)))
    }

    fn settings(&self) -> Result<Map<String, Value>, Failure> {
        let path = self.config();
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    fn folder(&self, name: &str) -> PathBuf {
        let digest = hex::encode(Sha256::digest(name.as_bytes()));
        self.root.join("contexts/meta").join(digest)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder(name).join("meta.json")
    }
}

/// Docker's rule for names.
///
/// # Errors
/// Says what names may have.
pub fn check_name(name: &str) -> Result<(), Failure> {
    if name == DEFAULT {
        return Err(Failure::new("\"default\" is a reserved context name"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() < 2 || !starts || !name.chars().all(good) {
        return Err(Failure::new(format!(
            "context name \"{name}\" is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        )));
    }
    Ok(())
}

/// The daemon's address. As in Docker: `--context`, then `--host`, `PONTOON_HOST`, `PONTOON_CONTEXT`, and what `context use`
/// left; the flags arrive with the variables' values where they were not given.
///
/// # Errors
/// Both `--host` and `--context` are given, or the context does not exist.
pub fn host(host: Option<&str>, context: Option<&str>) -> Result<Option<String>, Failure> {
    let host = host.filter(|host| !host.is_empty());
    let context = context.filter(|name| !name.is_empty());
    let from_environment = |given: Option<&str>, variable: &str| {
        given.is_some_and(|given| std::env::var(variable).is_ok_and(|value| value == given))
    };
    let context_by_hand = context.is_some() && !from_environment(context, "PONTOON_CONTEXT");
    if let Some(host) = host {
        let host_by_hand = !from_environment(Some(host), "PONTOON_HOST");
        if context_by_hand && host_by_hand {
            return Err(Failure::new(
                "conflicting options: cannot specify both --host and --context",
            ));
        }
        if !context_by_hand {
            return Ok(Some(host.to_owned()));
        }
    }
    let name = match context {
        Some(name) => Some(name.to_owned()),
        // Without a home there are no contexts.
        None => match Store::open() {
            Ok(store) => store.used()?,
            Err(_) => None,
        },
    };
    match name.filter(|name| name != DEFAULT) {
        Some(name) => Store::open()?
            .get(&name)
            .map(|context| Some(context.host().to_owned())),
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<Option<Context>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&temporary, text))
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| failed("write", path, &error))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        assert!(store.list().unwrap().is_empty());
        store.put(&Context::new("web", "ssh://web1", "the web")).unwrap();
        store
            .put(&Context::new("db.1", "unix:///run/x.sock", ""))
            .unwrap();
        let names: Vec<String> = store.list().unwrap().into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["db.1", "web"]);
        assert_eq!(store.get("web").unwrap().host(), "ssh://web1");
        assert_eq!(store.used().unwrap(), None);
        store.set_used("web").unwrap();
        assert_eq!(store.used().unwrap().as_deref(), Some("web"));
        store.set_used(DEFAULT).unwrap();
        assert_eq!(store.used().unwrap(), None);
        store.remove("web").unwrap();
        assert!(
            store
                .get("web")
                .unwrap_err()
                .message
                .contains("context not found")
        );
        for (name, host) in [
            ("x", "ssh://a"),
            ("-x", "ssh://a"),
            ("a/b", "ssh://a"),
            (DEFAULT, "ssh://a"),
            ("ok", "ftp://a"),
        ] {
            assert!(store.put(&Context::new(name, host, "")).is_err(), "{name} {host}");
        }
    }
}
