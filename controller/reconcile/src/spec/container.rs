//! The parts of a container's spec that would only fail on a node otherwise: placeholders, names of hosts, DNS servers, limits, kernel
//! parameters. Called by [`service`](super::service).

use std::collections::HashMap;
use std::net::IpAddr;

use pontoon_proto::template::Template;
use pontoon_proto::v1::{ContainerSpec, Mount};

use super::Problems;

/// Longest host name (gethostname(2): HOST_NAME_MAX).
const MAX_HOSTNAME: usize = 64;

/// Checks them; `labels` are the service's.
pub(super) fn check(container: &ContainerSpec, labels: &HashMap<String, String>, problems: &mut Problems) {
    let values = container
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='));
    let texts = values
        .map(|(_, value)| value)
        .chain([container.hostname.as_str()]);
    for text in texts.chain(container.mounts.iter().flat_map(mount_texts)) {
        if let Err(problem) = placeholders(text, labels) {
            problems.add(format!("ContainerSpec: {problem}"));
        }
    }
    if !container.hostname.contains("{{") && container.hostname.len() > MAX_HOSTNAME {
        problems.add(format!(
            "ContainerSpec: hostname {:?} is too long (maximum {MAX_HOSTNAME} bytes)",
            container.hostname
        ));
    }
    for server in container.dns.iter().flat_map(|dns| &dns.nameservers) {
        if server.parse::<IpAddr>().is_err() {
            problems.add(format!("ContainerSpec: {server} is not an ip address"));
        }
    }
    for host in &container.hosts {
        if !is_host(host) {
            problems.add(format!("ContainerSpec: bad format for add-host: {host:?}"));
        }
    }
    if !container.dir.is_empty() && !container.dir.starts_with('/') {
        problems.add(format!(
            "ContainerSpec: the working directory '{}' is invalid, it needs to be an absolute path",
            container.dir
        ));
    }
    for ulimit in &container.ulimits {
        let exceeds = ulimit.hard != -1 && (ulimit.soft == -1 || ulimit.soft > ulimit.hard);
        if exceeds {
            problems.add(format!(
                "ContainerSpec: ulimit soft limit must be less than or equal to hard limit: {} > {}",
                ulimit.soft, ulimit.hard
            ));
        }
    }
    for name in container.sysctls.keys() {
        problems.add_if(name.is_empty(), "ContainerSpec: a sysctl has no name");
    }
}

/// `name:address`
fn is_host(text: &str) -> bool {
    let Some((name, address)) = text.split_once(':') else {
        return false;
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    !name.is_empty() && (address == "host-gateway" || address.parse::<IpAddr>().is_ok())
}

/// What of a mount may have placeholders.
fn mount_texts(mount: &Mount) -> impl Iterator<Item = &str> {
    let options = mount.volume.iter().flat_map(|volume| {
        let labels = volume.labels.values();
        labels.chain(volume.driver_options.values())
    });
    [&mount.source, &mount.target]
        .into_iter()
        .chain(options)
        .map(String::as_str)
}

/// Checks that each placeholder is closed and names something that is there. The agent puts the values in.
fn placeholders(text: &str, labels: &HashMap<String, String>) -> Result<(), String> {
    let template = Template::parse(text)?;
    let label = |key: &str| labels.get(key).cloned();
    template.expand(&|_| String::new(), &label).map(drop)
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{DnsConfig, Ulimit};

    use super::*;

    fn problems(change: impl FnOnce(&mut ContainerSpec)) -> Vec<String> {
        let mut container = ContainerSpec::default();
        change(&mut container);
        let mut problems = Problems::default();
        let labels = HashMap::from([("tier".to_owned(), "front".to_owned())]);
        check(&container, &labels, &mut problems);
        let found = problems.finish().err().unwrap_or_default();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_nodes_would_refuse_is_refused_at_once() {
        let dns = |server: &str| {
            Some(DnsConfig {
                nameservers: vec![server.to_owned()],
                ..DnsConfig::default()
            })
        };
        let fine = problems(|c| {
            c.hostname = "{{.Service.Name}}-{{ .Task.Slot }}".into();
            c.env = vec!["A={{.Node.Hostname}}{{.Service.Labels.tier}}".into()];
            c.dns = dns("2001:db8::1");
            c.hosts = vec!["db:10.0.0.1".into(), "v6:::1".into(), "v6:[::1]".into()];
        });
        assert_eq!(fine, Vec::<String>::new());
        type Change = Box<dyn FnOnce(&mut ContainerSpec)>;
        let cases: Vec<(&str, Change)> = vec![
            ("foo is not an ip address", Box::new(move |c| c.dns = dns("foo"))),
            (
                "bad format for add-host: \"foo\"",
                Box::new(|c| c.hosts = vec!["foo".into()]),
            ),
            (
                "bad format for add-host: \"a:b\"",
                Box::new(|c| c.hosts = vec!["a:b".into()]),
            ),
            (
                "unknown placeholder {{.Foo}}",
                Box::new(|c| c.hostname = "{{.Foo}}".into()),
            ),
            (
                "unknown placeholder {{.Task.Nam}}",
                Box::new(|c| c.env = vec!["A={{.Task.Nam}}".into()]),
            ),
            (
                "does not close it",
                Box::new(|c| c.hostname = "x{{.Task.ID".into()),
            ),
            (
                "the service has no label zone",
                Box::new(|c| c.env = vec!["A={{.Service.Labels.zone}}".into()]),
            ),
            (
                "unknown placeholder {{.Node}}",
                Box::new(|c| {
                    c.mounts = vec![Mount {
                        target: "/data/{{.Node}}".into(),
                        ..Mount::default()
                    }];
                }),
            ),
            (
                "is too long (maximum 64 bytes)",
                Box::new(|c| c.hostname = "x".repeat(65)),
            ),
            ("needs to be an absolute path", Box::new(|c| c.dir = "x".into())),
            (
                "ulimit soft limit must be less than or equal to hard limit: 3 > 2",
                Box::new(|c| {
                    c.ulimits = vec![Ulimit {
                        name: "nofile".into(),
                        soft: 3,
                        hard: 2,
                    }];
                }),
            ),
        ];
        for (text, change) in cases {
            let found = problems(change);
            assert!(found.len() == 1 && found[0].contains(text), "{text}: {found:?}");
        }
    }
}
