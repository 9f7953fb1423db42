//! The keys of Docker's container JSON that follow from a container's settings without being in the foreground: `inspect` shows them
//! all, because programs read them. Fills in what [`container`] has left out.

use pontoon_proto::v1::{BlockDeviceLimit, Container, ContainerSpec, Device, HostConfig};
use serde_json::{Map, Value, json};

use super::container::list;

/// Adds the missing keys; those that are there stay.
pub fn complete(value: &mut Value, container: &Container) {
    let config = container.config.clone().unwrap_or_default();
    let host = container.host.clone().unwrap_or_default();
    let Value::Object(fields) = value else { return };
    let mut data: Map<String, Value> = Map::new();
    for (name, path) in &container.driver_data {
        data.insert(name.clone(), path.clone().into());
    }
    add(
        fields,
        json!({
            "AppArmorProfile": "", "MountLabel": "", "ProcessLabel": "", "ExecIDs": list(&container.exec_ids),
            "GraphDriver": { "Data": data, "Name": container.driver },
        }),
    );
    if let Some(Value::Object(shown)) = fields.get_mut("HostConfig") {
        replace_limits(shown, &host);
        add(shown, host_fields(&host, &config));
    }
    if let Some(Value::Object(shown)) = fields.get_mut("Config") {
        add(
            shown,
            json!({ "Domainname": "", "OnBuild": null, "Volumes": null }),
        );
        for optional in ["StopSignal", "StopTimeout", "Healthcheck"] {
            if shown
                .get(optional)
                .is_some_and(|field| field.is_null() || field == "")
            {
                shown.remove(optional);
            }
        }
        if shown.get("ExposedPorts").is_some_and(Value::is_null) {
            shown.remove("ExposedPorts");
        }
    }
    if let Some(Value::Object(shown)) = fields.get_mut("NetworkSettings") {
        network(shown, container);
    }
}

/// A container with the fields that its JSON has only when there is something in them: templates find those empty. Other objects are
/// returned as they are.
pub fn with_all_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if !(object["State"].is_object() && object["HostConfig"].is_object()) {
        return object;
    }
    for (part, optional) in [
        ("State", json!({ "Health": null })),
        (
            "Config",
            json!({ "ExposedPorts": null, "Healthcheck": null, "StopSignal": "", "StopTimeout": null }),
        ),
        ("HostConfig", json!({ "Mounts": null, "Tmpfs": null })),
    ] {
        if let Value::Object(fields) = &mut object[part] {
            add(fields, optional);
        }
    }
    if let Value::Object(fields) = &mut object {
        add(fields, json!({ "SizeRootFs": null, "SizeRw": null }));
    }
    object
}

fn add(to: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        for (name, field) in more {
            to.entry(name).or_insert(field);
        }
    }
}

/// Docker tells the limit of memory and swap that is in force, and says null where there is no limit of processes.
fn replace_limits(shown: &mut Map<String, Value>, host: &HostConfig) {
    let limits = host.resources.unwrap_or_default();
    if host.memory_swap == 0 && limits.memory_bytes > 0 {
        let both = limits.memory_bytes.saturating_mul(2);
        shown.insert("MemorySwap".to_owned(), both.into());
    }
    if limits.pids == 0 {
        shown.insert("PidsLimit".to_owned(), Value::Null);
    }
}

