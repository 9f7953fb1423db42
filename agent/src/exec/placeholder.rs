//! Docker's placeholders in a service's environment, host name and mounts: `{{.Task.Slot}}` and the like. Pure; used when a
//! task's container is made. What Docker's templates could do beyond naming a value (functions, conditions) is refused by name.

use pontoon_proto::v1::{ContainerSpec, Mount, TaskAssignment};

use super::request::task_name;

/// Replaces the placeholders.
///
/// # Errors
/// Names the one that means nothing, and those that would.
pub(super) fn expand(
    config: &mut ContainerSpec,
    task: &TaskAssignment,
    node_hostname: &str,
) -> Result<(), String> {
    let environment = config.env.iter_mut();
    let mounts = config.mounts.iter_mut().flat_map(mount_texts);
    for text in environment.chain([&mut config.hostname]).chain(mounts) {
        if text.contains("{{") {
            *text = expanded(text, task, node_hostname)?;
        }
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

fn expanded(text: &str, task: &TaskAssignment, node_hostname: &str) -> Result<String, String> {
    let mut made = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or_else(|| {
            format!("{text:?} opens a placeholder with {{{{ and does not close it with }}}}")
        })?;
        made.push_str(before);
        made.push_str(&value(inside.trim(), task, node_hostname)?);
        rest = after;
    }
    made.push_str(rest);
    Ok(made)
}

fn value(name: &str, task: &TaskAssignment, node_hostname: &str) -> Result<String, String> {
    let value = match name {
        ".Service.ID" => task.service_id.clone(),
        ".Service.Name" => task.service_name.clone(),
        ".Node.ID" => task.node_id.clone(),
        ".Node.Hostname" => node_hostname.to_owned(),
        ".Task.ID" => task.task_id.clone(),
        ".Task.Name" => task_name(task),
        // A global service's task has its node where others have a slot.
        ".Task.Slot" if task.slot == 0 => task.node_id.clone(),
        ".Task.Slot" => task.slot.to_string(),
        _ => match name.strip_prefix(".Service.Labels.") {
            Some(label) => task.service_labels.get(label).cloned().unwrap_or_default(),
            None => {
                return Err(format!(
                    "unknown placeholder {{{{{name}}}}}: use .Service.ID, .Service.Name, .Service.Labels.KEY, .Node.ID, \
                     .Node.Hostname, .Task.ID, .Task.Name or .Task.Slot"
                ));
            }
        },
    };
    Ok(value)
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

    #[test]
    fn values() {
        let mut config = ContainerSpec {
            hostname: "{{.Service.Name}}-{{ .Task.Slot }}".into(),
            env: vec![
                "A={{.Node.Hostname}}/{{.Node.ID}}".into(),
                "B={{.Task.Name}} {{.Task.ID}} {{.Service.ID}}".into(),
                "C={{.Service.Labels.tier}}{{.Service.Labels.none}}!".into(),
                "D=plain }} {".into(),
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
        expand(&mut config, &task(), "host1").unwrap();
        assert_eq!(config.hostname, "web-3");
        assert_eq!(
            config.env,
            ["A=host1/n", "B=web.3.t t s", "C=front!", "D=plain }} {"]
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
        expand(&mut config, &TaskAssignment { slot: 0, ..task() }, "host1").unwrap();
        assert_eq!(config.hostname, "n");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("X={{.Task.Nam}}", ".Task.Nam"),
            ("X={{", "close"),
            ("X={{if .Task.ID}}", "if .Task.ID"),
        ] {
            let mut config = ContainerSpec {
                env: vec![text.into()],
                ..ContainerSpec::default()
            };
            let error = expand(&mut config, &task(), "host1").unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
