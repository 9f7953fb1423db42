//! `--progress rawjson`: one JSON document a line on standard error, in the form of BuildKit's `SolveStatus`, for programs. Steps are
//! known by a digest, as there; it is that of their number and name.

use std::collections::HashMap;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pontoon_image::Digest;
use pontoon_proto::v1::{BuildStep, build_response::Event};
use serde_json::{Map, Value, json};

use super::Show;
use crate::output::human;

/// Prints documents.
#[derive(Default)]
pub struct RawJson {
    steps: HashMap<u32, Step>,
}

struct Step {
    digest: String,
    started_at: i64,
}

/// RFC 3339 with nanoseconds.
fn time(nanoseconds: i64) -> Value {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string().into()
}

impl RawJson {
    fn document(&mut self, event: &Event, now: i64) -> Option<Value> {
        Some(match event {
            Event::Step(step) => json!({"vertexes": [self.vertex(step)]}),
            Event::Status(status) => {
                let step = self.steps.get(&status.number)?;
                let mut shown = json!({
                    "id": status.id,
                    "vertex": step.digest,
                    "current": status.current,
                    "timestamp": time(now),
                    "started": time(step.started_at),
                    "completed": status.done.then(|| time(now)),
                });
                if status.total > 0 {
                    shown["total"] = status.total.into();
                }
                json!({"statuses": [shown]})
            }
            Event::Log(log) => {
                let step = self.steps.get(&log.number)?;
                json!({"logs": [{
                    "vertex": step.digest,
                    "stream": log.stream,
                    "data": STANDARD.encode(&log.data),
                    "timestamp": time(log.time),
                }]})
            }
            Event::Warning(warning) => json!({"warnings": [{
                "level": 1,
                "short": STANDARD.encode(&warning.message),
                "range": [{
                    "start": {"line": warning.first_line},
                    "end": {"line": warning.last_line},
                }],
            }]}),
            Event::Need(_) | Event::Ssh(_) | Event::Output(_) | Event::Result(_) | Event::Failure(_) => {
                return None;
            }
        })
    }

    fn vertex(&mut self, step: &BuildStep) -> Value {
        let digest = Digest::of(format!("{} {}", step.number, step.name).as_bytes()).to_string();
        let mut vertex = Map::new();
        vertex.insert("digest".into(), digest.clone().into());
        vertex.insert("name".into(), step.name.clone().into());
        vertex.insert("started".into(), time(step.started_at));
        if step.completed_at != 0 {
            vertex.insert("completed".into(), time(step.completed_at));
        }
        if step.cached {
            vertex.insert("cached".into(), true.into());
        }
        if !step.error.is_empty() {
            vertex.insert("error".into(), step.error.clone().into());
        }
        let started_at = step.started_at;
        self.steps.insert(step.number, Step { digest, started_at });
        vertex.into()
    }
}

impl Show for RawJson {
    fn event(&mut self, event: Option<&Event>) {
        let document = event.and_then(|event| self.document(event, human::now()));
        if let Some(document) = document {
            // Nobody may be reading any more.
            let _ = writeln!(std::io::stderr().lock(), "{document}");
        }
    }

    fn finish(&mut self, _: bool) {}
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{BuildLog, BuildStatus, BuildWarning};

    use super::*;

    #[test]
    fn events_are_documents_of_solve_status() {
        let mut raw = RawJson::default();
        let second = 1_000_000_000;
        let mut step = BuildStep {
            number: 3,
            name: "[2/2] RUN x".into(),
            started_at: second,
            ..BuildStep::default()
        };
        let begun = raw.document(&Event::Step(step.clone()), 0).unwrap();
        let digest = begun["vertexes"][0]["digest"].as_str().unwrap().to_owned();
        assert!(digest.starts_with("sha256:"));
        let expected = json!({"digest": digest, "name": "[2/2] RUN x", "started": "1970-01-01T00:00:01Z"});
        assert_eq!(begun, json!({"vertexes": [expected]}));
        let log = Event::Log(BuildLog {
            number: 3,
            stream: 1,
            data: bytes::Bytes::from_static(b"out\n"),
            time: second,
        });
        let expected = json!({
            "vertex": digest, "stream": 1, "data": "b3V0Cg==", "timestamp": "1970-01-01T00:00:01Z",
        });
        assert_eq!(raw.document(&log, 0).unwrap(), json!({"logs": [expected]}));
        let status = Event::Status(BuildStatus {
            number: 3,
            id: "downloading".into(),
            current: 7,
            total: 0,
            done: true,
        });
        let shown = raw.document(&status, 2 * second).unwrap();
        assert_eq!(shown["statuses"][0]["vertex"], digest.as_str());
        assert_eq!(shown["statuses"][0]["completed"], "1970-01-01T00:00:02Z");
        let warning = Event::Warning(BuildWarning {
            message: "w".into(),
            first_line: 2,
            last_line: 3,
        });
        let shown = raw.document(&warning, 0).unwrap();
        assert_eq!(shown["warnings"][0]["short"], "dw==");
        assert_eq!(shown["warnings"][0]["range"][0]["end"]["line"], 3);
        (step.completed_at, step.cached, step.error) = (2 * second, true, "no".into());
        let ended = raw.document(&Event::Step(step), 0).unwrap();
        let vertex = &ended["vertexes"][0];
        assert_eq!(
            (&vertex["cached"], &vertex["error"]),
            (&true.into(), &"no".into())
        );
        assert_eq!(vertex["completed"], "1970-01-01T00:00:02Z");
        assert!(
            raw.document(&Event::Result(pontoon_proto::v1::BuildResult::default()), 0)
                .is_none()
        );
    }
}
