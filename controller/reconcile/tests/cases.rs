//! Runs `cases/*.txt`: what happens to a cluster, and what is expected of the reconciler. One command a line:
//!
//! ```text
//! node NAME WORD…              service NAME WORD…        network NAME [SUBNET] [aux=ADDR] [ingress] [attachable]
//! set-node NAME WORD…          update NAME WORD…         rollback NAME        rm service|network|node NAME
//! down NODE   up NODE          run (agents walk)         wait DURATION        history N            silent NODE (its agent hangs)
//! fail TASK   complete TASK    unhealthy TASK (still runs) broken IMAGE       mended IMAGE         forget (a new leader)
//! attach NODE CONTAINER NETWORK [ADDR] (a container that is no task; its name is an alias)   detach NODE CONTAINER NETWORK
//! registers NODE CONTAINER=NETWORK:ADDR… (a new session says what it holds)
//! refused "MESSAGE" COMMAND…
//! expect SERVICE running N | live N | tasks N        expect SERVICE on NODE=N …       expect SERVICE slots N …
//! expect SERVICE image IMAGE=N … (running)           expect SERVICE update STATE ["MESSAGE"]
//! expect SERVICE backends N (given traffic)          expect SERVICE versions N    expect SERVICE waits "TEXT"
//! expect JOB completed N (slots or nodes, in this run)                                    expect JOB iteration N
//! expect SERVICE port N                              expect SERVICE why "ERR" (of each task that waits)
//! expect SERVICE vip NETWORK ADDR                    expect network NAME SUBNET [VNI] | why "ERR"
//! expect explain task|service|node NAME "LINE" … (all of these are among what is said)
//! expect TASK because "REASON" … (its steps)         expect TASK units KIND=NAME KIND=N …
//! expect TASK STATE DESIRED [on NODE]                expect node NAME leg ADDR | tasks N
//! expect node NAME containers CONTAINER=ADDR …       expect node NAME finds NETWORK NAME=ADDR … (all names but services')
//! expect node NAME networks NETWORK … (those it is told)
//! expect wake DURATION | never
//! ```
//! A task is `service.slot`, or `service.node` of a global service: the newest there.
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

mod sim;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pontoon_proto::v1::*;
use pontoon_reconcile::{assignments, attachment, edit, explain, spec};
use pontoon_store::Snapshot;
use sim::{Sim, containers, words};

/// Words of a line; `"…"` is one word.
fn split(line: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for (at, piece) in line.split('"').enumerate() {
        if at % 2 == 1 {
            parts.push(piece.to_owned());
        } else {
            parts.extend(piece.split_whitespace().map(str::to_owned));
        }
    }
    parts
}

fn service_id(view: &Snapshot, name: &str) -> String {
    view.find_service(name)
        .unwrap_or_else(|error| panic!("{error}"))
        .id
        .clone()
}

fn newest(view: &Snapshot, name: &str) -> Arc<Task> {
    let (service, place) = name.split_once('.').expect("service.slot");
    let id = service_id(view, service);
    let here = |task: &&Arc<Task>| {
        if task.slot == 0 {
            task.node_id == place
        } else {
            task.slot.to_string() == place
        }
    };
    let tasks = view.tasks_by_service(&id).filter(here);
    tasks
        .max_by_key(|task| task.id.clone())
        .unwrap_or_else(|| panic!("no task {name}"))
        .clone()
}

