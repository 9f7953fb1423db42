//! Root filesystems of containers: the writable layer and what it stands on. On the path of every container start, so
//! a handful of system calls and no sync.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use super::{EMPTY, Layers};
use crate::{Digest, Error, Result, Rootfs, RootfsSize, archive, error::At, unpack::Form};

const CHAIN: &str = "chain";

impl Layers {
    /// Makes a container's directories on the stack (bottom first).
    pub(crate) fn prepare(&self, container: &str, stack: &[Digest]) -> Result<Rootfs> {
        let home = self.home(container)?;
        self.hold(stack)?;
        let made = self.make_home(&home, container, stack.last());
        if made.is_err() {
            self.release(stack.iter().copied())?;
        }
        made?;
        Ok(self.describe(&home, stack))
    }

    fn make_home(&self, home: &Path, container: &str, top: Option<&Digest>) -> Result<()> {
        if home.exists() {
            return Err(Error::RootfsExists(container.into()));
        }
        let staged =
            tempfile::TempDir::new_in(&self.staging).at("cannot make a directory in", &self.staging)?;
        let (upper, work) = (staged.path().join("upper"), staged.path().join("work"));
        let root = self.init_path(top);
        self.driver.make(&upper, Some(&root))?;
        if self.driver.form() == Form::Overlay {
            fs::create_dir(&work).at("cannot make", &work)?;
            // The merged root shows the upper directory's attributes: they must be the image's.
            let like = fs::symlink_metadata(&root).at("cannot read", &root)?;
            fs::set_permissions(&upper, fs::Permissions::from_mode(like.mode() & 0o7777))
                .at("cannot chmod", &upper)?;
            if (like.uid(), like.gid()) != (0, 0) {
                std::os::unix::fs::chown(&upper, Some(like.uid()), Some(like.gid()))
                    .at("cannot chown", &upper)?;
            }
        }
        // A link's text is written together with its name: no crash leaves it half there.
        let chain = top.map_or_else(|| EMPTY.to_owned(), Digest::to_string);
        std::os::unix::fs::symlink(chain, staged.path().join(CHAIN))
            .at("cannot make", staged.path().join(CHAIN))?;
        match fs::rename(staged.path(), home) {
            Ok(()) => Ok(()),
            Err(_) if home.exists() => Err(Error::RootfsExists(container.into())),
            Err(e) => Err(e).at("cannot put in place", home),
        }
    }

    /// The directories of a container that exists.
    pub(crate) fn rootfs(&self, container: &str) -> Result<Rootfs> {
        let home = self.home(container)?;
        let stack = self
            .stack_of(&home)?
            .ok_or_else(|| Error::NoRootfs(container.into()))?;
        Ok(self.describe(&home, &stack))
    }

    /// Containers that have a root filesystem.
    pub(crate) fn containers(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.rootfs).at("cannot list", &self.rootfs)? {
            let name = entry.at("cannot list", &self.rootfs)?.file_name();
            ids.extend(name.into_string());
        }
        ids.sort();
        Ok(ids)
    }

    /// Removes a container's directories; its layers go too when nothing else holds them.
    pub(crate) fn remove_rootfs(&self, container: &str) -> Result<()> {
        let home = self.home(container)?;
        let stack = self.stack_of(&home)?;
        let trash = self.to_trash(&home)?;
        if let (Some(stack), Some(_)) = (stack, &trash) {
            self.release(stack)?;
        }
        trash.map_or(Ok(()), |t| self.empty(t))
    }

    /// Bytes that a container wrote, and those with its layers.
    pub(crate) fn rootfs_size(&self, container: &str) -> Result<RootfsSize> {
        let home = self.home(container)?;
        let stack = self
            .stack_of(&home)?
            .ok_or_else(|| Error::NoRootfs(container.into()))?;
        let upper = home.join("upper");
        let rw = match self.driver.form() {
            Form::Overlay => disk_use(&upper).at("cannot measure", upper)?,
            Form::Tree => changed_bytes(&self.describe(&home, &stack))?,
        };
        Ok(RootfsSize {
            rw,
            total: rw + stack.iter().map(|c| self.size(c)).sum::<u64>(),
        })
    }

    /// At start: every container that is there holds its stack. What is left of a removal that broke off goes.
    pub(super) fn hold_containers(&self) -> Result<()> {
        for id in self.containers()? {
            match self.stack_of(&self.rootfs.join(&id)) {
                Ok(Some(stack)) => self.hold(&stack)?,
                Ok(None) => self.discard(&self.rootfs.join(&id))?,
                Err(e) => {
                    // Its data stays for the user to rescue; only starting it will fail.
                    tracing::error!(
                        container = id,
                        error = &e as &dyn std::error::Error,
                        "layers are missing"
                    );
                }
            }
        }
        Ok(())
    }

    /// The stacks of all containers whose layers are there.
    pub(crate) fn container_stacks(&self) -> Vec<Vec<Digest>> {
        let ids = self.containers().unwrap_or_default();
        let stack = |id: &String| self.stack_of(&self.rootfs.join(id)).ok().flatten();
        ids.iter().filter_map(stack).collect()
    }

    fn stack_of(&self, home: &Path) -> Result<Option<Vec<Digest>>> {
        let link = home.join(CHAIN);
        let text = match fs::read_link(&link) {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).at("cannot read", link),
        };
        match text.parse() {
            Ok(top) => self.stack(Some(&top)).map(Some),
            Err(_) if text == EMPTY => Ok(Some(Vec::new())),
            Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)).at("cannot read", link),
        }
    }

    fn describe(&self, home: &Path, stack: &[Digest]) -> Rootfs {
        let mut lower = vec![self.init_path(stack.last())];
        let form = self.driver.form();
        let shown = match form {
            Form::Overlay => stack.len(),
            Form::Tree => stack.len().min(1),
        };
        lower.extend(stack.iter().rev().take(shown).map(|c| self.path(c).join("diff")));
        Rootfs {
            lower,
            upper: home.join("upper"),
            work: home.join("work"),
            is_tree: form == Form::Tree,
        }
    }

    /// Container ids come from callers further out: nothing but a plain name may reach the file system.
    fn home(&self, container: &str) -> Result<PathBuf> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if container.is_empty() || container.len() > 128 || !container.bytes().all(plain) {
            return Err(Error::InvalidArgument(format!("container id {container:?}")));
        }
        Ok(self.rootfs.join(container))
    }
}

/// Bytes of the files that a whole tree has otherwise than what it was copied from.
fn changed_bytes(rootfs: &Rootfs) -> Result<u64> {
    let changes = archive::changes(rootfs)?;
    let size = |change: &archive::Change| {
        let path = rootfs.upper.join(OsStr::from_bytes(
            change.path.strip_prefix(b"/").unwrap_or(&change.path),
        ));
        let found = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
        found.map_or(0, |f| f.len())
    };
    Ok(changes.iter().map(size).sum())
}

/// Bytes of the regular files below a directory, each inode once. A running container may change it meanwhile: what
/// is gone when we get there counts nothing.
fn disk_use(dir: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut todo = vec![dir.to_path_buf()];
    let mut bytes = 0;
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(stat) = entry.metadata() else { continue };
            if stat.is_dir() {
                todo.push(entry.path());
            } else if stat.is_file() && (stat.nlink() == 1 || seen.insert((stat.dev(), stat.ino()))) {
                bytes += stat.len();
            }
        }
    }
    Ok(bytes)
}
