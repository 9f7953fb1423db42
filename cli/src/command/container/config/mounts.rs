//! `-v`, `--mount` and `--tmpfs` as the engine's mounts, with Docker's grammar and texts. Called by [`config`](super) and, for
//! `--mount`, by service flags; the `volumes` of Compose files use [`Flags`] too.

use pontoon_proto::v1::{Mount, MountSyntax, MountType, VolumeOptions};

use crate::command::container::options::ContainerOptions;
use crate::error::Failure;
use crate::output::human;

mod csv;

/// What Docker's daemon says comes with this before it.
const DAEMON: &str = "Error response from daemon: ";

pub(super) fn mounts(options: &ContainerOptions) -> Result<Vec<Mount>, Failure> {
    let mut mounts = Vec::new();
    for text in &options.volume {
        mounts.push(volume(text)?);
    }
    // In Docker's order: paths without a source count with the image's volumes.
    for text in &options.mount {
        mounts.push(mount(text)?);
    }
    // The same path given twice is one map entry in Docker: the last counts.
    let mut tmpfs: Vec<Mount> = Vec::new();
    for text in &options.tmpfs {
        let mount = self::tmpfs(text)?;
        tmpfs.retain(|known| known.target != mount.target);
        tmpfs.push(mount);
    }
    mounts.extend(tmpfs);
    Ok(mounts)
}

/// `-v [SOURCE:]TARGET[:OPTIONS]`
///
/// # Errors
/// Docker's, of its client and of its daemon.
pub(crate) fn volume(text: &str) -> Result<Mount, Failure> {
    if text.is_empty() {
        return Err(Failure::new("invalid empty volume spec"));
    }
    let sections: Vec<&str> = text.split(':').collect();
    // Docker's client takes one letter and a colon for a Windows drive and leaves the rest to the daemon.
    let is_drive = sections[0].len() == 1 && sections[0].starts_with(|c: char| c.is_ascii_alphabetic());
    if sections.contains(&"") && text.len() > 2 && !is_drive {
        return Err(Failure::new(format!(
            "invalid spec: {text}: empty section between colons"
        )));
    }
    let daemon = |why: String| Failure::new(format!("{DAEMON}{why}"));
    let bad = || daemon(format!("invalid volume specification: '{text}'"));
    let (source, target, mode) = match sections.as_slice() {
        [target] => ("", *target, ""),
        [_, target] if Flags::parse(target).is_some() => return Err(bad()),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ if is_drive => return Err(bad()),
        _ => return Err(Failure::new(format!("invalid spec: {text}: too many colons"))),
    };
    if sections.len() > 1 && source.is_empty() {
        return Err(bad());
    }
    let flags = Flags::parse(mode).ok_or_else(|| daemon(format!("invalid mode: {mode}")))?;
    let mut mount = Mount {
        target: target.to_owned(),
        mode: mode.to_owned(),
        syntax: MountSyntax::Volume.into(),
        ..Mount::default()
    };
    mount.source = if source.starts_with('.') {
        let path = std::path::absolute(source).map_err(|error| Failure::new(format!("{source}: {error}")))?;
        clean(&path)
    } else {
        source.to_owned()
    };
    mount.set_type(if mount.source.starts_with('/') {
        MountType::Bind
    } else {
        MountType::Volume
    });
    mount.create_source = mount.r#type() == MountType::Bind;
    flags.apply(&mut mount);
    let misfit = match mount.r#type() {
        MountType::Bind if flags.no_copy => Some("field VolumeOptions must not be specified"),
        MountType::Volume if !flags.propagation.is_empty() => Some("field BindOptions must not be specified"),
        _ => None,
    };
    match misfit {
        Some(why) => Err(daemon(format!("invalid volume specification: '{text}': {why}"))),
        None => Ok(mount),
    }
}

/// A path without `.` and `..`.
fn clean(path: &std::path::Path) -> String {
    let mut cleaned = std::path::PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(cleaned.pop()),
            other => cleaned.push(other),
        }
    }
    cleaned.display().to_string()
}