fn host_fields(host: &HostConfig, config: &ContainerSpec) -> Value {
    json!({
        "Annotations": if host.annotations.is_empty() { Value::Null } else { json!(host.annotations) },
        "Binds": null,
        "BlkioDeviceReadBps": rates(&host.device_read_bps), "BlkioDeviceReadIOps": rates(&host.device_read_iops),
        "BlkioDeviceWriteBps": rates(&host.device_write_bps), "BlkioDeviceWriteIOps": rates(&host.device_write_iops),
        "BlkioWeight": host.blkio_weight,
        "BlkioWeightDevice": host.blkio_weight_device.iter().map(|device| json!({
            "Path": device.path, "Weight": device.value,
        })).collect::<Vec<_>>(),
        "CapAdd": list(&config.cap_add), "CapDrop": list(&config.cap_drop),
        "Cgroup": "", "CgroupParent": host.cgroup_parent,
        "CgroupnsMode": if host.cgroupns_mode.is_empty() { "private" } else { &host.cgroupns_mode },
        "ConsoleSize": [0, 0], "ContainerIDFile": "", "CpuCount": 0, "CpuPercent": 0,
        "CpuRealtimePeriod": host.cpu_rt_period, "CpuRealtimeRuntime": host.cpu_rt_runtime,
        "DeviceCgroupRules": list(&host.device_cgroup_rules), "DeviceRequests": null,
        "Devices": host.devices.iter().map(device).collect::<Vec<_>>(),
        "IOMaximumBandwidth": 0, "IOMaximumIOps": 0, "Isolation": "",
        "Links": list(&host.links), "MaskedPaths": list(&host.masked_paths),
        "MemorySwappiness": host.memory_swappiness, "OomKillDisable": host.oom_kill_disable,
        "ReadonlyPaths": list(&host.readonly_paths),
        "StorageOpt": if host.storage_opt.is_empty() { Value::Null } else { json!(host.storage_opt) },
        "UsernsMode": host.userns_mode, "VolumeDriver": host.volume_driver, "VolumesFrom": list(&host.volumes_from),
    })
}

fn rates(limits: &[BlockDeviceLimit]) -> Value {
    limits
        .iter()
        .map(|limit| json!({ "Path": limit.path, "Rate": limit.value }))
        .collect()
}

fn device(device: &Device) -> Value {
    json!({
        "PathOnHost": device.path_on_host, "PathInContainer": device.path_in_container,
        "CgroupPermissions": device.permissions,
    })
}

