//! `context export` and `context import`: one tar archive with `meta.json`, as Docker writes it.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};

use super::{ExportArguments, ImportArguments, is_standard};
use crate::context::{Context, Store, check_name};
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// Name of the description in the archive.
const META: &str = "meta.json";
/// The longest archive that is read: a description is some hundred bytes.
const LIMIT: u64 = 1 << 20;

pub(super) fn export(store: &Store, arguments: &ExportArguments) -> Outcome {
    let context = super::by_name(store, &arguments.name)?;
    let path = arguments
        .file
        .clone()
        .unwrap_or_else(|| format!("{}.dockercontext", arguments.name));
    let archive = pack(&context).map_err(|error| Failure::new(format!("export context: {error}")))?;
    if is_standard(&path) {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new(
                "cowardly refusing to export to a terminal, specify a file path",
            ));
        }
        std::io::stdout()
            .write_all(&archive)
            .map_err(|error| Failure::new(format!("write the archive: {error}")))?;
        return Ok(0);
    }
    let written = File::create_new(&path).and_then(|mut file| file.write_all(&archive));
    written.map_err(|error| Failure::new(format!("write {path}: {error}")))?;
    eprintln!("Written file \"{path}\"");
    Ok(0)
}

pub(super) fn import(store: &Store, arguments: &ImportArguments) -> Outcome {
    check_name(&arguments.name)?;
    if store.contains(&arguments.name) {
        return Err(Failure::new(format!(
            "context \"{}\" already exists",
            arguments.name
        )));
    }
    let failed = |error: std::io::Error| Failure::new(format!("read {}: {error}", arguments.file));
    let mut archive = Vec::new();
    if is_standard(&arguments.file) {
        std::io::stdin()
            .take(LIMIT)
            .read_to_end(&mut archive)
            .map_err(failed)?;
    } else {
        let file = File::open(&arguments.file).map_err(failed)?;
        file.take(LIMIT).read_to_end(&mut archive).map_err(failed)?;
    }
    let mut context = unpack(&archive)?;
    context.name.clone_from(&arguments.name);
    store.put(&context)?;
    listing::write(&format!("{}\n", arguments.name));
    eprintln!("Successfully imported context \"{}\"", arguments.name);
    Ok(0)
}

fn pack(context: &Context) -> std::io::Result<Vec<u8>> {
    let text = serde_json::to_vec(context)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, META, text.as_slice())?;
    archive.into_inner()
}

fn unpack(bytes: &[u8]) -> Result<Context, Failure> {
    let bad = |reason: String| Failure::new(format!("invalid context archive: {reason}"));
    if bytes.starts_with(b"PK") {
        return Err(bad(
            "it is a zip file: use a tar archive, as `context export` writes it".to_owned(),
        ));
    }
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().map_err(|error| bad(error.to_string()))? {
        let mut entry = entry.map_err(|error| bad(error.to_string()))?;
        let is_meta = entry.path().is_ok_and(|path| path.as_os_str() == META);
        if is_meta {
            let mut text = String::new();
            entry
                .read_to_string(&mut text)
                .map_err(|error| bad(error.to_string()))?;
            return serde_json::from_str(&text).map_err(|error| bad(error.to_string()));
        }
    }
    Err(bad(format!("it has no {META}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_its_archive() {
        let context = Context::new("web", "ssh://web1", "the web");
        let archive = pack(&context).unwrap();
        assert_eq!(unpack(&archive).unwrap(), context);
        for (bytes, part) in [
            (&b"PK\x03\x04"[..], "zip"),
            (&b""[..], "no meta.json"),
            (&archive[..600], "invalid context archive"),
        ] {
            assert!(unpack(bytes).unwrap_err().message.contains(part), "{part}");
        }
    }
}
