//! What is refused, and in which words.

use pontoon_proto::v1::*;

use super::*;

fn service() -> ServiceSpec {
    ServiceSpec {
        annotations: Some(Annotations {
            name: "web".to_owned(),
            ..Default::default()
        }),
        task: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: "nginx".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        mode: Some(service_spec::Mode::Replicated(ReplicatedMode { replicas: 1 })),
        ..Default::default()
    }
}

fn refused(edit: impl FnOnce(&mut ServiceSpec)) -> String {
    let mut spec = service();
    edit(&mut spec);
    let problems = validate_service(&spec).unwrap_err();
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn task(spec: &mut ServiceSpec) -> &mut TaskSpec {
    spec.task.as_mut().unwrap()
}

#[test]
fn accepts_a_plain_service() {
    assert_eq!(validate_service(&service()), Ok(()));
}

#[test]
fn times_of_a_health_check_are_no_less_than_a_millisecond() {
    let health = |interval| {
        refused(move |spec| {
            task(spec).drain_period = Some(-1);
            task(spec).container.get_or_insert_default().healthcheck = Some(HealthConfig {
                interval,
                ..Default::default()
            });
        })
    };
    let least = "ContainerSpec: healthcheck interval cannot be less than 1ms";
    assert!(health(999_999).contains(least), "{}", health(999_999));
    assert!(!health(1_000_000).contains(least) && !health(0).contains(least));
}

#[test]
fn names_are_dns_labels() {
    for good in ["a", "web", "stack_web", "a-b", "0x"] {
        assert!(is_name(good), "{good}");
    }
    for bad in ["-a", "a-", "a.b", "ä", "a b", "_"] {
        assert!(!is_name(bad), "{bad}");
    }
    let name = |name: &str| {
        let name = name.to_owned();
        refused(move |spec| {
            spec.annotations = Some(Annotations {
                name,
                ..Default::default()
            })
        })
    };
    assert_eq!(name(""), "meta: name must be provided");
    assert_eq!(name("a.b"), "meta: name must be valid as a DNS name component");
    assert_eq!(name(&"a".repeat(64)), "meta: name must be 63 characters or fewer");
}

#[test]
fn refuses_what_makes_no_sense() {
    assert_eq!(
        refused(|s| task(s).container.as_mut().unwrap().image.clear()),
        "ContainerSpec: image reference must be provided"
    );
    assert_eq!(
        refused(|s| task(s).restart = Some(RestartPolicy {
            delay: Some(-1),
            ..Default::default()
        })),
        "TaskSpec: restart-delay cannot be negative"
    );
    assert_eq!(
        refused(|s| s.update = Some(UpdateConfig {
            max_failure_ratio: 1.5,
            ..Default::default()
        })),
        "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"
    );
    assert_eq!(
        refused(|s| {
            let constraints = vec!["node.role=manager".to_owned()];
            task(s).placement = Some(Placement {
                constraints,
                ..Default::default()
            });
        }),
        "invalid constraint 'node.role=manager': constraint expected one operator from ==, !="
    );
    assert_eq!(
        refused(|s| {
            let of = |memory_bytes| {
                Some(Resources {
                    memory_bytes,
                    ..Default::default()
                })
            };
            let resources = ResourceRequirements {
                limits: of(8 << 20),
                reservations: of(16 << 20),
                ..Default::default()
            };
            task(s).resources = Some(resources);
        }),
        "limit-memory must not be smaller than reserve-memory"
    );
}

#[test]
fn refuses_ports_that_clash() {
    let port = |published_port| PortConfig {
        target_port: 80,
        published_port,
        ..Default::default()
    };
    let endpoint = |ports: Vec<PortConfig>, mode: EndpointMode| {
        refused(move |s| {
            s.endpoint = Some(EndpointSpec {
                mode: mode.into(),
                ports,
            })
        })
    };
    let twice = vec![
        port(8080),
        PortConfig {
            target_port: 81,
            ..port(8080)
        },
    ];
    assert_eq!(
        endpoint(twice, EndpointMode::Vip),
        "EndpointSpec: duplicate published ports provided"
    );
    assert_eq!(
        endpoint(vec![port(8080)], EndpointMode::Dnsrr),
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
    );
    assert_eq!(
        endpoint(vec![port(70_000)], EndpointMode::Vip),
        "EndpointSpec: published port 70000 must be at most 65535"
    );
}

#[test]
fn checks_networks() {
    let network = |subnet: &str, gateway: &str| NetworkSpec {
        annotations: Some(Annotations {
            name: "net".to_owned(),
            ..Default::default()
        }),
        driver: "overlay".to_owned(),
        ipam: vec![IpamConfig {
            subnet: subnet.to_owned(),
            gateway: gateway.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    assert_eq!(validate_network(&network("10.1.0.0/24", "10.1.0.1")), Ok(()));
    for (subnet, gateway) in [
        ("10.1.0.0", ""),
        ("10.1.0.0/30", ""),
        ("10.1.0.1/24", ""),
        ("10.1.0.0/24", "10.2.0.1"),
    ] {
        assert!(
            validate_network(&network(subnet, gateway)).is_err(),
            "{subnet} {gateway}"
        );
    }
    let mut detailed = network("10.1.0.0/24", "");
    detailed.ipam[0]
        .auxiliary_addresses
        .insert("printer".into(), "10.1.0.9".into());
    let mtu = "com.docker.network.driver.mtu";
    detailed.driver_opts.insert(mtu.into(), "1400".into());
    assert_eq!(validate_network(&detailed), Ok(()));
    detailed.ipam[0]
        .auxiliary_addresses
        .insert("printer".into(), "10.2.0.9".into());
    detailed.driver_opts.insert(mtu.into(), "wide".into());
    let problems = validate_network(&detailed).unwrap_err();
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "invalid com.docker.network.driver.mtu \"wide\": use a number of bytes from 68 to 65535",
            "invalid auxiliary address printer: parent subnet 10.1.0.0/24 doesn't contain 10.2.0.9",
        ]
    );
}
