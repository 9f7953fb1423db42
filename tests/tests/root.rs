//! The cluster's root on real hosts: shown, replaced while services answer, with a host that is away meanwhile; what is of the old root
//! does not get in any more.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::view::{self, ensure_running};
use pontoon_tests::{Fleet, Host, LONG, SHORT, wait_until, with_fleet, with_host};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo/stack.yaml");

fn identity(host: &Host) -> String {
    host.data_dir().join("cluster/identity").display().to_string()
}

fn ensure_ready(fleet: &Fleet, count: usize) -> Result<()> {
    wait_until("all nodes are ready and up to date", LONG, || {
        let first = fleet.host(1);
        let nodes = view::nodes(first)?;
        ensure!(
            nodes.len() == count && nodes.iter().all(|node| node.status == "Ready"),
            "{nodes:?}"
        );
        let states = first.ok(&["node", "ls", "--format", "{{.TLSStatus}}"])?;
        ensure!(states.lines().all(|state| state == "Ready"), "{states}");
        Ok(())
    })
}

/// Calls the published port on all hosts as long as `work` lasts; how many calls were answered, and which were not.
fn under_load(fleet: &Fleet, work: impl FnOnce() -> Result<()>) -> Result<u32> {
    let (over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::SeqCst) {
                for host in fleet.hosts() {
                    host.get(&format!("http://{}:8080/", host.address()))?;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            }
            Ok(())
        });
        let worked = work();
        over.store(true, Ordering::SeqCst);
        let loaded = load.join().ok().context("the load's thread has panicked")?;
        worked.and(loaded)
    })?;
    Ok(answered.into_inner())
}

/// A host that comes with what it had before the rotation, and a token from before it.
fn the_old_one_stays_outside(fleet: &Fleet, stolen: &str, token: &str) -> Result<()> {
    let (first, third) = (fleet.host(1), fleet.host(3));
    third.stop()?;
    std::fs::remove_dir_all(identity(third))?;
    tool("cp", &["-a", stolen, &identity(third)])?;
    third.start()?;
    wait_until("host3 is told why", LONG, || {
        let log = third.log_tail(200);
        ensure!(log.contains("of this cluster that was replaced"), "{log}");
        let info = third.ok(&["info"])?;
        ensure!(
            info.contains("that was replaced; `pontoon swarm leave`"),
            "{info}"
        );
        ensure!(view::node(first, "host3")?.status == "Down");
        Ok(())
    })?;
    third.ok(&["swarm", "leave", "--force"])?;
    first.ok(&["node", "rm", "--force", "host3"])?;
    let remote = format!("{}:2377", first.address());
    third
        .pontoon(&[
            "swarm",
            "join",
            "--token",
            token,
            "--advertise-addr",
            &third.address(),
            &remote,
        ])?
        .fails(1, &["of another cluster"])?;
    fleet.join(third, "worker")?;
    Ok(())
}

#[test]
fn the_root_is_replaced_under_load() {
    with_fleet(3, |fleet| {
        fleet.ready(2)?;
        let (first, second, third) = (fleet.host(1), fleet.host(2), fleet.host(3));
        first.ok(&["stack", "deploy", "--compose-file", STACK, "demo"])?;
        let ids = |host: &Host| -> Result<Vec<String>> {
            let mut ids: Vec<String> = ensure_running(host, "demo_web", 6)?
                .into_iter()
                .map(|task| task.id)
                .collect();
            ids.sort();
            Ok(ids)
        };
        let before = ids(first)?;
        wait_until("published ports answer", SHORT, || {
            fleet
                .hosts()
                .iter()
                .try_for_each(|host| host.get(&format!("http://{}:8080/", host.address())).map(drop))
        })?;
        let old = first.ok(&["swarm", "ca"])?;
        ensure!(old.starts_with("-----BEGIN CERTIFICATE-----") && old.ends_with("-----END CERTIFICATE-----"));
        let stolen = fleet.folder().join("stolen").display().to_string();
        tool("cp", &["-a", &identity(third), &stolen])?;
        let token = first.ok(&["swarm", "join-token", "--quiet", "worker"])?;

        let answered = under_load(fleet, || {
            // By a manager that may not lead.
            let shown = second.ok(&["swarm", "ca", "--rotate", "--cert-expiry", "48h"])?;
            let new = first.ok(&["swarm", "ca"])?;
            ensure!(new != old && shown.ends_with(&new), "{shown}");
            for line in [
                "desired root digest: sha256:",
                "  rotated TLS certificates: 3/3 nodes",
                "  rotated CA certificates:  3/3 nodes",
            ] {
                ensure!(shown.contains(line), "{line} is not in {shown}");
            }
            Ok(())
        })?;
        ensure!(answered > 0);
        ensure_ready(fleet, 3)?;
        ensure!(ids(second)? == before, "tasks were replaced");
        let info = first.ok(&["info"])?;
        ensure!(
            info.contains("Expiry Duration: 2 days") && info.contains("Root Rotation In Progress: false"),
            "{info}"
        );
        let issuer = |host: &Host| {
            host.ok(&[
                "node",
                "inspect",
                "--format",
                "{{.Description.TLSInfo.CertIssuerPublicKey}}",
                "host3",
            ])
        };
        ensure!(issuer(first)?.len() > 40 && issuer(first)? == issuer(second)?);

        the_old_one_stays_outside(fleet, &stolen, &token)?;
        ensure_ready(fleet, 3)
    });
}

