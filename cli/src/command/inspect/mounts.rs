//! A container's and a volume's mounts in Docker's JSON.

use std::collections::{BTreeMap, HashMap};

use pontoon_proto::v1::{Container, Mount, MountSyntax, MountType, Volume};
use serde_json::{Map, Value, json};

use crate::output::human;

/// A volume as `volume inspect` shows it.
pub fn volume_json(volume: &Volume) -> Value {
    let mut value = json!({
        "CreatedAt": human::rfc3339_seconds(volume.created_at),
        "Driver": volume.driver,
        "Labels": map(&volume.labels),
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": map(&volume.options),
        "Scope": volume.scope,
    });
    if volume.size >= 0 && volume.ref_count >= 0 {
        value["UsageData"] = json!({ "RefCount": volume.ref_count, "Size": volume.size });
    }
    value
}

/// Go's nil map is null.
fn map(entries: &HashMap<String, String>) -> Value {
    if entries.is_empty() {
        Value::Null
    } else {
        json!(entries.iter().collect::<BTreeMap<_, _>>())
    }
}

/// `Mounts`: what is mounted, with volumes resolved.
pub fn points(container: &Container) -> Value {
    let one = |point: &pontoon_proto::v1::MountPoint| {
        let mut value = Map::new();
        value.insert("Type".to_owned(), type_name(point.r#type()).into());
        if !point.name.is_empty() {
            value.insert("Name".to_owned(), point.name.clone().into());
        }
        value.insert("Source".to_owned(), point.source.clone().into());
        value.insert("Destination".to_owned(), point.destination.clone().into());
        if !point.driver.is_empty() {
            value.insert("Driver".to_owned(), point.driver.clone().into());
        }
        value.insert("Mode".to_owned(), point.mode.clone().into());
        value.insert("RW".to_owned(), point.read_write.into());
        value.insert("Propagation".to_owned(), point.propagation.clone().into());
        Value::Object(value)
    };
    container.mounts.iter().map(one).collect()
}

/// Docker's word for a type.
pub fn type_name(kind: MountType) -> &'static str {
    match kind {
        MountType::Bind => "bind",
        MountType::Tmpfs => "tmpfs",
        MountType::Volume => "volume",
        MountType::Image => "image",
    }
}

/// `HostConfig.Binds`: the `-v` that have a source.
pub fn binds(mounts: &[Mount]) -> Value {
    let flags = mounts
        .iter()
        .filter(|mount| mount.syntax() == MountSyntax::Volume && !mount.source.is_empty());
    let texts: Vec<String> = flags
        .map(|mount| match mount.mode.as_str() {
            "" => format!("{}:{}", mount.source, mount.target),
            mode => format!("{}:{}:{mode}", mount.source, mount.target),
        })
        .collect();
    if texts.is_empty() {
        Value::Null
    } else {
        texts.into()
    }
}

/// `HostConfig.Tmpfs`; `None`: there is no such field.
pub fn tmpfs(mounts: &[Mount]) -> Option<Value> {
    let flags: Map<String, Value> = mounts
        .iter()
        .filter(|mount| mount.syntax() == MountSyntax::Tmpfs)
        .map(|mount| (mount.target.clone(), mount.mode.clone().into()))
        .collect();
    (!flags.is_empty()).then_some(Value::Object(flags))
}

/// `HostConfig.Mounts`, and those of a service: the `--mount`s. `None`: there is no such field.
pub fn mounts(mounts: &[Mount]) -> Option<Value> {
    let given: Vec<Value> = mounts
        .iter()
        .filter(|mount| mount.syntax() == MountSyntax::Mount)
        .map(mount_json)
        .collect();
    (!given.is_empty()).then_some(given.into())
}

/// All mounts of a service, however they were asked for.
pub fn of_service(mounts: &[Mount]) -> Option<Value> {
    let all: Vec<Value> = mounts.iter().map(mount_json).collect();
    (!all.is_empty()).then_some(all.into())
}

fn mount_json(mount: &Mount) -> Value {
    let mut value = json!({ "Type": type_name(mount.r#type()), "Target": mount.target });
    if !mount.source.is_empty() {
        value["Source"] = mount.source.clone().into();
    }
    if mount.read_only {
        value["ReadOnly"] = true.into();
    }
    if !mount.consistency.is_empty() {
        value["Consistency"] = mount.consistency.clone().into();
    }
    let mut bind = Map::new();
    let mut flag = |name: &str, is_set: bool| {
        if is_set {
            bind.insert(name.to_owned(), true.into());
        }
    };
    flag("NonRecursive", mount.non_recursive);
    flag("CreateMountpoint", mount.create_source);
    flag("ReadOnlyNonRecursive", mount.read_only_non_recursive);
    flag("ReadOnlyForceRecursive", mount.read_only_force_recursive);
    if !mount.propagation.is_empty() {
        bind.insert("Propagation".to_owned(), mount.propagation.clone().into());
    }
    if !bind.is_empty() {
        value["BindOptions"] = Value::Object(bind);
    }
    if let Some(volume) = &mount.volume {
        value["VolumeOptions"] = volume_options(volume);
    }
    if mount.tmpfs_size != 0 || mount.tmpfs_mode != 0 || !mount.tmpfs_options.is_empty() {
        let mut options = Map::new();
        if mount.tmpfs_size != 0 {
            options.insert("SizeBytes".to_owned(), mount.tmpfs_size.into());
        }
        if mount.tmpfs_mode != 0 {
            options.insert("Mode".to_owned(), mount.tmpfs_mode.into());
        }
        if !mount.tmpfs_options.is_empty() {
            let parts = |option: &String| option.split('=').map(str::to_owned).collect::<Vec<_>>();
            let all: Vec<Vec<String>> = mount.tmpfs_options.iter().map(parts).collect();
            options.insert("Options".to_owned(), all.into());
        }
        value["TmpfsOptions"] = Value::Object(options);
    }
    if !mount.image_subpath.is_empty() {
        value["ImageOptions"] = json!({ "Subpath": mount.image_subpath });
    }
    value
}

fn volume_options(volume: &pontoon_proto::v1::VolumeOptions) -> Value {
    let mut options = Map::new();
    if volume.no_copy {
        options.insert("NoCopy".to_owned(), true.into());
    }
    if !volume.labels.is_empty() {
        options.insert("Labels".to_owned(), map(&volume.labels));
    }
    if !volume.subpath.is_empty() {
        options.insert("Subpath".to_owned(), volume.subpath.clone().into());
    }
    if !volume.driver.is_empty() || !volume.driver_options.is_empty() {
        let mut driver = Map::new();
        if !volume.driver.is_empty() {
            driver.insert("Name".to_owned(), volume.driver.clone().into());
        }
        if !volume.driver_options.is_empty() {
            driver.insert("Options".to_owned(), map(&volume.driver_options));
        }
        options.insert("DriverConfig".to_owned(), Value::Object(driver));
    }
    Value::Object(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::container::config::{mount, tmpfs as tmpfs_flag, volume};

    #[test]
    fn flags_are_shown_where_docker_shows_them() {
        let given = [
            volume("data:/a:ro").unwrap(),
            volume("/b").unwrap(),
            volume("/host:/c").unwrap(),
            mount("src=data,dst=/d,volume-nocopy,volume-opt=type=none,volume-label=x=y").unwrap(),
            mount("type=bind,src=/h,dst=/e,ro,bind-recursive=disabled").unwrap(),
            mount("type=tmpfs,dst=/f,tmpfs-size=1k,tmpfs-mode=700").unwrap(),
            tmpfs_flag("/g:size=1m").unwrap(),
        ];
        assert_eq!(binds(&given), json!(["data:/a:ro", "/host:/c"]));
        assert_eq!(tmpfs(&given), Some(json!({ "/g": "size=1m" })));
        assert_eq!(
            mounts(&given),
            Some(json!([
                { "Type": "volume", "Source": "data", "Target": "/d", "VolumeOptions": {
                    "NoCopy": true, "Labels": { "x": "y" }, "DriverConfig": { "Options": { "type": "none" } } } },
                { "Type": "bind", "Source": "/h", "Target": "/e", "ReadOnly": true, "BindOptions": { "NonRecursive": true } },
                { "Type": "tmpfs", "Target": "/f", "TmpfsOptions": { "SizeBytes": 1024, "Mode": 448 } },
            ]))
        );
        assert_eq!((binds(&[]), mounts(&[]), tmpfs(&[])), (Value::Null, None, None));
    }
}
