//! The flags of `run` and `create` turned once into the request that the engine gets.

use std::collections::HashMap;
use std::path::Path;

use pontoon_proto::v1::{
    ContainerRestartPolicy, ContainerSpec, CreateContainerRequest, HealthConfig, HostConfig, LogDriver,
    Resources, RestartPolicyName, Ulimit,
};

use super::options::ContainerOptions;
use crate::error::Failure;
use crate::output::human;

mod mounts;
mod networks;
mod ports;

use mounts::mounts;
pub(crate) use mounts::{mount, tmpfs};
pub(crate) use ports::publish;

/// Builds the request for an image and its command line.
///
/// # Errors
/// The first flag whose value is no good, with the value.
pub fn request(
    options: &ContainerOptions,
    image: &str,
    args: &[String],
) -> Result<CreateContainerRequest, Failure> {
    let config = ContainerSpec {
        image: image.to_owned(),
        labels: labels(options)?,
        command: options.entrypoint.iter().cloned().collect(),
        args: args.to_vec(),
        hostname: options.hostname.clone(),
        env: environment(&options.env_file, &options.env)?,
        dir: workdir(&options.workdir)?,
        user: options.user.clone(),
        groups: options.group_add.clone(),
        tty: options.tty,
        open_stdin: options.interactive,
        read_only: options.read_only,
        stop_signal: options.stop_signal.clone(),
        stop_grace_period: options
            .stop_timeout
            .map_or(0, |seconds| i64::from(seconds) * 1_000_000_000),
        healthcheck: health(options)?,
        mounts: mounts(options)?,
        init: options.init,
        cap_add: options.cap_add.clone(),
        cap_drop: options.cap_drop.clone(),
        ulimits: options
            .ulimit
            .iter()
            .map(|text| ulimit(text))
            .collect::<Result<_, _>>()?,
        sysctls: options
            .sysctl
            .iter()
            .map(|text| pair("sysctl", text))
            .collect::<Result<_, _>>()?,
        dns: networks::dns(options),
        hosts: options
            .add_host
            .iter()
            .map(|text| networks::extra_host(text))
            .collect::<Result<_, _>>()?,
    };
    let attach_stdin = options.interactive && (options.attach.is_empty() || attaches(options, "stdin"));
    Ok(CreateContainerRequest {
        name: options.name.clone(),
        config: Some(config),
        host: Some(host_config(options)?),
        networks: networks::networks(options)?,
        exposed_ports: ports::exposed(options)?,
        attach_stdin,
        stdin_once: attach_stdin,
        domainname: options.domainname.clone(),
    })
}

/// Whether `-a NAME` was given.
pub fn attaches(options: &ContainerOptions, stream: &str) -> bool {
    options
        .attach
        .iter()
        .any(|name| name.eq_ignore_ascii_case(stream))
}

fn host_config(options: &ContainerOptions) -> Result<HostConfig, Failure> {
    let memory_swap = match options.memory_swap.as_deref() {
        None => 0,
        Some("-1") => -1,
        Some(text) => human::parse_size(text).map_err(Failure::new)?,
    };
    if options.cpus.is_some() && (options.cpu_period != 0 || options.cpu_quota != 0) {
        return Err(Failure::new(
            "conflicting options: --cpus and --cpu-period or --cpu-quota can't be used together",
        ));
    }
    if options.rm && options.restart != "no" {
        return Err(Failure::new(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    Ok(HostConfig {
        network_mode: networks::mode(options),
        port_bindings: ports::published(options)?,
        publish_all_ports: options.publish_all,
        restart_policy: Some(restart_policy(&options.restart)?),
        auto_remove: options.rm,
        resources: Some(Resources {
            nano_cpus: options
                .cpus
                .as_deref()
                .map(human::parse_cpus)
                .transpose()
                .map_err(Failure::new)?
                .unwrap_or(0),
            memory_bytes: options.memory.unwrap_or(0),
            pids: options.pids_limit,
        }),
        memory_reservation: options.memory_reservation.unwrap_or(0),
        memory_swap,
        cpu_shares: options.cpu_shares,
        cpu_period: options.cpu_period,
        cpu_quota: options.cpu_quota,
        cpuset_cpus: options.cpuset_cpus.clone(),
        cpuset_mems: options.cpuset_mems.clone(),
        privileged: options.privileged,
        security_opt: options
            .security_opt
            .iter()
            .map(|text| security_option(text))
            .collect::<Result<_, _>>()?,
        pid_mode: host_or_own("pid", &options.pid)?,
        ipc_mode: match options.ipc.as_str() {
            "none" => options.ipc.clone(),
            mode => host_or_own("ipc", mode)?,
        },
        uts_mode: host_or_own("uts", &options.uts)?,
        shm_size: options.shm_size.unwrap_or(0),
        log: Some(LogDriver {
            name: options.log_driver.clone(),
            options: options
                .log_opt
                .iter()
                .map(|text| pair("log-opt", text))
                .collect::<Result<_, _>>()?,
        }),
        runtime: options.runtime.clone(),
        oom_score_adj: options.oom_score_adj,
        ..HostConfig::default()
    })
}

fn host_or_own(flag: &str, mode: &str) -> Result<String, Failure> {
    match mode {
        "" | "private" => Ok(String::new()),
        "host" => Ok("host".to_owned()),
        other => Err(Failure::new(format!(
            "--{flag}: invalid mode {other:?}: this version knows \"host\" and \"private\""
        ))),
    }
}

/// A seccomp profile is read here, as its path is the client's.
fn security_option(text: &str) -> Result<String, Failure> {
    let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (key, value) {
        ("no-new-privileges", "" | "true" | "false") => Ok(text.replacen(':', "=", 1)),
        ("seccomp", "unconfined") => Ok("seccomp=unconfined".to_owned()),
        ("seccomp", path) if !path.is_empty() => {
            let profile = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("opening seccomp profile ({path}) failed: {error}")))?;
            Ok(format!("seccomp={profile}"))
        }
        _ => Err(Failure::new(format!(
            "invalid --security-opt: {text:?}: this version knows no-new-privileges and seccomp=unconfined|PROFILE.json"
        ))),
    }
}

fn workdir(dir: &str) -> Result<String, Failure> {
    if dir.is_empty() || dir.starts_with('/') {
        Ok(dir.to_owned())
    } else {
        Err(Failure::new(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )))
    }
}

