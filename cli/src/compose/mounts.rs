//! A service's `volumes` (volumes, host folders, tmpfs, images) and `tmpfs`. What a volume's key stands for is at the top of the
//! file ([`volume`](super::volume)).

use std::path::{Component, Path, PathBuf};

use pontoon_proto::v1::{Mount, MountType};

use super::mistake::Position;
use super::reader::{Field, Reader};
use super::refused;
use super::yaml::{Node, Value};
use crate::command::container::config;
use crate::output::human;

/// A mount of a service. The source of a volume is its key in the file.
#[derive(Debug)]
pub struct Written {
    /// What is mounted.
    pub mount: Mount,
    /// Where that is written.
    pub at: Position,
}

const KEYS: &[Field<Mount>] = &[
    ("type", |m, r, n| m.set_type(kind(r, n))),
    ("source", |m, r, n| m.source = r.text(n)),
    ("target", |m, r, n| m.target = r.text(n)),
    ("read_only", |m, r, n| m.read_only = r.flag(n)),
    ("consistency", |m, r, n| m.consistency = r.text(n)),
    ("bind", |m, r, n| r.fields(n, m, BIND, refused::BIND)),
    ("volume", |m, r, n| {
        r.fields(n, m, VOLUME, refused::VOLUME_OPTIONS)
    }),
    ("tmpfs", |m, r, n| r.fields(n, m, TMPFS, &[])),
    ("image", |m, r, n| r.fields(n, m, IMAGE, &[])),
];

const VOLUME: &[Field<Mount>] = &[
    ("nocopy", |m, r, n| {
        m.volume.get_or_insert_default().no_copy = r.flag(n)
    }),
    ("subpath", |m, r, n| {
        m.volume.get_or_insert_default().subpath = r.text(n)
    }),
];

const IMAGE: &[Field<Mount>] = &[("subpath", |m, r, n| m.image_subpath = r.text(n))];

const BIND: &[Field<Mount>] = &[
    ("propagation", |m, r, n| {
        let words = ["private", "rprivate", "shared", "rshared", "slave", "rslave"].map(|word| (word, word));
        m.propagation = r.choice(n, &words).unwrap_or_default().to_owned();
    }),
    ("recursive", |m, r, n| {
        let words = ["enabled", "disabled", "writable", "readonly"].map(|word| (word, word));
        match r.choice(n, &words) {
            Some("disabled") => m.non_recursive = true,
            Some("writable") => m.read_only_non_recursive = true,
            Some("readonly") => m.read_only_force_recursive = true,
            _ => {}
        }
    }),
    ("create_host_path", |_, r, n| {
        if r.flag(n) {
            r.mistake(
                &n.at,
                "not supported by this version: make the folder on the nodes beforehand",
            );
        }
    }),
];

const TMPFS: &[Field<Mount>] = &[
    ("size", |m, r, n| {
        m.tmpfs_size = r.parsed(n, human::parse_size).unwrap_or_default()
    }),
    ("mode", |m, r, n| {
        let parse = |text: &str| {
            let digits = text.trim_start_matches("0o");
            u32::from_str_radix(digits, 8).map_err(|_| format!("{text:?} is not an octal mode such as 1777"))
        };
        m.tmpfs_mode = r.parsed(n, parse).unwrap_or_default();
    }),
];

/// Reads `tmpfs`.
pub fn tmpfs(reader: &Reader<'_>, node: &Node) -> Vec<Written> {
    let read = |item: &Node| {
        let parse = |text: &str| config::tmpfs(text).map_err(|failure| failure.message);
        let mount = reader.parsed(item, parse)?;
        written(reader, item, mount)
    };
    reader.one_or_more(node).iter().filter_map(read).collect()
}