fn network(shown: &mut Map<String, Value>, container: &Container) {
    let bridge = container
        .networks
        .iter()
        .find(|network| network.network == "bridge")
        .cloned()
        .unwrap_or_default();
    let sandbox = if container.sandbox_key.is_empty() {
        ""
    } else {
        container.id.as_str()
    };
    add(
        shown,
        json!({
            "Bridge": "", "EndpointID": bridge.endpoint_id, "GlobalIPv6Address": bridge.ipv6_address,
            "GlobalIPv6PrefixLen": bridge.ipv6_prefix_len, "HairpinMode": false, "IPv6Gateway": bridge.ipv6_gateway,
            "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SandboxID": sandbox,
            "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        }),
    );
    let Some(Value::Object(networks)) = shown.get_mut("Networks") else {
        return;
    };
    for network in &container.networks {
        let Some(Value::Object(place)) = networks.get_mut(&network.network) else {
            continue;
        };
        let options = if network.driver_opts.is_empty() {
            Value::Null
        } else {
            json!(network.driver_opts)
        };
        add(
            place,
            json!({
                "DNSNames": list(&network.dns_names), "DriverOpts": options, "GlobalIPv6Address": network.ipv6_address,
                "GlobalIPv6PrefixLen": network.ipv6_prefix_len, "GwPriority": network.gw_priority, "IPAMConfig": null,
                "IPv6Gateway": network.ipv6_gateway, "Links": list(&network.links),
            }),
        );
    }
    // The modes without networks are networks to Docker's clients.
    let mode = container
        .host
        .as_ref()
        .map_or("", |host| host.network_mode.as_str());
    if networks.is_empty() && matches!(mode, "host" | "none") {
        networks.insert(
            mode.to_owned(),
            json!({
                "Aliases": null, "DNSNames": null, "DriverOpts": null, "EndpointID": "", "Gateway": "",
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "GwPriority": 0, "IPAMConfig": null, "IPAddress": "",
                "IPPrefixLen": 0, "IPv6Gateway": "", "Links": null, "MacAddress": "", "NetworkID": "",
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of `docker inspect` (Engine 28) of a container on Linux, as they come from the wire.
    const TOP: [&str; 22] = [
        "AppArmorProfile",
        "Args",
        "Config",
        "Created",
        "Driver",
        "ExecIDs",
        "GraphDriver",
        "HostConfig",
        "HostnamePath",
        "HostsPath",
        "Id",
        "Image",
        "LogPath",
        "MountLabel",
        "Mounts",
        "Name",
        "NetworkSettings",
        "Path",
        "Platform",
        "ProcessLabel",
        "ResolvConfPath",
        "RestartCount",
    ];
    const HOST: [&str; 67] = [
        "AutoRemove",
        "Binds",
        "BlkioDeviceReadBps",
        "BlkioDeviceReadIOps",
        "BlkioDeviceWriteBps",
        "BlkioDeviceWriteIOps",
        "BlkioWeight",
        "BlkioWeightDevice",
        "CapAdd",
        "CapDrop",
        "Cgroup",
        "CgroupParent",
        "CgroupnsMode",
        "ConsoleSize",
        "ContainerIDFile",
        "CpuCount",
        "CpuPercent",
        "CpuPeriod",
        "CpuQuota",
        "CpuRealtimePeriod",
        "CpuRealtimeRuntime",
        "CpuShares",
        "CpusetCpus",
        "CpusetMems",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Devices",
        "Dns",
        "DnsOptions",
        "DnsSearch",
        "ExtraHosts",
        "GroupAdd",
        "IOMaximumBandwidth",
        "IOMaximumIOps",
        "IpcMode",
        "Isolation",
        "Links",
        "LogConfig",
        "MaskedPaths",
        "Memory",
        "MemoryReservation",
        "MemorySwap",
        "MemorySwappiness",
        "NanoCpus",
        "NetworkMode",
        "OomKillDisable",
        "OomScoreAdj",
        "PidMode",
        "PidsLimit",
        "PortBindings",
        "Privileged",
        "PublishAllPorts",
        "ReadonlyPaths",
        "ReadonlyRootfs",
        "RestartPolicy",
        "Runtime",
        "SecurityOpt",
        "ShmSize",
        "UTSMode",
        "Ulimits",
        "UsernsMode",
        "VolumeDriver",
        "VolumesFrom",
        "Sysctls",
        "Init",
        "StorageOpt",
        "Annotations",
    ];
    const CONFIG: [&str; 17] = [
        "AttachStderr",
        "AttachStdin",
        "AttachStdout",
        "Cmd",
        "Domainname",
        "Entrypoint",
        "Env",
        "Hostname",
        "Image",
        "Labels",
        "OnBuild",
        "OpenStdin",
        "StdinOnce",
        "Tty",
        "User",
        "Volumes",
        "WorkingDir",
    ];
    const NETWORK: [&str; 18] = [
        "Bridge",
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "HairpinMode",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "LinkLocalIPv6Address",
        "LinkLocalIPv6PrefixLen",
        "MacAddress",
        "Networks",
        "Ports",
        "SandboxID",
        "SandboxKey",
        "SecondaryIPAddresses",
        "SecondaryIPv6Addresses",
    ];
    const PLACE: [&str; 15] = [
        "Aliases",
        "DNSNames",
        "DriverOpts",
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "GwPriority",
        "IPAMConfig",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "Links",
        "MacAddress",
        "NetworkID",
    ];

    fn lacks(value: &Value, keys: &[&str]) -> Vec<String> {
        let has = |key: &&&str| value.get(**key).is_some();
        keys.iter()
            .filter(|key| !has(key))
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_key_of_docker_is_there() {
        let container = Container {
            config: Some(ContainerSpec::default()),
            host: Some(HostConfig {
                resources: Some(pontoon_proto::v1::Resources {
                    memory_bytes: 64 << 20,
                    ..Default::default()
                }),
                ..HostConfig::default()
            }),
            networks: vec![pontoon_proto::v1::ContainerNetwork {
                network: "bridge".to_owned(),
                endpoint_id: "e1".to_owned(),
                ..Default::default()
            }],
            ..Container::default()
        };
        let value = super::super::container::container_json(&container, true);
        let none = Vec::<String>::new();
        assert_eq!(lacks(&value, &TOP), none);
        assert_eq!(lacks(&value, &["SizeRw", "SizeRootFs", "State"]), none);
        assert_eq!(lacks(&value["HostConfig"], &HOST), none);
        assert_eq!(lacks(&value["Config"], &CONFIG), none);
        assert_eq!(lacks(&value["NetworkSettings"], &NETWORK), none);
        assert_eq!(
            lacks(&value["NetworkSettings"]["Networks"]["bridge"], &PLACE),
            none
        );
        assert_eq!(value["NetworkSettings"]["EndpointID"], "e1");
        assert_eq!(value["HostConfig"]["MemorySwap"], 128 << 20);
        assert_eq!(value["HostConfig"]["PidsLimit"], Value::Null);
        assert!(value["Config"].get("StopSignal").is_none());
    }
}
