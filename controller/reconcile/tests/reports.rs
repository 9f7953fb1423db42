//! What agents report and what nodes are told: which reports count, and the records of networks and the routing mesh.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

mod sim;

use pontoon_proto::v1::*;
use pontoon_reconcile::assignments::{self, Records};
use pontoon_reconcile::{edit, observe};
use pontoon_store::Snapshot;
use sim::rules::state;
use sim::{Sim, words};

fn with_service(list: &[&str]) -> Sim {
    let mut sim = Sim::default();
    for name in ["n1", "n2"] {
        sim.node(name, |_| ());
    }
    let annotations = Some(Annotations {
        name: "net".to_owned(),
        ..Default::default()
    });
    let spec = NetworkSpec {
        annotations,
        driver: "overlay".to_owned(),
        ..Default::default()
    };
    sim.commit(|tx, _| edit::create_network(tx, "net".to_owned(), spec))
        .unwrap();
    let mut spec = words::service("web");
    list.iter()
        .for_each(|word| words::spec(&mut spec, word, &|name| name.to_owned()));
    sim.commit(|tx, _| edit::create_service(tx, "web".to_owned(), spec))
        .unwrap();
    sim
}

fn told(sim: &Sim, node: &str) -> Assignments {
    assignments::for_node(&sim.view(), &mut Records::default(), node)
}

#[test]
fn reports_that_are_old_or_not_the_nodes_business_are_dropped() {
    let mut sim = with_service(&[]);
    sim.run();
    let task = sim.live("web")[0].clone();
    assert_eq!((state(&task), task.running_at), (TaskState::Running, sim.now));
    let other = if task.node_id == "n1" { "n2" } else { "n1" };
    let mut report = |node: &str, id: &str, state: i32| {
        let status = TaskStatus {
            state,
            ..Default::default()
        };
        let update = TaskStatusUpdate {
            task_id: id.to_owned(),
            status: Some(status),
        };
        sim.commit(|tx, now| observe::task_status(tx, node, &[update], now))
    };
    assert_eq!(
        report(&task.node_id, &task.id, TaskState::Starting.into()),
        0,
        "an earlier state"
    );
    assert_eq!(
        report(other, &task.id, TaskState::Failed.into()),
        0,
        "another node's task"
    );
    assert_eq!(
        report(&task.node_id, "nope", TaskState::Failed.into()),
        0,
        "an unknown task"
    );
    assert_eq!(
        report(&task.node_id, &task.id, TaskState::Orphaned.into()),
        0,
        "not for agents to say"
    );
    assert_eq!(report(&task.node_id, &task.id, 577), 0, "an unknown state");
    assert_eq!(report(&task.node_id, &task.id, TaskState::Shutdown.into()), 1);
    assert_eq!(
        report(&task.node_id, &task.id, TaskState::Failed.into()),
        0,
        "a task that has ended"
    );
}

#[test]
fn a_report_may_tell_every_state_that_a_task_came_through() {
    let mut sim = with_service(&[]);
    let task = sim.live("web")[0].clone();
    assert_eq!(
        (state(&task), task.desired_state()),
        (TaskState::Assigned, TaskState::Running)
    );
    let report = |states: &[TaskState]| -> Vec<TaskStatusUpdate> {
        let update = |state: &TaskState| TaskStatusUpdate {
            task_id: task.id.clone(),
            status: Some(TaskStatus {
                state: (*state).into(),
                timestamp: 1,
                leaving: *state == TaskState::Running,
                err: if *state == TaskState::Running {
                    "goes at once"
                } else {
                    ""
                }
                .to_owned(),
                ..Default::default()
            }),
        };
        states.iter().map(update).collect()
    };
    let forth = [
        TaskState::Accepted,
        TaskState::Preparing,
        TaskState::Ready,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Complete,
    ];
    // Told again from the beginning, as by a session that had no acknowledgement: old news.
    let (updates, again) = (report(&forth), report(&forth));
    let node = &task.node_id;
    assert_eq!(
        sim.commit(|tx, now| observe::task_status(tx, node, &updates, now)),
        forth.len()
    );
    sim.now += 5;
    assert_eq!(
        sim.commit(|tx, now| observe::task_status(tx, node, &again, now)),
        0
    );
    let after = sim.view().task(&task.id).unwrap().clone();
    assert_eq!(state(&after), TaskState::Complete);
    assert_eq!(after.running_at, sim.now - 5, "it ran, if only within the report");
    assert!(
        after.steps.iter().any(|step| step.reason == "goes at once"),
        "what was said on the way is kept: {:?}",
        after.steps
    );
}

#[test]
fn a_report_may_add_to_the_same_state() {
    let mut sim = with_service(&[]);
    sim.run();
    let task = sim.live("web")[0].clone();
    let mut status = task.status.clone().unwrap();
    status.container = Some(ContainerStatus {
        container_id: "c".to_owned(),
        pid: 7,
        ..Default::default()
    });
    let update = TaskStatusUpdate {
        task_id: task.id.clone(),
        status: Some(status),
    };
    assert_eq!(
        sim.commit(|tx, now| observe::task_status(tx, &task.node_id, &[update], now)),
        1
    );
    let stored = sim.view().task(&task.id).unwrap().status.clone().unwrap();
    assert_eq!(stored.container.unwrap().pid, 7);
}

