//! Compose files to specifications, and their mistakes by file, line and column: the cases of [`super`] as a whole.

use std::path::Path;

use pontoon_proto::v1::{
    EndpointMode, GlobalJobMode, MountType, PublishMode, ReplicatedJobMode, RestartCondition, ServiceSpec,
    dependency::Condition, disconnect_policy::Action, service_spec::Mode,
};

use super::*;

fn variables(name: &str) -> Option<String> {
    match name {
        "TAG" => Some("1.27".to_owned()),
        "COUNT" => Some("4".to_owned()),
        "HOME" => Some("/home/me".to_owned()),
        "FROM_CLIENT" => Some("yes".to_owned()),
        _ => None,
    }
}

fn plan_of(files: &[&str], base: &Path) -> Result<Plan, Error> {
    let source = |(at, text): (usize, &&str)| Source {
        name: format!("f{}.yaml", at + 1).into(),
        text: (*text).to_owned(),
    };
    let sources: Vec<Source> = files.iter().enumerate().map(source).collect();
    load(&sources, base, &variables)?.stack.plan("demo")
}

fn plan(text: &str) -> Plan {
    plan_of(&[text], Path::new("/base")).unwrap_or_else(|error| panic!("{error}"))
}

fn mistakes(text: &str) -> String {
    plan_of(&[text], Path::new("/base")).unwrap_err().to_string()
}

fn service<'a>(plan: &'a Plan, name: &str) -> &'a ServiceSpec {
    let named = |spec: &&ServiceSpec| spec.annotations.as_ref().unwrap().name == name;
    plan.services.iter().find(named).unwrap()
}

const FULL: &str = r#"
version: "3.8"
name: ignored
x-defaults: &defaults
  logging: {driver: json-file, options: {max-size: 10m, max-file: 3}}
services:
  web:
    <<: *defaults
    image: nginx:${TAG:-latest}
    command: serve --port "80 81"
    entrypoint: [/entry, -v]
    environment: {A: 1, B: "${NOPE:-x$$y}", FROM_CLIENT: , UNSET: , T: true}
    ports:
      - "8080:80"
      - 9000-9001:9000-9001/udp
      - {target: 443, published: "8443", mode: host}
    networks:
      front: {aliases: [www]}
      back:
    labels: [one=1, two]
    hostname: h
    user: 1000:1000
    working_dir: /w
    stop_grace_period: 1m30s
    stop_signal: SIGINT
    init: true
    read_only: true
    cap_add: [NET_ADMIN]
    sysctls: {net.core.somaxconn: 1024}
    ulimits: {nproc: 65535, nofile: {soft: 1, hard: 2}}
    extra_hosts: ["db:10.0.0.1", "v6=[::1]"]
    dns: 1.1.1.1
    tmpfs: /run:size=64m
    volumes:
      - ./data:/data:ro
      - ~/x:/x
      - {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 1777}}
      - data:/d:ro,nocopy
      - /anonymous
      - {type: volume, source: shared, target: /s, volume: {subpath: sub}}
      - {type: image, source: tools, target: /i, image: {subpath: bin}}
    healthcheck: {test: curl -f localhost, interval: 10s, retries: 2, start_period: 1s}
    deploy:
      replicas: "${COUNT}"
      labels: {team: a}
      endpoint_mode: vip
      placement:
        constraints: [node.role==worker]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 2
      resources:
        limits: {cpus: "0.5", memory: 64M, pids: 10}
        reservations:
          cpus: 0.25
          memory: 32m
          generic_resources:
            - discrete_resource_spec: {kind: gpu, value: 2}
            - named_resource_spec: {kind: licence, value: blue}
      restart_policy: {condition: on-failure, delay: 2s, max_attempts: 3, window: 1m, x-max-delay: 4m}
      update_config: {delay: 1s, order: start-first, failure_action: rollback, max_failure_ratio: 0.5}
      rollback_config: {parallelism: 0}
      on_disconnect: keep:10m
      drain_period: 5s
  agent: {image: agent, deploy: {mode: global, endpoint_mode: dnsrr, x-on-disconnect: keep, x-drain-period: 0s, x-other: 1}}
networks:
  front: {driver: overlay, internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}, labels: {k: v}}
  back: {external: true, name: shared}
  unused: {}
volumes:
  data: {driver_opts: {type: tmpfs, device: tmpfs}, labels: [a=b]}
  shared: {external: true, name: "disk-{{.Task.Slot}}"}
  unused:
secrets: {}
"#;

