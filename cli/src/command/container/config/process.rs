//! The process of a container from its flags: environment, labels, working directory, health check, restart policy. Called by the
//! request's builder; environment and labels also by service commands and `exec`.

use std::collections::HashMap;
use std::path::Path;

use pontoon_proto::v1::{ContainerRestartPolicy, HealthConfig, RestartPolicyName};

use super::super::options::ContainerOptions;
use super::label;
use crate::error::Failure;

/// An operating system's error in Go's words, without Rust's number.
pub(super) fn go_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    words.to_lowercase()
}

pub(super) fn workdir(dir: &str) -> Result<String, Failure> {
    if dir.is_empty() || dir.starts_with('/') {
        Ok(dir.to_owned())
    } else {
        Err(Failure::new(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )))
    }
}

pub(super) fn labels(options: &ContainerOptions) -> Result<HashMap<String, String>, Failure> {
    let mut given = Vec::new();
    for path in &options.label_file {
        // A key without value is left out: there is nothing to look it up in.
        given.extend(lines(path)?.into_iter().filter(|line| line.contains('=')));
    }
    given.extend(options.label.iter().cloned());
    Ok(given.iter().map(|text| label(text)).collect())
}

/// The lines of a file of variables, in Docker's rules: comments and empty lines are left out, a name has no white space.
fn lines(path: &Path) -> Result<Vec<String>, Failure> {
    let shown = path.display();
    let bytes =
        std::fs::read(path).map_err(|error| Failure::new(format!("open {shown}: {}", go_error(&error))))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let invalid = |why: String| Failure::new(format!("invalid env file ({shown}): {why}"));
    let mut lines = Vec::new();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|_| {
            let numbers: Vec<String> = line.iter().map(u8::to_string).collect();
            invalid(format!(
                "invalid utf8 bytes at line {}: [{}]",
                at + 1,
                numbers.join(" ")
            ))
        })?;
        let text = text.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let name = text.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(invalid(format!("no variable name on line '{text}'")));
        }
        if name.contains([' ', '\t']) {
            return Err(invalid(format!("variable '{name}' contains whitespaces")));
        }
        lines.push(text.to_owned());
    }
    Ok(lines)
}

/// Gives a name alone the client's value.
fn looked_up(variable: &str) -> Option<String> {
    if variable.contains('=') {
        return Some(variable.to_owned());
    }
    let value = std::env::var(variable).ok()?;
    Some(format!("{variable}={value}"))
}

/// The container's environment: as [`environment`], but a flag's name that the client has no value for stays, and takes the image's
/// variable of that name away.
pub(super) fn variables(options: &ContainerOptions) -> Result<Vec<String>, Failure> {
    let mut variables = environment(&options.env_file, &[])?;
    for variable in &options.env {
        variables.push(looked_up(variable).unwrap_or_else(|| variable.clone()));
    }
    Ok(variables)
}

/// Environment from files, then from flags; a name alone takes the client's value, and is left out when there is none.
///
/// # Errors
/// A file that can't be read, or a variable without a name.
pub fn environment(files: &[impl AsRef<Path>], flags: &[String]) -> Result<Vec<String>, Failure> {
    let mut environment = Vec::new();
    for path in files {
        environment.extend(lines(path.as_ref())?.iter().filter_map(|line| looked_up(line)));
    }
    for variable in flags {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Failure::new(format!("invalid environment variable: {variable}")));
        }
        environment.extend(looked_up(variable));
    }
    Ok(environment)
}

pub(super) fn health(options: &ContainerOptions) -> Result<Option<HealthConfig>, Failure> {
    let command = options.health_cmd.as_deref().filter(|text| !text.is_empty());
    let numbers = [
        ("health-interval", options.health_interval),
        ("health-timeout", options.health_timeout),
        ("health-retries", options.health_retries),
        ("health-start-period", options.health_start_period),
        ("health-start-interval", options.health_start_interval),
    ];
    let any = command.is_some()
        || numbers
            .iter()
            .any(|(_, value)| value.is_some_and(|value| value != 0));
    if options.no_healthcheck {
        if any {
            return Err(Failure::new("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..Default::default()
        }));
    }
    for (name, value) in numbers {
        if value.is_some_and(|value| value < 0) {
            return Err(Failure::new(format!("--{name} cannot be negative")));
        }
    }
    Ok(any.then(|| HealthConfig {
        test: command
            .into_iter()
            .flat_map(|command| ["CMD-SHELL".to_owned(), command.to_owned()])
            .collect(),
        interval: options.health_interval.unwrap_or(0),
        timeout: options.health_timeout.unwrap_or(0),
        start_period: options.health_start_period.unwrap_or(0),
        retries: options
            .health_retries
            .map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
        start_interval: options.health_start_interval.unwrap_or(0),
    }))
}

/// `no`, `always`, `unless-stopped`, `on-failure[:COUNT]`
///
/// # Errors
/// Another word, or a count that is none.
pub fn restart_policy(text: &str) -> Result<ContainerRestartPolicy, Failure> {
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => {
            return Err(Failure::new(
                "invalid restart policy format: no policy provided before colon",
            ));
        }
        Some((name, count)) => (name, Some(count).filter(|count| !count.is_empty())),
        None => (text, None),
    };
    let maximum_retry_count = count.map_or(Ok(0), |count| {
        count.parse::<i32>().map_err(|_| {
            Failure::new("invalid restart policy format: maximum retry count must be an integer")
        })
    })?;
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
    let Ok(maximum_retry_count) = u32::try_from(maximum_retry_count) else {
        return Err(Failure::new(
            "invalid restart policy: maximum retry count cannot be negative",
        ));
    };
    if maximum_retry_count != 0 && name != RestartPolicyName::OnFailure {
        return Err(Failure::new(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(ContainerRestartPolicy {
        name: name.into(),
        maximum_retry_count,
    })
}
