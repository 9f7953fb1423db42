//! Docker's rules for a container's mounts, in its words (moby `volume/mounts`). Pure but for looking whether a bind's source
//! is there. Called before anything is made.

use std::io;
use std::path::{Component, Path};

use pontoon_proto::v1::{ContainerSpec, HostConfig, Mount, MountSyntax, MountType};

use super::{LOCAL, from, plan};
use crate::{Error, Result};

const MODES: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Checks all mounts of a container.
///
/// # Errors
/// [`Error::Invalid`] with Docker's text for the first that is no good.
pub(crate) fn mounts(config: &ContainerSpec, host: &HostConfig) -> Result<()> {
    for spec in &host.volumes_from {
        from::parse(spec)?;
    }
    let mut targets = std::collections::BTreeSet::new();
    for mount in &config.mounts {
        one(mount)?;
        if !plan::is_anonymous_flag(mount) && !targets.insert(plan::clean(&mount.target)) {
            return Err(duplicate(&mount.target));
        }
    }
    Ok(())
}

/// Docker's refusal of a second mount on one target.
fn duplicate(target: &str) -> Error {
    Error::Invalid(format!(
        "Duplicate mount point: {}",
        plan::clean(target).display()
    ))
}

fn one(mount: &Mount) -> Result<()> {
    let checked = target(mount).and_then(|()| match mount.r#type() {
        MountType::Bind => bind(mount),
        MountType::Volume => volume(mount),
        MountType::Tmpfs => tmpfs(mount),
        MountType::Image => image(mount),
    });
    checked.map_err(|why| match mount.syntax() {
        MountSyntax::Mount => Error::Invalid(format!(
            "invalid mount config for type \"{}\": {why}",
            type_name(mount.r#type())
        )),
        MountSyntax::Volume => {
            Error::Invalid(format!("invalid volume specification: '{}': {why}", spec(mount)))
        }
        MountSyntax::Tmpfs => Error::Invalid(why),
    })
}

/// A `-v` as it was given.
pub(crate) fn spec(mount: &Mount) -> String {
    let parts = [&mount.source, &mount.target, &mount.mode];
    let given: Vec<&str> = parts
        .iter()
        .map(|part| part.as_str())
        .filter(|part| !part.is_empty())
        .collect();
    given.join(":")
}

/// Docker's name of a type.
pub(crate) fn type_name(kind: MountType) -> &'static str {
    match kind {
        MountType::Bind => "bind",
        MountType::Tmpfs => "tmpfs",
        MountType::Volume => "volume",
        MountType::Image => "image",
    }
}

