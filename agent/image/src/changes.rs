//! Dockerfile instructions that change a configuration: `import --change`, `commit --change`, and later builds.
//! Words, quotes and variables follow BuildKit's shell lexer as far as these instructions need.

mod words;

use crate::{ContainerConfig, Error, Healthcheck, Result};

pub use words::duration;
use words::{expand, key_values, words};

/// Applies instructions in order.
///
/// # Errors
/// [`Error::InvalidChange`] names the instruction.
pub(crate) fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    let mut has_cmd = false;
    for change in changes {
        let name = change.split_whitespace().next().unwrap_or_default();
        has_cmd |= name.eq_ignore_ascii_case("CMD");
        // As in a Dockerfile: arguments that were meant for another entrypoint go.
        if name.eq_ignore_ascii_case("ENTRYPOINT") && !has_cmd {
            config.cmd = None;
        }
        instruction(config, change.trim()).map_err(|reason| Error::InvalidChange {
            instruction: change.clone(),
            reason,
        })?;
    }
    Ok(())
}

fn instruction(config: &mut ContainerConfig, text: &str) -> Result<(), String> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
    if rest.is_empty() && name != "CMD" && name != "ENTRYPOINT" {
        return Err(format!("{name} requires an argument"));
    }
    match name.as_str() {
        "CMD" => config.cmd = Some(command(rest, config)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest, config));
        }
        "ENV" => {
            for (key, value) in key_values(rest, &config.env)? {
                set_env(&mut config.env, &key, &value);
            }
        }
        "LABEL" => config.labels.extend(key_values(rest, &config.env)?),
        "EXPOSE" => {
            for word in words(rest, &config.env)? {
                config.exposed_ports.extend(ports(&word)?);
            }
        }
        "USER" => config.user = expand(rest, &config.env)?,
        "VOLUME" => {
            let paths = match json_array(rest) {
                Some(paths) => paths,
                None => words(rest, &config.env)?,
            };
            if paths.iter().any(|p| p.trim().is_empty()) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            config.volumes.extend(paths);
        }
        "WORKDIR" => config.working_dir = join(&config.working_dir, &expand(rest, &config.env)?),
        "STOPSIGNAL" => config.stop_signal = Some(signal(&expand(rest, &config.env)?)?),
        "ONBUILD" => {
            let trigger = rest
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(format!("{trigger} isn't allowed as an ONBUILD trigger"));
            }
            config.on_build.push(rest.into());
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        other => {
            let name = other.to_ascii_lowercase();
            return Err(format!("{name} is not a valid change command"));
        }
    }
    Ok(())
}

/// JSON array (exec form) or a line for the shell.
fn command(rest: &str, config: &ContainerConfig) -> Vec<String> {
    if rest.is_empty() {
        return Vec::new();
    }
    json_array(rest).unwrap_or_else(|| {
        let mut line = config
            .shell
            .clone()
            .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        line.push(rest.into());
        line
    })
}

fn json_array(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let line = format!("{key}={value}");
    match env
        .iter_mut()
        .find(|e| e.split_once('=').map_or(e.as_str(), |(k, _)| k) == key)
    {
        Some(old) => *old = line,
        None => env.push(line),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(word: &str) -> Result<Vec<String>, String> {
    let invalid = || format!("invalid port {word:?}");
    let (range, proto) = word.split_once('/').unwrap_or((word, "tcp"));
    let proto = proto.to_ascii_lowercase();
    if !matches!(proto.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {proto}"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let first: u16 = first.parse().map_err(|_| invalid())?;
    let last: u16 = last.parse().map_err(|_| invalid())?;
    if first == 0 || last < first {
        return Err(invalid());
    }
    Ok((first..=last).map(|p| format!("{p}/{proto}")).collect())
}

/// A relative WORKDIR is below the one before; `.` and `..` are worked out.
fn join(old: &str, new: &str) -> String {
    let full = if new.starts_with('/') {
        new.to_owned()
    } else {
        format!("{old}/{new}")
    };
    let mut parts = Vec::new();
    for part in full.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    format!("/{}", parts.join("/"))
}

/// A number or a name; unknown names are the engine's to refuse when it knows the platform's list.
fn signal(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let number = text.parse::<u32>().is_ok_and(|n| (1..=64).contains(&n));
    let plain = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'+' || b == b'-');
    if number || plain {
        Ok(text.into())
    } else {
        Err(format!("invalid signal: {text}"))
    }
}

fn healthcheck(rest: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag
            .split_once(char::is_whitespace)
            .ok_or("missing type (CMD or NONE)")?;
        let (name, value) = flag
            .split_once('=')
            .ok_or_else(|| format!("missing a value on flag: {flag}"))?;
        match name {
            "interval" => check.interval = positive(name, value)?,
            "timeout" => check.timeout = positive(name, value)?,
            "start-period" => check.start_period = duration(value)?,
            "start-interval" => check.start_interval = positive(name, value)?,
            "retries" => {
                check.retries = value
                    .parse()
                    .ok()
                    .filter(|n| *n >= 0)
                    .ok_or("invalid --retries")?;
            }
            _ => return Err(format!("unknown flag: {name}")),
        }
        rest = after.trim_start();
    }
    let (kind, args) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let args = args.trim();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if args.is_empty() => check.test = vec!["NONE".into()],
        "NONE" => return Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" if args.is_empty() => return Err("missing command after HEALTHCHECK CMD".into()),
        "CMD" => {
            check.test = match json_array(args) {
                Some(array) => std::iter::once("CMD".into()).chain(array).collect(),
                None => vec!["CMD-SHELL".into(), args.into()],
            };
        }
        other => return Err(format!("unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
    Ok(check)
}

/// A duration of at least 1 ms, as Docker asks.
fn positive(flag: &str, value: &str) -> Result<i64, String> {
    match duration(value)? {
        0 => Ok(0),
        n if n < 1_000_000 => Err(format!("interval {flag:?} cannot be less than 1ms")),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests;
