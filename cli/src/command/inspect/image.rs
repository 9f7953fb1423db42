//! Docker's JSON of an image.

use pontoon_proto::v1::Image;
use serde_json::{Value, json};

use super::container::{health_json, key_set, list};
use crate::output::human;

/// The object as `image inspect` shows it.
pub fn image_json(image: &Image) -> Value {
    json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": image.comment,
        "Created": human::rfc3339(image.created_at),
        "Author": image.author,
        "Config": {
            "User": image.user,
            "ExposedPorts": key_set(&image.exposed_ports),
            "Env": list(&image.env),
            "Cmd": list(&image.command),
            "Entrypoint": list(&image.entrypoint),
            "Volumes": key_set(&image.volumes),
            "WorkingDir": image.working_dir,
            "StopSignal": image.stop_signal,
            "Healthcheck": image.healthcheck.as_ref().map(health_json),
            "Labels": image.labels,
        },
        "Architecture": image.architecture,
        "Variant": image.variant,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "RootFS": { "Type": "layers", "Layers": image.diff_ids },
    })
}
