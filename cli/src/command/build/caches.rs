//! `--cache-from` and `--cache-to`: what the daemon is told, and the folders of the client that it reads and writes by way of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pontoon_proto::v1::BuildOption;

use super::lists;
use crate::error::Failure;

/// Caches that are taken in.
#[derive(Default)]
pub struct Sources {
    /// For the daemon.
    pub options: Vec<BuildOption>,
    /// Folders, by the names under which the daemon asks for them.
    pub folders: HashMap<String, PathBuf>,
}

/// Reads `--cache-from`. A folder without a cache is told of and left out: the first build of all has none.
///
/// # Errors
/// A value that is none.
pub fn sources(values: &[String]) -> Result<Sources, Failure> {
    let mut sources = Sources::default();
    for mut option in options("cache-from", values)? {
        if option.r#type == "local" {
            let folder = option.attributes.remove("src").unwrap_or_default();
            if folder.is_empty() {
                return Err(Failure::new("ERROR: src is required for --cache-from type=local"));
            }
            if !Path::new(&folder).join("index.json").is_file() {
                eprintln!("WARNING: local cache import at {folder} not found");
                continue;
            }
            let name = format!("cache-from:{}", sources.options.len());
            sources.folders.insert(name, folder.into());
        }
        sources.options.push(option);
    }
    Ok(sources)
}

/// Reads `--cache-to`.
///
/// # Errors
/// A value that is none.
pub fn targets(values: &[String]) -> Result<Vec<BuildOption>, Failure> {
    options("cache-to", values)
}

fn options(flag: &str, values: &[String]) -> Result<Vec<BuildOption>, Failure> {
    let option = |text: &String| {
        let (kind, attributes) = lists::typed(flag, text, ("registry", "ref"))?;
        Ok(BuildOption {
            r#type: kind,
            attributes: attributes.into_iter().collect(),
        })
    };
    values.iter().map(option).collect()
}
