//! Paths in a container, by Docker's rules (moby `container.ResolvePath`, `StatPath`): a path's directory is resolved with
//! all links, below the container's root; its last name only when a slash or `/.` comes after it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pontoon_image::archive::Node;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{Refusal, Stat};

/// Links followed in one resolution, as in the kernel.
const MAX_LINKS: usize = 40;

/// A container's root.
pub(super) struct Root(pub(super) OwnedFd);

/// A path as it was asked for.
pub(super) struct Wanted {
    /// Absolute, without `..`.
    clean: PathBuf,
    /// It ended with a slash or `/.`, so a link at its end is followed.
    follow: bool,
    /// It ended with `/.`: what is in the folder.
    content: bool,
}

impl Wanted {
    pub(super) fn new(path: &str) -> Result<Self, Refusal> {
        if path.is_empty() {
            return Err(Refusal::Invalid("bad parameter: path cannot be empty".to_owned()));
        }
        if path.contains('\0') {
            return Err(Refusal::Invalid("bad parameter: NUL in a path".to_owned()));
        }
        let content = path == "." || path.ends_with("/.");
        Ok(Self {
            clean: pontoon_runtime::clean_path(path),
            follow: content || path.ends_with('/'),
            content,
        })
    }

    /// What entries of an archive of it are called.
    pub(super) fn name(&self) -> &OsStr {
        if self.content {
            return OsStr::new(".");
        }
        self.clean.file_name().unwrap_or(OsStr::new("/"))
    }

    /// For messages.
    fn shown(&self) -> String {
        let end = if self.follow && self.clean != Path::new("/") {
            "/"
        } else {
            ""
        };
        format!("{}{end}", self.clean.display())
    }
}

impl Root {
    /// Opens a path, links followed to their end; none leads out of the root.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_as(path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    fn open_as(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        loop {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // openat2(2): a rename elsewhere on the system raced with the check.
                Err(Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }

    /// The object that a path names.
    pub(super) fn node(&self, wanted: &Wanted) -> Result<Node, Refusal> {
        let found = match (wanted.clean.parent(), wanted.clean.file_name()) {
            (Some(parent), Some(name)) if !wanted.follow => self
                .open(parent, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(io::Error::from)
                .and_then(|dir| Node::at(dir, name)),
            _ => self
                .open(&wanted.clean, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(io::Error::from)
                .and_then(Node::new),
        };
        found.map_err(|error| self.refusal(wanted, &error))
    }

    /// The folder that a path names, links followed to the end.
    pub(super) fn folder(&self, wanted: &Wanted) -> Result<Node, Refusal> {
        let opened = self.open(&wanted.clean, OFlags::PATH);
        let node = opened.map_err(io::Error::from).and_then(Node::new);
        let node = node.map_err(|error| self.refusal(wanted, &error))?;
        if !node.is_dir() {
            return Err(Refusal::Invalid("extraction point is not a directory".to_owned()));
        }
        Ok(node)
    }

    /// Where a folder is, as a path from the root without links: the kernel's own answer.
    pub(super) fn real_path(&self, folder: &Node) -> io::Result<PathBuf> {
        let path_of = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (root, path) = (path_of(&self.0)?, path_of(&folder.fd)?);
        let below = path.strip_prefix(&root);
        let below = below.map_err(|_| io::Error::other("the folder was moved out of the container"))?;
        Ok(Path::new("/").join(below))
    }

    fn refusal(&self, wanted: &Wanted, error: &io::Error) -> Refusal {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => Refusal::NotFound(wanted.clean.display().to_string()),
            Some(Errno::NOTDIR) => Refusal::Invalid(format!("lstat {}: not a directory", wanted.shown())),
            Some(Errno::LOOP) => Refusal::Invalid(format!(
                "lstat {}: too many levels of symbolic links",
                wanted.shown()
            )),
            Some(Errno::NAMETOOLONG) => {
                Refusal::Invalid(format!("lstat {}: file name too long", wanted.shown()))
            }
            _ => Refusal::Failed(format!("{}: {error}", wanted.shown())),
        }
    }

    /// Metadata as Docker's header `X-Docker-Container-Path-Stat` has it.
    pub(super) fn stat(&self, wanted: &Wanted, node: &Node) -> Stat {
        let link_target = match node.kind() {
            FileType::Symlink => self.resolved(&wanted.clean).display().to_string(),
            _ => String::new(),
        };
        let stat = &node.stat;
        Stat {
            name: wanted.name().to_string_lossy().into_owned(),
            size: stat.st_size,
            mode: go_mode(stat.st_mode),
            mtime: stat
                .st_mtime
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            link_target,
        }
    }

    /// Where a path leads in the end, worked out name by name; names that are missing stay. For people and for the
    /// client's next request: nothing is opened by it.
    pub(super) fn resolved(&self, path: &Path) -> PathBuf {
        let mut done = PathBuf::from("/");
        let mut todo: Vec<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let node = self
                .open_as(&next, flags, resolve)
                .ok()
                .and_then(|fd| Node::new(fd).ok());
            match node {
                Some(node) if node.kind() == FileType::Symlink && links < MAX_LINKS => {
                    links += 1;
                    let Ok(target) = node.read_link() else { return next };
                    let target = PathBuf::from(OsString::from_vec(target));
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    todo.extend(names(&target));
                }
                _ => done = next,
            }
        }
        done
    }
}

