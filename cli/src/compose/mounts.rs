//! A service's `volumes` (host folders and tmpfs) and `tmpfs`.

use std::path::{Component, Path, PathBuf};

use pontoon_proto::v1::{Mount, MountType};

use super::reader::{Field, Reader};
use super::refused;
use super::yaml::{Node, Value};
use crate::command::container::config;
use crate::output::human;

const NAMED: &str = "named and anonymous volumes are not supported by this version: mount a folder of the host (/host/path:/container/path)";

const KEYS: &[Field<Mount>] = &[
    ("type", |m, r, n| m.set_type(kind(r, n))),
    ("source", |m, r, n| m.source = r.text(n)),
    ("target", |m, r, n| m.target = r.text(n)),
    ("read_only", |m, r, n| m.read_only = r.flag(n)),
    ("bind", |m, r, n| r.fields(n, m, BIND, refused::BIND)),
    ("tmpfs", |m, r, n| r.fields(n, m, TMPFS, &[])),
];

const BIND: &[Field<Mount>] = &[
    ("propagation", |m, r, n| {
        let words = ["private", "rprivate", "shared", "rshared", "slave", "rslave"].map(|word| (word, word));
        m.propagation = r.choice(n, &words).unwrap_or_default().to_owned();
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
pub fn tmpfs(reader: &Reader<'_>, node: &Node) -> Vec<Mount> {
    let read = |item: &Node| {
        let parse = |text: &str| config::tmpfs(text).map_err(|failure| failure.message);
        let mount = reader.parsed(item, parse)?;
        check_target(reader, item, &mount);
        Some(mount)
    };
    reader.one_or_more(node).iter().filter_map(read).collect()
}

/// Reads `volumes`.
pub fn volumes(reader: &Reader<'_>, node: &Node) -> Vec<Mount> {
    let read = |item: &Node| {
        let mut mount = match &item.value {
            Value::Mapping(_) => long(reader, item)?,
            _ => reader.parsed(item, short)?,
        };
        if mount.r#type() == MountType::Bind {
            mount.source = absolute(reader, &mount.source);
        }
        check_target(reader, item, &mount);
        Some(mount)
    };
    reader.items(node).iter().filter_map(read).collect()
}

fn kind(reader: &Reader<'_>, node: &Node) -> MountType {
    let text = reader.text(node);
    if text == "volume" {
        reader.mistake(&node.at, NAMED);
        return MountType::Bind;
    }
    let words = [("bind", MountType::Bind), ("tmpfs", MountType::Tmpfs)];
    reader.choice(node, &words).unwrap_or_default()
}

fn long(reader: &Reader<'_>, node: &Node) -> Option<Mount> {
    let mut mount = Mount::default();
    reader.fields(node, &mut mount, KEYS, refused::VOLUME);
    match node.get("type").map(|kind| &kind.value) {
        None => reader.mistake(&node.at, "type is required: bind or tmpfs"),
        Some(Value::Scalar { text, .. }) if text == "volume" => return None,
        Some(_) => {}
    }
    match mount.r#type() {
        MountType::Bind if mount.source.is_empty() => {
            reader.mistake(&node.at, "source is required: a folder of the host");
        }
        MountType::Tmpfs if !mount.source.is_empty() => {
            reader.mistake(&node.at, "a tmpfs has no source");
        }
        _ => {}
    }
    Some(mount)
}

/// `source:target[:options]`
fn short(text: &str) -> Result<Mount, String> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if source.starts_with(['/', '.', '~']) => (source, target),
        _ => return Err(format!("{text:?}: {NAMED}")),
    };
    let mut mount = Mount {
        source: source.to_owned(),
        target: target.to_owned(),
        ..Default::default()
    };
    for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                option.clone_into(&mut mount.propagation);
            }
            _ => {
                return Err(format!(
                    "{text:?}: unknown option {option:?}: use ro, rw or a propagation"
                ));
            }
        }
    }
    Ok(mount)
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