#[test]
fn node_states_keep_the_time_of_the_change() {
    let mut sim = with_service(&[]);
    let since = |sim: &Sim| sim.view().node("n1").unwrap().status.clone().unwrap().since;
    let start = sim.now;
    sim.now += 5;
    sim.up("n1");
    assert_eq!(since(&sim), start);
    sim.down("n1");
    assert_eq!(since(&sim), start + 5);
    sim.commit(|tx, now| assert!(!observe::node_down(tx, "nope", "", now)));
}

#[test]
fn only_running_tasks_get_traffic() {
    let mut sim = with_service(&["replicas=2", "network=net"]);
    let network = |sim: &Sim| told(sim, "n1").networks[0].clone();
    let before = network(&sim);
    assert_eq!(before.peers.len(), 2, "all endpoints of all nodes");
    assert_eq!(before.services[0].backends.len(), 0);
    assert_eq!(before.services[0].vip, "10.0.1.2");
    sim.run();
    let running = network(&sim);
    assert_eq!(running.services[0].backends, ["10.0.1.3", "10.0.1.4"]);
    let vteps: Vec<_> = running.peers.iter().map(|peer| peer.vtep.as_str()).collect();
    assert_eq!(vteps, ["192.0.2.1", "192.0.2.2"]);
    let task = sim.view().tasks_by_slot("web", 1).next().unwrap().clone();
    assert_eq!(running.tasks[0].name, format!("web.1.{}", task.id));
    let mut drained = sim.view().node("n1").unwrap().spec.clone().unwrap();
    drained.set_availability(Availability::Drain);
    sim.edit_node("n1", |node| node.spec = Some(drained));
    let leaving = network(&sim);
    assert_eq!(
        leaving.services[0].backends,
        ["10.0.1.4"],
        "a leaving task gets nothing new"
    );
    assert_eq!(
        leaving.peers.len(),
        3,
        "but keeps its address until it has stopped"
    );
}

#[test]
fn the_mesh_is_told_to_every_node_with_a_leg() {
    let mut sim = with_service(&["replicas=1", "publish=8080:80"]);
    sim.run();
    for node in ["n1", "n2"] {
        let told = told(&sim, node);
        let ingress = told.ingress.unwrap();
        assert_eq!(ingress.ports.len(), 1);
        assert_eq!(
            (ingress.ports[0].published_port, ingress.ports[0].target_port),
            (8080, 80)
        );
        assert_eq!(ingress.ports[0].backends, ["10.0.0.5"]);
        assert_eq!(told.networks[0].peers.len(), 3, "two legs and a task");
        assert!(told.networks[0].services.is_empty(), "no names through the mesh");
    }
    let before = told(&sim, "n1");
    sim.commit(|tx, _| edit::remove_service(tx, "web")).unwrap();
    sim.run();
    let ingress = sim.view().network_by_name("ingress").unwrap().id.clone();
    sim.commit(|tx, _| edit::remove_network(tx, &ingress)).unwrap();
    let change = assignments::diff(&before, &told(&sim, "n1")).unwrap();
    assert_eq!(change.ingress, Some(IngressConfig::default()), "out of the mesh");
    assert_eq!(change.removed_networks, [ingress]);
    assert_eq!(assignments::diff(&before, &before), None);
}

#[test]
fn a_jobs_task_is_told_to_run_and_once_it_has_ended_not_again() {
    let mut sim = with_service(&["job=1"]);
    sim.run();
    let task = sim.live("web")[0].clone();
    assert_eq!(
        (state(&task), task.desired_state()),
        (TaskState::Running, TaskState::Complete)
    );
    let desired = |sim: &Sim| told(sim, &task.node_id).tasks[0].desired_state();
    assert_eq!(desired(&sim), TaskState::Running);
    sim.report(&task, TaskState::Complete);
    assert_eq!(desired(&sim), TaskState::Shutdown);
}

#[test]
fn a_removed_services_tasks_are_to_be_removed() {
    let mut sim = with_service(&[]);
    sim.run();
    let node = sim.live("web")[0].node_id.clone();
    sim.commit(|tx, _| edit::remove_service(tx, "web")).unwrap();
    let task = told(&sim, &node).tasks.remove(0);
    assert_eq!((task.desired_state(), task.spec), (TaskState::Remove, None));
    sim.run();
    assert!(told(&sim, &node).tasks.is_empty());
}

fn version_of(view: &Snapshot) -> u64 {
    let service = view.service("web").unwrap();
    service.meta.unwrap().version
}

fn other(spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    spec.annotations
        .as_mut()
        .unwrap()
        .labels
        .insert("other".to_owned(), String::new());
    spec
}

#[test]
fn writers_who_read_an_old_version_are_refused() {
    let mut sim = with_service(&[]);
    let service = sim.view().service("web").unwrap().clone();
    let spec = service.spec.clone().unwrap();
    let version = service.meta.unwrap().version;
    sim.commit(|tx, _| edit::update_service(tx, "web", version, spec.clone()))
        .unwrap();
    let late = sim.commit(|tx, _| edit::update_service(tx, "web", version, spec.clone()));
    assert_eq!(late.unwrap_err().to_string(), "update out of sequence");
    let both = sim.commit(|tx, _| {
        edit::update_service(tx, "web", 0, other(&spec))?;
        edit::update_service(tx, "web", version_of(tx), spec.clone())
    });
    assert_eq!(
        both.unwrap_err().to_string(),
        "update out of sequence",
        "of two in one batch the second has read what the first replaced"
    );
    let mut renamed = spec;
    renamed.annotations.as_mut().unwrap().name = "db".to_owned();
    let refused = sim.commit(|tx, _| edit::update_service(tx, "web", 0, renamed));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "renaming services is not supported"
    );
}
