//! Containers on a host that has a firewall of its own: what docs/networking.md promises about both.

use anyhow::{Result, ensure};
use pontoon_tests::{Fleet, Host, SHORT, programs, wait_until, with_host};

/// What ufw, firewalld and Docker set on hosts, in the host's own table.
const POLICY: &str = "add table inet hosts; flush table inet hosts; \
                      add chain inet hosts forward { type filter hook forward priority 0; policy drop; }";

const OUTSIDE: &str = "192.168.77.254";

fn nft(host: &Host, rules: &str) -> Result<String> {
    host.exec(&["nft", rules])?.ok()
}

/// A URL fetched from outside, through the cable.
fn from_outside(fleet: &Fleet, url: &str) -> Result<String> {
    let web = programs::web()?.display().to_string();
    fleet.wire().in_switch(&web, &["get", url])
}

fn reaches_outside(host: &Host) -> Result<bool> {
    let ping = [
        "exec",
        "web",
        "/web",
        "get",
        &format!("http://{OUTSIDE}:7000/health"),
    ];
    Ok(host.pontoon(&ping)?.code == 0)
}

/// Somebody outside whom containers may ask.
struct Outside(std::process::Child);

impl Outside {
    fn start(fleet: &Fleet) -> Result<Self> {
        let switch = pontoon_tests::wire::path(&fleet.wire().switch());
        let server = pontoon_tests::wire::enter(&switch)
            .arg(programs::web()?)
            .args(["serve", "7000"])
            .spawn()?;
        wait_until("the outside answers", SHORT, || {
            from_outside(fleet, &format!("http://{OUTSIDE}:7000/health"))
        })?;
        Ok(Self(server))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A container with a published port, and the URL at which it is reached from outside.
fn publish(host: &Host) -> Result<String> {
    host.line("run --detach --name web --restart always --publish 8080:8080 web:1")?;
    wait_until("the port answers on the host", SHORT, || {
        host.get("http://127.0.0.1:8080/")
    })?;
    Ok(format!("http://{}:8080/", host.address()))
}

#[test]
fn what_the_host_drops_stays_dropped() {
    with_host(|host, fleet| {
        let _outside = Outside::start(fleet)?;
        let url = publish(host)?;
        from_outside(fleet, &url)?;
        ensure!(reaches_outside(host)?);
        nft(host, POLICY)?;
        ensure!(
            from_outside(fleet, &url).is_err(),
            "our rules opened the host's firewall"
        );
        ensure!(!reaches_outside(host)?, "our rules let a container out");
        // What is no forwarding goes on.
        host.get("http://127.0.0.1:8080/")?;
        // Neither a new container nor a new daemon changes that.
        host.line("run --detach --name second --publish 8081:8080 web:1")?;
        host.stop()?;
        host.start()?;
        host.get("http://127.0.0.1:8081/")?;
        let second = format!("http://{}:8081/", host.address());
        ensure!(from_outside(fleet, &url).is_err() && from_outside(fleet, &second).is_err());
        let theirs = nft(host, "list table inet hosts")?;
        ensure!(!theirs.contains("accept"), "{theirs}");
        // The host's own word opens it.
        nft(
            host,
            "add rule inet hosts forward oifname pontoon0 accept; add rule inet hosts forward iifname pontoon0 accept",
        )?;
        from_outside(fleet, &url)?;
        from_outside(fleet, &second)?;
        ensure!(reaches_outside(host)?);
        Ok(())
    });
}

#[test]
fn the_hosts_firewall_is_opened_when_asked() {
    with_host(|host, fleet| {
        let _outside = Outside::start(fleet)?;
        let url = publish(host)?;
        nft(host, POLICY)?;
        ensure!(from_outside(fleet, &url).is_err(), "open without being asked");
        host.stop()?;
        host.configure("firewall-accept = true\n")?;
        host.start()?;
        from_outside(fleet, &url)?;
        ensure!(reaches_outside(host)?);
        let theirs = nft(host, "list chain inet hosts forward")?;
        ensure!(theirs.contains("comment \"pontoon\""), "{theirs}");
        // Our own table still decides about ports: 9090 is not published.
        let address = host.ok(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web"])?;
        let bridges = ["route", "replace", "172.16.0.0/12", "via", &host.address()];
        fleet.wire().in_switch("ip", &bridges)?;
        ensure!(from_outside(fleet, &format!("http://{address}:8080/")).is_err());
        // The host's firewall is loaded again.
        nft(host, POLICY)?;
        wait_until("the accept rules are back", SHORT, || from_outside(fleet, &url))?;
        // Not asked any more: everything is the host's again.
        host.stop()?;
        host.configure("")?;
        host.start()?;
        ensure!(from_outside(fleet, &url).is_err(), "still open");
        let theirs = nft(host, "list chain inet hosts forward")?;
        ensure!(!theirs.contains("accept"), "{theirs}");
        Ok(())
    });
}

#[test]
fn a_flushed_ruleset_is_restored() {
    with_host(|host, fleet| {
        let _outside = Outside::start(fleet)?;
        let url = publish(host)?;
        nft(host, "flush ruleset")?;
        wait_until("the published port answers again", SHORT, || {
            from_outside(fleet, &url)
        })?;
        wait_until("containers get out again", SHORT, || {
            ensure!(reaches_outside(host)?);
            Ok(())
        })
    });
}