#[test]
fn volumes_get_their_names_and_options() {
    let plan = plan(FULL);
    let task = service(&plan, "demo_web").task.clone().unwrap();
    let container = task.container.unwrap();
    let data = container.mounts[4].volume.clone().unwrap();
    assert!(data.no_copy && data.driver_options["type"] == "tmpfs");
    assert_eq!(
        (data.labels["a"].as_str(), data.labels[NAMESPACE_LABEL].as_str()),
        ("b", "demo")
    );
    let shared = container.mounts[6].volume.clone().unwrap();
    assert_eq!((shared.subpath.as_str(), shared.labels.len()), ("sub", 0));
    assert_eq!(
        (
            container.mounts[7].r#type(),
            container.mounts[7].image_subpath.as_str()
        ),
        (MountType::Image, "bin")
    );
}

#[test]
fn services_get_all_that_their_file_says() {
    let plan = plan(FULL);
    let web = service(&plan, "demo_web");
    let labels = &web.annotations.as_ref().unwrap().labels;
    assert_eq!(labels[NAMESPACE_LABEL], "demo");
    assert_eq!(labels[IMAGE_LABEL], "nginx:1.27");
    assert_eq!(labels["team"], "a");
    assert!(matches!(&web.mode, Some(Mode::Replicated(mode)) if mode.replicas == 4));
    let container = web.task.as_ref().unwrap().container.as_ref().unwrap();
    assert_eq!(container.args, ["serve", "--port", "80 81"]);
    assert_eq!(container.command, ["/entry", "-v"]);
    assert_eq!(container.env, ["A=1", "B=x$y", "FROM_CLIENT=yes", "T=true"]);
    assert_eq!(container.labels.len(), 3);
    assert_eq!(container.user, "1000:1000");
    assert_eq!(container.stop_grace_period, 90_000_000_000);
    assert_eq!(container.hosts, ["db:10.0.0.1", "v6:::1"]);
    assert_eq!(container.dns.as_ref().unwrap().nameservers, ["1.1.1.1"]);
    assert_eq!(container.sysctls["net.core.somaxconn"], "1024");
    assert_eq!(
        container
            .ulimits
            .iter()
            .map(|u| (u.soft, u.hard))
            .collect::<Vec<_>>(),
        [(1, 2), (65535, 65535)]
    );
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|m| (m.source.as_str(), m.target.as_str(), m.read_only))
        .collect();
    assert_eq!(
        mounts,
        [
            ("", "/run", false),
            ("/base/data", "/data", true),
            ("/home/me/x", "/x", false),
            ("", "/t", false),
            ("demo_data", "/d", true),
            ("", "/anonymous", false),
            ("disk-{{.Task.Slot}}", "/s", false),
            ("tools", "/i", false),
        ]
    );
    assert_eq!(
        (container.mounts[3].r#type(), container.mounts[3].tmpfs_mode),
        (MountType::Tmpfs, 0o1777)
    );
    let health = container.healthcheck.as_ref().unwrap();
    assert_eq!(health.test, ["CMD-SHELL", "curl -f localhost"]);
    assert_eq!(health.retries, 2);
}

#[test]
fn tasks_get_all_that_their_file_says() {
    let plan = plan(FULL);
    let web = service(&plan, "demo_web");
    let task = web.task.as_ref().unwrap();
    assert_eq!(task.log_driver.as_ref().unwrap().options["max-file"], "3");
    let resources = task.resources.as_ref().unwrap();
    let limits = resources.limits.unwrap();
    assert_eq!(
        (limits.nano_cpus, limits.memory_bytes, limits.pids),
        (500_000_000, 64 << 20, 10)
    );
    assert_eq!(resources.reservations.unwrap().nano_cpus, 250_000_000);
    let units: Vec<_> = resources
        .generic_reservations
        .iter()
        .map(|unit| (unit.kind.as_str(), unit.name.as_str(), unit.count))
        .collect();
    assert_eq!(units, [("gpu", "", 2), ("licence", "blue", 0)]);
    let restart = task.restart.unwrap();
    assert_eq!(restart.max_delay, Some(240_000_000_000));
    assert_eq!(
        (restart.condition(), restart.delay),
        (RestartCondition::OnFailure, Some(2_000_000_000))
    );
    assert_eq!(task.placement.as_ref().unwrap().max_replicas, 2);
    assert_eq!(web.update.unwrap().parallelism, 1);
    assert_eq!(web.rollback.unwrap().parallelism, 0);
    let endpoint = web.endpoint.as_ref().unwrap();
    assert_eq!(endpoint.mode(), EndpointMode::Vip);
    let ports: Vec<_> = endpoint
        .ports
        .iter()
        .map(|p| (p.published_port, p.target_port))
        .collect();
    assert_eq!(ports, [(8080, 80), (9000, 9000), (9001, 9001), (8443, 443)]);
    assert_eq!(endpoint.ports[3].publish_mode(), PublishMode::Host);
}

