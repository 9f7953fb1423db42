//! What an agent may put into the replicated state by its reports: a node that is in wrong hands has a certificate as good as any other's,
//! and what it reports lies in every manager's memory and log.
//!
//! Used by the session for everything that it takes in. The transport bounds a message at 4 MiB before.

use pontoon_proto::v1::{NodeDescription, TaskStatusUpdate};
use prost::Message;
use tonic::Status;

/// A description is some kilobytes; labels make most of it.
const DESCRIPTION: usize = 256 << 10;
/// Why a task failed, with the last lines of its output.
const TEXT: usize = 16 << 10;
/// Host ports of one task.
const PORTS: usize = 4096;
/// The id of a container.
const ID: usize = 128;

/// Refuses a description that is too large.
pub(super) fn check(description: &NodeDescription) -> Result<(), Status> {
    let size = description.encoded_len();
    match size > DESCRIPTION {
        true => Err(Status::invalid_argument(format!(
            "the node's description is too large: it has {size} bytes, at most {DESCRIPTION} are taken (fewer labels?)"
        ))),
        false => Ok(()),
    }
}

/// Cuts what is too long in reports: better a cut reason than a node that can't report.
pub(super) fn cut(updates: &mut [TaskStatusUpdate]) {
    for status in updates.iter_mut().filter_map(|update| update.status.as_mut()) {
        shorten(&mut status.message, TEXT);
        shorten(&mut status.err, TEXT);
        status.ports.truncate(PORTS);
        if let Some(container) = &mut status.container {
            shorten(&mut container.container_id, ID);
        }
    }
}

fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::v1::{PortConfig, TaskStatus};

    #[test]
    fn reports_are_cut_and_descriptions_refused() {
        let mut updates = vec![TaskStatusUpdate {
            task_id: "t1".into(),
            status: Some(TaskStatus {
                message: "started".into(),
                err: "é".repeat(TEXT),
                ports: vec![PortConfig::default(); PORTS * 2],
                ..TaskStatus::default()
            }),
        }];
        cut(&mut updates);
        let status = updates[0].status.as_ref().unwrap();
        assert_eq!(
            (status.message.as_str(), status.err.len(), status.ports.len()),
            ("started", TEXT, PORTS)
        );
        let mut description = NodeDescription {
            hostname: "h".into(),
            ..NodeDescription::default()
        };
        check(&description).unwrap();
        description.hostname = "h".repeat(DESCRIPTION);
        assert!(check(&description).unwrap_err().message().contains("too large"));
    }
}
