//! `swarm init` and `swarm update`: the cluster's settings are kept, shown by `info` and refused when they can't be.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use pontoon_tests::{Host, LONG, SHORT, wait_until, with_fleet};

fn spec(host: &Host, what: &str) -> Result<String> {
    let format = format!("{{{{json .Swarm.Cluster.Spec.{what}}}}}");
    Ok(host.ok(&["info", "--format", &format])?.trim().to_owned())
}

#[test]
fn settings_are_shown_and_changed() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        // Without a daemon's word: there is nothing to do.
        for args in [
            &["swarm", "update"][..],
            &["--host", "unix:///nowhere", "swarm", "update"],
        ] {
            let help = host.ok(args)?;
            ensure!(help.contains("--dispatcher-heartbeat duration"), "{help}");
            ensure!(help.contains("--snapshot-interval uint"), "{help}");
        }
        let address = host.address();
        let init = ["swarm", "init", "--advertise-addr", &address];
        let refused =
            |flags: &[&str], why: &str| host.pontoon(&[&init[..], flags].concat())?.fails(1, &[why]);
        refused(
            &["--dispatcher-heartbeat", "1ms"],
            "minimum heartbeat time period is: 50ms",
        )?;
        refused(
            &["--cert-expiry", "1m"],
            "minimum certificate expiry time is: 1h0m0s",
        )?;
        host.ok(&[
            &init[..],
            &["--dispatcher-heartbeat", "2s", "--max-snapshots", "3"],
        ]
        .concat())?;
        let raft = spec(host, "Raft")?;
        for field in [r#""KeepOldSnapshots":3"#, r#""SnapshotInterval":10000"#] {
            ensure!(raft.contains(field), "{raft}");
        }
        ensure!(spec(host, "Dispatcher")? == r#"{"HeartbeatPeriod":2000000000}"#);
        let update = |flags: &[&str]| host.pontoon(&[&["swarm", "update"], flags].concat());
        update(&["--dispatcher-heartbeat", "49ms"])?.fails(1, &["minimum heartbeat time period is: 50ms"])?;
        update(&["--snapshot-interval", "-1"])?.fails(125, &["--snapshot-interval"])?;
        for flags in [
            &["--dispatcher-heartbeat", "3s"][..],
            &["--snapshot-interval", "500"],
            &["--max-snapshots", "1", "--task-history-limit", "7"],
        ] {
            let output = update(flags)?;
            ensure!(output.stdout.contains("Swarm updated."), "{output:?}");
        }
        let info = host.ok(&["info"])?;
        let expected = "  Orchestration:\n   Task History Retention Limit: 7\n  Raft:\n   Snapshot Interval: 500\n   \
             Number of Old Snapshots to Retain: 1\n  Dispatcher:\n   Heartbeat Period: 3 seconds\n  CA Configuration:\n   \
             Expiry Duration: 3 months\n  Autolock Managers: false\n  Root Rotation In Progress: false\n";
        ensure!(info.contains(expected), "{info}");
        Ok(())
    });
}

/// Ports of UDP sockets in a host's network namespace, those of tunnels included.
fn udp_ports(host: &Host) -> Result<BTreeSet<u16>> {
    let table = host.exec(&["cat", "/proc/net/udp"])?.ok()?;
    let local = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1));
    let ports = local.filter_map(|address| address.split(':').nth(1));
    Ok(ports
        .filter_map(|port| u16::from_str_radix(port, 16).ok())
        .collect())
}

#[test]
fn overlays_use_the_port_and_the_pools_of_their_cluster() {
    with_fleet(2, |fleet| {
        fleet.load_images()?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        let address = first.address();
        let init = ["swarm", "init", "--advertise-addr", &address];
        for port in ["1023", "49152"] {
            first
                .pontoon(&[&init[..], &["--data-path-port", port]].concat())?
                .fails(
                    1,
                    &[&format!(
                        "invalid --data-path-port {port}: use a port from 1024 to 49151"
                    )],
                )?;
        }
        first.ok(&[
            &init[..],
            &["--data-path-port", "7789"],
            &[
                "--default-addr-pool",
                "10.77.0.0/16",
                "--default-addr-pool-mask-length",
                "26",
            ],
        ]
        .concat())?;
        fleet.join(second, "worker")?;
        let info = first.ok(&["info"])?;
        ensure!(
            info.contains("  Default Address Pool: 10.77.0.0/16\n  SubnetSize: 26\n  Data Path Port: 7789\n"),
            "{info}"
        );
        first.line("network create --driver overlay app")?;
        let subnet = "{{(index .IPAM.Config 0).Subnet}}";
        ensure!(
            first
                .ok(&["network", "inspect", "--format", subnet, "app"])?
                .ends_with("/26")
        );
        for (name, on, command) in [("server", "host2", "serve"), ("probe", "host1", "sleep")] {
            first.line(&format!(
                "service create --name {name} --network app --constraint node.hostname=={on} web:1 {command}"
            ))?;
        }
        let probe = first.ok(&["ps", "--quiet", "--filter", "name=probe.1"])?;
        let reached = || {
            first
                .ok(&["exec", &probe, "/web", "get", "http://server:8080/"])
                .map(drop)
        };
        wait_until("the server answers", SHORT, reached)?;
        // A daemon that finds the tunnel again leaves it as it is.
        second.kill()?;
        second.start()?;
        wait_until("all nodes reach each other", LONG, || {
            first.pontoon(&["network", "doctor"])?.ok().map(drop)
        })?;
        reached()?;
        for host in [first, second] {
            let ports = udp_ports(host)?;
            ensure!(ports.contains(&7789) && !ports.contains(&4789), "{ports:?}");
        }
        Ok(())
    });
}
