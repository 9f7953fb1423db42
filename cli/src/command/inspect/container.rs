//! Docker's JSON of a container.

use pontoon_proto::v1::{
    Container, ContainerState, HealthConfig, HealthState, HostConfig, PortBinding, PortProtocol,
    RestartPolicyName,
};
use serde_json::{Map, Value, json};

use super::mounts;

use crate::command::container::list::state_name;
use crate::output::human;

/// A list, or null when it is empty, as Go shows a nil slice.
pub fn list(items: &[String]) -> Value {
    if items.is_empty() {
        Value::Null
    } else {
        json!(items)
    }
}

/// Docker's sets: an object with empty objects; null when empty.
pub fn key_set(items: &[String]) -> Value {
    if items.is_empty() {
        Value::Null
    } else {
        items.iter().map(|item| (item.clone(), json!({}))).collect()
    }
}

/// A health check's settings.
pub fn health_json(health: &HealthConfig) -> Value {
    let mut value = json!({
        "Test": health.test, "Interval": health.interval, "Timeout": health.timeout, "StartPeriod": health.start_period,
        "StartInterval": health.start_interval, "Retries": health.retries,
    });
    // As in Docker, what is not set is not there.
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| {
            field.as_i64() != Some(0) && field.as_array().is_none_or(|words| !words.is_empty())
        });
    }
    value
}

/// The object as `container inspect` shows it.
pub fn container_json(container: &Container, size: bool) -> Value {
    let config = container.config.clone().unwrap_or_default();
    let host = container.host.clone().unwrap_or_default();
    let mut value = json!({
        "Id": container.id,
        "Created": human::rfc3339(container.created_at),
        "Path": container.path,
        "Args": container.args,
        "State": state(container),
        "Image": container.image_id,
        "ResolvConfPath": container.resolv_conf_path,
        "HostnamePath": container.hostname_path,
        "HostsPath": container.hosts_path,
        "LogPath": container.log_path,
        "Name": format!("/{}", container.name),
        "RestartCount": container.restart_count,
        "Driver": container.driver,
        "Platform": "linux",
        "HostConfig": host_json(&host, &config),
        "Mounts": mounts::points(container),
        "Config": {
            "Hostname": config.hostname, "Domainname": container.domainname, "User": config.user,
            "AttachStdin": container.attach_stdin, "AttachStdout": container.attach_stdout,
            "AttachStderr": container.attach_stderr,
            "ExposedPorts": key_set(&container.exposed_ports), "Tty": config.tty, "OpenStdin": config.open_stdin,
            "StdinOnce": container.stdin_once, "Env": config.env, "Cmd": list(&config.args), "Image": container.image, "Volumes": key_set(&container.volumes),
            "WorkingDir": config.dir, "Entrypoint": list(&config.command), "Labels": config.labels,
            "StopSignal": config.stop_signal, "Healthcheck": config.healthcheck.as_ref().map(health_json),
            "StopTimeout": (config.stop_grace_period > 0).then_some(config.stop_grace_period / 1_000_000_000),
        },
        "NetworkSettings": network_settings(container),
    });
    super::shape::complete(&mut value, container);
    if size {
        value["SizeRw"] = container.size_rw.into();
        value["SizeRootFs"] = container.size_root_fs.into();
    }
    value
}

fn state(container: &Container) -> Value {
    let is = |state| container.state() == state;
    let mut value = json!({
        "Status": state_name(container.state()),
        "Running": is(ContainerState::Running) || is(ContainerState::Paused) || is(ContainerState::Restarting),
        "Paused": is(ContainerState::Paused),
        "Restarting": is(ContainerState::Restarting),
        "OOMKilled": container.oom_killed,
        "Dead": is(ContainerState::Dead),
        "Pid": container.pid,
        "ExitCode": container.exit_code,
        "Error": container.error,
        "StartedAt": human::rfc3339(container.started_at),
        "FinishedAt": human::rfc3339(container.finished_at),
    });
    if let Some(health) = container
        .health
        .as_ref()
        .filter(|health| health.state() != HealthState::None)
    {
        value["Health"] = json!({
            "Status": match health.state() {
                HealthState::None => "none",
                HealthState::Starting => "starting",
                HealthState::Healthy => "healthy",
                HealthState::Unhealthy => "unhealthy",
            },
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(|result| json!({
                "Start": human::rfc3339(result.start), "End": human::rfc3339(result.end),
                "ExitCode": result.exit_code, "Output": result.output,
            })).collect::<Vec<_>>(),
        });
    }
    value
}