/// Reads `volumes`.
pub fn volumes(reader: &Reader<'_>, node: &Node) -> Vec<Written> {
    let read = |item: &Node| {
        let mut mount = match &item.value {
            Value::Mapping(_) => long(reader, item),
            _ => reader.parsed(item, short)?,
        };
        if mount.r#type() == MountType::Bind {
            mount.source = absolute(reader, &mount.source);
        }
        written(reader, item, mount)
    };
    reader.items(node).iter().filter_map(read).collect()
}

fn written(reader: &Reader<'_>, node: &Node, mount: Mount) -> Option<Written> {
    check_target(reader, node, &mount);
    Some(Written {
        mount,
        at: node.at.clone(),
    })
}

fn kind(reader: &Reader<'_>, node: &Node) -> MountType {
    let words = [
        ("volume", MountType::Volume),
        ("bind", MountType::Bind),
        ("tmpfs", MountType::Tmpfs),
        ("image", MountType::Image),
    ];
    reader.choice(node, &words).unwrap_or_default()
}

fn long(reader: &Reader<'_>, node: &Node) -> Mount {
    let mut mount = Mount::default();
    reader.fields(node, &mut mount, KEYS, refused::VOLUME);
    if node.get("type").is_none() {
        reader.mistake(&node.at, "type is required: volume, bind, tmpfs or image");
    }
    for (group, own) in [
        ("bind", MountType::Bind),
        ("volume", MountType::Volume),
        ("tmpfs", MountType::Tmpfs),
        ("image", MountType::Image),
    ] {
        if let Some(options) = node.get(group).filter(|_| mount.r#type() != own) {
            reader.mistake(
                &options.at,
                format_args!("{group} options are for mounts of type {group}"),
            );
        }
    }
    match mount.r#type() {
        MountType::Bind if mount.source.is_empty() => {
            reader.mistake(&node.at, "source is required: a folder of the host");
        }
        MountType::Image if mount.source.is_empty() => {
            reader.mistake(&node.at, "source is required: an image");
        }
        MountType::Tmpfs if !mount.source.is_empty() => {
            reader.mistake(&node.at, "a tmpfs has no source");
        }
        _ => {}
    }
    mount
}

/// `[source:]target[:options]`
fn short(text: &str) -> Result<Mount, String> {
    let sections: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match sections.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => {
            return Err(format!(
                "{text:?}: too many colons: write [source:]target[:options]"
            ));
        }
    };
    if target.is_empty() || (sections.len() > 1 && source.is_empty()) {
        return Err(format!("{text:?}: empty section between colons"));
    }
    let flags = config::Flags::parse(options).ok_or_else(|| {
        format!("{text:?}: unknown options {options:?}: use ro, rw, nocopy or a propagation")
    })?;
    let mut mount = Mount {
        source: source.to_owned(),
        target: target.to_owned(),
        ..Mount::default()
    };
    mount.set_type(if source.starts_with(['/', '.', '~']) {
        MountType::Bind
    } else {
        MountType::Volume
    });
    flags.apply(&mut mount);
    let misfit = match mount.r#type() {
        MountType::Bind if mount.volume.is_some() => Some("nocopy is for volumes"),
        MountType::Volume if !mount.propagation.is_empty() => {
            Some("a propagation is for folders of the host")
        }
        _ => None,
    };
    match misfit {
        Some(why) => Err(format!("{text:?}: {why}")),
        None => Ok(mount),
    }
}

fn check_target(reader: &Reader<'_>, node: &Node, mount: &Mount) {
    if !mount.target.starts_with('/') {
        let message = format_args!(
            "the target {:?} must be an absolute path in the container",
            mount.target
        );
        reader.mistake(&node.at, message);
    }
}

/// A host's path from the file's folder on, `~` being the user's home, without `.` and `..`.
fn absolute(reader: &Reader<'_>, source: &str) -> String {
    let home = (reader.variables)("HOME");
    let path = match (source.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => PathBuf::from(home + rest),
        _ => reader.base.join(source),
    };
    clean(&path).display().to_string()
}

fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}
