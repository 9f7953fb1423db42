//! What `--output` says.

use pontoon_proto::v1::BuildOption;

use crate::build::{Failure, Outcome};

/// Where a build's result goes.
pub(super) enum Output {
    /// Into the image store.
    Store {
        /// Names besides the build's own.
        names: Vec<String>,
        /// And from there to their registries.
        push: bool,
    },
    /// As an archive of the image.
    Image,
    /// As an archive of the files.
    Files,
}

/// Understands one `--output`; the client has taken out what is its own (`dest`).
pub(super) fn output_of(option: &BuildOption) -> Outcome<Output> {
    let mut names = Vec::new();
    let kind = option.r#type.as_str();
    let stores = matches!(kind, "image" | "docker" | "registry") && !option.attributes.contains_key("dest");
    for (key, value) in &option.attributes {
        match (kind, key.as_str(), value.as_str()) {
            (_, "dest", _) => {}
            ("image" | "docker" | "registry" | "oci", "name", names_given) => {
                names.extend(names_given.split(',').map(str::to_owned));
            }
            ("image" | "docker", "push", "true" | "false") => {}
            ("registry", "push", "true") => {}
            _ => {
                return Err(Failure::new(format!(
                    "--output type={kind}: {key}={value} is not supported by this builder"
                )));
            }
        }
    }
    match kind {
        "image" | "docker" | "registry" if stores => Ok(Output::Store {
            names,
            push: kind == "registry" || option.attributes.get("push").is_some_and(|push| push == "true"),
        }),
        "docker" | "oci" => Ok(Output::Image),
        "local" | "tar" => Ok(Output::Files),
        other => Err(Failure::new(format!("exporter \"{other}\" could not be found"))),
    }
}