fn host_json(host: &HostConfig, config: &pontoon_proto::v1::ContainerSpec) -> Value {
    let resources = host.resources.unwrap_or_default();
    let restart = host.restart_policy.unwrap_or_default();
    let restart_name = match restart.name() {
        RestartPolicyName::No => "no",
        RestartPolicyName::OnFailure => "on-failure",
        RestartPolicyName::Always => "always",
        RestartPolicyName::UnlessStopped => "unless-stopped",
    };
    let log = host.log.clone().unwrap_or_default();
    let dns = config.dns.clone().unwrap_or_default();
    let mut value = json!({
        "NetworkMode": host.network_mode, "PortBindings": port_map(&host.port_bindings, &[]),
        "RestartPolicy": { "Name": restart_name, "MaximumRetryCount": restart.maximum_retry_count },
        "AutoRemove": host.auto_remove, "PublishAllPorts": host.publish_all_ports,
        "LogConfig": { "Type": log.name, "Config": log.options },
        "NanoCpus": resources.nano_cpus, "Memory": resources.memory_bytes, "PidsLimit": resources.pids,
        "MemoryReservation": host.memory_reservation, "MemorySwap": host.memory_swap, "CpuShares": host.cpu_shares,
        "CpuPeriod": host.cpu_period, "CpuQuota": host.cpu_quota, "CpusetCpus": host.cpuset_cpus,
        "CpusetMems": host.cpuset_mems, "Privileged": host.privileged, "ReadonlyRootfs": config.read_only,
        "SecurityOpt": list(&host.security_opt), "PidMode": host.pid_mode, "IpcMode": host.ipc_mode,
        "UTSMode": host.uts_mode, "ShmSize": host.shm_size, "Runtime": host.runtime, "OomScoreAdj": host.oom_score_adj,
        "Init": config.init, "CapAdd": list(&config.cap_add), "CapDrop": list(&config.cap_drop),
        "GroupAdd": list(&config.groups), "ExtraHosts": list(&config.hosts), "Dns": dns.nameservers,
        "DnsSearch": dns.search, "DnsOptions": dns.options, "Sysctls": config.sysctls,
        "Ulimits": config.ulimits.iter().map(|ulimit| json!({
            "Name": ulimit.name, "Soft": ulimit.soft, "Hard": ulimit.hard,
        })).collect::<Vec<_>>(),
    });
    value["Binds"] = mounts::binds(&config.mounts);
    value["VolumeDriver"] = host.volume_driver.clone().into();
    value["VolumesFrom"] = list(&host.volumes_from);
    // As in Docker, only when there are any.
    for (name, shown) in [
        ("Mounts", mounts::mounts(&config.mounts)),
        ("Tmpfs", mounts::tmpfs(&config.mounts)),
    ] {
        if let Some(shown) = shown {
            value[name] = shown;
        }
    }
    value
}

fn port_key(port: &PortBinding) -> String {
    let protocol = match port.protocol() {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    };
    format!("{}/{protocol}", port.container_port)
}

fn port_map(bindings: &[PortBinding], exposed: &[String]) -> Value {
    let mut map: Map<String, Value> = exposed.iter().map(|port| (port.clone(), Value::Null)).collect();
    for binding in bindings {
        let host_port = if binding.host_port == 0 {
            String::new()
        } else {
            binding.host_port.to_string()
        };
        let entry = json!({ "HostIp": binding.host_ip, "HostPort": host_port });
        match map.entry(port_key(binding)).or_insert(Value::Null) {
            Value::Array(bindings) => bindings.push(entry),
            slot => *slot = json!([entry]),
        }
    }
    Value::Object(map)
}

fn network_settings(container: &Container) -> Value {
    let networks: Map<String, Value> = container
        .networks
        .iter()
        .map(|network| (network.network.clone(), super::network::endpoint_json(network)))
        .collect();
    let bridge = container
        .networks
        .iter()
        .find(|network| network.network == "bridge")
        .cloned()
        .unwrap_or_default();
    let sandbox_id = container.sandbox_key.rsplit('/').next().unwrap_or_default();
    json!({
        "Bridge": "", "SandboxID": sandbox_id, "SandboxKey": container.sandbox_key,
        "Ports": port_map(&container.ports, &container.exposed_ports),
        "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null, "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway, "GlobalIPv6Address": bridge.ipv6_address,
        "GlobalIPv6PrefixLen": bridge.ipv6_prefix_len, "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len, "IPv6Gateway": bridge.ipv6_gateway, "MacAddress": bridge.mac_address,
        "Networks": networks,
    })
}
