//! What cases ask an engine for: containers, mounts, filters, ends. Each function gives the plainest request; `with` and struct
//! update syntax change it.

use std::collections::HashMap;

use pontoon_engine::AttachOptions;
use pontoon_proto::v1::{
    Container, ContainerSpec, ContainerState, CreateContainerRequest, FilterValues, HostConfig,
    ListContainersRequest, LogsRequest, Mount, MountType, StopContainerRequest,
};

use super::IMAGE;

pub fn all_streams() -> AttachOptions {
    AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

pub fn all() -> ListContainersRequest {
    ListContainersRequest {
        all: true,
        ..Default::default()
    }
}

/// A request without network for `sh -c script`.
pub fn sh(script: &str) -> CreateContainerRequest {
    command(&["sh", "-c", script])
}

/// A request without network.
pub fn command(words: &[&str]) -> CreateContainerRequest {
    CreateContainerRequest {
        config: Some(ContainerSpec {
            image: IMAGE.to_owned(),
            args: words.iter().map(ToString::to_string).collect(),
            stop_grace_period: 1_000_000_000,
            ..ContainerSpec::default()
        }),
        host: Some(HostConfig {
            network_mode: "none".to_owned(),
            ..HostConfig::default()
        }),
        ..CreateContainerRequest::default()
    }
}

/// Changes a request's settings.
pub fn with(
    mut request: CreateContainerRequest,
    change: impl FnOnce(&mut ContainerSpec, &mut HostConfig),
) -> CreateContainerRequest {
    change(
        request.config.get_or_insert_default(),
        request.host.get_or_insert_default(),
    );
    request
}

pub fn is_running(container: &Container) -> bool {
    container.state() == ContainerState::Running
}

/// The same with a name.
pub fn named(name: &str, mut request: CreateContainerRequest) -> CreateContainerRequest {
    request.name = name.to_owned();
    request
}

/// A stop without patience.
pub fn stop(target: &str) -> StopContainerRequest {
    StopContainerRequest {
        target: target.to_owned(),
        timeout: Some(0),
        ..StopContainerRequest::default()
    }
}

/// Everything that a container has said.
pub fn all_logs(target: &str) -> LogsRequest {
    LogsRequest {
        target: target.to_owned(),
        stdout: true,
        stderr: true,
        ..LogsRequest::default()
    }
}

/// Filters as `--filter` gives them; a key may come more than once.
pub fn filters(pairs: &[(&str, &str)]) -> HashMap<String, FilterValues> {
    let mut keys: HashMap<String, FilterValues> = HashMap::new();
    for (key, value) in pairs {
        let values = &mut keys.entry((*key).to_owned()).or_default().values;
        values.push((*value).to_owned());
    }
    keys
}

pub fn mount(kind: MountType, source: &str, target: &str) -> Mount {
    Mount {
        r#type: kind.into(),
        source: source.to_owned(),
        target: target.to_owned(),
        ..Mount::default()
    }
}