/// Last name first.
fn names(path: &Path) -> Vec<OsString> {
    path.as_os_str()
        .as_bytes()
        .split(|byte| *byte == b'/')
        .rev()
        .filter(|name| !name.is_empty() && *name != b".")
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect()
}

/// A mode in Go's bits (`io/fs.FileMode`).
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0);
    special.fold(kind | mode & 0o777, |bits, (_, go)| bits | go)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root(path: &Path) -> Root {
        Root(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn paths_are_dockers() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("dir/s")).unwrap();
        std::fs::write(temp.path().join("dir/s/f"), "x").unwrap();
        symlink("/dir", temp.path().join("ld")).unwrap();
        symlink("ld/s/f", temp.path().join("lf")).unwrap();
        symlink("/nope/../../gone", temp.path().join("bad")).unwrap();
        symlink("../../../../..", temp.path().join("out")).unwrap();
        let root = root(temp.path());
        let stat = |path: &str| {
            let wanted = Wanted::new(path)?;
            let node = root.node(&wanted)?;
            Ok::<_, Refusal>((root.stat(&wanted, &node), node.kind()))
        };
        let (found, kind) = stat("ld").unwrap();
        assert_eq!((found.name.as_str(), found.link_target.as_str()), ("ld", "/dir"));
        assert_eq!((kind, found.mode >> 20), (FileType::Symlink, 1 << 7));
        let (found, kind) = stat("/ld/").unwrap();
        assert_eq!((found.name.as_str(), kind), ("ld", FileType::Directory));
        assert_eq!(stat("/ld/.").unwrap().0.name, ".");
        assert_eq!(stat("/").unwrap().0.name, "/");
        assert_eq!(stat("../../dir/s/../s/f").unwrap().0.name, "f");
        assert_eq!(stat("lf").unwrap().0.link_target, "/dir/s/f");
        assert_eq!(stat("bad").unwrap().0.link_target, "/gone");
        assert_eq!(stat("out").unwrap().0.link_target, "/");
        assert_eq!(stat("out/dir/").unwrap().1, FileType::Directory);
        assert!(matches!(stat("nothing"), Err(Refusal::NotFound(path)) if path == "/nothing"));
        let text = stat("dir/s/f/").unwrap_err().to_string();
        assert_eq!(text, "lstat /dir/s/f/: not a directory");
        assert!(Wanted::new("").is_err());
        let folder = |path: &str| root.folder(&Wanted::new(path).unwrap());
        assert!(folder("ld").is_ok() && folder("out").is_ok());
        assert!(matches!(folder("lf"), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o040_755), 0x8000_01ed);
        assert_eq!(go_mode(0o104_755), 0x0080_01ed);
        assert_eq!(go_mode(0o020_620), 0x0420_0190);
        assert_eq!(go_mode(0o041_777), 0x8010_01ff);
    }
}
