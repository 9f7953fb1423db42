//! What neighbours on the link reach.

use anyhow::{Context, ensure};
use pontoon_tests::{LONG, wait_until, with_fleet};

/// OWASP rule 5a: a port published on the loopback address is for this host only; one that is not published is for nobody outside.
#[test]
fn ports_are_open_only_where_they_are_published() {
    with_fleet(2, |fleet| {
        fleet.load_images()?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        first.line("run --detach --name local --publish 127.0.0.1:8080:8080 web:1")?;
        first.line("run --detach --name open --publish 9090:8080 web:1")?;
        first.ok(&["run", "--detach", "--name", "closed", "web:1"])?;
        wait_until("the ports answer", LONG, || {
            first.get("http://127.0.0.1:8080/")?;
            second.get(&format!("http://{}:9090/", first.address()))
        })?;
        ensure!(second.get(&format!("http://{}:8080/", first.address())).is_err());
        // The neighbour sends the host what is addressed to its containers.
        let route = ["ip", "route", "replace", "172.16.0.0/12", "via", &first.address()];
        second.exec(&route)?.ok()?;
        let address = |name: &str| {
            first.ok(&[
                "inspect",
                "--format",
                "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
                name,
            ])
        };
        for name in ["closed", "local"] {
            let url = format!("http://{}:8080/", address(name)?);
            first
                .get(&url)
                .context("the host itself reaches its containers")?;
            ensure!(
                second.get(&url).is_err(),
                "{name} is reached from outside at {url}"
            );
        }
        Ok(())
    });
}

/// CVE-2020-8558: a neighbour that sends the host what is addressed to its loopback gets no answer from a port that is published there.
#[test]
fn loopback_ports_are_closed_to_neighbours() {
    with_fleet(2, |fleet| {
        fleet.load_images()?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        first.ok(&["run", "--detach", "--publish", "127.0.0.1:8080:8080", "web:1"])?;
        wait_until("the port answers", LONG, || first.get("http://127.0.0.1:8080/"))?;
        second.exec(&["ip", "addr", "flush", "dev", "lo"])?;
        second
            .exec(&["ip", "route", "replace", "127.0.0.0/8", "via", &first.address()])?
            .ok()?;
        second.exec(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"])?;
        ensure!(
            second.get("http://127.0.0.1:8080/").is_err(),
            "loopback is reached from outside"
        );
        Ok(())
    });
}