#[test]
fn a_host_that_is_away_holds_a_rotation_up_until_it_is_back() {
    with_fleet(3, |fleet| {
        fleet.form_cluster(1)?;
        let (first, third) = (fleet.host(1), fleet.host(3));
        let before = first.ok(&["swarm", "ca"])?;
        third.power_off()?;
        first.ok(&["swarm", "ca", "--rotate", "--detach"])?;
        wait_until("the others have followed", LONG, || {
            let states = first.ok(&["node", "ls", "--format", "{{.Hostname}} {{.TLSStatus}}"])?;
            // They trust the old root until all have certificates of the new one.
            ensure!(states.contains("host3 Needs Rotation"), "{states}");
            ensure!(first.ok(&["info"])?.contains("Root Rotation In Progress: true"));
            Ok(())
        })?;
        ensure!(first.ok(&["swarm", "ca"])? == before, "the old root is in force");
        // Begun once more on top.
        first.ok(&["swarm", "ca", "--rotate", "--detach"])?;
        third.start()?;
        wait_until("the new root is in force", LONG, || {
            ensure!(first.ok(&["swarm", "ca"])? != before);
            Ok(())
        })?;
        ensure_ready(fleet, 3)
    });
}

fn openssl(folder: &Path, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = std::process::Command::new("openssl");
    command.args(words).current_dir(folder);
    pontoon_tests::process::run(command)?.ok().map(drop)
}

#[test]
fn a_root_of_ones_own_and_what_is_refused() {
    with_host(|host, fleet| {
        let init = ["swarm", "init", "--advertise-addr", &host.address()].map(str::to_owned);
        let init: Vec<&str> = init.iter().map(String::as_str).collect();
        let with = |flags: &[&'static str]| host.pontoon(&[&init[..], flags].concat());
        with(&["--cert-expiry", "10m"])?.fails(1, &["minimum certificate expiry time is: 1h0m0s"])?;
        with(&["--external-ca", "protocol=cfssl,url=https://ca"])?
            .fails(1, &["--external-ca is not supported"])?;
        with(&["--cert-expiry", "72h"])?.ok()?;
        ensure!(host.ok(&["info"])?.contains("Expiry Duration: 3 days"));
        host.pontoon(&["swarm", "update", "--cert-expiry", "1m"])?
            .fails(1, &["minimum certificate expiry time is: 1h0m0s"])?;
        host.ok(&["swarm", "update", "--cert-expiry", "96h"])?;
        ensure!(host.ok(&["info"])?.contains("Expiry Duration: 4 days"));
        host.pontoon(&["swarm", "ca", "--cert-expiry", "2h"])?.fails(
            1,
            &["`--cert-expiry` flag requires the `--rotate` flag to update the CA"],
        )?;
        host.pontoon(&["swarm", "ca", "--rotate", "--cert-expiry", "59m"])?
            .fails(1, &["minimum certificate expiry time is: 1h0m0s"])?;

        let folder = fleet.folder();
        openssl(folder, "ecparam -name prime256v1 -genkey -noout -out ca.key")?;
        openssl(
            folder,
            "req -x509 -new -key ca.key -days 3650 -subj /CN=Our-own/O=Example -out ca.pem",
        )?;
        openssl(
            folder,
            "req -x509 -new -key ca.key -days 30 -subj /CN=Short -out short.pem",
        )?;
        openssl(folder, "ecparam -name prime256v1 -genkey -noout -out other.key")?;
        let path = |name: &str| folder.join(name).display().to_string();
        let rotate = |certificate: &str, key: &str| {
            host.pontoon(&[
                "swarm",
                "ca",
                "--rotate",
                "--ca-cert",
                &path(certificate),
                "--ca-key",
                &path(key),
            ])
        };
        rotate("short.pem", "ca.key")?.fails(1, &["CA certificate expires too soon"])?;
        rotate("ca.pem", "other.key")?.fails(1, &["certificate key mismatch"])?;
        host.pontoon(&["swarm", "ca", "--rotate", "--ca-cert", &path("ca.pem")])?
            .fails(1, &["the --ca-cert flag requires that a --ca-key flag"])?;
        rotate("ca.pem", "ca.key")?.ok()?;
        let own = std::fs::read_to_string(path("ca.pem"))?;
        ensure!(host.ok(&["swarm", "ca"])? == own.trim());
        // Others can check what is issued: the chain is an ordinary one.
        std::fs::copy(Path::new(&identity(host)).join("cert.pem"), path("node.pem"))?;
        openssl(folder, "verify -CAfile ca.pem node.pem")?;

        let token = || host.ok(&["swarm", "join-token", "--quiet", "manager"]);
        let before = token()?;
        let shown = host.ok(&["swarm", "join-token", "--rotate", "manager"])?;
        let now = token()?;
        ensure!(
            now != before && shown.starts_with("Successfully rotated manager join token."),
            "{shown}"
        );
        ensure!(
            shown.contains(&format!("pontoon swarm join --token {now} ")),
            "{shown}"
        );
        Ok(())
    });
}