#[test]
fn services_can_be_jobs() {
    let text = "\
services:
  migrate: {image: a, deploy: {mode: replicated-job, restart_policy: {condition: none}}}
  many: {image: a, deploy: {mode: replicated-job, replicas: 5, x-max-concurrent: 2}}
  everywhere: {image: a, deploy: {mode: global-job}}
";
    let plan = plan(text);
    let mode = |name| service(&plan, name).mode;
    let job = |total_completions, max_concurrent| {
        Some(Mode::ReplicatedJob(ReplicatedJobMode {
            max_concurrent,
            total_completions,
        }))
    };
    assert_eq!(mode("demo_migrate"), job(1, 0));
    assert_eq!(mode("demo_many"), job(5, 2));
    assert_eq!(mode("demo_everywhere"), Some(Mode::GlobalJob(GlobalJobMode {})));
    assert!(service(&plan, "demo_many").update.is_none());
}

#[test]
fn services_say_how_long_they_wait_for_their_nodes() {
    let plan = plan(FULL);
    let policy = |name| service(&plan, name).on_disconnect.unwrap();
    let (web, agent) = (policy("demo_web"), policy("demo_agent"));
    assert_eq!((web.action(), web.grace), (Action::Keep, Some(600_000_000_000)));
    assert_eq!((agent.action(), agent.grace), (Action::Keep, None));
}

#[test]
fn services_wait_for_others() {
    let text = "\
services:
  web: {image: a, depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully, required: false}}}
  db: {image: b, depends_on: [cache]}
  init: {image: c, depends_on: {db: {condition: service_started, restart: false}}}
  cache: {image: d}
";
    let plan = plan(text);
    let named = |name| {
        let depends = service(&plan, name).depends_on.iter();
        let shown = depends.map(|d| (d.service.as_str(), d.condition(), d.optional));
        shown.collect::<Vec<_>>()
    };
    assert_eq!(
        named("demo_web"),
        [
            ("demo_db", Condition::Healthy, false),
            ("demo_init", Condition::Completed, true)
        ]
    );
    assert_eq!(named("demo_db"), [("demo_cache", Condition::Started, false)]);
    assert_eq!(named("demo_init"), [("demo_db", Condition::Started, false)]);
    let told = mistakes("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: y, depends_on: [a]}\n");
    assert!(
        told.contains("services.a: depends on itself: a -> b -> a"),
        "{told}"
    );
    let told = mistakes("services:\n  a: {image: x, depends_on: {b: {restart: true}}}\n  b: {image: y}\n");
    assert!(
        told.contains("services.a.depends_on.b.restart: true is not supported"),
        "{told}"
    );
}

#[test]
fn services_say_how_long_their_tasks_drain() {
    let plan = plan(FULL);
    let period = |name| service(&plan, name).task.as_ref().unwrap().drain_period;
    assert_eq!(period("demo_web"), Some(5_000_000_000));
    assert_eq!(period("demo_agent"), Some(0));
}

#[test]
fn networks_are_named_and_aliased() {
    let plan = plan(FULL);
    let names: Vec<_> = plan
        .networks
        .iter()
        .map(|n| (n.name.as_str(), n.spec.is_some()))
        .collect();
    assert_eq!(
        names,
        [("demo_front", true), ("shared", false), ("demo_default", true)]
    );
    let front = plan.networks[0].spec.as_ref().unwrap();
    assert_eq!(
        (front.internal, front.ipam[0].subnet.as_str()),
        (true, "10.9.0.0/24")
    );
    assert_eq!(
        front.annotations.as_ref().unwrap().labels[NAMESPACE_LABEL],
        "demo"
    );
    let web = &service(&plan, "demo_web").task.as_ref().unwrap().networks;
    assert_eq!(
        (web[0].target.as_str(), web[0].aliases.as_slice()),
        ("demo_front", &["www".to_owned(), "web".to_owned()][..])
    );
    assert_eq!(web[1].target, "shared");
    let agent = service(&plan, "demo_agent");
    assert_eq!(agent.task.as_ref().unwrap().networks[0].aliases, ["agent"]);
    assert!(matches!(agent.mode, Some(Mode::Global(_))));
    assert_eq!(agent.endpoint.as_ref().unwrap().mode(), EndpointMode::Dnsrr);
}

