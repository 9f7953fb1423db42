//! Tags of log lines: `{{.Name}}/{{.ID}}`. The fields of Docker's templates are known, its functions are not.

use crate::{Error, Result};

/// What a tag can tell of a container, and what its lines are marked with.
#[derive(Clone, Debug, Default)]
pub(super) struct Info {
    pub id: String,
    pub name: String,
    pub image_id: String,
    pub image_name: String,
    pub command: String,
}

/// Tag of those who choose none.
pub(super) const DEFAULT: &str = "{{.ID}}";
/// Name of this daemon, as `docker` is of Docker's.
const DAEMON: &str = "pontoon";

/// Fills in a template.
pub(super) fn evaluate(template: &str, info: &Info) -> Result<String> {
    let invalid =
        |what: String| Error::Invalid(format!("template parsing error: template: log-tag:1: {what}"));
    let mut tag = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, next) = after
            .split_once("}}")
            .ok_or_else(|| invalid("unclosed action".to_owned()))?;
        let (trims_before, action) = match action.strip_prefix("- ") {
            Some(action) => (true, action),
            None => (false, action),
        };
        let (trims_after, action) = match action.strip_suffix(" -") {
            Some(action) => (true, action),
            None => (false, action),
        };
        tag.push_str(if trims_before { before.trim_end() } else { before });
        tag.push_str(&field(action.trim(), info).map_err(invalid)?);
        rest = if trims_after { next.trim_start() } else { next };
    }
    tag.push_str(rest);
    Ok(tag)
}

fn field(action: &str, info: &Info) -> Result<String, String> {
    // Docker cuts the id with its "sha256:".
    let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
    Ok(match action {
        ".ID" => short(&info.id),
        ".FullID" | ".ContainerID" => info.id.clone(),
        ".Name" => info.name.trim_start_matches('/').to_owned(),
        ".ContainerName" => format!("/{}", info.name.trim_start_matches('/')),
        ".ImageID" => short(&info.image_id),
        ".ImageFullID" | ".ContainerImageID" => info.image_id.clone(),
        ".ImageName" | ".ContainerImageName" => info.image_name.clone(),
        ".DaemonName" => DAEMON.to_owned(),
        ".Command" => info.command.clone(),
        other => {
            return Err(format!(
                "{{{{{other}}}}} is not known: use .ID .FullID .Name .ImageID .ImageFullID .ImageName .DaemonName .Command"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let info = Info {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image_id: "sha256:0123456789".into(),
            image_name: "busybox".into(),
            command: "sh -c x".into(),
        };
        let of = |template| evaluate(template, &info);
        assert_eq!(of(DEFAULT).unwrap(), "0123456789ab");
        assert_eq!(
            of("a/{{ .Name }}:{{.ImageName}}/{{.FullID}}").unwrap(),
            "a/web:busybox/0123456789abcdef"
        );
        assert_eq!(
            of("{{.ImageID}} {{.ImageFullID}}").unwrap(),
            "sha256:01234 sha256:0123456789"
        );
        assert_eq!(of("{{.DaemonName}} {{- .Command}} ").unwrap(), "pontoonsh -c x ");
        assert_eq!(of("plain").unwrap(), "plain");
        assert!(
            of("{{.Colour}}")
                .unwrap_err()
                .to_string()
                .contains("{{.Colour}} is not known")
        );
        assert!(of("{{.ID").is_err());
    }
}
