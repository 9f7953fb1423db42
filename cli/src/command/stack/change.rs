//! What a deployment has to change: the plan of the files beside what the cluster has. No requests are made here, so that all that
//! can be refused is refused before the first one. Called by [`deploy`](super::deploy).

use std::collections::HashMap;

use pontoon_proto::v1::{
    Network, NetworkSpec, Service, ServiceSpec, ServiceStatus, UpdateState, dependency::Condition,
};

use super::{name_of, service_name, spec_name, stack_of};
use crate::compose::{IMAGE_LABEL, NAMESPACE_LABEL, Plan};

/// Networks of each node, which are no objects of the cluster.
const NODE_NETWORKS: [&str; 3] = ["host", "bridge", "none"];

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Change {
    /// Networks to make.
    pub networks: Vec<NetworkSpec>,
    /// Ids of the networks that are there, by name.
    pub known: HashMap<String, String>,
    /// A service each, in the files' order, but what others depend on before them: they are to wait for what it becomes.
    pub services: Vec<Step>,
    /// Services of the stack that the files have no more.
    pub gone: Vec<Service>,
}

/// What to do with a service.
#[derive(Debug)]
pub enum Step {
    /// Make it.
    Create(ServiceSpec),
    /// Give it another spec.
    Update(Box<Service>, ServiceSpec),
    /// It is as it should be; whether all of its tasks run.
    Keep(Box<Service>, bool),
}

impl Step {
    /// Names of the services that this one waits for to complete.
    pub fn awaited_ends(&self) -> Vec<String> {
        let spec = match self {
            Step::Create(spec) | Step::Update(_, spec) => Some(spec),
            Step::Keep(service, _) => service.spec.as_ref(),
        };
        let depends = spec.map_or(&[][..], |spec| spec.depends_on.as_slice()).iter();
        let ends = depends.filter(|depends| depends.condition() == Condition::Completed);
        ends.map(|depends| depends.service.clone()).collect()
    }
}

/// Works out what to do.
///
/// # Errors
/// What stands in the way, one line each.
pub fn work_out(
    stack: &str,
    plan: Plan,
    services: &[ServiceStatus],
    networks: &[Network],
) -> Result<Change, Vec<String>> {
    let mut problems = Vec::new();
    let mut change = Change::default();
    for planned in plan.networks {
        let there = networks
            .iter()
            .find(|network| network_name(network) == planned.name);
        match (planned.spec, there) {
            (None, None) if NODE_NETWORKS.contains(&planned.name.as_str()) => {
                change.known.insert(planned.name.clone(), planned.name);
            }
            (None, None) => problems.push(format!(
                "network \"{}\" is declared as external, but could not be found: create it with `pontoon network create -d overlay {}`",
                planned.name, planned.name
            )),
            (Some(spec), None) => change.networks.push(spec),
            (spec, Some(network)) => {
                problems.extend(spec.and_then(|spec| mismatch(stack, &spec, network)));
                change.known.insert(planned.name, network.id.clone());
            }
        }
    }
    let wanted: Vec<String> = plan
        .services
        .iter()
        .map(|spec| spec_name(spec).to_owned())
        .collect();
    for spec in in_order(plan.services) {
        let there = services
            .iter()
            .find(|status| service_name(status.service.as_ref()) == spec_name(&spec));
        match there.and_then(|status| Some((status, status.service.as_ref()?))) {
            None => change.services.push(Step::Create(spec)),
            Some((status, service)) => match step(stack, spec, service, status, &change.known) {
                Ok(step) => change.services.push(step),
                Err(problem) => problems.push(problem),
            },
        }
    }
    let ours = |service: &&Service| {
        let annotations = service.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        stack_of(annotations) == Some(stack) && !wanted.iter().any(|name| name == name_of(annotations))
    };
    let all = services.iter().filter_map(|status| status.service.as_ref());
    change.gone = all.filter(ours).cloned().collect();
    if problems.is_empty() {
        Ok(change)
    } else {
        Err(problems)
    }
}

/// The services in their order, but each after those of them that it depends on.
fn in_order(mut services: Vec<ServiceSpec>) -> Vec<ServiceSpec> {
    let mut ordered = Vec::new();
    while !services.is_empty() {
        let is_free = |spec: &ServiceSpec| {
            let mut others = services
                .iter()
                .filter(|other| spec_name(other) != spec_name(spec));
            !others.any(|other| spec.depends_on.iter().any(|d| d.service == spec_name(other)))
        };
        // In a circle, which the managers refuse, any may be the first.
        let at = services.iter().position(is_free).unwrap_or(0);
        ordered.push(services.remove(at));
    }
    ordered
}

/// The name of a network.
pub fn network_name(network: &Network) -> &str {
    name_of(network.spec.as_ref().and_then(|spec| spec.annotations.as_ref()))
}

