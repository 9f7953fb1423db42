//! Merging a container's settings with its image's defaults, as Docker does (moby `runconfig.Merge`).

use pontoon_image::ContainerConfig;
use pontoon_proto::v1::{ContainerSpec, HealthConfig};

use crate::{Error, Result};

/// Fills in from the image what the user left open. Afterwards `command` and `args` are what runs.
pub(crate) fn merge(spec: &mut ContainerSpec, image: &ContainerConfig) -> Result<()> {
    command(spec, image)?;
    for entry in &image.env {
        let key = key(entry);
        if !spec.env.iter().any(|own| self::key(own) == key) {
            spec.env.push(entry.clone());
        }
    }
    for (key, value) in &image.labels {
        spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    fill(&mut spec.user, &image.user);
    fill(&mut spec.dir, &image.working_dir);
    fill(
        &mut spec.stop_signal,
        image.stop_signal.as_deref().unwrap_or_default(),
    );
    if spec.stop_grace_period == 0 {
        let seconds = image.stop_timeout.unwrap_or_default();
        spec.stop_grace_period = i64::try_from(seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000_000);
    }
    health(spec, image);
    Ok(())
}

/// The variable's name in `NAME=value`.
pub(crate) fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

fn fill(own: &mut String, default: &str) {
    if own.is_empty() {
        default.clone_into(own);
    }
}

fn command(spec: &mut ContainerSpec, image: &ContainerConfig) -> Result<()> {
    // `--entrypoint ""` takes the image's entrypoint away and, as any entrypoint, its command.
    let cleared = spec.command.len() == 1 && spec.command[0].is_empty();
    if cleared {
        spec.command.clear();
    } else if spec.command.is_empty() {
        if spec.args.is_empty() {
            spec.args = image.cmd.clone().unwrap_or_default();
        }
        spec.command = image.entrypoint.clone().unwrap_or_default();
    }
    if spec.command.is_empty() && spec.args.is_empty() {
        return Err(Error::Invalid("No command specified".to_owned()));
    }
    Ok(())
}

fn health(spec: &mut ContainerSpec, image: &ContainerConfig) {
    let Some(default) = &image.healthcheck else { return };
    let own = spec.healthcheck.get_or_insert_with(HealthConfig::default);
    if own.test.is_empty() {
        own.test.clone_from(&default.test);
    }
    let fill = |own: &mut i64, default: i64| {
        if *own == 0 {
            *own = default;
        }
    };
    fill(&mut own.interval, default.interval);
    fill(&mut own.timeout, default.timeout);
    fill(&mut own.start_period, default.start_period);
    fill(&mut own.start_interval, default.start_interval);
    if own.retries == 0 {
        own.retries = u32::try_from(default.retries).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["default".into()]),
            env: vec!["A=image".into(), "B=image".into()],
            user: "app".into(),
            ..ContainerConfig::default()
        }
    }

    fn run(command: &[&str], args: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec {
            command: command.iter().map(ToString::to_string).collect(),
            args: args.iter().map(ToString::to_string).collect(),
            env: vec!["A=own".into()],
            ..ContainerSpec::default()
        };
        merge(&mut spec, &image()).unwrap();
        spec
    }

    #[test]
    fn command_follows_docker() {
        let both = |spec: ContainerSpec| [spec.command, spec.args].concat();
        assert_eq!(both(run(&[], &[])), ["/entry", "default"]);
        assert_eq!(both(run(&[], &["own"])), ["/entry", "own"]);
        assert_eq!(both(run(&["/own"], &[])), ["/own"]);
        assert_eq!(both(run(&["/own"], &["x"])), ["/own", "x"]);
        assert_eq!(both(run(&[""], &["sh"])), ["sh"]);
        assert!(merge(&mut ContainerSpec::default(), &ContainerConfig::default()).is_err());
    }

    #[test]
    fn own_environment_wins() {
        let spec = run(&[], &[]);
        assert_eq!(spec.env, ["A=own", "B=image"]);
        assert_eq!(spec.user, "app");
    }
}
