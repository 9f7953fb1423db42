//! The daemon's settings file, turned into flags before the command line is parsed ([`cli::parse_from`](crate::cli::parse_from)
//! calls it): each key is a flag's name, so that whatever can be said as a flag can be said in the file. TOML, or JSON when the
//! name ends in `.json`; the keys of Docker's `daemon.json` are understood where we have the setting.
//!
//! A flag wins over the environment, the environment over the file; lists that are given twice are joined, as by dockerd.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use serde_json::{Map, Value};

use crate::error::Failure;

/// Read when no other file is named, and may be missing.
const DEFAULT: &str = "/etc/pontoon/pontoon.toml";
const FLAG: &str = "config";

/// The flags that the settings file stands for. `arguments` are the command line after `daemon`.
///
/// # Errors
/// The file that was named can't be read, is not well-formed, or has a key that is no setting.
pub fn flags(daemon: &Command, arguments: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let (path, named) = match named_file(arguments) {
        Some(path) => (path, true),
        None => (PathBuf::from(DEFAULT), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Vec::new()),
        Err(error) => {
            return Err(Failure::new(format!(
                "read settings file {}: {error}",
                path.display()
            )));
        }
    };
    parse(&path, &text)
        .and_then(|settings| to_flags(daemon, &settings))
        .map_err(|message| Failure::new(format!("settings file {}: {message}", path.display())))
}

/// The last `--config FILE`, or what the environment names.
fn named_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut found = std::env::var_os("PONTOON_CONFIG").map(PathBuf::from);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else { continue };
        if let Some(path) = text.strip_prefix("--config=") {
            found = Some(PathBuf::from(path));
        } else if text == "--config" {
            found = arguments.next().map(PathBuf::from);
        }
    }
    found
}

fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, String> {
    if path.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
}

fn to_flags(daemon: &Command, settings: &Map<String, Value>) -> Result<Vec<OsString>, String> {
    let mut flags = Vec::new();
    for (key, value) in settings {
        let flag = find(daemon, key).ok_or_else(|| {
            format!("unknown setting {key:?}: settings are named as the flags of `pontoon daemon --help`")
        })?;
        if flag
            .get_env()
            .is_some_and(|name| std::env::var_os(name).is_some())
        {
            continue;
        }
        let name = flag.get_long().unwrap_or_default();
        for text in values(flag, value).map_err(|problem| format!("{key}: {problem}"))? {
            flags.push(OsString::from(format!("--{name}={text}")));
        }
    }
    Ok(flags)
}

/// The flag of a key: its name, dockerd's plural of it, or dockerd's name of ours.
fn find<'a>(daemon: &'a Command, key: &str) -> Option<&'a Arg> {
    let by_name = |name: &str| {
        daemon
            .get_arguments()
            .find(|flag| flag.get_long() == Some(name) && name != FLAG && name != "help")
    };
    by_name(key)
        .or_else(|| key.strip_suffix('s').and_then(by_name))
        .or_else(|| {
            by_name(match key {
                "runtimes" => "add-runtime",
                "insecure-registries" => "insecure-registry",
                _ => return None,
            })
        })
}

/// What is given to the flag, each value as a flag of its own.
fn values(flag: &Arg, value: &Value) -> Result<Vec<String>, String> {
    let repeats = matches!(flag.get_action(), ArgAction::Append);
    match value {
        Value::Array(items) if repeats => items.iter().map(item).collect(),
        Value::Object(entries) if repeats => entries.iter().map(entry).collect(),
        Value::Array(_) | Value::Object(_) => Err("a single value is expected".to_owned()),
        single => Ok(vec![scalar(single)?]),
    }
}

/// One of a list: a value, or a table as `key=value,key=value`.
fn item(value: &Value) -> Result<String, String> {
    match value {
        Value::Object(fields) => {
            let fields: Result<Vec<_>, String> = fields
                .iter()
                .map(|(key, value)| Ok(format!("{key}={}", scalar(value)?)))
                .collect();
            Ok(fields?.join(","))
        }
        single => scalar(single),
    }
}

