//! Networks of one host by the command line: create, connect, disconnect, inspect, prune, ports, and what is refused.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, SHORT, wait_until, with_host};

fn refused(host: &Host, args: &[&str], text: &str) -> Result<()> {
    let output = host.pontoon(args)?;
    let told = format!("{output:?}");
    ensure!(
        output.ok().is_err() && told.contains(text),
        "{args:?} should say {text:?}: {told}"
    );
    Ok(())
}

#[test]
fn a_containers_networks_come_and_go() {
    with_host(|host, _| {
        host.ok(&[
            "network",
            "create",
            "--ipv6",
            "--subnet",
            "10.95.0.0/24",
            "--subnet",
            "fd95::/64",
            "front",
        ])?;
        host.ok(&[
            "network",
            "create",
            "--label",
            "tier=back",
            "-o",
            "com.docker.network.driver.mtu=1400",
            "back",
        ])?;
        host.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "front",
            "--ip",
            "10.95.0.9",
            "-p",
            "8080:8080",
            "web:1",
        ])?;
        let ports = host.ok(&["port", "web", "8080"])?;
        ensure!(ports.trim() == "0.0.0.0:8080\n[::]:8080", "{ports}");
        wait_until("the port answers", SHORT, || host.get("http://127.0.0.1:8080/"))?;
        wait_until("over IPv6 too", SHORT, || host.get("http://[::1]:8080/"))?;
        host.ok(&[
            "network",
            "connect",
            "--alias",
            "shop",
            "--gw-priority",
            "5",
            "back",
            "web",
        ])?;
        let template = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}};{{.GwPriority}} {{end}}";
        let shown = host.ok(&["inspect", "-f", template, "web"])?;
        ensure!(shown.contains("fd95::2;0") && shown.contains(";5"), "{shown}");
        wait_until("the port follows the default route", SHORT, || {
            host.get("http://127.0.0.1:8080/")
        })?;
        let found = host.ok(&["run", "--rm", "--network", "back", "busybox", "nslookup", "shop."])?;
        ensure!(found.contains("Address"), "{found}");
        refused(host, &["network", "rm", "back"], "has active endpoints")?;
        host.ok(&["network", "disconnect", "back", "web"])?;
        refused(
            host,
            &["network", "disconnect", "back", "web"],
            "is not connected to network back",
        )?;
        let pruned = host.ok(&["network", "prune", "-f", "--filter", "label=tier=back"])?;
        ensure!(pruned.contains("Deleted Networks:\nback"), "{pruned}");
        let listed = host.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.IPv6}}"])?;
        ensure!(
            listed.contains("front bridge true") && !listed.contains("back "),
            "{listed}"
        );
        host.ok(&["rm", "-f", "web"])?;
        host.ok(&["network", "rm", "front"])?;
        Ok(())
    });
}

#[test]
fn what_can_not_be_is_refused_by_name() {
    with_host(|host, _| {
        for (args, text) in [
            (&["network", "create", "--config-only", "x"][..], "--config-only"),
            (&["network", "create", "--scope", "swarm", "x"], "--scope"),
            (
                &["network", "create", "--gateway", "10.0.0.1", "x"],
                "must have a corresponding subnet",
            ),
            (
                &["network", "create", "--subnet", "10.1.2.3/16", "x"],
                "it should be 10.1.0.0/16",
            ),
            (&["network", "create", "-d", "weave", "x"], "plugin not found"),
            (&["network", "create", "bridge"], "predefined"),
            (
                &["network", "rm", "bridge"],
                "pre-defined network and cannot be removed",
            ),
            (&["network", "inspect", "nothing"], "network nothing not found"),
            (
                &["create", "--network", "nothing", "busybox"],
                "network nothing not found",
            ),
            (
                &["create", "--ip", "10.0.0.9", "busybox"],
                "on user defined networks only",
            ),
            (
                &["create", "--network", "container:nobody", "busybox"],
                "No such container",
            ),
        ] {
            refused(host, args, text)?;
        }
        host.ok(&["network", "create", "--subnet", "10.96.0.0/24", "one"])?;
        refused(
            host,
            &["network", "create", "--subnet", "10.96.0.0/16", "two"],
            "Pool overlaps with other one on this address space",
        )?;
        host.ok(&["network", "rm", "one"])?;
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