/// Runs a user's command.
fn user(sim: &mut Sim, command: &[&str]) -> Result<(), String> {
    let view = sim.view();
    let network = |name: &str| {
        view.network_by_name(name)
            .map_or(name.to_owned(), |n| n.id.clone())
    };
    let valid = |spec: &ServiceSpec| {
        spec::validate_service(spec).map_err(|problems| {
            problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        })
    };
    let text = |result: Result<(), edit::Error>| result.map_err(|error| error.to_string());
    match command {
        ["service", name, rest @ ..] => {
            let mut spec = words::service(name);
            rest.iter()
                .for_each(|word| words::spec(&mut spec, word, &network));
            valid(&spec)?;
            let id = sim.id("s");
            text(sim.commit(|tx, _| edit::create_service(tx, id, spec)))
        }
        ["update", name, rest @ ..] => {
            let id = service_id(&view, name);
            let mut spec = view.service(&id).unwrap().spec.clone().unwrap();
            rest.iter()
                .for_each(|word| words::spec(&mut spec, word, &network));
            valid(&spec)?;
            text(sim.commit(|tx, _| edit::update_service(tx, &id, 0, spec)))
        }
        ["rollback", name] => {
            let id = service_id(&view, name);
            text(sim.commit(|tx, now| edit::rollback_service(tx, &id, 0, now)))
        }
        ["network", name, rest @ ..] => {
            let mut spec = NetworkSpec {
                driver: "overlay".to_owned(),
                ..Default::default()
            };
            spec.annotations = Some(Annotations {
                name: (*name).to_owned(),
                ..Default::default()
            });
            for word in rest {
                if *word == "ingress" {
                    spec.ingress = true;
                } else if *word == "attachable" {
                    spec.attachable = true;
                } else if let Some(address) = word.strip_prefix("aux=") {
                    let ipam = spec.ipam.last_mut().expect("a subnet first");
                    ipam.auxiliary_addresses
                        .insert("other".to_owned(), address.to_owned());
                } else {
                    spec.ipam.push(IpamConfig {
                        subnet: (*word).to_owned(),
                        ..Default::default()
                    });
                }
            }
            spec::validate_network(&spec).map_err(|problems| problems[0].to_string())?;
            let id = sim.id("n");
            text(sim.commit(|tx, _| edit::create_network(tx, id, spec)))
        }
        ["attach", node, rest @ ..] => containers::attach(sim, node, rest, &network),
        ["detach", node, container, name] => {
            let id = network(name);
            sim.commit(|tx, _| attachment::detach(tx, node, container, &id));
            Ok(())
        }
        ["rm", "service", name] => {
            let id = service_id(&view, name);
            text(sim.commit(|tx, _| edit::remove_service(tx, &id)))
        }
        ["rm", "network", name] => text(sim.commit(|tx, _| edit::remove_network(tx, &network(name)))),
        ["rm", "node", name] => text(sim.commit(|tx, _| edit::remove_node(tx, name))),
        other => panic!("unknown command {other:?}"),
    }
}

fn run_line(sim: &mut Sim, line: &[&str]) {
    match line {
        ["node", name, rest @ ..] => {
            sim.node(name, |node| rest.iter().for_each(|word| words::node(node, word)));
        }
        ["set-node", name, rest @ ..] => {
            sim.edit_node(name, |node| rest.iter().for_each(|word| words::node(node, word)));
        }
        ["down", name] => sim.down(name),
        ["up", name] => sim.up(name),
        ["silent", name] => drop(sim.silent.insert((*name).to_owned())),
        ["run"] => sim.run(),
        ["step"] => drop(sim.step()),
        ["wait", time] => sim.wait(words::duration(time)),
        ["fail", name] => sim.report(&newest(&sim.view(), name), TaskState::Failed),
        ["unhealthy", name] => sim.unhealthy(&newest(&sim.view(), name)),
        ["reject", name] => sim.report(&newest(&sim.view(), name), TaskState::Rejected),
        ["complete", name] => sim.report(&newest(&sim.view(), name), TaskState::Complete),
        ["broken", image] => drop(sim.broken.insert((*image).to_owned())),
        ["mended", image] => drop(sim.broken.remove(*image)),
        ["forget"] => sim.state = pontoon_reconcile::ReconcileState::default(),
        ["history", limit] => {
            let mut cluster = Cluster::clone(sim.view().cluster().unwrap());
            cluster.spec.get_or_insert_default().task_history_limit = Some(limit.parse().unwrap());
            sim.commit(|tx, _| tx.put_cluster(cluster).unwrap());
        }
        ["registers", node, rest @ ..] => containers::register(sim, node, rest),
        ["refused", message, rest @ ..] => assert_eq!(user(sim, rest).unwrap_err(), *message),
        ["expect", rest @ ..] => expect(sim, rest),
        command => user(sim, command).unwrap_or_else(|error| panic!("{error}")),
    }
}

