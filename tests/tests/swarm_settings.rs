//! `swarm init` and `swarm update`: the cluster's settings are kept, shown by `info` and refused when they can't be.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, with_fleet};

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
