//! Docker's JSON of an image.

use std::collections::BTreeMap;

use pontoon_proto::v1::Image;
use serde_json::{Value, json};

use super::container::{health_json, key_set, list};
use crate::output::human;

/// The object as `image inspect` shows it.
pub fn image_json(image: &Image) -> Value {
    let config = json!({
        "User": image.user,
        "ExposedPorts": key_set(&image.exposed_ports),
        "Env": list(&image.env),
        "Cmd": list(&image.command),
        "Healthcheck": image.healthcheck.as_ref().map(health_json),
        "Volumes": key_set(&image.volumes),
        "WorkingDir": image.working_dir,
        "Entrypoint": list(&image.entrypoint),
        "OnBuild": list(&image.on_build),
        "Labels": image.labels,
        "StopSignal": image.stop_signal,
        "StopTimeout": (image.stop_timeout > 0).then_some(image.stop_timeout),
        "Shell": list(&image.shell),
    });
    let data = match image.driver_data.is_empty() {
        true => Value::Null,
        false => json!(image.driver_data.iter().collect::<BTreeMap<_, _>>()),
    };
    let mut value = json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": image.comment,
        "Created": human::rfc3339(image.created_at),
        "DockerVersion": "",
        "Author": image.author,
        "Config": config,
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": { "Data": data, "Name": image.driver },
        "RootFS": { "Type": "layers", "Layers": image.diff_ids },
        "Descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.manifest_digest,
        },
    });
    if !image.variant.is_empty() {
        value["Variant"] = image.variant.clone().into();
    }
    if !image.index_digest.is_empty() {
        value["Descriptor"] = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": image.index_digest,
        });
    }
    value
}
