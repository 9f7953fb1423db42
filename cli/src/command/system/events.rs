//! `events`: what happens on this host, as it happens.

use clap::Args;
use pontoon_proto::v1::{Event, EventsRequest};
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::filters;
use crate::command::system::BAD_TEMPLATE;
use crate::error::{Failure, Outcome};
use crate::output::template::Template;
use crate::output::{human, listing, time};

/// `events [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

/// Runs `events`. It ends at `--until`, with the daemon, or by a signal.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let template = match arguments.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => {
            Some(Template::parse(text).map_err(|error| Failure::new(error).with_code(BAD_TEMPLATE))?)
        }
    };
    let at = |text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(0),
        Some(text) => time::parse(text).map_err(Failure::new),
    };
    let request = EventsRequest {
        since: at(&arguments.since)?,
        until: at(&arguments.until)?,
        filters: filters(&arguments.filter)?,
    };
    let client = Client::connect(host).await?;
    let mut events = client.engine().events(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        let line = match (&template, arguments.format.as_deref()) {
            (Some(template), _) => template.render(&fields(&event)).map_err(Failure::new)?,
            (None, Some("json")) => as_json(&event).to_string(),
            (None, _) => text(&event),
        };
        listing::write(&format!("{line}\n"));
    }
    Ok(0)
}

/// Docker's line: time, type, action, id, and the attributes by name.
fn text(event: &Event) -> String {
    let mut attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    attributes.sort();
    let head = format!(
        "{} {} {} {}",
        human::local_rfc3339(event.time),
        event.r#type,
        event.action,
        event.actor_id
    );
    if attributes.is_empty() {
        head
    } else {
        format!("{head} ({})", attributes.join(", "))
    }
}

/// The event as Docker's API has it. The first three keys are older clients' names and only containers and images have
/// them.
fn as_json(event: &Event) -> Value {
    let mut fields = serde_json::Map::new();
    if matches!(event.r#type.as_str(), "container" | "image") {
        fields.insert("status".to_owned(), Value::from(event.action.as_str()));
        fields.insert("id".to_owned(), Value::from(event.actor_id.as_str()));
        if let Some(image) = event.attributes.get("image") {
            fields.insert("from".to_owned(), Value::from(image.as_str()));
        }
    }
    let rest = json!({
        "Type": event.r#type, "Action": event.action,
        "Actor": { "ID": event.actor_id, "Attributes": sorted(event) },
        "scope": event.scope, "time": event.time / 1_000_000_000, "timeNano": event.time,
    });
    if let Value::Object(rest) = rest {
        fields.extend(rest);
    }
    Value::Object(fields)
}

/// What templates see: Docker's names, old and new.
fn fields(event: &Event) -> Value {
    json!({
        "Type": event.r#type, "Action": event.action, "ID": event.actor_id, "Status": event.action,
        "From": event.attributes.get("image").cloned().unwrap_or_default(),
        "Actor": { "ID": event.actor_id, "Attributes": sorted(event) },
        "Scope": event.scope, "Time": event.time / 1_000_000_000, "TimeNano": event.time,
    })
}

fn sorted(event: &Event) -> Value {
    let sorted: std::collections::BTreeMap<_, _> = event.attributes.iter().collect();
    json!(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let event = Event {
            r#type: "container".to_owned(),
            action: "die".to_owned(),
            actor_id: "c0ffee".to_owned(),
            attributes: [("name", "web"), ("image", "busybox"), ("exitCode", "0")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            scope: "local".to_owned(),
            time: 1_700_000_000_000_000_001,
        };
        let line = text(&event);
        assert!(
            line.ends_with(" container die c0ffee (exitCode=0, image=busybox, name=web)"),
            "{line}"
        );
        assert_eq!(
            as_json(&event).to_string(),
            r#"{"Action":"die","Actor":{"Attributes":{"exitCode":"0","image":"busybox","name":"web"},"ID":"c0ffee"},"Type":"container","from":"busybox","id":"c0ffee","scope":"local","status":"die","time":1700000000,"timeNano":1700000000000000001}"#
        );
    }
}
