//! Devices of the host in a container: `--device`, `--device-cgroup-rule`, and all of them for `--privileged`. Called by `spec::build`
//! and, for what can be checked without looking at the host, at creation.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use pontoon_proto::v1::{Device, HostConfig};
use pontoon_runtime::defaults;

use crate::{Error, Result};

/// The nodes to make and the rules of the device controller.
pub(super) struct Devices {
    /// Nodes.
    pub nodes: Vec<LinuxDevice>,
    /// Rules, in order: the last that fits decides.
    pub rules: Vec<LinuxDeviceCgroup>,
}

fn invalid(text: String) -> Error {
    Error::Invalid(text)
}

/// Checks names, permissions and rules; the devices themselves are looked up at the start, as in Docker.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    for device in &host.devices {
        if !device.path_in_container.starts_with('/') {
            return Err(invalid(format!(
                "{} is not an absolute path",
                device.path_in_container
            )));
        }
        let known = device.permissions.chars().all(|letter| "rwm".contains(letter));
        if !known {
            return Err(invalid(format!("bad mode specified: {}", device.permissions)));
        }
    }
    host.device_cgroup_rules
        .iter()
        .try_for_each(|text| rule(text).map(drop))
}

/// What the settings ask for.
pub(super) fn build(host: &HostConfig) -> Result<Devices> {
    if host.privileged {
        let mut nodes = host_devices();
        for device in &host.devices {
            // What has its own name is there already.
            if device.path_on_host != device.path_in_container {
                nodes.extend(from_path(device)?.nodes);
            }
        }
        let rules = vec![allow(LinuxDeviceType::A, None, None, "rwm")];
        return Ok(Devices { nodes, rules });
    }
    let mut devices = Devices {
        nodes: Vec::new(),
        rules: defaults::device_rules(),
    };
    for device in &host.devices {
        let found = from_path(device)?;
        devices.nodes.extend(found.nodes);
        devices.rules.extend(found.rules);
    }
    for text in &host.device_cgroup_rules {
        devices.rules.push(rule(text)?);
    }
    Ok(devices)
}

fn allow(typ: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// Reads `c 1:3 rwm`, as cgroup v1 writes rules.
fn rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || invalid(format!("invalid device cgroup rule format: '{text}'"));
    let parts: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = parts.as_slice() else {
        return Err(bad());
    };
    let typ = match *kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_| bad())
        }
        _ => Err(bad()),
    };
    if !(1..=3).contains(&access.len()) || !access.chars().all(|letter| "rwm".contains(letter)) {
        return Err(bad());
    }
    Ok(allow(typ, number(major)?, number(minor)?, access))
}

/// The device at a path, or all devices below it; symbolic links are followed.
fn from_path(device: &Device) -> Result<Devices> {
    let wanted = Path::new(&device.path_on_host);
    let failed = |why: String| {
        invalid(format!(
            "error gathering device information while adding custom device {:?}: {why}",
            device.path_on_host
        ))
    };
    let path = wanted.canonicalize().map_err(|error| failed(go_error(&error)))?;
    let metadata = path.metadata().map_err(|error| failed(go_error(&error)))?;
    let inside = Path::new(&device.path_in_container);
    let mut nodes = Vec::new();
    if let Some(node) = node(inside, &metadata) {
        nodes.push(node);
    } else if metadata.is_dir() {
        let mut found = Vec::new();
        collect(&path, &mut found, &|_| false);
        for (source, metadata) in found {
            let rest = source.strip_prefix(&path).unwrap_or(&source);
            nodes.extend(node(&inside.join(rest), &metadata));
        }
    }
    if nodes.is_empty() {
        return Err(failed("not a device node".to_owned()));
    }
    let access = match device.permissions.as_str() {
        "" => "rwm",
        access => access,
    };
    let rules = nodes
        .iter()
        .map(|node| allow(node.typ(), Some(node.major()), Some(node.minor()), access))
        .collect();
    Ok(Devices { nodes, rules })
}

/// An operating system's error as Docker shows it, without Rust's number.
pub(super) fn go_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// A node like the one that has these properties; `None` if that is no device.
fn node(path: &Path, metadata: &std::fs::Metadata) -> Option<LinuxDevice> {
    let kind = metadata.file_type();
    let typ = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let number = metadata.rdev();
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(typ)
        .set_major(i64::from(rustix::fs::major(number)))
        .set_minor(i64::from(rustix::fs::minor(number)))
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(device)
}

/// Every device node below `/dev`, for `--privileged`.
fn host_devices() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found, &|name| {
        matches!(
            name,
            "pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev"
        )
    });
    found
        .into_iter()
        // The container has its own console and multiplexer.
        .filter(|(path, _)| !matches!(path.to_str(), None | Some("/dev/console" | "/dev/ptmx")))
        .filter_map(|(path, metadata)| node(&path, &metadata))
        .collect()
}

/// All files below a folder that are no folders, by name, so that the order is always the same.
fn collect(dir: &Path, found: &mut Vec<(PathBuf, std::fs::Metadata)>, skipped: &dyn Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if !metadata.is_dir() {
            found.push((path, metadata));
            continue;
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !skipped(name) {
            collect(&path, found, skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, inside: &str, permissions: &str) -> Device {
        Device {
            path_on_host: path.to_owned(),
            path_in_container: inside.to_owned(),
            permissions: permissions.to_owned(),
        }
    }

    #[test]
    fn rules_are_read() {
        let read = rule("c 10:* rw").unwrap();
        assert_eq!(
            (read.typ(), read.major(), read.minor()),
            (Some(LinuxDeviceType::C), Some(10), None)
        );
        assert_eq!(read.access().as_deref(), Some("rw"));
        for bad in [
            "",
            "c 1:2",
            "x 1:2 r",
            "c 1 r",
            "c a:2 r",
            "c 1:2 x",
            "c 1:2 rwmr",
            "c 1:2 r ",
        ] {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_keeps_its_numbers_under_another_name() {
        let found = from_path(&device("/dev/null", "/dev/mine", "r")).unwrap();
        let node = &found.nodes[0];
        assert_eq!((node.major(), node.minor()), (1, 3));
        assert_eq!(node.path(), Path::new("/dev/mine"));
        assert_eq!(found.rules[0].access().as_deref(), Some("r"));
        for (path, why) in [
            ("/dev/surely-not", "no such file or directory"),
            ("/etc/passwd", "not a device node"),
        ] {
            let error = from_path(&device(path, path, "rwm")).err().unwrap().to_string();
            assert!(
                error.starts_with("error gathering device information while adding custom device")
                    && error.ends_with(why),
                "{error}"
            );
        }
    }
}