/// `KEY=VALUE`, for flags that are maps.
///
/// # Errors
/// When there is no `=`.
pub fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| Failure::new(format!("invalid argument {text:?} for --{flag}: use KEY=VALUE")))
}

/// Labels of flags: `key` alone has an empty value.
pub fn label(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

fn labels(options: &ContainerOptions) -> Result<HashMap<String, String>, Failure> {
    let mut labels = HashMap::new();
    let mut given = Vec::new();
    for path in &options.label_file {
        given.extend(lines(path)?);
    }
    given.extend(options.label.iter().cloned());
    for text in given {
        let (key, value) = label(&text);
        if key.is_empty() {
            return Err(Failure::new(format!("invalid label '{text}': empty name")));
        }
        labels.insert(key, value);
    }
    Ok(labels)
}

fn lines(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("open {}: {error}", path.display())))?;
    let meaningful = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(text
        .lines()
        .map(str::trim_start)
        .filter(meaningful)
        .map(str::to_owned)
        .collect())
}

/// Environment from files, then from flags; a name alone takes the client's value, and is left out when there is none.
///
/// # Errors
/// A file that can't be read, or a variable without a name.
pub fn environment(files: &[impl AsRef<Path>], flags: &[String]) -> Result<Vec<String>, Failure> {
    let mut given = Vec::new();
    for path in files {
        let path = path.as_ref();
        let variables = lines(path)?;
        for variable in &variables {
            let name = variable.split('=').next().unwrap_or_default();
            if name.contains(char::is_whitespace) {
                return Err(Failure::new(format!(
                    "invalid env file ({}): variable '{name}' contains whitespaces",
                    path.display()
                )));
            }
        }
        given.extend(variables);
    }
    given.extend(flags.iter().cloned());
    let mut environment = Vec::new();
    for variable in given {
        match variable.split_once('=') {
            Some(("", _)) => return Err(Failure::new(format!("invalid environment variable: {variable}"))),
            Some(_) => environment.push(variable),
            None if variable.is_empty() => return Err(Failure::new("invalid environment variable: \"\"")),
            None => environment.extend(
                std::env::var(&variable)
                    .ok()
                    .map(|value| format!("{variable}={value}")),
            ),
        }
    }
    Ok(environment)
}

fn health(options: &ContainerOptions) -> Result<Option<HealthConfig>, Failure> {
    let any = options.health_cmd.is_some()
        || options.health_interval.is_some()
        || options.health_retries.is_some()
        || options.health_start_interval.is_some()
        || options.health_start_period.is_some()
        || options.health_timeout.is_some();
    if options.no_healthcheck {
        if any {
            return Err(Failure::new("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..Default::default()
        }));
    }
    Ok(any.then(|| HealthConfig {
        test: options
            .health_cmd
            .iter()
            .flat_map(|command| ["CMD-SHELL".to_owned(), command.clone()])
            .collect(),
        interval: options.health_interval.unwrap_or(0),
        timeout: options.health_timeout.unwrap_or(0),
        start_period: options.health_start_period.unwrap_or(0),
        retries: options.health_retries.unwrap_or(0),
        start_interval: options.health_start_interval.unwrap_or(0),
    }))
}

fn restart_policy(text: &str) -> Result<ContainerRestartPolicy, Failure> {
    let (name, count) = text
        .split_once(':')
        .map_or((text, None), |(name, count)| (name, Some(count)));
    let name = match name {
        "" | "no" => RestartPolicyName::No,
        "always" => RestartPolicyName::Always,
        "unless-stopped" => RestartPolicyName::UnlessStopped,
        "on-failure" => RestartPolicyName::OnFailure,
        other => {
            return Err(Failure::new(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    let maximum_retry_count = match count {
        None => 0,
        Some(_) if name != RestartPolicyName::OnFailure => {
            return Err(Failure::new(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        Some(count) => count.parse().map_err(|_| {
            Failure::new("invalid restart policy format: maximum retry count must be an integer")
        })?,
    };
    Ok(ContainerRestartPolicy {
        name: name.into(),
        maximum_retry_count,
    })
}

/// `--ulimit NAME=SOFT[:HARD]`
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    let bad = || Failure::new(format!("invalid ulimit argument: {text} (use NAME=SOFT[:HARD])"));
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let soft = soft.parse().map_err(|_| bad())?;
    let hard = hard.parse().map_err(|_| bad())?;
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(Failure::new(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests;
