//! What happens to services, nodes and networks, as Docker's managers tell it (`events`, scope `swarm`): each change with what was
//! before and what is now; and of tasks, beyond Docker, why they ended or were sent away. Called by the daemon while this node is a manager.
//!
//! Made from the difference of two states, so that nothing is missed however many changes came together; a change and its
//! taking back in one moment show as nothing.

use std::collections::HashMap;

use pontoon_proto::v1::{
    Availability, Event, Meta, Network, Node, NodeRole, NodeSpec, NodeState, Service, Task, TaskState,
    UpdateState, service_spec::Mode,
};
use pontoon_store::{Object, Snapshot, task_name};

use crate::manager::Manager;

impl Manager {
    /// Tells every event from now on, until this manager is shut down.
    pub async fn tell_events(&self, tell: impl Fn(Event)) {
        let mut versions = self.core.replica.versions();
        // What was before this manager had caught up was told when it happened.
        let mut known = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                read = self.core.read() => match read {
                    Ok(snapshot) if snapshot.cluster().is_some() => break snapshot,
                    _ => {}
                },
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.core.leader_timeout) => {}
                _ = versions.changed() => {}
            }
        };
        loop {
            let now = self.core.snapshot();
            for event in events(&known, &now, self.core.host.now()) {
                tell(event);
            }
            known = now;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = versions.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// The events between two states, in the order of their versions; `seen_at` is when the later one was seen.
fn events(before: &Snapshot, after: &Snapshot, seen_at: i64) -> Vec<Event> {
    let mut found: Vec<(u64, Event)> = Vec::new();
    for change in after.diff(before) {
        let version = change
            .1
            .as_ref()
            .and_then(Object::meta)
            .map_or(u64::MAX, |meta| meta.version);
        found.extend(event(change, seen_at).map(|event| (version, event)));
    }
    found.sort_by_key(|(version, _)| *version);
    found.into_iter().map(|(_, event)| event).collect()
}

fn event(change: (Option<Object>, Option<Object>), seen_at: i64) -> Option<Event> {
    match &change {
        (Some(Object::Task(old)), Some(Object::Task(new))) => return task(old, new),
        (None, Some(Object::Task(new))) => return waits(new).map(|reason| task_event(new, reason)),
        _ => {}
    }
    let (action, object) = match &change {
        (None, Some(new)) => ("create", new),
        (Some(_), Some(new)) => ("update", new),
        (Some(old), None) => ("remove", old),
        (None, None) => return None,
    };
    let mut attributes = HashMap::new();
    let (kind, name) = match object {
        Object::Service(service) => ("service", service_name(service)),
        Object::Node(node) => ("node", node_name(node)),
        Object::Network(network) => ("network", network_name(network)),
        _ => return None,
    };
    let is_told = match &change {
        (Some(Object::Service(old)), Some(Object::Service(new))) => service(old, new, &mut attributes),
        (Some(Object::Node(old)), Some(Object::Node(new))) => node(old, new, &mut attributes),
        (Some(Object::Network(old)), Some(Object::Network(new))) => old.spec != new.spec,
        _ => true,
    };
    attributes.insert("name".to_owned(), name);
    is_told.then(|| Event {
        r#type: kind.to_owned(),
        action: action.to_owned(),
        actor_id: object.id().to_owned(),
        attributes,
        scope: "swarm".to_owned(),
        time: time(action, object.meta()).unwrap_or(seen_at),
    })
}

/// A removed object does not say when that was.
fn time(action: &str, meta: Option<&Meta>) -> Option<i64> {
    match (action, meta) {
        ("create", Some(meta)) => Some(meta.created_at),
        ("update", Some(meta)) => Some(meta.updated_at),
        _ => None,
    }
}

fn service_name(service: &Service) -> String {
    let annotations = service.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations
        .map(|annotations| annotations.name.clone())
        .unwrap_or_default()
}

fn network_name(network: &Network) -> String {
    let annotations = network.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations
        .map(|annotations| annotations.name.clone())
        .unwrap_or_default()
}

fn node_name(node: &Node) -> String {
    let annotations = node.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    match annotations.map(|annotations| annotations.name.as_str()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => node
            .description
            .as_ref()
            .map(|description| description.hostname.clone())
            .unwrap_or_default(),
    }
}

/// Notes what differs, if it does.
fn differ(attributes: &mut HashMap<String, String>, key: &str, old: String, new: String) -> bool {
    let differs = old != new;
    if differs {
        attributes.insert(format!("{key}.old"), old);
        attributes.insert(format!("{key}.new"), new);
    }
    differs
}

/// What keeps a task from getting a node, if something does.
fn waits(task: &Task) -> Option<String> {
    let status = task.status.as_ref()?;
    let waits = status.state() <= TaskState::Pending && !status.err.is_empty();
    waits.then(|| format!("waits: {}", status.err))
}

fn task_event(task: &Task, reason: String) -> Event {
    Event {
        r#type: "task".to_owned(),
        action: "update".to_owned(),
        actor_id: task.id.clone(),
        attributes: HashMap::from([
            ("name".to_owned(), task_name(task)),
            ("service".to_owned(), task.service_name.clone()),
            ("node".to_owned(), task.node_id.clone()),
            ("reason".to_owned(), reason),
        ]),
        scope: "swarm".to_owned(),
        time: task.meta.map_or(0, |meta| meta.updated_at),
    }
}

/// What happened to a task, with the reason: it ended badly, begins to wait for a node, or one of its steps was noted; none for what went
/// as it should, nor for those that are made or forgotten: their services' events tell as much.
fn task(old: &Task, new: &Task) -> Option<Event> {
    let state = |task: &Task| {
        task.status
            .as_ref()
            .map_or(TaskState::New, |status| status.state())
    };
    let (was, is) = (state(old), state(new));
    let bad = matches!(is, TaskState::Failed | TaskState::Rejected | TaskState::Orphaned);
    let step = new.steps.last().filter(|_| old.steps != new.steps);
    let ended = bad && was != is;
    // How many nodes refuse it may change often after that: told are beginning and end.
    let begins_to_wait = waits(new).filter(|_| waits(old).is_none());
    let reason = step.map(|step| step.reason.clone()).or(begins_to_wait);
    if !ended && reason.is_none() {
        return None;
    }
    let mut event = task_event(new, reason.clone().unwrap_or_default());
    let attributes = &mut event.attributes;
    if reason.is_none() {
        attributes.remove("reason");
    }
    if ended {
        is.name().clone_into(&mut event.action);
        let status = new.status.clone().unwrap_or_default();
        attributes.insert("error".to_owned(), status.err);
        if !status.output.is_empty() {
            attributes.insert("output".to_owned(), status.output.join(" | "));
        }
        if let Some(container) = status.container {
            attributes.insert("exitCode".to_owned(), container.exit_code.to_string());
            attributes.insert("oomKilled".to_owned(), container.oom_killed.to_string());
        }
    }
    Some(event)
}

/// What is new of a service; false for what only the cluster's own parts wrote.
fn service(old: &Service, new: &Service, attributes: &mut HashMap<String, String>) -> bool {
    let image = |service: &Service| {
        let task = service.spec.as_ref().and_then(|spec| spec.task.as_ref());
        let container = task.and_then(|task| task.container.as_ref());
        container
            .map(|container| container.image.clone())
            .unwrap_or_default()
    };
    let replicas = |service: &Service| match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Replicated(mode)) => mode.replicas.to_string(),
        Some(Mode::ReplicatedJob(job)) => job.total_completions.to_string(),
        _ => String::new(),
    };
    differ(attributes, "image", image(old), image(new));
    differ(attributes, "replicas", replicas(old), replicas(new));
    let state = |service: &Service| service.update_status.as_ref().map(|status| status.state());
    let (was, is) = (state(old), state(new));
    let moved = is.is_some() && was != is;
    if let (true, Some(is)) = (moved, is) {
        attributes.insert("updatestate.new".to_owned(), update_state(is));
        if let Some(was) = was {
            attributes.insert("updatestate.old".to_owned(), update_state(was));
        }
        let message = new.update_status.as_ref().map(|status| status.message.clone());
        attributes.insert("updatestate.message".to_owned(), message.unwrap_or_default());
    }
    old.spec != new.spec || moved
}

