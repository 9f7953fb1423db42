//! `manifest inspect`; Docker's other `manifest` commands, which put indexes together by hand, are refused by name.

use clap::{Args, Subcommand};
use pontoon_proto::v1::{InspectManifestRequest, RegistryManifest};
use serde_json::{Value, json};

use super::pull::parse;
use crate::client::Client;
use crate::credentials;
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// `pontoon manifest …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add additional information to a local image manifest (not supported)
    Annotate(Refused),
    /// Create a local manifest list for annotating and pushing to a registry (not supported)
    Create(Refused),
    /// Display an image manifest, or manifest list
    Inspect(InspectArguments),
    /// Push a manifest list to a repository (not supported)
    Push(Refused),
    /// Delete one or more manifest lists from local storage (not supported)
    Rm(Refused),
}

/// Arguments of a command that is refused whatever they are.
#[derive(Args, Debug)]
pub struct Refused {
    /// Not looked at
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// `manifest inspect [OPTIONS] [MANIFEST_LIST] MANIFEST`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Allow communication with an insecure registry
    #[arg(long)]
    insecure: bool,
    /// Output additional info including layers and platform
    #[arg(short = 'v', long)]
    verbose: bool,
    /// The image
    #[arg(required = true, num_args = 1..=2, value_name = "MANIFEST")]
    manifest: Vec<String>,
}

/// Runs a `manifest` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    let name = match command {
        Command::Inspect(arguments) => return inspect(host, arguments).await,
        Command::Annotate(_) => "annotate",
        Command::Create(_) => "create",
        Command::Push(_) => "push",
        Command::Rm(_) => "rm",
    };
    Err(Failure::new(format!(
        "manifest {name} is not supported: indexes of several platforms are not put together by hand here"
    )))
}

async fn inspect(host: Option<&str>, arguments: InspectArguments) -> Outcome {
    let [name] = arguments.manifest.as_slice() else {
        return Err(Failure::new(
            "manifest inspect of a local manifest list is not supported: there are none here",
        ));
    };
    let reference = parse(name)?;
    let request = InspectManifestRequest {
        reference: name.clone(),
        verbose: arguments.verbose,
        insecure: arguments.insecure,
        auth: Some(credentials::for_registry(reference.domain())?),
    };
    let client = Client::connect(host).await?;
    let found = client
        .engine()
        .inspect_manifest(request)
        .await?
        .into_inner()
        .manifests;
    if !arguments.verbose {
        for manifest in &found {
            listing::write(&format!("{}\n", indent(&manifest.content)));
        }
        return Ok(0);
    }
    let entries: Vec<Value> = found.iter().map(entry).collect();
    let shown = match entries.as_slice() {
        [one] => one.clone(),
        _ => Value::from(entries),
    };
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    serde::Serialize::serialize(
        &shown,
        &mut serde_json::Serializer::with_formatter(&mut text, format),
    )
    .map_err(|error| Failure::new(error.to_string()))?;
    listing::write(&format!("{}\n", String::from_utf8_lossy(&text)));
    Ok(0)
}

/// One manifest with what is around it, as Docker's `ImageManifest`.
fn entry(manifest: &RegistryManifest) -> Value {
    use base64::Engine as _;
    let digest = manifest
        .reference
        .split_once('@')
        .map_or("", |(_, digest)| digest);
    let platform = manifest.platform.as_ref().map(|platform| {
        let mut shown = json!({ "architecture": platform.architecture, "os": platform.os });
        if !manifest.variant.is_empty() {
            shown["variant"] = Value::from(manifest.variant.clone());
        }
        shown
    });
    let content: Value = serde_json::from_slice(&manifest.content).unwrap_or_default();
    let kind = if manifest.media_type.contains("vnd.docker") {
        "SchemaV2Manifest"
    } else {
        "OCIManifest"
    };
    let mut descriptor = json!({
        "mediaType": manifest.media_type, "digest": digest, "size": manifest.content.len(),
    });
    if let Some(platform) = platform {
        descriptor["platform"] = platform;
    }
    json!({
        "Ref": manifest.reference,
        "Descriptor": descriptor,
        "Raw": base64::engine::general_purpose::STANDARD.encode(&manifest.content),
        kind: content,
    })
}

/// JSON with tabs, its keys in the order in which they came.
fn indent(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"\t".repeat(depth));
    };
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '"' => {
                quoted = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(end) = characters.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order() {
        let text = br#"{"z":1, "a":[{"q":"x:,{\"}"}, []],
            "e":{ }}"#;
        assert_eq!(
            indent(text),
            "{\n\t\"z\": 1,\n\t\"a\": [\n\t\t{\n\t\t\t\"q\": \"x:,{\\\"}\"\n\t\t},\n\t\t[]\n\t],\n\t\"e\": {}\n}"
        );
    }
}