/// Why a network that is there can't be the planned one. Networks are never changed, so other settings need another network.
fn mismatch(stack: &str, wanted: &NetworkSpec, network: &Network) -> Option<String> {
    let there = network.spec.clone().unwrap_or_default();
    let name = network_name(network);
    if stack_of(there.annotations.as_ref()) != Some(stack) {
        return Some(format!(
            "network {name} exists already and is not part of stack {stack}: declare it with external: true, or give yours another name"
        ));
    }
    let pairs = [
        ("driver_opts", there.driver_opts == wanted.driver_opts),
        ("internal", there.internal == wanted.internal),
        ("attachable", there.attachable == wanted.attachable),
        ("ipam", there.ipam == wanted.ipam),
    ];
    let differ: Vec<&str> = pairs
        .iter()
        .filter(|(_, same)| !same)
        .map(|(key, _)| *key)
        .collect();
    (!differ.is_empty()).then(|| {
        format!(
            "network {name} exists with another {}, which can't be changed: give the network another name, or remove the stack first",
            differ.join(", ")
        )
    })
}

fn step(
    stack: &str,
    mut spec: ServiceSpec,
    service: &Service,
    status: &ServiceStatus,
    known: &HashMap<String, String>,
) -> Result<Step, String> {
    let name = spec_name(&spec).to_owned();
    let there = service.spec.clone().unwrap_or_default();
    if stack_of(there.annotations.as_ref()) != Some(stack) {
        return Err(format!(
            "service {name} exists already and is not part of stack {stack}: remove it, or rename yours"
        ));
    }
    let (was, is) = (there.mode_name(), spec.mode_name());
    if was != is {
        return Err(format!(
            "service {name} can't change between {was} and {is}: remove it first with `pontoon service rm {name}`"
        ));
    }
    keep_what_the_system_chose(&mut spec, &there);
    resolve(&mut spec, known);
    let service = Box::new(service.clone());
    // As with Docker, a deployment runs the stack's jobs.
    if spec != there || spec.is_job() {
        return Ok(Step::Update(service, spec));
    }
    let update = service
        .update_status
        .as_ref()
        .map_or(UpdateState::None, |update| update.state());
    let at_rest = matches!(
        update,
        UpdateState::None | UpdateState::Completed | UpdateState::RollbackCompleted
    );
    Ok(Step::Keep(
        service,
        at_rest && status.running_tasks == status.desired_tasks,
    ))
}

/// The counter of forced updates, and the image of a service whose file names the same one as before: it has its digest.
fn keep_what_the_system_chose(spec: &mut ServiceSpec, there: &ServiceSpec) {
    let is_same_image = typed_image(spec) == typed_image(there);
    let (Some(task), Some(before)) = (&mut spec.task, &there.task) else {
        return;
    };
    task.force_update = before.force_update;
    if is_same_image && let (Some(container), Some(before)) = (&mut task.container, &before.container) {
        container.image.clone_from(&before.image);
    }
}

/// The image as the file has it.
pub fn typed_image(spec: &ServiceSpec) -> Option<&String> {
    spec.annotations.as_ref()?.labels.get(IMAGE_LABEL)
}

/// Puts ids in place of the networks' names.
pub fn resolve(spec: &mut ServiceSpec, known: &HashMap<String, String>) {
    for network in spec.task.iter_mut().flat_map(|task| &mut task.networks) {
        if let Some(id) = known.get(&network.target) {
            network.target.clone_from(id);
        }
    }
}

