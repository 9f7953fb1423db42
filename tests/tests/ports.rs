//! Published ports by the command line: from outside, from the host, from containers; ranges and protocols.

use anyhow::ensure;
use pontoon_tests::{SHORT, wait_until, with_host};

#[test]
fn published_ports_and_nat_on_the_bridge() {
    with_host(|host, fleet| {
        host.line("run --detach --name web --publish 8080:8080 web:1")?;
        let answer = wait_until("the published port answers", SHORT, || {
            host.get("http://127.0.0.1:8080/")
        })?;
        ensure!(answer.contains("version: 1"), "{answer}");
        ensure!(
            host.get(&format!("http://{}:8080/", host.address()))?
                .contains("version: 1")
        );
        // From outside, through the cable.
        let web = pontoon_tests::programs::web()?.display().to_string();
        let outside = fleet
            .wire()
            .in_switch(&web, &["get", &format!("http://{}:8080/peer", host.address())])?;
        ensure!(
            outside.trim() == "192.168.77.254",
            "the caller's address is lost: {outside}"
        );
        ensure!(host.ok(&["port", "web"])?.contains("8080/tcp -> 0.0.0.0:8080"));
        host.pontoon(&[
            "run",
            "--detach",
            "--name",
            "second",
            "--publish",
            "8080:80",
            "web:1",
        ])?
        .fails(125, &["8080", "port is already allocated"])?;
        // Docker leaves the container that could not start; its port is free again when it goes.
        host.pontoon(&["rm", "--force", "second"])?;
        // Out by NAT: the switch sees the host's address.
        host.line("run --rm busybox ping -c 1 -W 3 192.168.77.254")?;
        host.ok(&["rm", "--force", "web"])?;
        ensure!(
            host.get("http://127.0.0.1:8080/").is_err(),
            "the port still answers"
        );
        Ok(())
    });
}

/// Hairpins: by the host's address or the bridge's, a container reaches its own published port, its neighbour's, and one of
/// another network, which it does not reach directly.
#[test]
fn published_ports_are_reached_from_containers() {
    with_host(|host, _| {
        host.line("network create app")?;
        host.line("run --detach --name one --publish 8080:8080 web:1")?;
        host.line("run --detach --name two --publish 8081:8080 web:1")?;
        host.line("run --detach --name three --network app --publish 8082:8080 web:1")?;
        let gateway = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
        let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        for caller in ["one", "two", "three"] {
            for at in [
                host.address(),
                host.ok(&["inspect", "--format", gateway, caller])?,
            ] {
                for port in [8080, 8081, 8082] {
                    let url = format!("http://{at}:{port}/health");
                    wait_until(&format!("{caller} reaches {url}"), SHORT, || {
                        let answer = host.ok(&["exec", caller, "/web", "get", &url])?;
                        ensure!(answer == "ok", "{answer}");
                        Ok(())
                    })?;
                }
            }
        }
        let other = host.ok(&["inspect", "--format", address, "three"])?;
        let url = format!("http://{other}:8080/health");
        ensure!(host.pontoon(&["exec", "one", "/web", "get", &url])?.code != 0);
        Ok(())
    });
}

#[test]
fn ports_are_published_as_ranges_and_by_protocol() {
    with_host(|host, _| {
        host.line("run --detach --name echo -p 7000-7001:7/tcp -p 127.0.0.1:7002:7/udp -p 7003:7/sctp -p 7010-7012:8000-8002 web:1 echo 7")
            .err()
            .map_or(Ok(()), |error| {
                ensure!(error.to_string().contains("7000-7001:7"), "{error}");
                Ok(())
            })?;
        host.pontoon(&["rm", "--force", "echo"])?;
        host.line("run --detach --name echo -p 7000:7 -p 127.0.0.1:7002:7/udp -p 7003:7/sctp -p 7010-7012:8000-8002 web:1 echo 7")?;
        let ports = host.line("port echo")?;
        for expected in [
            "7/tcp -> 0.0.0.0:7000",
            "7/udp -> 127.0.0.1:7002",
            "7/sctp -> 0.0.0.0:7003",
            "8000/tcp -> 0.0.0.0:7010",
            "8002/tcp -> [::]:7012",
        ] {
            ensure!(ports.lines().any(|line| line == expected), "{expected}: {ports}");
        }
        let web = pontoon_tests::programs::web()?.display().to_string();
        for (kind, at) in [
            ("tcp", format!("{}:7000", host.address())),
            ("udp", "127.0.0.1:7002".to_owned()),
        ] {
            wait_until(&format!("{kind} answers"), SHORT, || {
                let answer = host.exec(&[&web, kind, &at, "hello"])?.ok()?;
                ensure!(answer.contains("hello"), "{answer}");
                Ok(())
            })?;
        }
        // Any free port of a range, another for each.
        for name in ["one", "two"] {
            host.line(&format!("run --detach --name {name} -p 7020-7021:8080 web:1"))?;
        }
        let mut taken = Vec::new();
        for name in ["one", "two"] {
            taken.extend(
                host.line(&format!("port {name} 8080"))?
                    .lines()
                    .next()
                    .map(str::to_owned),
            );
        }
        taken.sort();
        ensure!(taken == ["0.0.0.0:7020", "0.0.0.0:7021"], "{taken:?}");
        host.pontoon(&["run", "--rm", "-p", "7020-7021:8080", "web:1"])?
            .fails(125, &["port is already allocated"])?;
        Ok(())
    });
}