/// The options of `-v`: each kind once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    read_only: bool,
    propagation: String,
    no_copy: bool,
}

impl Flags {
    /// Reads them; `None` if one is unknown, or two are of a kind.
    pub(crate) fn parse(mode: &str) -> Option<Self> {
        let mut flags = Self::default();
        let mut counts = [0; 5];
        for word in mode.split(',').filter(|_| !mode.is_empty()) {
            let kind = match word {
                "ro" | "rw" => {
                    flags.read_only = word == "ro";
                    0
                }
                // For SELinux; without it Docker does nothing either.
                "z" | "Z" => 1,
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                    word.clone_into(&mut flags.propagation);
                    2
                }
                "nocopy" => {
                    flags.no_copy = true;
                    3
                }
                "consistent" | "cached" | "delegated" => 4,
                _ => return None,
            };
            counts[kind] += 1;
        }
        counts.iter().all(|count| *count <= 1).then_some(flags)
    }

    /// Sets them in a mount.
    pub(crate) fn apply(&self, mount: &mut Mount) {
        mount.read_only = self.read_only;
        mount.propagation.clone_from(&self.propagation);
        if self.no_copy {
            mount.volume.get_or_insert_default().no_copy = true;
        }
    }
}

/// `--mount type=…,source=…,target=…[,…]`
///
/// # Errors
/// Docker's.
pub(crate) fn mount(text: &str) -> Result<Mount, Failure> {
    read(text).map_err(|why| {
        if why.starts_with(DAEMON) {
            Failure::new(why)
        } else {
            Failure::new(format!("invalid argument {text:?} for \"--mount\" flag: {why}"))
        }
    })
}

/// Which groups of options were given.
#[derive(Default)]
struct Given {
    kind: Option<String>,
    volume: bool,
    bind: bool,
    tmpfs: bool,
    image: bool,
}

fn read(text: &str) -> Result<Mount, String> {
    let mut mount = Mount::default();
    let mut given = Given::default();
    for field in csv::fields(text.trim())? {
        match field.split_once('=') {
            Some((key, value)) => pair(&mut mount, &mut given, &key.to_lowercase(), value, &field)?,
            None => word(&mut mount, &mut given, &field)?,
        }
    }
    let kind = given.kind.as_deref().unwrap_or("volume");
    if kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    for (was_given, group, own) in [
        (given.volume, "volume-*", "volume"),
        (given.image, "image-*", "image"),
        (given.bind, "bind-*", "bind"),
        (given.tmpfs, "tmpfs-*", "tmpfs"),
    ] {
        if was_given && kind != own {
            return Err(format!("cannot mix '{group}' options with mount type '{kind}'"));
        }
    }
    recursive(&mount)?;
    mount.set_type(match kind {
        "bind" => MountType::Bind,
        "volume" => MountType::Volume,
        "tmpfs" => MountType::Tmpfs,
        "image" => MountType::Image,
        "cluster" => return Err("type=cluster is not supported: there are no CSI plugins".to_owned()),
        // Docker's client lets any word pass; its daemon knows these four on Linux.
        other => {
            return Err(format!(
                "{DAEMON}invalid mount config for type {other:?}: mount type unknown"
            ));
        }
    });
    Ok(mount)
}

/// Rules for mounts that are read-only with what is mounted below.
fn recursive(mount: &Mount) -> Result<(), String> {
    let needs = |what: &str, wish: &str| {
        Err(format!(
            "option 'bind-recursive={what}' requires '{wish}' to be specified in conjunction"
        ))
    };
    if mount.read_only_non_recursive && !mount.read_only {
        return needs("writable", "readonly");
    }
    if mount.read_only_force_recursive && !mount.read_only {
        return needs("readonly", "readonly");
    }
    if mount.read_only_force_recursive && mount.propagation != "rprivate" {
        return needs("readonly", "bind-propagation=rprivate");
    }
    Ok(())
}

