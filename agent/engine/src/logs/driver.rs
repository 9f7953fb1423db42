//! From a container's log driver to what the shim is told, and to where `logs` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pontoon_proto::v1::LogDriver;
use pontoon_runtime::{FileLog, JournaldLog, LogConfig, LogTarget, SyslogLog};

use super::format::Format;
use super::options::{Files, Settings, Target, settings};
use super::tag;
use crate::Result;
use crate::container::record::Record;

/// Where lines can be read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub path: PathBuf,
    pub format: Format,
}

/// Docker's names of the files in a container's folder.
fn json_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}-json.log"))
}

fn local_path(dir: &Path) -> PathBuf {
    dir.join("local-logs").join("container.log")
}

fn cache_path(dir: &Path) -> PathBuf {
    dir.join("container-cached.log")
}

/// What `inspect` shows: only json-file's path is told, as the others' formats may change.
pub(crate) fn shown_path(log: &LogDriver, dir: &Path, id: &str) -> String {
    match log.name.as_str() {
        "json-file" => json_path(dir, id).display().to_string(),
        _ => String::new(),
    }
}

/// Where a container's log can be read, if it can.
pub(super) fn place(log: &LogDriver, dir: &Path, id: &str) -> Option<Place> {
    // Checked when the container was created; the server may be gone since, its cache is not.
    let disabled = log
        .options
        .get("cache-disabled")
        .is_some_and(|text| super::size::boolean(text).unwrap_or(false));
    let (path, format) = match log.name.as_str() {
        "json-file" | "" => (json_path(dir, id), Format::Json),
        "local" => (local_path(dir), Format::Local),
        "journald" | "syslog" if !disabled => (cache_path(dir), Format::Local),
        _ => return None,
    };
    Some(Place { path, format })
}

/// What the shim is told.
pub(crate) fn shim_config(record: &Record, dir: &Path, journal: &Path) -> Result<LogConfig> {
    let log = record.host().log.unwrap_or_default();
    let Settings {
        target,
        buffer,
        cache,
        attributes,
    } = settings(&log)?;
    let (view, config) = (record.view(), record.config());
    let info = tag::Info {
        id: view.id.clone(),
        name: view.name.clone(),
        image_id: view.image_id.clone(),
        image_name: view.image.clone(),
        command: [std::slice::from_ref(&view.path), &view.args].concat().join(" "),
    };
    let mut chosen = attributes.choose(&config.labels, &config.env);
    let wanted = match attributes.tag.as_str() {
        "" => tag::DEFAULT,
        template => template,
    };
    let tag = tag::evaluate(wanted, &info)?;
    let file = |files: Files, path: PathBuf| FileLog {
        path,
        max_size: files.max_size,
        max_file: files.max_file,
        compress: files.compress,
    };
    let target = match target {
        Target::None => LogTarget::None,
        Target::JsonFile(files) => LogTarget::JsonFile(file(files, json_path(dir, &info.id))),
        Target::Local(files) => LogTarget::Local(file(files, local_path(dir))),
        Target::Journald => LogTarget::Journald(JournaldLog {
            socket: journal.to_owned(),
            fields: journal_fields(&info, &tag, &chosen),
        }),
        Target::Syslog(server) => LogTarget::Syslog(SyslogLog {
            address: server.address,
            facility: server.facility,
            format: server.format,
            tag: tag.clone(),
        }),
    };
    // In lines the tag shows only if it was asked for.
    if !attributes.tag.is_empty() {
        chosen.insert("tag".to_owned(), tag);
    }
    Ok(LogConfig {
        target,
        cache: cache.map(|files| file(files, cache_path(dir))),
        attributes: chosen,
        buffer,
    })
}

/// Docker's fields, and the attributes under names that the journal takes.
fn journal_fields(
    info: &tag::Info,
    tag: &str,
    attributes: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let short = info.id.get(..12).unwrap_or(&info.id);
    let mut fields: BTreeMap<String, String> = [
        ("CONTAINER_ID", short),
        ("CONTAINER_ID_FULL", &info.id),
        ("CONTAINER_NAME", &info.name),
        ("CONTAINER_TAG", tag),
        ("IMAGE_NAME", &info.image_name),
        ("SYSLOG_IDENTIFIER", tag),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for (name, value) in attributes {
        let name = field_name(name);
        if !name.is_empty() {
            fields.insert(name, value.clone());
        }
    }
    fields
}

/// Uppercase letters, digits and underscores, of which none at the beginning (systemd.journal-fields(7)).
fn field_name(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    name.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_fields_have_good_names() {
        assert_eq!(field_name("com.example-Ä.x1"), "COM_EXAMPLE___X1");
        assert_eq!(field_name("_._a"), "A");
        let attributes = BTreeMap::from([("..".to_owned(), String::new()), ("role".into(), "db".into())]);
        let fields = journal_fields(&tag::Info::default(), "t", &attributes);
        assert_eq!(fields["ROLE"], "db");
        assert_eq!(fields.len(), 7);
    }
}
