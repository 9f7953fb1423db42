//! Networks of one host by the command line: create, connect, disconnect, inspect, names, and what is refused.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, SHORT, wait_until, with_host};

#[test]
fn user_networks_have_names() {
    with_host(|host, _| {
        host.ok(&["network", "create", "app"])?;
        host.line("run --detach --name web --network app --network-alias site web:1")?;
        for name in ["web", "site"] {
            let answer = host.ok(&[
                "run",
                "--rm",
                "--network",
                "app",
                "web:1",
                "get",
                &format!("http://{name}:8080/"),
            ])?;
            ensure!(answer.contains("version: 1"), "{answer}");
        }
        // The default bridge has no names, and another network does not reach this one.
        host.pontoon(&[
            "run",
            "--rm",
            "--network",
            "none",
            "web:1",
            "get",
            "http://web:8080/",
        ])?
        .fails(1, &[])?;
        host.pontoon(&["network", "rm", "app"])?
            .fails(1, &["app", "active endpoints"])?;
        host.ok(&["rm", "--force", "web"])?;
        host.ok(&["network", "rm", "app"])?;
        host.pontoon(&["network", "inspect", "app"])?.fails(1, &["app"])?;
        Ok(())
    });
}

#[test]
fn networks_none_and_host() {
    with_host(|host, _| {
        let links = host.line("run --rm --network none busybox ls /sys/class/net")?;
        ensure!(links == "lo", "{links}");
        let links = host.ok(&["run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"])?;
        ensure!(links.contains("eth0"), "{links}");
        Ok(())
    });
}

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
        host.line("network create --ipv6 --subnet 10.95.0.0/24 --subnet fd95::/64 front")?;
        host.line("network create --label tier=back -o com.docker.network.driver.mtu=1400 back")?;
        host.line("run -d --name web --network front --ip 10.95.0.9 -p 8080:8080 web:1")?;
        let ports = host.ok(&["port", "web", "8080"])?;
        ensure!(ports.trim() == "0.0.0.0:8080\n[::]:8080", "{ports}");
        wait_until("the port answers", SHORT, || host.get("http://127.0.0.1:8080/"))?;
        wait_until("over IPv6 too", SHORT, || host.get("http://[::1]:8080/"))?;
        host.line("network connect --alias shop --gw-priority 5 back web")?;
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

/// What `network create` was asked for holds: addresses from the range only, never the reserved one; no way out of an internal network.
#[test]
fn networks_are_as_they_were_asked_for() {
    with_host(|host, _| {
        host.line("network create --subnet 10.94.0.0/24 --gateway 10.94.0.254 --ip-range 10.94.0.64/30 --aux-address spare=10.94.0.65 ranged")?;
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let id = host.line("run --detach --network ranged busybox sleep 1000")?;
            let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}";
            addresses.push(host.ok(&["inspect", "--format", format, &id])?);
        }
        addresses.sort();
        let expected = [64, 66, 67].map(|last| format!("10.94.0.{last} 10.94.0.254"));
        ensure!(addresses == expected, "{addresses:?}");
        host.pontoon(&["run", "--rm", "--network", "ranged", "busybox", "true"])?
            .fails(125, &["no available IPv4 addresses"])?;
        host.line("run --rm --network ranged --ip 10.94.0.9 busybox true")?;

        host.line("network create --internal inner")?;
        host.line("run --detach --name in --network inner web:1")?;
        let ping = ["exec", "in", "/web", "get", "http://192.168.77.254:7000/"];
        let output = host.pontoon(&ping)?;
        ensure!(
            output.code != 0 && output.stderr.contains("unreachable"),
            "{output}"
        );
        let answer = host.line("run --rm --network inner web:1 get http://in:8080/health")?;
        ensure!(answer == "ok", "{answer}");

        host.line("network create --ipv6 --subnet fd94::/64 --subnet 10.93.0.0/24 both")?;
        let address =
            host.line("run --rm --network both --ip6 fd94::9 busybox ip -oneline -6 addr show eth0")?;
        ensure!(address.contains(" fd94::9/64 "), "{address}");
        Ok(())
    });
}
