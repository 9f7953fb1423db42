//! Where the kernel's cgroup hierarchies are mounted on this host, read once from mountinfo.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::IoContext;

/// Which interface limits go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller (with or without an additional cgroup2 mount for tracking).
    V1,
    /// The unified hierarchy alone.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Mount point.
    pub mount: PathBuf,
    /// v1 controllers (or `name=...`); empty for cgroup2.
    pub controllers: Vec<String>,
    /// The unified hierarchy.
    pub unified: bool,
}

/// All hierarchies of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// Which interface limits go through.
    pub version: Version,
    /// In mount order.
    pub mounts: Vec<Hierarchy>,
}

/// v1 controllers and generic options as they appear among a cgroup mount's super block options.
const NOT_CONTROLLERS: &[&str] = &["rw", "ro", "xattr", "clone_children", "noprefix"];

impl Hierarchies {
    /// Reads `/proc/self/mountinfo`.
    pub fn detect() -> Result<Self, Error> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
        let found = Self::from_mountinfo(&text);
        if found.mounts.is_empty() {
            return Err(Error::Unsupported(
                "this host has no cgroup file system mounted".to_owned(),
            ));
        }
        Ok(found)
    }

    /// Parses mountinfo (proc(5)). A later mount on the same directory hides the earlier one.
    pub fn from_mountinfo(text: &str) -> Self {
        let mut mounts: Vec<Hierarchy> = Vec::new();
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(mount) = left.split(' ').nth(4) else {
                continue;
            };
            let mut right = right.split(' ');
            let (fs, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            let hierarchy = match fs {
                "cgroup2" => Hierarchy {
                    mount: mount.into(),
                    controllers: Vec::new(),
                    unified: true,
                },
                "cgroup" => Hierarchy {
                    mount: mount.into(),
                    controllers: options
                        .split(',')
                        .filter(|o| !NOT_CONTROLLERS.contains(o) && !o.starts_with("release_agent"))
                        .map(str::to_owned)
                        .collect(),
                    unified: false,
                },
                _ => continue,
            };
            // The same hierarchy may be mounted several times; the first one is the host's own.
            let known = mounts.iter().any(|m| {
                m.unified == hierarchy.unified && (m.unified || m.controllers == hierarchy.controllers)
            });
            if !known {
                mounts.push(hierarchy);
            }
        }
        let has_v1_limits = mounts.iter().any(|m| !m.unified && !m.is_named());
        Self {
            version: if has_v1_limits { Version::V1 } else { Version::V2 },
            mounts,
        }
    }

    /// A tree that only consists of the unified hierarchy at `mount`.
    pub fn unified(mount: &Path) -> Self {
        Self {
            version: Version::V2,
            mounts: vec![Hierarchy {
                mount: mount.to_owned(),
                controllers: Vec::new(),
                unified: true,
            }],
        }
    }
}

impl Hierarchy {
    /// A v1 hierarchy without controllers, such as systemd's.
    pub fn is_named(&self) -> bool {
        !self.unified && self.controllers.iter().all(|c| c.starts_with("name="))
    }

    /// The directory's name below `/sys/fs/cgroup` as containers see it.
    pub fn name(&self) -> String {
        if self.unified {
            return "unified".to_owned();
        }
        let joined = self.controllers.join(",");
        joined.strip_prefix("name=").map_or(joined.clone(), str::to_owned)
    }
}