/// True if a network was made for a stack.
pub fn belongs(network: &Network, stack: &str) -> bool {
    let annotations = network.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
    annotations.is_some_and(|annotations| {
        annotations
            .labels
            .get(NAMESPACE_LABEL)
            .is_some_and(|name| name == stack)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::compose::{Source, load};

    const FILE: &str = "\
services:
  web: {image: a, ports: [\"80:80\"], environment: {A: 1, B: 2}}
  db: {image: d, networks: [back], deploy: {mode: global}}
networks:
  back: {internal: true}
";

    fn plan(text: &str) -> Plan {
        let source = Source {
            name: "f".into(),
            text: text.to_owned(),
        };
        load(&[source], Path::new("/"), &|_| None)
            .unwrap()
            .stack
            .plan("demo")
            .unwrap()
    }

    /// The cluster after a deployment of the file.
    fn deployed(text: &str) -> (Vec<ServiceStatus>, Vec<Network>) {
        let change = work_out("demo", plan(text), &[], &[]).unwrap();
        let mut known = HashMap::new();
        let mut networks = Vec::new();
        for (at, spec) in change.networks.into_iter().enumerate() {
            let id = format!("n{at}");
            known.insert(name_of(spec.annotations.as_ref()).to_owned(), id.clone());
            networks.push(Network {
                id,
                spec: Some(spec),
                ..Default::default()
            });
        }
        let mut services = Vec::new();
        for step in change.services {
            let Step::Create(mut spec) = step else {
                panic!("nothing is there")
            };
            resolve(&mut spec, &known);
            services.push(ServiceStatus {
                service: Some(Service {
                    id: format!("s{}", services.len()),
                    spec: Some(spec),
                    ..Default::default()
                }),
                running_tasks: 1,
                desired_tasks: 1,
                completed_tasks: 0,
            });
        }
        (services, networks)
    }

    #[test]
    fn a_second_deployment_changes_nothing() {
        let (mut services, networks) = deployed(FILE);
        let change = work_out("demo", plan(FILE), &services, &networks).unwrap();
        assert!(change.networks.is_empty() && change.gone.is_empty());
        assert!(
            change
                .services
                .iter()
                .all(|step| matches!(step, Step::Keep(_, true))),
            "{:?}",
            change.services
        );
        services[1].running_tasks = 0;
        // A digest and forced updates are the system's.
        let task = services[0]
            .service
            .as_mut()
            .unwrap()
            .spec
            .as_mut()
            .unwrap()
            .task
            .as_mut()
            .unwrap();
        task.force_update = 3;
        task.container.as_mut().unwrap().image = "a:latest@sha256:00".into();
        let change = work_out("demo", plan(FILE), &services, &networks).unwrap();
        assert!(matches!(
            change.services[..],
            [Step::Keep(_, true), Step::Keep(_, false)]
        ));
    }

    #[test]
    fn only_what_differs_is_updated() {
        let (services, networks) = deployed(FILE);
        let other = FILE.replace("A: 1", "A: 3").replace("image: d", "image: e");
        let change = work_out("demo", plan(&other), &services, &networks).unwrap();
        assert!(matches!(&change.services[0], Step::Update(service, _) if service.id == "s0"));
        assert!(matches!(&change.services[1], Step::Update(_, spec)
            if spec.task.as_ref().unwrap().container.as_ref().unwrap().image == "e"));
        let fewer = "services: {web: {image: a}}";
        let change = work_out("demo", plan(fewer), &services, &networks).unwrap();
        assert_eq!(change.gone.len(), 1);
        assert_eq!(change.gone[0].id, "s1");
    }

    #[test]
    fn jobs_run_with_each_deployment() {
        let file = FILE.replace("mode: global", "mode: global-job");
        let (services, networks) = deployed(&file);
        let change = work_out("demo", plan(&file), &services, &networks).unwrap();
        assert!(matches!(
            change.services[..],
            [Step::Keep(_, true), Step::Update(_, _)]
        ));
    }

    #[test]
    fn services_come_after_those_they_depend_on() {
        let file = "services: {a: {image: x, depends_on: [c]}, b: {image: x}, c: {image: x, depends_on: [d]}, d: {image: x}}";
        let change = work_out("demo", plan(file), &[], &[]).unwrap();
        let names: Vec<&str> = change
            .services
            .iter()
            .map(|step| match step {
                Step::Create(spec) => spec_name(spec),
                _ => "",
            })
            .collect();
        assert_eq!(names, ["demo_b", "demo_d", "demo_c", "demo_a"]);
    }

    #[test]
    fn what_stands_in_the_way_is_told() {
        let (services, networks) = deployed(FILE);
        let told = |text: &str, services: &[ServiceStatus], networks: &[Network]| {
            work_out("demo", plan(text), services, networks)
                .unwrap_err()
                .join("\n")
        };
        let external = "services: {a: {image: b, networks: [x]}}\nnetworks: {x: {external: true}}";
        assert!(told(external, &[], &[]).contains("declared as external, but could not be found"));
        assert!(
            told(&FILE.replace("internal: true", ""), &services, &networks).contains("with another internal")
        );
        assert!(
            told(&FILE.replace("mode: global", "replicas: 1"), &services, &networks)
                .contains("can't change between")
        );
        let mut foreign = services.clone();
        foreign[0]
            .service
            .as_mut()
            .unwrap()
            .spec
            .as_mut()
            .unwrap()
            .annotations
            .as_mut()
            .unwrap()
            .labels
            .clear();
        assert!(told(FILE, &foreign, &networks).contains("service demo_web exists already"));
        let mut foreign = networks.clone();
        foreign[0]
            .spec
            .as_mut()
            .unwrap()
            .annotations
            .as_mut()
            .unwrap()
            .labels
            .clear();
        assert!(told(FILE, &services, &foreign).contains("is not part of stack demo"));
        let host = "services: {a: {image: b, networks: [x]}}\nnetworks: {x: {external: true, name: host}}";
        assert_eq!(
            work_out("demo", plan(host), &[], &[]).unwrap().known["host"],
            "host"
        );
    }
}