#[test]
fn all_mistakes_are_told_with_their_places() {
    let text = "\
services:
  web:
    imgae: nginx
    deploy:
      replicas: many
      resources: {limits: {memory: lots}}
      placement: {constraints: node.role==worker}
    depends_on: [cache]
    ports: [\"80:http\", {published: 1}]
  db:
    image: [x]
    networks: [nowhere]
    environment: {A: {b: c}}
volumes: {data: {colour: x}}
surprise: 1
";
    let expected = [
        "f1.yaml:2:3: services.web: image is required",
        "f1.yaml:3:5: services.web: unknown key \"imgae\" (did you mean \"image\"?)",
        "f1.yaml:5:17: services.web.deploy.replicas: must be a whole number that is not negative, not \"many\"",
        "f1.yaml:6:36: services.web.deploy.resources.limits.memory: invalid size: 'lots'",
        "f1.yaml:7:32: services.web.deploy.placement.constraints: must be a list, not \"node.role==worker\"",
        "f1.yaml:8:18: services.web: depends on undefined service \"cache\"",
        "f1.yaml:9:13: services.web.ports: invalid published port \"80:http\"",
        "f1.yaml:9:24: services.web.ports: target is required",
        "f1.yaml:10:3: services.db: image is required",
        "f1.yaml:11:12: services.db.image: must be a text, not a list",
        "f1.yaml:12:16: services.db: undefined network \"nowhere\"",
        "f1.yaml:13:22: services.db.environment.A: must be a text, a number or a boolean, not a mapping",
        "f1.yaml:14:18: volumes.data: unknown key \"colour\"",
        "f1.yaml:15:1: unknown key \"surprise\"",
    ];
    let told = mistakes(text);
    assert_eq!(told.lines().count(), expected.len(), "{told}");
    for (line, expected) in told.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nexpected {expected}");
    }
}

/// A service's keys, and what is said of them.
const BAD_VALUES: &[(&str, &str)] = &[
    (
        "image: a\n    healthcheck: {test: [curl, x]}",
        "must be [\"NONE\"], [\"CMD\"",
    ),
    (
        "image: a\n    healthcheck: {test: x, disable: true}",
        "can't be used together",
    ),
    ("image: a\n    stop_grace_period: 10", "invalid duration"),
    ("image: a\n    init: maybe", "must be true or false"),
    ("image: true", "not the boolean true"),
    (
        "image: ${NOPE:?which image}",
        "required variable NOPE is not set: which image",
    ),
    ("image: a$", "invalid interpolation format"),
    (
        "image: a\n    deploy: {mode: replicated-job, update_config: {delay: 1s}}",
        "Jobs may not have an update config",
    ),
    (
        "image: a\n    deploy: {x-max-concurrent: 2}",
        "x-max-concurrent can only be used with mode replicated-job",
    ),
    (
        "image: a\n    deploy: {mode: global-job, replicas: 2}",
        "replicas can only be used with mode replicated or replicated-job",
    ),
    (
        "image: a\n    deploy: {mode: both}",
        "must be one of replicated, global, replicated-job, global-job",
    ),
    (
        "image: a\n    deploy: {mode: global, replicas: 2}",
        "replicas can only be used with mode replicated or replicated-job",
    ),
    (
        "image: a\n    deploy: {rollback_config: {failure_action: rollback}}",
        "must be pause or continue",
    ),
    (
        "image: a\n    deploy: {on_disconnect: wait}",
        "invalid policy \"wait\": use replace or keep",
    ),
    (
        "image: a\n    deploy: {x-on-disconnect: \"keep:soon\"}",
        "invalid duration \"soon\"",
    ),
    (
        "image: a\n    deploy: {placement: {constraints: [\"node.role=worker\"]}}",
        "invalid constraint",
    ),
    (
        "image: a\n    deploy: {resources: {limits: {cpus: 0.1}, reservations: {cpus: 0.2}}}",
        "must not be smaller",
    ),
    (
        "image: a\n    volumes: [data:/data]",
        "undefined volume \"data\": declare it under volumes at the top",
    ),
    ("image: a\n    volumes: [/a:/b:nocopy]", "nocopy is for volumes"),
    (
        "image: a\n    volumes: [a:/b:rshared]",
        "a propagation is for folders",
    ),
    ("image: a\n    volumes: [a:/b:sometimes]", "unknown options"),
    (
        "image: a\n    volumes: [{type: bind, source: /a, target: /b, volume: {nocopy: true}}]",
        "volume options are for mounts of type volume",
    ),
    ("image: a\n    volumes: [/a:b]", "must be an absolute path"),
    (
        "image: a\n    volumes: [{type: cluster, target: /b}]",
        "must be one of volume, bind, tmpfs, image",
    ),
    (
        "image: a\n    ports: [\"127.0.0.1:80:80\"]",
        "published on all addresses",
    ),
    ("image: a\n    ports: [\"80:80\", \"80:81\"]", "published twice"),
    ("image: a\n    ports: [{target: 70000}]", "is not a port"),
    (
        "image: a\n    ulimits: {nofile: {soft: 2, hard: 1}}",
        "soft limit",
    ),
    ("image: a\n    extra_hosts: [db]", "not of the form"),
    ("image: a\n    dns: nowhere", "not an IP address"),
    (
        "image: a\n    logging: {driver: syslog}",
        "must be one of json-file, none",
    ),
    ("image: a\n    env_file: missing.env", "missing.env"),
    ("image: a\n    command: sh -c 'open", "unterminated quote"),
    (
        "image: a\n    networks: {default: {ipv4_address: 1.2.3.4}}",
        "addresses are given by the cluster",
    ),
    ("image: a\n    privileged: true", "cap_add"),
    (
        "image: a\n  other: {image: a, ports: [\"80:1\"]}\n  third: {image: a, ports: [\"80:2\"]}",
        "published by service other as well",
    ),
];

