//! `pontoon explain …`: why a task, a service or a node is as it is. What is said comes from the managers.

use clap::{Args, Subcommand};
use pontoon_proto::v1::{ExplainLine, ExplainRequest};

use crate::client::Client;
use crate::error::Outcome;
use crate::output::{human, listing};

/// `pontoon explain …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Explain why a node has the tasks that it has, and gets no others
    Node(NodeArguments),
    /// Explain how far a service is, and what its tasks wait for
    Service(ServiceArguments),
    /// Explain why a task is where it is, or is not
    Task(TaskArguments),
}

/// `explain node NODE`
#[derive(Args, Debug)]
pub struct NodeArguments {
    /// The node, by name or id
    #[arg(value_name = "NODE")]
    node: String,
}

/// `explain service SERVICE`
#[derive(Args, Debug)]
pub struct ServiceArguments {
    /// The service, by name or id
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// `explain task TASK`
#[derive(Args, Debug)]
pub struct TaskArguments {
    /// The task, by name or id, or its slot, as in "web.2"
    #[arg(value_name = "TASK")]
    task: String,
}

/// Runs an `explain` command.
///
/// # Errors
/// The daemon's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    let (kind, target) = match command {
        Command::Node(arguments) => ("node", arguments.node),
        Command::Service(arguments) => ("service", arguments.service),
        Command::Task(arguments) => ("task", arguments.task),
    };
    let client = Client::connect(host).await?;
    let request = ExplainRequest {
        kind: kind.to_owned(),
        target,
    };
    let answer = client.control().explain(request).await?.into_inner();
    listing::write(&answer.lines.iter().map(line).collect::<String>());
    Ok(0)
}

fn line(line: &ExplainLine) -> String {
    let indent = "  ".repeat(usize::try_from(line.depth).unwrap_or_default());
    let time = if line.at == 0 {
        String::new()
    } else {
        format!(" ({})", human::rfc3339_seconds(line.at))
    };
    format!("{indent}{}{time}\n", line.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_indented_and_dated() {
        let said = |depth, at| {
            line(&ExplainLine {
                depth,
                at,
                text: "x".to_owned(),
            })
        };
        assert_eq!(said(0, 0), "x\n");
        assert_eq!(said(2, 1_000_000_000), "    x (1970-01-01T00:00:01Z)\n");
    }
}
