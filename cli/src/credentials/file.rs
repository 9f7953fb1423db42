//! Docker's `config.json` (`$DOCKER_CONFIG` or `~/.docker`): `auths`, `credsStore`, `credHelpers`. What else is in it belongs to others
//! and stays.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pontoon_proto::v1::RegistryAuth;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::helper;
use crate::error::Failure;

/// The file and what is in it.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    content: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the user's; a file that is not there is empty.
    ///
    /// # Errors
    /// It can't be read, or is no JSON object.
    pub fn read() -> Result<Self, Failure> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        match folder {
            Some(folder) => Self::at(&folder.join("config.json")),
            None => Ok(Self {
                path: PathBuf::new(),
                content: Map::new(),
            }),
        }
    }

    /// Reads this file.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub fn at(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("error loading config file {}: {error}", path.display()))
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&error)),
        };
        let content = if text.iter().all(u8::is_ascii_whitespace) {
            Map::new()
        } else {
            serde_json::from_slice(&text).map_err(|error| failed(&error))?
        };
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The helper that is responsible for a server.
    fn helper(&self, server: &str) -> Option<&str> {
        let own = self
            .content
            .get("credHelpers")
            .and_then(|helpers| helpers.get(server));
        let general = || self.content.get("credsStore");
        let name = own.or_else(general).and_then(Value::as_str);
        name.filter(|name| !name.is_empty())
    }

    /// True if the password would be kept in the file itself.
    pub fn is_plain(&self, server: &str) -> bool {
        self.helper(server).is_none()
    }

    /// What there is for a server; empty if nothing.
    ///
    /// # Errors
    /// A helper fails, or an entry is damaged.
    pub fn get(&self, server: &str) -> Result<RegistryAuth, Failure> {
        if let Some(name) = self.helper(server) {
            return helper::get(name, server);
        }
        let Some(Value::Object(auths)) = self.content.get("auths") else {
            return Ok(RegistryAuth::default());
        };
        let same_host = |(key, _): &(&String, &Value)| host(key) == host(server);
        let entry = auths
            .get(server)
            .or_else(|| auths.iter().find(same_host).map(|(_, entry)| entry));
        match entry {
            Some(entry) => self.auth(server, entry),
            None => Ok(RegistryAuth::default()),
        }
    }

    fn auth(&self, server: &str, entry: &Value) -> Result<RegistryAuth, Failure> {
        let text = |name: &str| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let mut auth = RegistryAuth {
            username: text("username"),
            password: text("password"),
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
            server_address: server.to_owned(),
        };
        let encoded = text("auth");
        if !encoded.is_empty() {
            let bad = || {
                Failure::new(format!(
                    "error loading config file {}: the entry of {server} is damaged: log in again",
                    self.path.display()
                ))
            };
            let decoded = decode(&encoded).and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.ok_or_else(bad)?;
            let (user, password) = decoded.split_once(':').ok_or_else(bad)?;
            user.clone_into(&mut auth.username);
            // Docker's own files of old end in NUL bytes.
            password.trim_end_matches('\0').clone_into(&mut auth.password);
        }
        Ok(auth)
    }

    /// Keeps credentials, with the responsible helper or in the file.
    ///
    /// # Errors
    /// A helper fails, or the file can't be written.
    pub fn store(&mut self, server: &str, auth: &RegistryAuth) -> Result<(), Failure> {
        if let Some(name) = self.helper(server).map(str::to_owned) {
            helper::store(&name, server, auth)?;
            // As Docker: an empty entry says that there is something in the store.
            self.put(server, json!({}));
            return self.write();
        }
        let mut entry = Map::new();
        if !auth.username.is_empty() || !auth.password.is_empty() {
            let pair = format!("{}:{}", auth.username, auth.password);
            entry.insert("auth".to_owned(), Value::from(encode(pair.as_bytes())));
        }
        if !auth.identity_token.is_empty() {
            entry.insert(
                "identitytoken".to_owned(),
                Value::from(auth.identity_token.clone()),
            );
        }
        self.put(server, Value::Object(entry));
        self.write()
    }

    fn put(&mut self, server: &str, entry: Value) {
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Value::Object(auths) = auths {
            auths.insert(server.to_owned(), entry);
        }
    }

    /// Forgets a server, by all the names that Docker has given it; all is tried, the first problem is told.
    ///
    /// # Errors
    /// A helper fails, or the file can't be written.
    pub fn erase(&mut self, servers: &[String]) -> Result<(), Failure> {
        let mut problem = None;
        for server in servers {
            if let Some(name) = self.helper(server).map(str::to_owned)
                && let Err(failure) = helper::erase(&name, server)
            {
                problem.get_or_insert(failure);
            }
        }
        let mut changed = false;
        if let Some(Value::Object(auths)) = self.content.get_mut("auths") {
            for server in servers {
                changed |= auths.remove(server).is_some();
            }
        }
        if changed {
            self.write()?;
        }
        problem.map_or(Ok(()), Err)
    }

    /// Replaces the file at once, so that nobody ever reads half of it; a link to it stays a link.
    fn write(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("save {}: {error}", self.path.display()));
        if self.path.as_os_str().is_empty() {
            return Err(Failure::new(
                "no folder for config.json: set HOME or DOCKER_CONFIG",
            ));
        }
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let mut text = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.content
            .serialize(&mut serde_json::Serializer::with_formatter(&mut text, format))
            .map_err(|error| failed(error.into()))?;
        let partial = folder.join(format!(".config.json.{}", std::process::id()));
        let written = (|| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(&text)?;
            file.sync_all()?;
            if let Ok(old) = std::fs::metadata(&path) {
                file.set_permissions(old.permissions())?;
            }
            std::fs::rename(&partial, &path)
        })();
        written.map_err(|error| {
            let _ = std::fs::remove_file(&partial);
            failed(error)
        })
    }
}