#[test]
fn bad_values_are_refused() {
    for (body, expected) in BAD_VALUES {
        let told = mistakes(&format!("services:\n  web:\n    {body}\n"));
        assert!(told.contains(expected), "{body}: {told}");
        assert!(told.starts_with("f1.yaml:"), "{told}");
    }
    assert!(mistakes("services: {}").contains("there are no services"));
    assert!(mistakes("[a]").contains("must be a mapping"));
    assert!(
        mistakes("services: {a: {image: b}}\nnetworks: {default: {driver: bridge}}")
            .contains("must be overlay")
    );
    assert!(
        mistakes("services: {a: {image: b}}\nnetworks: {default: {external: true, internal: true}}")
            .contains("exists already")
    );
    assert!(mistakes("services: {\"a b\": {image: b}}").contains("valid as a DNS name"));
}

#[test]
fn files_are_merged_and_each_is_checked() {
    let base = "services:\n  web: {image: a, environment: [X=1], deploy: {replicas: 1}}\n";
    let over =
        "services:\n  web:\n    environment: {X: 2, Y: 3}\n    deploy: {replicas: 5}\n  db: {image: d}\n";
    let plan = plan_of(&[base, over], Path::new("/base")).unwrap();
    let web = service(&plan, "demo_web");
    assert_eq!(
        web.task.as_ref().unwrap().container.as_ref().unwrap().env,
        ["X=2", "Y=3"]
    );
    assert!(matches!(&web.mode, Some(Mode::Replicated(mode)) if mode.replicas == 5));
    assert_eq!(plan.services.len(), 2);
    let wrong = "services:\n  web: {deploy: {replicas: x}}\n";
    let told = plan_of(&[base, wrong, "a: 1"], Path::new("/base"))
        .unwrap_err()
        .to_string();
    assert!(
        told.starts_with("f2.yaml:2:28: ") && told.contains("\nf3.yaml:1:1: unknown key"),
        "{told}"
    );
}

#[test]
fn environment_files_come_first_and_start_at_the_base() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.env"), "# comment\nA=file\nB=file\n").unwrap();
    let text = "services: {web: {image: a, env_file: [a.env, {path: none.env, required: false}], environment: {A: own}}}";
    let plan = plan_of(&[text], folder.path()).unwrap();
    assert_eq!(
        service(&plan, "demo_web")
            .task
            .as_ref()
            .unwrap()
            .container
            .as_ref()
            .unwrap()
            .env,
        ["A=own", "B=file"]
    );
}

#[test]
fn unset_variables_are_named() {
    let source = Source {
        name: "f".into(),
        text: "services: {web: {image: \"a:$TAG$NONE\"}}\nx-skipped: $ODD $".to_owned(),
    };
    assert_eq!(
        load(&[source], Path::new("/"), &variables).unwrap().unset,
        ["NONE"]
    );
}

#[test]
fn stack_names() {
    assert!(check_stack_name("a-b_1").is_ok());
    for bad in ["", "-a", "a.b", "a b", "ä"] {
        assert!(check_stack_name(bad).is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn reading_never_panics(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "services", "web", "image", "deploy", "ports", "networks", "replicas", "volumes", "ulimits", "healthcheck",
                ": ", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ",", "80:80", "$A", "\"", "&a ", "*a", "<<", "x", "true", "1s",
            ]),
            0..40,
        ),
    ) {
        let _ = plan_of(&[&pieces.concat()], Path::new("/base"));
    }
}
