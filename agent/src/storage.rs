//! The agent's state on disk, so that a restarted daemon goes on without a manager: `task/<id>.pb` (assignment and last
//! status), `network/<id>.pb`, `ingress.pb`, `managers.pb`. Each file is replaced by rename; what a power failure takes is
//! sent again by the managers, so nothing is synced. What tasks log in to a registry with is not written: only that there is something.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pontoon_proto::v1::{
    IngressConfig, ManagerList, OverlayNetwork, RegistryAuth, TaskAssignment, TaskStatus,
};
use prost::Message;

use crate::{Error, Result};

/// A task as it is kept.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredTask {
    /// What the managers want.
    #[prost(message, optional, tag = "1")]
    pub assignment: Option<TaskAssignment>,
    /// What was last observed.
    #[prost(message, optional, tag = "2")]
    pub status: Option<TaskStatus>,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Storage {
    dir: PathBuf,
}

impl Storage {
    /// Makes the folders if needed.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        for kind in ["task", "network"] {
            let path = dir.join(kind);
            fs::create_dir_all(&path).map_err(|source| Error::File {
                operation: "create",
                path,
                source,
            })?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// All tasks, damaged ones left out (and their files removed).
    pub(crate) fn tasks(&self) -> Result<Vec<(TaskAssignment, TaskStatus)>> {
        let stored: Vec<StoredTask> = self.read_all("task")?;
        Ok(stored
            .into_iter()
            .filter_map(|task| Some((task.assignment?, task.status.unwrap_or_default())))
            .collect())
    }

    /// Keeps a task. Credentials stay off the disk: they come back as [withheld](crate::exec::Credentials).
    pub(crate) fn put_task(&self, assignment: &TaskAssignment, status: &TaskStatus) -> Result<()> {
        let mut assignment = assignment.clone();
        if let Some(auth) = assignment
            .spec
            .as_mut()
            .and_then(|spec| spec.registry_auth.as_mut())
        {
            *auth = RegistryAuth::default();
        }
        let path = self.file("task", &assignment.task_id);
        let stored = StoredTask {
            assignment: Some(assignment),
            status: Some(status.clone()),
        };
        self.write(&path, &stored)
    }

    /// Forgets a task.
    pub(crate) fn remove_task(&self, id: &str) -> Result<()> {
        remove(&self.file("task", id))
    }

    /// All networks.
    pub(crate) fn networks(&self) -> Result<Vec<OverlayNetwork>> {
        self.read_all("network")
    }

    /// Keeps a network.
    pub(crate) fn put_network(&self, network: &OverlayNetwork) -> Result<()> {
        self.write(&self.file("network", &network.id), network)
    }

    /// Forgets a network.
    pub(crate) fn remove_network(&self, id: &str) -> Result<()> {
        remove(&self.file("network", id))
    }

    /// The routing mesh, if this node is in it.
    pub(crate) fn ingress(&self) -> Result<Option<IngressConfig>> {
        self.read(&self.dir.join("ingress.pb"))
    }

    /// Keeps or forgets the routing mesh.
    pub(crate) fn put_ingress(&self, ingress: Option<&IngressConfig>) -> Result<()> {
        let path = self.dir.join("ingress.pb");
        match ingress {
            Some(ingress) => self.write(&path, ingress),
            None => remove(&path),
        }
    }

    /// Where managers were last.
    pub(crate) fn managers(&self) -> Result<ManagerList> {
        Ok(self.read(&self.dir.join("managers.pb"))?.unwrap_or_default())
    }

    /// Keeps where managers are.
    pub(crate) fn put_managers(&self, managers: &ManagerList) -> Result<()> {
        self.write(&self.dir.join("managers.pb"), managers)
    }

    // Ids come from the managers; one that is no plain name must not become a path.
    fn file(&self, kind: &str, id: &str) -> PathBuf {
        let plain: String = id
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        self.dir.join(kind).join(format!("{plain}.pb"))
    }

    fn write(&self, path: &Path, message: &impl Message) -> Result<()> {
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, message.encode_to_vec())
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(|source| Error::File {
                operation: "write",
                path: path.to_owned(),
                source,
            })
    }

    fn read<T: Message + Default>(&self, path: &Path) -> Result<Option<T>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::File {
                    operation: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        match T::decode(bytes.as_slice()) {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "removing a damaged file: managers send it again");
                remove(path)?;
                Ok(None)
            }
        }
    }

    fn read_all<T: Message + Default>(&self, kind: &str) -> Result<Vec<T>> {
        let path = self.dir.join(kind);
        let entries = fs::read_dir(&path).map_err(|source| Error::File {
            operation: "read",
            path,
            source,
        })?;
        let mut messages = Vec::new();
        for entry in entries.flatten() {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "pb")
            {
                messages.extend(self.read(&entry.path())?);
            }
        }
        Ok(messages)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| Error::File {
            operation: "remove",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::TaskSpec;

    use super::*;

    #[test]
    fn keeps_what_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let task = TaskAssignment {
            task_id: "t1".into(),
            ..TaskAssignment::default()
        };
        storage.put_task(&task, &TaskStatus::default()).unwrap();
        let evil = TaskAssignment {
            task_id: "../../x".into(),
            ..TaskAssignment::default()
        };
        storage.put_task(&evil, &TaskStatus::default()).unwrap();
        assert!(dir.path().join("task/______x.pb").exists());
        fs::write(dir.path().join("task/bad.pb"), b"\xff\xff\xff").unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        assert_eq!(storage.tasks().unwrap().len(), 2);
        assert!(!dir.path().join("task/bad.pb").exists());
        storage.remove_task("t1").unwrap();
        storage.remove_task("t1").unwrap();
        assert_eq!(storage.tasks().unwrap().len(), 1);
        assert!(storage.ingress().unwrap().is_none());
    }

    #[test]
    fn credentials_stay_off_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let mut task = TaskAssignment {
            task_id: "t1".into(),
            spec: Some(TaskSpec {
                registry_auth: Some(RegistryAuth {
                    username: "user-of-a-registry".into(),
                    password: "its-password".into(),
                    identity_token: "its-token".into(),
                    ..RegistryAuth::default()
                }),
                ..TaskSpec::default()
            }),
            ..TaskAssignment::default()
        };
        storage.put_task(&task, &TaskStatus::default()).unwrap();
        let text = fs::read(dir.path().join("task/t1.pb")).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("user-of") && !text.contains("its-"), "{text}");
        // That there were some is known, also after it was written once more.
        let (kept, status) = storage.tasks().unwrap().pop().unwrap();
        storage.put_task(&kept, &status).unwrap();
        let (kept, _) = storage.tasks().unwrap().pop().unwrap();
        assert_eq!(kept.spec.unwrap().registry_auth, Some(RegistryAuth::default()));
        task.spec.as_mut().unwrap().registry_auth = None;
        storage.put_task(&task, &TaskStatus::default()).unwrap();
        assert_eq!(storage.tasks().unwrap()[0].0, task);
    }
}
