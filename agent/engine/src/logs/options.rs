//! Log drivers and their options: which there are, which values are good, what the daemon's defaults fill in. Texts are
//! Docker's. Called when a container is created, when the daemon starts, and before each start by [`super::driver`].

mod attributes;
mod syslog;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use pontoon_proto::v1::LogDriver;

use self::attributes::ATTRIBUTES;
use self::syslog::{SYSLOG, server};
use super::size;
use crate::{Error, Result};

pub(super) use self::attributes::Attributes;

pub(super) use self::syslog::Server;

/// The drivers, sorted, as `info` lists them: without `none`.
pub(crate) const DRIVERS: [&str; 4] = ["journald", "json-file", "local", "syslog"];

/// Drivers of Docker's that are not built.
const FOREIGN: [&str; 6] = ["awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "splunk"];

/// Known for every driver.
const COMMON: [&str; 6] = [
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];

const FILES: [&str; 3] = ["max-size", "max-file", "compress"];

/// Bytes held in non-blocking mode when nothing is said (moby `ring.go`).
const BUFFER: u64 = 1_000_000;

/// Size and number of a log's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub max_size: Option<u64>,
    pub max_file: u32,
    pub compress: bool,
}

/// What a driver is told besides attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    None,
    JsonFile(Files),
    Local(Files),
    Journald,
    Syslog(Server),
}

/// A driver's options, understood.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub target: Target,
    /// Non-blocking, with so many bytes held.
    pub buffer: Option<usize>,
    /// Of a driver that can't be read itself.
    pub cache: Option<Files>,
    pub attributes: Attributes,
}

/// Checks a driver's name and options.
///
/// # Errors
/// [`Error::Invalid`] with Docker's text.
pub fn validate(log: &LogDriver) -> Result<()> {
    settings(log).map(drop)
}

/// Fills in the daemon's defaults: the driver if none is named, its options if it is the same one, else those of the cache.
pub(crate) fn fill_defaults(log: &mut LogDriver, default: &LogDriver) {
    if log.name.is_empty() {
        log.name.clone_from(&default.name);
    }
    for (key, value) in &default.options {
        if log.name == default.name || key.starts_with("cache-") {
            log.options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Understands a driver's options.
pub(super) fn settings(log: &LogDriver) -> Result<Settings> {
    let options = &log.options;
    let invalid = |text: String| Err(Error::Invalid(text));
    let name = log.name.as_str();
    let nothing = Settings {
        target: Target::None,
        buffer: None,
        cache: None,
        attributes: Attributes::default(),
    };
    let own: &[&str] = match name {
        "none" => return Ok(nothing),
        "json-file" | "local" => &FILES,
        "journald" => &[],
        "syslog" => &SYSLOG,
        name if FOREIGN.contains(&name) => {
            return invalid(format!(
                "log driver '{name}' is not supported: use json-file, local, journald, syslog or none"
            ));
        }
        name => return invalid(format!("logger: no log driver named '{name}' is registered")),
    };
    let buffer = buffer(options)?;
    let known = |key: &&str| COMMON.contains(key) || ATTRIBUTES.contains(key) || own.contains(key);
    // Sorted, so that of several unknown ones always the same is told.
    let keys: BTreeMap<&str, &str> = options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    if let Some(key) = keys.keys().find(|key| !known(key)) {
        return invalid(match name {
            "local" => format!("unknown log opt '{key}' for log driver local"),
            name => format!("unknown log opt '{key}' for {name} log driver"),
        });
    }
    let attributes = Attributes::new(&keys)?;
    let cached = cache(&keys)?;
    let (target, cache) = match name {
        "json-file" => (Target::JsonFile(json_files(&keys)?), None),
        "local" => (Target::Local(local_files(&keys, "")?), None),
        "journald" => (Target::Journald, cached),
        _ => (Target::Syslog(server(&keys)?), cached),
    };
    Ok(Settings {
        target,
        buffer,
        cache,
        attributes,
    })
}

fn buffer(options: &HashMap<String, String>) -> Result<Option<usize>> {
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(Error::Invalid(format!(
            "logger: logging mode not supported: {mode}"
        )));
    }
    let size = match options.get("max-buffer-size") {
        None => BUFFER,
        Some(_) if mode != "non-blocking" => {
            return Err(Error::Invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'".to_owned(),
            ));
        }
        Some(text) => size::binary(text)
            .map_err(|error| Error::Invalid(format!("error parsing option max-buffer-size: {error}")))?,
    };
    Ok((mode == "non-blocking").then(|| usize::try_from(size).unwrap_or(usize::MAX)))
}

/// An option's value, read; the error names the option.
fn read<T>(
    options: &BTreeMap<&str, &str>,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>> {
    let Some(text) = options.get(key) else {
        return Ok(None);
    };
    match parse(text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(Error::Invalid(format!(
            "invalid value for {key}: {text}: {error}"
        ))),
    }
}

fn json_files(options: &BTreeMap<&str, &str>) -> Result<Files> {
    let max_size = read(options, "max-size", size::decimal)?;
    if max_size == Some(0) {
        return Err(Error::Invalid("max-size must be a positive number".to_owned()));
    }
    let max_file = max_file(options, "max-file")?.unwrap_or(1);
    if max_file < 1 {
        return Err(Error::Invalid("max-file cannot be less than 1".to_owned()));
    }
    let compress = read(options, "compress", size::boolean)?.unwrap_or(false);
    if compress && (max_file == 1 || max_size.is_none()) {
        return Err(Error::Invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set".to_owned(),
        ));
    }
    Ok(Files {
        max_size,
        max_file,
        compress,
    })
}

/// Those of the local driver, or with the prefix `cache-` those of the cache.
fn local_files(options: &BTreeMap<&str, &str>, prefix: &str) -> Result<Files> {
    let key = |name: &str| format!("{prefix}{name}");
    let max_size = read(options, &key("max-size"), size::decimal)?.unwrap_or(20 << 20);
    if max_size == 0 {
        return Err(Error::Invalid(format!(
            "{} must be a positive number",
            key("max-size")
        )));
    }
    let max_file = max_file(options, &key("max-file"))?.unwrap_or(5);
    let compress = read(options, &key("compress"), size::boolean)?.unwrap_or(true);
    if compress && max_file <= 1 {
        return Err(Error::Invalid(
            "compression cannot be enabled when max file count is 1".to_owned(),
        ));
    }
    Ok(Files {
        max_size: Some(max_size),
        max_file: max_file.max(1),
        compress,
    })
}

fn max_file(options: &BTreeMap<&str, &str>, key: &str) -> Result<Option<u32>> {
    match read(options, key, size::integer)? {
        Some(number) if number < 0 => Err(Error::Invalid(format!("{key} must not be negative"))),
        Some(number) => Ok(Some(u32::try_from(number).unwrap_or(u32::MAX))),
        None => Ok(None),
    }
}

fn cache(options: &BTreeMap<&str, &str>) -> Result<Option<Files>> {
    let disabled = match options.get("cache-disabled") {
        None | Some(&"") => false,
        Some(text) => size::boolean(text)
            .map_err(|_| Error::Invalid(format!("invalid value for option cache-disabled: {text}")))?,
    };
    let files = local_files(options, "cache-")?;
    Ok((!disabled).then_some(files))
}