/// One of a table: `key=value`, with dockerd's tables for runtimes and limits.
fn entry((key, value): (&String, &Value)) -> Result<String, String> {
    match value {
        Value::Object(fields) => match (fields.get("path"), fields.get("Soft"), fields.get("Hard")) {
            (Some(path), None, None) if fields.len() == 1 => Ok(format!("{key}={}", scalar(path)?)),
            (None, Some(soft), Some(hard)) => Ok(format!("{key}={}:{}", scalar(soft)?, scalar(hard)?)),
            _ => Err(format!("the table of {key:?} is not understood")),
        },
        single => Ok(format!("{key}={}", scalar(single)?)),
    }
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        other => Err(format!("{other} is not a text, number or boolean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon() -> Command {
        let many = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Append);
        Command::new("daemon").args([
            Arg::new("log-level").long("log-level"),
            Arg::new("icc").long("icc").action(ArgAction::Set),
            Arg::new("mtu").long("mtu").env("PONTOON_TEST_NEVER_SET"),
            Arg::new("config").long("config"),
            many("log-opt"),
            many("label"),
            many("add-runtime"),
            many("default-ulimit"),
            many("default-address-pool"),
            many("insecure-registry"),
            many("registry-mirror"),
        ])
    }

    fn read(name: &str, text: &str) -> Result<Vec<String>, String> {
        let settings = parse(Path::new(name), text)?;
        let flags = to_flags(&daemon(), &settings)?;
        Ok(flags
            .into_iter()
            .map(|flag| flag.into_string().unwrap())
            .collect())
    }

    #[test]
    fn keys_are_flags() {
        let toml = r#"
            log-level = "debug"
            icc = false
            mtu = 1400
            label = ["zone=a", "disk=ssd"]
            [log-opt]
            max-size = "10m"
            max-file = 3
        "#;
        let mut flags = read("pontoon.toml", toml).unwrap();
        flags.sort();
        assert_eq!(
            flags,
            [
                "--icc=false",
                "--label=disk=ssd",
                "--label=zone=a",
                "--log-level=debug",
                "--log-opt=max-file=3",
                "--log-opt=max-size=10m",
                "--mtu=1400",
            ]
        );
    }

    #[test]
    fn dockers_file_is_understood() {
        let json = r#"{"labels": ["a=b"], "runtimes": {"crun": {"path": "/usr/bin/crun"}},
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 10, "Hard": 20}},
            "default-address-pools": [{"base": "10.9.0.0/16", "size": 24}], "log-opts": {"tag": "x"},
            "insecure-registries": ["10.0.0.0/8", "r:5000"], "registry-mirrors": ["https://m.example"]}"#;
        let mut flags = read("daemon.json", json).unwrap();
        flags.sort();
        assert_eq!(
            flags,
            [
                "--add-runtime=crun=/usr/bin/crun",
                "--default-address-pool=base=10.9.0.0/16,size=24",
                "--default-ulimit=nofile=10:20",
                "--insecure-registry=10.0.0.0/8",
                "--insecure-registry=r:5000",
                "--label=a=b",
                "--log-opt=tag=x",
                "--registry-mirror=https://m.example",
            ]
        );
    }

    /// A switch without a value could be set by the file, but not be taken back by a flag.
    #[test]
    fn every_flag_of_the_daemon_takes_a_value() {
        let root = crate::cli::grammar(crate::cli::Wanted::All);
        let daemon = root.find_subcommand("daemon").unwrap();
        for flag in daemon
            .get_arguments()
            .filter(|flag| flag.get_long() != Some("help"))
        {
            assert!(flag.get_action().takes_values(), "{:?}", flag.get_long());
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("colour = 1", "unknown setting \"colour\""),
            ("config = \"x\"", "unknown setting \"config\""),
            ("mtu = [1, 2]", "mtu: a single value is expected"),
            ("label = [[1]]", "label: [1] is not a text, number or boolean"),
            ("mtu = ", "TOML parse error at line 1"),
        ] {
            let message = read("pontoon.toml", text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(read("daemon.json", "{").unwrap_err().contains("EOF"));
    }
}