/// Host of an address, as Docker compares entries: `https://reg.example/v1/` and `reg.example` are one.
fn host(address: &str) -> &str {
    let rest = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
        .unwrap_or(address);
    rest.split('/').next().unwrap_or_default()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> RegistryAuth {
        RegistryAuth {
            username: name.to_owned(),
            password: password.to_owned(),
            ..RegistryAuth::default()
        }
    }

    #[test]
    fn what_others_keep_in_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(
            &path,
            r#"{"psFormat": "table {{.ID}}", "proxies": {"default": {"httpProxy": "x"}},
                "auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}}}"#,
        )
        .unwrap();
        let mut file = ConfigFile::at(&path).unwrap();
        let hub = file.get(super::super::HUB).unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("u", "p:q"));
        file.store("localhost:5000", &user("me", "secret")).unwrap();
        let file = ConfigFile::at(&path).unwrap();
        assert_eq!(file.content["psFormat"], "table {{.ID}}");
        assert_eq!(file.content["proxies"]["default"]["httpProxy"], "x");
        assert_eq!(file.get("localhost:5000").unwrap().password, "secret");
        assert_eq!(file.get("http://localhost:5000/v2/").unwrap().username, "me");
        assert_eq!(file.get("other:5000").unwrap(), RegistryAuth::default());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\n\t\"auths\": {\n\t\t\""), "{text}");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_new_file_is_the_users_own() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.json");
        let mut file = ConfigFile::at(&path).unwrap();
        let token = RegistryAuth {
            identity_token: "idt".to_owned(),
            username: "u".to_owned(),
            ..RegistryAuth::default()
        };
        file.store("reg.example", &token).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut file = ConfigFile::at(&path).unwrap();
        assert_eq!(file.get("reg.example").unwrap().identity_token, "idt");
        file.erase(&["reg.example".to_owned()]).unwrap();
        assert_eq!(
            ConfigFile::at(&path).unwrap().get("reg.example").unwrap(),
            RegistryAuth::default()
        );
    }

    #[test]
    fn helpers_are_chosen_as_docker_does() {
        let file = |text: &str| ConfigFile {
            path: PathBuf::new(),
            content: serde_json::from_str(text).unwrap(),
        };
        let both = file(r#"{"credsStore": "all", "credHelpers": {"a.example": "one"}}"#);
        assert_eq!(both.helper("a.example"), Some("one"));
        assert_eq!(both.helper("b.example"), Some("all"));
        assert_eq!(file("{}").helper("a.example"), None);
        assert!(file(r#"{"credsStore": ""}"#).is_plain("x"));
        let damaged = file(r#"{"auths": {"x": {"auth": "!"}}}"#);
        assert!(damaged.get("x").unwrap_err().message.contains("log in again"));
    }
}