/// SwarmKit's names in lower case.
fn update_state(state: UpdateState) -> String {
    let name = state.as_str_name();
    name.strip_prefix("UPDATE_STATE_").unwrap_or(name).to_lowercase()
}

fn node(old: &Node, new: &Node, attributes: &mut HashMap<String, String>) -> bool {
    let availability = |node: &Node| {
        let availability = node
            .spec
            .as_ref()
            .map_or(Availability::Active, NodeSpec::availability);
        bare(availability.as_str_name(), "AVAILABILITY_")
    };
    let role = |node: &Node| {
        let role: NodeRole = node.role();
        bare(role.as_str_name(), "NODE_ROLE_")
    };
    let state = |node: &Node| {
        let state = node
            .status
            .as_ref()
            .map_or(NodeState::Unknown, |status| status.state());
        bare(state.as_str_name(), "NODE_STATE_")
    };
    let moved = [
        differ(attributes, "availability", availability(old), availability(new)),
        differ(attributes, "role", role(old), role(new)),
        differ(attributes, "state", state(old), state(new)),
    ];
    old.spec != new.spec || moved.contains(&true)
}

fn bare(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::v1::{Annotations, NodeStatus, ReplicatedMode, ServiceSpec, TaskStatus, TaskStep};
    use pontoon_store::{Kind, Store, Tx};

    fn spec(name: &str, replicas: u64) -> ServiceSpec {
        ServiceSpec {
            annotations: Some(Annotations {
                name: name.to_owned(),
                ..Annotations::default()
            }),
            mode: Some(Mode::Replicated(ReplicatedMode { replicas })),
            ..ServiceSpec::default()
        }
    }

    fn shown(events: &[Event]) -> Vec<String> {
        let show = |event: &Event| {
            let mut attributes: Vec<String> = event
                .attributes
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            attributes.sort();
            format!(
                "{} {} {} {}",
                event.r#type,
                event.action,
                event.actor_id,
                attributes.join(",")
            )
        };
        events.iter().map(show).collect()
    }

    /// The events of one edit, in words.
    fn step(store: &Store, edit: &dyn Fn(&mut Tx)) -> Vec<String> {
        let before = store.snapshot();
        let mut tx = Tx::new(Snapshot::clone(&before));
        edit(&mut tx);
        store.apply(tx.into_changeset(7));
        shown(&events(&before, &store.snapshot(), 0))
    }

    #[test]
    fn changes_are_told_with_what_was_before() {
        let store = Store::new();
        let step = |edit: &dyn Fn(&mut Tx)| step(&store, edit);
        let service = |replicas| Service {
            id: "s1".to_owned(),
            spec: Some(spec("web", replicas)),
            ..Service::default()
        };
        let node = |state: NodeState| Node {
            id: "n1".to_owned(),
            status: Some(NodeStatus {
                state: state.into(),
                ..NodeStatus::default()
            }),
            ..Node::default()
        };
        let made = step(&|tx| {
            tx.put_service(service(1)).unwrap();
            tx.put_node(node(NodeState::Unknown)).unwrap();
        });
        assert_eq!(made, ["node create n1 name=", "service create s1 name=web"]);
        assert_eq!(
            step(&|tx| tx.put_service(service(3)).unwrap()),
            ["service update s1 name=web,replicas.new=3,replicas.old=1"]
        );
        assert_eq!(
            step(&|tx| tx.put_node(node(NodeState::Ready)).unwrap()),
            ["node update n1 name=,state.new=ready,state.old=unknown"]
        );
        // Written by the allocator: nobody's wish changed.
        let allocated = step(&|tx| {
            tx.put_service(Service {
                allocation_error: "none left".to_owned(),
                ..service(3)
            })
            .unwrap();
        });
        assert!(allocated.is_empty(), "{allocated:?}");
        assert_eq!(
            step(&|tx| {
                tx.delete(Kind::Service, "s1");
            }),
            ["service remove s1 name=web"]
        );
    }

    /// A task of the service `web`.
    fn of_web() -> Task {
        Task {
            id: "t1".to_owned(),
            service_id: "s1".to_owned(),
            service_name: "web".to_owned(),
            slot: 2,
            ..Task::default()
        }
    }

    #[test]
    fn tasks_that_end_badly_or_are_sent_away_say_why() {
        let store = Store::new();
        let step = |edit: &dyn Fn(&mut Tx)| step(&store, edit);
        let task = |state: TaskState, steps: &[&str]| Task {
            status: Some(TaskStatus {
                state: state.into(),
                err: if state == TaskState::Failed {
                    "task: non-zero exit (1)"
                } else {
                    ""
                }
                .to_owned(),
                output: vec!["a".to_owned(), "b".to_owned()],
                ..TaskStatus::default()
            }),
            steps: steps
                .iter()
                .map(|reason| TaskStep {
                    reason: (*reason).to_owned(),
                    ..TaskStep::default()
                })
                .collect(),
            ..of_web()
        };
        let quiet = step(&|tx| tx.put_task(task(TaskState::Starting, &[])).unwrap());
        assert!(quiet.is_empty(), "{quiet:?}");
        let quiet = step(&|tx| tx.put_task(task(TaskState::Running, &[])).unwrap());
        assert!(quiet.is_empty(), "{quiet:?}");
        assert_eq!(
            step(&|tx| tx
                .put_task(task(TaskState::Running, &["node is being drained"]))
                .unwrap()),
            ["task update t1 name=web.2.t1,node=,reason=node is being drained,service=web"]
        );
        assert_eq!(
            step(&|tx| tx
                .put_task(task(TaskState::Failed, &["node is being drained"]))
                .unwrap()),
            ["task failed t1 error=task: non-zero exit (1),name=web.2.t1,node=,output=a | b,service=web"]
        );
        let quiet = step(&|tx| {
            tx.delete(Kind::Task, "t1");
        });
        assert!(quiet.is_empty(), "{quiet:?}");
    }

    #[test]
    fn a_task_that_begins_to_wait_says_for_what() {
        let store = Store::new();
        let step = |edit: &dyn Fn(&mut Tx)| step(&store, edit);
        let task = |state: TaskState, err: &str| Task {
            status: Some(TaskStatus {
                state: state.into(),
                err: err.to_owned(),
                ..TaskStatus::default()
            }),
            ..of_web()
        };
        let (lacks, later) = ("no suitable node (a)", "no suitable node (b)");
        let told = "task update t1 name=web.2.t1,node=,reason=waits: no suitable node (a),service=web";
        assert_eq!(
            step(&|tx| tx.put_task(task(TaskState::Pending, lacks)).unwrap()),
            [told]
        );
        for quiet in [
            task(TaskState::Pending, later),
            task(TaskState::Assigned, ""),
            task(TaskState::New, ""),
        ] {
            let said = step(&|tx| tx.put_task(quiet.clone()).unwrap());
            assert!(said.is_empty(), "{said:?}");
        }
        assert_eq!(
            step(&|tx| tx.put_task(task(TaskState::Pending, lacks)).unwrap()),
            [told]
        );
    }
}
