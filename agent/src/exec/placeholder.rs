//! Docker's placeholders in a service's environment, host name and mounts: `{{.Task.Slot}}` and the like. Pure; used when a
//! task's container is made.

use pontoon_proto::template::{Field, Template};
use pontoon_proto::v1::{ContainerSpec, Mount, TaskAssignment};

use super::request::task_name;

/// What is known of the node that a task runs on.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// Its host name.
    pub hostname: String,
    /// Its processor's architecture, in Go's words.
    pub architecture: String,
}

/// Replaces the placeholders.
///
/// # Errors
/// Names the one that means nothing, and those that would; or a label that the service does not have.
pub(super) fn expand(config: &mut ContainerSpec, task: &TaskAssignment, place: &Place) -> Result<(), String> {
    for variable in &mut config.env {
        // A variable's name is what it is, as in Docker.
        if let Some((name, value)) = variable.split_once('=') {
            *variable = format!("{name}={}", expanded(value, task, place)?);
        }
    }
    let mounts = config.mounts.iter_mut().flat_map(mount_texts);
    for text in mounts.chain([&mut config.hostname]) {
        *text = expanded(text, task, place)?;
    }
    Ok(())
}

/// What of a mount may have placeholders, as in Docker.
fn mount_texts(mount: &mut Mount) -> impl Iterator<Item = &mut String> {
    let options = mount.volume.iter_mut().flat_map(|volume| {
        let labels = volume.labels.values_mut();
        labels.chain(volume.driver_options.values_mut())
    });
    [&mut mount.source, &mut mount.target].into_iter().chain(options)
}

fn expanded(text: &str, task: &TaskAssignment, place: &Place) -> Result<String, String> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    let field = |field: Field| match field {
        Field::ServiceId => task.service_id.clone(),
        Field::ServiceName => task.service_name.clone(),
        Field::NodeId => task.node_id.clone(),
        Field::NodeHostname => place.hostname.clone(),
        Field::NodeOs => "linux".to_owned(),
        Field::NodeArchitecture => place.architecture.clone(),
        Field::TaskId => task.task_id.clone(),
        Field::TaskName => task_name(task),
        // A global service's task has its node where others have a slot.
        Field::TaskSlot if task.slot == 0 => task.node_id.clone(),
        Field::TaskSlot => task.slot.to_string(),
    };
    let label = |key: &str| task.service_labels.get(key).cloned();
    Template::parse(text)?.expand(&field, &label)
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::VolumeOptions;

    use super::*;

    fn task() -> TaskAssignment {
        TaskAssignment {
            task_id: "t".into(),
            service_id: "s".into(),
            service_name: "web".into(),
            slot: 3,
            node_id: "n".into(),
            service_labels: [("tier".to_owned(), "front".to_owned())].into(),
            ..TaskAssignment::default()
        }
    }

    fn place() -> Place {
        Place {
            hostname: "host1".into(),
            architecture: "amd64".into(),
        }
    }

    #[test]
    fn values() {
        let mut config = ContainerSpec {
            hostname: "{{.Service.Name}}-{{ .Task.Slot }}".into(),
            env: vec![
                "A={{.Node.Hostname}}/{{.Node.ID}}".into(),
                "B={{.Task.Name}} {{.Task.ID}} {{.Service.ID}}".into(),
                "C={{.Service.Labels.tier}}!".into(),
                "D=plain }} {".into(),
                "{{.Task.ID}}={{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}".into(),
                "{{.Task.ID}}".into(),
            ],
            mounts: vec![Mount {
                source: "/data/{{.Task.Slot}}".into(),
                target: "/mnt/{{.Service.Name}}".into(),
                volume: Some(VolumeOptions {
                    labels: [("task".to_owned(), "{{.Task.ID}}".to_owned())].into(),
                    driver_options: [("device".to_owned(), ":/export/{{.Node.Hostname}}".to_owned())].into(),
                    ..VolumeOptions::default()
                }),
                ..Mount::default()
            }],
            ..ContainerSpec::default()
        };
        expand(&mut config, &task(), &place()).unwrap();
        assert_eq!(config.hostname, "web-3");
        assert_eq!(
            config.env,
            [
                "A=host1/n",
                "B=web.3.t t s",
                "C=front!",
                "D=plain }} {",
                "{{.Task.ID}}=linux/amd64",
                "{{.Task.ID}}"
            ]
        );
        let mount = &config.mounts[0];
        assert_eq!(
            (mount.source.as_str(), mount.target.as_str()),
            ("/data/3", "/mnt/web")
        );
        let volume = mount.volume.as_ref().unwrap();
        assert_eq!(
            (
                volume.labels["task"].as_str(),
                volume.driver_options["device"].as_str()
            ),
            ("t", ":/export/host1")
        );
    }

    #[test]
    fn global_tasks_have_their_node_as_slot() {
        let mut config = ContainerSpec {
            hostname: "{{.Task.Slot}}".into(),
            ..ContainerSpec::default()
        };
        expand(&mut config, &TaskAssignment { slot: 0, ..task() }, &place()).unwrap();
        assert_eq!(config.hostname, "n");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("X={{.Task.Nam}}", ".Task.Nam"),
            ("X={{", "close"),
            ("X={{if .Task.ID}}", "if .Task.ID"),
            ("X={{.Service.Labels.none}}", "no label none"),
        ] {
            let mut config = ContainerSpec {
                env: vec![text.into()],
                ..ContainerSpec::default()
            };
            let error = expand(&mut config, &task(), &place()).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
