//! What flags of `service update` make of a spec: the cases of [`super`].

use super::*;

fn container(spec: &ServiceSpec) -> pontoon_proto::v1::ContainerSpec {
    spec.task.clone().unwrap().container.unwrap_or_default()
}

#[test]
fn a_rollback_has_no_other_flags() {
    let mut arguments = Arguments {
        rollback: true,
        service: "web".into(),
        ..Arguments::default()
    };
    assert!(arguments.only_rolls_back());
    arguments.options.detach = true;
    arguments.options.quiet = true;
    assert!(arguments.only_rolls_back());
    arguments.options.replicas = Some(2);
    assert!(!arguments.only_rolls_back());
    arguments.options.replicas = None;
    arguments.force = true;
    assert!(!arguments.only_rolls_back());
}

#[test]
fn a_health_check_comes_and_goes() {
    let mut spec = ServiceSpec::default();
    let mut change = |change: &dyn Fn(&mut ServiceOptions)| {
        let mut options = ServiceOptions::default();
        change(&mut options);
        spec::apply(&options, &mut spec).unwrap();
        let health = container(&spec).healthcheck.unwrap_or_default();
        (health.test.join(" "), health.interval)
    };
    assert_eq!(
        change(&|options| options.health_cmd = Some("ok".into())),
        ("CMD-SHELL ok".into(), 0)
    );
    assert_eq!(
        change(&|options| options.no_healthcheck = true),
        ("NONE".into(), 0)
    );
    // The image's own again, at another pace.
    assert_eq!(
        change(&|options| options.health_interval = Some(5)),
        (String::new(), 5)
    );
    change(&|options| options.health_cmd = Some("ok".into()));
    assert_eq!(
        change(&|options| options.health_cmd = Some(String::new())),
        (String::new(), 5)
    );
}

#[test]
fn another_log_driver_begins_without_options() {
    let mut spec = ServiceSpec::default();
    let mut change = |driver: Option<&str>, option: Option<&str>| {
        let options = ServiceOptions {
            log_driver: driver.map(str::to_owned),
            log_opt: option.map(str::to_owned).into_iter().collect(),
            ..ServiceOptions::default()
        };
        spec::apply(&options, &mut spec).unwrap();
        spec.task.clone().unwrap().log_driver.map(|driver| {
            let mut options: Vec<String> = driver.options.into_keys().collect();
            options.sort();
            format!("{} {}", driver.name, options.join(" "))
        })
    };
    assert_eq!(
        change(Some("local"), Some("max-size=1m")).unwrap(),
        "local max-size"
    );
    assert_eq!(
        change(None, Some("max-file=2")).unwrap(),
        "local max-file max-size"
    );
    assert_eq!(change(Some("syslog"), Some("tag=a")).unwrap(), "syslog tag");
    assert_eq!(change(Some(""), None), None);
}

#[test]
fn hosts_are_removed_by_name() {
    let mut spec = ServiceSpec::default();
    let mut change = |add: &[&str], remove: &[&str]| {
        let arguments = Arguments {
            host_add: add.iter().map(|text| (*text).to_owned()).collect(),
            host_rm: remove.iter().map(|text| (*text).to_owned()).collect(),
            ..Arguments::default()
        };
        change_container(&arguments, &mut spec).unwrap();
        container(&spec).hosts.join(" ")
    };
    assert_eq!(change(&["db:10.0.0.1", "v6=::1"], &[]), "db:10.0.0.1 v6:::1");
    assert_eq!(change(&["db:10.0.0.1"], &[]), "v6:::1 db:10.0.0.1");
    assert_eq!(change(&[], &["v6", "other"]), "db:10.0.0.1");
    assert_eq!(change(&[], &["db:10.0.0.1"]), "");
}
