//! `--output` and `--cache-to`: what the daemon does with the result, and what it sends back: archives go into a file or to standard output, a
//! folder's archive is extracted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IsTerminal, Seek, Write};
use std::path::PathBuf;

use pontoon_image::Limits;
use pontoon_image::archive::{ExtractOptions, Extractor, Place, TarReader};
use pontoon_proto::v1::{BuildData, BuildOption};

use super::lists;
use super::options::Arguments;
use crate::error::Failure;

/// Where an output goes.
enum Target {
    Stdout,
    /// A file beside its place, renamed at the end.
    File {
        file: File,
        staged: PathBuf,
        path: PathBuf,
    },
    /// An archive that is extracted at the end.
    Folder {
        file: File,
        path: PathBuf,
    },
}

/// Outputs by number.
#[derive(Default)]
pub struct Receivers {
    targets: HashMap<u32, Target>,
}

/// What the daemon is told, and where what it sends goes.
///
/// # Errors
/// An option that is none, or a file that can't be made.
pub fn plan(arguments: &Arguments) -> Result<(Vec<BuildOption>, Receivers), Failure> {
    let mut texts = arguments.output.clone();
    if arguments.load {
        texts.push("type=docker".into());
    }
    if arguments.push {
        texts.push("type=registry".into());
    }
    let (mut options, mut receivers) = (Vec::new(), Receivers::default());
    for text in &texts {
        let (mut kind, mut attributes) = match text.as_str() {
            "-" => ("tar".to_owned(), [("dest".to_owned(), "-".to_owned())].into()),
            text => lists::typed("output", text, ("local", "dest"))?,
        };
        let number = u32::try_from(options.len()).unwrap_or_default();
        let destination = attributes.get("dest").cloned();
        if kind == "oci" && attributes.get("tar").is_some_and(|tar| tar == "false") {
            attributes.remove("tar");
            kind = "oci-folder".into();
        }
        if let Some(target) = target(&kind, destination.as_deref())? {
            receivers.targets.insert(number, target);
        }
        options.push(BuildOption {
            r#type: kind.replace("oci-folder", "oci"),
            attributes: attributes.into_iter().collect(),
        });
    }
    // The daemon numbers caches after outputs.
    for (number, cache) in arguments.cache_targets()?.iter().enumerate() {
        if cache.r#type != "local" {
            continue;
        }
        let destination = cache.attributes.get("dest").map(String::as_str);
        if let Some(target) = target("local", destination)? {
            let number = u32::try_from(options.len() + number).unwrap_or_default();
            receivers.targets.insert(number, target);
        }
    }
    Ok((options, receivers))
}

fn target(kind: &str, destination: Option<&str>) -> Result<Option<Target>, Failure> {
    let missing = || Failure::new(format!("ERROR: dest is required for {kind} output"));
    match (kind, destination) {
        ("local" | "oci-folder", None) => Err(missing()),
        ("local" | "oci-folder", Some("-")) => {
            Err(Failure::new(format!("ERROR: dest of {kind} output is a folder")))
        }
        ("local" | "oci-folder", Some(path)) => {
            std::fs::create_dir_all(path).map_err(|error| Failure::new(format!("ERROR: {path}: {error}")))?;
            Ok(Some(Target::Folder {
                file: tempfile::tempfile()?,
                path: path.into(),
            }))
        }
        ("tar" | "oci", None) | ("tar" | "oci" | "docker", Some("-")) => {
            if std::io::stdout().is_terminal() {
                return Err(Failure::new(
                    "ERROR: dest file is required for tar exporter. refusing to write to console",
                ));
            }
            Ok(Some(Target::Stdout))
        }
        ("tar" | "oci" | "docker", Some(path)) => {
            let path = PathBuf::from(path);
            let mut staged = path.clone().into_os_string();
            staged.push(format!(".part-{}", std::process::id()));
            let staged = PathBuf::from(staged);
            let file = File::create(&staged)
                .map_err(|error| Failure::new(format!("ERROR: {}: {error}", path.display())))?;
            Ok(Some(Target::File { file, staged, path }))
        }
        _ => Ok(None),
    }
}

impl Receivers {
    /// A piece of an output.
    ///
    /// # Errors
    /// It can't be written.
    pub fn data(&mut self, data: &BuildData) -> Result<(), Failure> {
        match self.targets.get_mut(&data.connection) {
            Some(Target::Stdout) => std::io::stdout().lock().write_all(&data.data)?,
            Some(Target::File { file, .. } | Target::Folder { file, .. }) => file.write_all(&data.data)?,
            None => {}
        }
        Ok(())
    }

    /// Puts everything in place.
    ///
    /// # Errors
    /// It can't be.
    pub fn finish(&mut self) -> Result<(), Failure> {
        for target in std::mem::take(&mut self.targets).into_values() {
            match target {
                Target::Stdout => std::io::stdout().flush()?,
                Target::File { staged, path, .. } => std::fs::rename(&staged, &path)?,
                Target::Folder { mut file, path } => {
                    file.rewind()?;
                    extract(file, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what was begun.
    pub fn forget(&mut self) {
        for target in std::mem::take(&mut self.targets).into_values() {
            if let Target::File { staged, .. } = target {
                std::fs::remove_file(staged).ok();
            }
        }
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Owners are kept by root only, as tar does.
fn extract(file: File, path: &PathBuf) -> Result<(), Failure> {
    let wrong = |error: pontoon_image::Error| Failure::new(format!("ERROR: {}: {error}", path.display()));
    let root = File::open(path)?;
    let options = ExtractOptions {
        chown: rustix::process::geteuid().is_root(),
        ..ExtractOptions::default()
    };
    let mut extractor = Extractor::new(Place::beneath(root.into()), options);
    let limits = Limits::default();
    let mut reader = TarReader::new(std::io::BufReader::new(file), &limits);
    while let Some(entry) = reader.next_entry().map_err(wrong)? {
        extractor.entry(&entry, &mut reader).map_err(wrong)?;
    }
    extractor.finish().map_err(wrong)
}