fn word(mount: &mut Mount, given: &mut Given, field: &str) -> Result<(), String> {
    match field.to_lowercase().as_str() {
        "readonly" | "ro" => mount.read_only = true,
        "volume-nocopy" => {
            given.volume = true;
            options(mount).no_copy = true;
        }
        "bind-nonrecursive" => {
            given.bind = true;
            mount.non_recursive = true;
        }
        "bind-create-src" => {
            given.bind = true;
            mount.create_source = true;
        }
        _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
    }
    Ok(())
}

fn options(mount: &mut Mount) -> &mut VolumeOptions {
    mount.volume.get_or_insert_default()
}

fn pair(mount: &mut Mount, given: &mut Given, key: &str, value: &str, field: &str) -> Result<(), String> {
    let flag = || boolean(value).ok_or_else(|| format!("invalid value for {key}: {value}"));
    given.volume |= key.starts_with("volume-");
    given.bind |= key.starts_with("bind-");
    given.tmpfs |= key.starts_with("tmpfs-");
    given.image |= key.starts_with("image-");
    match key {
        "type" => given.kind = Some(value.to_lowercase()),
        "source" | "src" => mount.source = source(value),
        "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
        "readonly" | "ro" => mount.read_only = flag()?,
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => mount.propagation = value.to_lowercase(),
        "bind-nonrecursive" => mount.non_recursive = flag()?,
        "bind-create-src" => mount.create_source = flag()?,
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => mount.non_recursive = true,
            "writable" => mount.read_only_non_recursive = true,
            "readonly" => mount.read_only_force_recursive = true,
            _ => {
                return Err(format!(
                    "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        },
        "volume-subpath" => value.clone_into(&mut options(mount).subpath),
        "volume-nocopy" => options(mount).no_copy = flag()?,
        "volume-driver" => value.clone_into(&mut options(mount).driver),
        "volume-label" => map(&mut options(mount).labels, value),
        "volume-opt" => map(&mut options(mount).driver_options, value),
        "image-subpath" => value.clone_into(&mut mount.image_subpath),
        "tmpfs-size" => {
            mount.tmpfs_size =
                human::parse_size(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
        }
        "tmpfs-mode" => {
            mount.tmpfs_mode =
                u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?;
        }
        // The daemon's, which Docker's client has no word for.
        "tmpfs-options" => mount.tmpfs_options.push(value.to_owned()),
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

/// `./folder` and `.` are the client's.
fn source(value: &str) -> String {
    if value == "." || value.starts_with("./") {
        std::path::absolute(value).map_or_else(|_| value.to_owned(), |path| clean(&path))
    } else {
        value.to_owned()
    }
}

fn map(target: &mut std::collections::HashMap<String, String>, value: &str) {
    let (key, value) = value.split_once('=').unwrap_or((value, ""));
    if !key.is_empty() {
        target.insert(key.to_owned(), value.to_owned());
    }
}

/// Go's strconv.ParseBool.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `--tmpfs TARGET[:OPTIONS]`; the options are the kernel's, checked by the engine.
pub(crate) fn tmpfs(text: &str) -> Result<Mount, Failure> {
    let (target, mode) = text.split_once(':').unwrap_or((text, ""));
    let options: Vec<String> = mode
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect();
    let read_only = options
        .iter()
        .rev()
        .find(|word| matches!(word.as_str(), "ro" | "rw"));
    Ok(Mount {
        r#type: MountType::Tmpfs.into(),
        syntax: MountSyntax::Tmpfs.into(),
        target: target.to_owned(),
        mode: mode.to_owned(),
        read_only: read_only.is_some_and(|word| word == "ro"),
        tmpfs_options: options
            .into_iter()
            .filter(|word| !matches!(word.as_str(), "ro" | "rw"))
            .collect(),
        ..Mount::default()
    })
}

#[cfg(test)]
mod tests;