fn state(task: &Task) -> TaskState {
    task.status.as_ref().unwrap().state()
}

/// `a=1 b=2` of counts.
fn counts<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
        .iter()
        .map(|(key, count)| format!("{key}={count}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn expect(sim: &mut Sim, line: &[&str]) {
    let view = sim.view();
    match line {
        ["wake", "never"] => assert_eq!(sim.next_wake, None),
        ["wake", time] => assert_eq!(sim.next_wake.map(|at| at - sim.now), Some(words::duration(time))),
        ["network", name, "why", reason] => {
            assert_eq!(
                view.network_by_name(name).expect("a network").allocation_error,
                *reason
            );
        }
        ["network", name, subnet, rest @ ..] => {
            let network = view.network_by_name(name).expect("a network");
            assert_eq!(network.ipam[0].subnet, *subnet);
            rest.iter()
                .for_each(|vni| assert_eq!(network.vni.to_string(), *vni));
        }
        ["node", name, "leg", addr] => {
            let node = view.node(name).expect("a node");
            let legs = node.attachments.iter().map(|attachment| attachment.addr.as_str());
            assert_eq!(legs.collect::<Vec<_>>().join(" "), *addr);
        }
        ["node", name, "containers", rest @ ..] => {
            assert_eq!(containers::of(&view, name), rest.join(" "));
        }
        ["node", name, "finds", network, rest @ ..] => {
            let told = assignments::for_node(&view, &mut sim.records, name);
            assert_eq!(containers::names(&told, network), rest.join(" "));
        }
        ["node", name, "networks", rest @ ..] => {
            let told = assignments::for_node(&view, &mut sim.records, name);
            let names: Vec<_> = told.networks.iter().map(containers::name_of).collect();
            assert_eq!(names.join(" "), rest.join(" "));
        }
        ["node", name, "tasks", number] => {
            let assignments = assignments::for_node(&view, &mut sim.records, name);
            assert_eq!(assignments.tasks.len().to_string(), *number);
        }
        ["gone", service] => assert!(view.find_service(service).is_err() && view.task_count() == 0),
        ["explain", kind, name, wanted @ ..] => {
            let said = match *kind {
                "task" => explain::task(&view, &newest(&view, name)),
                "service" => explain::service(&view, view.find_service(name).expect("a service")),
                _ => explain::node(&view, view.node(name).expect("a node")),
            };
            for wanted in wanted {
                assert!(said.iter().any(|line| line.text == *wanted), "{said:#?}");
            }
        }
        [name, "because", reasons @ ..] => {
            let task = newest(&view, name);
            let steps: Vec<_> = task.steps.iter().map(|step| step.reason.as_str()).collect();
            assert_eq!(steps, reasons, "{task:#?}");
        }
        [name, "units", rest @ ..] if name.contains('.') => {
            let task = newest(&view, name);
            let value = |unit: &GenericResource| match unit.name.as_str() {
                "" => format!("{}={}", unit.kind, unit.count),
                own => format!("{}={own}", unit.kind),
            };
            let units: Vec<_> = task.generic_resources.iter().map(value).collect();
            assert_eq!(units.join(" "), rest.join(" "), "{:?}", task.status);
        }
        [name, what, rest @ ..] if name.contains('.') => {
            let task = newest(&view, name);
            let described = (state(&task).name(), task.desired_state().name());
            assert_eq!(described, (*what, rest[0]), "{name}: {:?}", task.status);
            if let ["on", node] = rest[1..] {
                assert_eq!(task.node_id, node);
            }
        }
        [name, rest @ ..] => expect_service(sim, &view, name, rest),
        [] => panic!("expect what?"),
    }
}

fn expect_service(sim: &Sim, view: &Snapshot, name: &str, line: &[&str]) {
    let service = view.find_service(name).unwrap_or_else(|error| panic!("{error}"));
    let live = sim.live(name);
    let running = || live.iter().filter(|task| state(task) == TaskState::Running);
    match line {
        ["running", number] => assert_eq!(running().count().to_string(), *number, "{live:#?}"),
        ["live", number] => assert_eq!(live.len().to_string(), *number),
        ["tasks", number] => assert_eq!(view.service_task_count(&service.id).to_string(), *number),
        ["on", rest @ ..] => assert_eq!(counts(live.iter().map(|t| t.node_id.as_str())), rest.join(" ")),
        ["completed", number] => assert_eq!(sim.completed(name).to_string(), *number, "{live:#?}"),
        ["iteration", number] => {
            let iteration = service.iteration().expect("a job");
            assert_eq!(iteration.to_string(), *number);
            let begun = service.job_status.unwrap_or_default().last_execution;
            assert!(begun > 0 && begun <= sim.now);
        }
        ["slots", rest @ ..] => {
            let slots: Vec<_> = live.iter().map(|task| task.slot.to_string()).collect();
            assert_eq!(slots.join(" "), rest.join(" "));
        }
        ["image", rest @ ..] => {
            let image = |task: &Arc<Task>| {
                let spec = sim::rules::spec(view, task).unwrap().task.clone().unwrap();
                spec.container.unwrap().image
            };
            let images: Vec<_> = running().map(image).collect();
            assert_eq!(counts(images.iter().map(String::as_str)), rest.join(" "));
        }
        ["update", state, message @ ..] => {
            let status = service.update_status.clone().unwrap_or_default();
            let name = status
                .state()
                .as_str_name()
                .trim_start_matches("UPDATE_STATE_")
                .to_lowercase();
            assert_eq!(name, *state, "{}", status.message);
            message
                .iter()
                .for_each(|message| assert!(status.message.contains(message), "{}", status.message));
        }
        ["why", reason] => {
            let waiting: Vec<_> = live
                .iter()
                .filter(|task| state(task) < TaskState::Assigned)
                .collect();
            assert!(!waiting.is_empty(), "no task waits");
            waiting
                .iter()
                .for_each(|task| assert_eq!(task.status.as_ref().unwrap().err, *reason));
        }
        ["port", number] => {
            let endpoint = service.endpoint.as_ref().expect("an endpoint");
            assert_eq!(endpoint.ports[0].published_port.to_string(), *number);
        }
        ["vip", network, addr] => {
            let network = &view.network_by_name(network).expect("a network").id;
            let vips = &service.endpoint.as_ref().expect("an endpoint").virtual_ips;
            let vip = vips
                .iter()
                .find(|vip| vip.network_id == *network)
                .map_or("", |vip| &vip.addr);
            assert_eq!(vip, *addr);
        }
        ["waits", text] => assert_eq!(service.waits_for, *text),
        ["backends", number] => {
            let mut backends = 0;
            for node in view.nodes() {
                let told = assignments::for_node(view, &mut assignments::Records::default(), &node.id);
                let mut records = told.networks.iter().flat_map(|network| &network.services);
                if let Some(record) = records.find(|record| record.name == name) {
                    backends = record.backends.len();
                }
            }
            assert_eq!(backends.to_string(), *number);
        }
        ["versions", number] => assert_eq!((service.retained.len() + 1).to_string(), *number),
        other => panic!("expect what? {other:?}"),
    }
}

/// A case starts with `# title`; its lines follow.
fn run_file(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut sim = Sim::default();
    let mut title = "";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(new) = line.strip_prefix("# ") {
            (sim, title) = (Sim::default(), new);
        } else if !line.is_empty() && !line.starts_with("//") {
            let words = split(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_line(&mut sim, &words)));
            if let Err(cause) = result {
                eprintln!("{}:{}: {title}: {line}", path.display(), number + 1);
                std::panic::resume_unwind(cause);
            }
        }
    }
}

macro_rules! files {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
            run_file(&folder.join(concat!(stringify!($name), ".txt")));
        }
    )*};
}

files!(
    replicated, global, jobs, tasks, restart, update, leaving, reasons, depends, nodes, allocation,
    scheduling, generic, attachable
);