fn target(mount: &Mount) -> Result<(), String> {
    let target = mount.target.as_str();
    if target.is_empty() {
        return Err("field Target must not be empty".to_owned());
    }
    if !target.starts_with('/') {
        return Err(not_absolute(target));
    }
    if plan::clean(target) == Path::new("/") {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    if target.contains('\0') || mount.source.contains('\0') {
        return Err("paths can't have NUL bytes".to_owned());
    }
    Ok(())
}

fn not_absolute(path: &str) -> String {
    format!("invalid mount path: '{path}' mount path must be absolute")
}

fn bind(mount: &Mount) -> Result<(), String> {
    if mount.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    if mount.volume.is_some() {
        return Err("field VolumeOptions must not be specified".to_owned());
    }
    if !mount.propagation.is_empty() && !MODES.contains(&mount.propagation.as_str()) {
        return Err(format!("invalid propagation mode: {}", mount.propagation));
    }
    if mount.read_only_non_recursive && mount.read_only_force_recursive {
        return Err("ReadOnlyNonRecursive and ReadOnlyForceRecursive can't both be set".to_owned());
    }
    if !mount.source.starts_with('/') {
        return Err(not_absolute(&mount.source));
    }
    // Metadata of the link itself: what a broken one leads to can't be mounted either, and is told at the start.
    if !mount.create_source && !Path::new(&mount.source).exists() {
        return Err(format!("bind source path does not exist: {}", mount.source));
    }
    Ok(())
}

fn volume(mount: &Mount) -> Result<(), String> {
    if !mount.propagation.is_empty() || mount.non_recursive {
        return Err("field BindOptions must not be specified".to_owned());
    }
    if mount.source.is_empty() && mount.read_only && mount.syntax() == MountSyntax::Mount {
        return Err("must not set ReadOnly mode when using anonymous volumes".to_owned());
    }
    let subpath = mount
        .volume
        .as_ref()
        .map_or("", |options| options.subpath.as_str());
    within(subpath, "volume")
}

fn image(mount: &Mount) -> Result<(), String> {
    if mount.source.is_empty() {
        return Err("field Source must not be empty".to_owned());
    }
    if !mount.propagation.is_empty() || mount.non_recursive {
        return Err("field BindOptions must not be specified".to_owned());
    }
    if mount.volume.is_some() {
        return Err("field VolumeOptions must not be specified".to_owned());
    }
    within(&mount.image_subpath, "image")
}

/// A folder within what is mounted: relative, and not out of it.
fn within(subpath: &str, what: &str) -> Result<(), String> {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    let mut depth = 0_i32;
    let stays = Path::new(subpath).components().all(|component| {
        depth += match component {
            Component::ParentDir => -1,
            component if plain(component) => 1,
            _ => return false,
        };
        depth >= 0
    });
    if subpath.is_empty() || stays {
        return Ok(());
    }
    Err(format!("subpath must be a relative path within the {what}"))
}

fn tmpfs(mount: &Mount) -> Result<(), String> {
    if !mount.source.is_empty() {
        return Err("field Source must not be specified".to_owned());
    }
    if mount.volume.is_some() {
        return Err("field VolumeOptions must not be specified".to_owned());
    }
    if mount.tmpfs_size < 0 {
        return Err("the size of a tmpfs can't be negative".to_owned());
    }
    for option in &mount.tmpfs_options {
        let known = match (option.split_once('='), mount.syntax()) {
            (None, MountSyntax::Mount) => matches!(option.as_str(), "exec" | "noexec"),
            (None, _) => TMPFS_WORDS.contains(&option.as_str()),
            (Some((key, _)), _) => TMPFS_KEYS.contains(&key),
        };
        if !known {
            return Err(format!("invalid tmpfs option [{option:?}]"));
        }
    }
    Ok(())
}

const TMPFS_KEYS: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

const TMPFS_WORDS: [&str; 25] = [
    "defaults",
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "noswap",
];

/// The driver of a volume that a mount asks for.
pub(super) fn driver<'a>(mount: &'a Mount, host: &'a HostConfig) -> &'a str {
    let own = mount
        .volume
        .as_ref()
        .map_or("", |options| options.driver.as_str());
    match (own, mount.syntax()) {
        // --volume-driver is for -v only.
        ("", MountSyntax::Volume) if !host.volume_driver.is_empty() => &host.volume_driver,
        ("", _) => LOCAL,
        (own, _) => own,
    }
}

/// An error of the kernel as Go writes it: "no such file or directory".
pub(crate) fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: MountType, source: &str, target: &str) -> Mount {
        Mount {
            r#type: kind.into(),
            source: source.into(),
            target: target.into(),
            ..Mount::default()
        }
    }

    fn check(list: Vec<Mount>) -> String {
        let config = ContainerSpec {
            mounts: list,
            ..ContainerSpec::default()
        };
        mounts(&config, &HostConfig::default()).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn texts_are_dockers() {
        use MountType::{Bind, Image, Tmpfs, Volume};
        // What is refused, of which type Docker says it to be, and why.
        let refused = |kind: &str, mount: Mount, why: &str| {
            let text = format!("invalid mount config for type {kind:?}: {why}");
            assert_eq!(check(vec![mount]), text);
        };
        let absolute = "invalid mount path: 'x' mount path must be absolute";
        refused("bind", mount(Bind, "/tmp", ""), "field Target must not be empty");
        refused("volume", mount(Volume, "a", "x"), absolute);
        let root = "invalid specification: destination can't be '/'";
        refused("volume", mount(Volume, "a", "/.."), root);
        refused("bind", mount(Bind, "", "/x"), "field Source must not be empty");
        refused("bind", mount(Bind, "x", "/x"), absolute);
        let missing = "bind source path does not exist: /no/such";
        refused("bind", mount(Bind, "/no/such", "/x"), missing);
        refused(
            "tmpfs",
            mount(Tmpfs, "a", "/x"),
            "field Source must not be specified",
        );
        refused("image", mount(Image, "", "/x"), "field Source must not be empty");
        let mut anonymous = mount(Volume, "", "/x");
        anonymous.read_only = true;
        let writable = "must not set ReadOnly mode when using anonymous volumes";
        refused("volume", anonymous, writable);
        let mut outside = mount(Volume, "v", "/x");
        outside.volume.get_or_insert_default().subpath = "a/../../b".into();
        let within = "subpath must be a relative path within the volume";
        refused("volume", outside, within);
        let mut weird = mount(Bind, "/tmp", "/x");
        weird.propagation = "weird".into();
        refused("bind", weird, "invalid propagation mode: weird");
        let twice = vec![mount(Volume, "a", "/x"), mount(Tmpfs, "", "/x/")];
        assert_eq!(check(twice), "Duplicate mount point: /x");
        let tmpfs = Mount {
            syntax: MountSyntax::Tmpfs.into(),
            tmpfs_options: vec!["foo".into()],
            ..mount(Tmpfs, "", "/x")
        };
        assert_eq!(check(vec![tmpfs]), "invalid tmpfs option [\"foo\"]");
        let twice = |_| Mount {
            syntax: MountSyntax::Volume.into(),
            ..mount(Volume, "", "/x")
        };
        assert_eq!(check((0..2).map(twice).collect()), "");
    }

    #[test]
    fn errors_read_as_gos() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(go_text(&error), "no such file or directory");
    }
}
