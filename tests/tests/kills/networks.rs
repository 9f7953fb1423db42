//! Walks through networks: made, joined, left and removed.

use anyhow::{Result, ensure};
use pontoon_tests::wire::HOST_LINK;
use pontoon_tests::{Host, SHORT, wait_until};

use crate::scene::state;
use crate::{CREATED, RM, operation};

const UNNET: &str = "network rm --force netbox";
const BRIDGE: &str = "network create --subnet 10.97.0.0/24 --ip-range 10.97.0.128/25 --ipv6 netbox";
const MACVLAN: &str = "network create --driver macvlan --opt parent=eth0 --subnet 10.98.0.0/24 netbox";

/// A network that is there works, one that is not can be made; a container in it publishes a port.
fn publishes(host: &Host) -> Result<()> {
    if host.pontoon(&["network", "inspect", "netbox"])?.code != 0 {
        host.line(BRIDGE)?;
    }
    host.line("run --detach --name box --network netbox --publish 8080:8080 web:1")?;
    wait_until("the published port answers", SHORT, || {
        host.get("http://127.0.0.1:8080/").map(drop)
    })
}

#[test]
fn create_a_bridge() {
    operation(BRIDGE)
        .check(publishes)
        .lasting()
        .clean(&[RM, UNNET])
        .walk();
}

#[test]
fn create_a_bridge_from_the_pools() {
    operation("network create netbox")
        .check(publishes)
        .lasting()
        .clean(&[RM, UNNET])
        .walk();
}

#[test]
fn remove_a_bridge() {
    operation("network rm netbox")
        .before(&[BRIDGE])
        .check(publishes)
        .lasting()
        .clean(&[RM, UNNET])
        .walk();
}

const SERVED: &str = "run --detach --name box --network netbox --ip 10.97.0.9 --publish 8080:8080 web:1";

/// The container has its address and port, or can have them again.
fn serves(host: &Host) -> Result<()> {
    match state(host)?.as_str() {
        "running" => {}
        "gone" => drop(host.line(SERVED)?),
        _ => drop(host.line("start box")?),
    }
    for url in ["http://127.0.0.1:8080/", "http://10.97.0.9:8080/"] {
        wait_until("the container answers", SHORT, || host.get(url).map(drop))?;
    }
    Ok(())
}

#[test]
fn run_on_a_bridge_with_published_ports() {
    operation(SERVED)
        .setup(|host| host.line(BRIDGE).map(drop))
        .leaves(&["created", "exited", "running", "gone"])
        .check(serves)
        .walk();
}

/// Whether the kernel has links of this kind; else says that the test skips.
fn has_macvlan(host: &Host) -> Result<bool> {
    let probe = [
        "ip", "link", "add", "link", HOST_LINK, "name", "probe0", "type", "macvlan",
    ];
    let has = host.exec(&probe)?.code == 0;
    if has {
        host.exec(&["ip", "link", "del", "probe0"])?.ok()?;
    } else {
        eprintln!("skipped: this kernel makes no links of type macvlan");
    }
    Ok(has)
}

/// A container has its link below the host's, in a network that is there or can be made.
fn is_on_the_link(host: &Host) -> Result<()> {
    if host.pontoon(&["network", "inspect", "netbox"])?.code != 0 {
        host.line(MACVLAN)?;
    }
    match state(host)?.as_str() {
        "running" => {}
        "gone" => drop(host.line("run --detach --name box --network netbox busybox sleep 1000")?),
        _ => drop(host.line("start box")?),
    }
    let links = host.line("exec box ip -oneline -4 addr show eth0")?;
    ensure!(links.contains(" 10.98.0."), "{links}");
    Ok(())
}

#[test]
fn create_a_macvlan() {
    operation(MACVLAN)
        .needs(has_macvlan)
        .check(is_on_the_link)
        .lasting()
        .clean(&[RM, UNNET])
        .walk();
}

#[test]
fn start_on_a_macvlan() {
    operation("start box")
        .needs(has_macvlan)
        .setup(|host| host.line(MACVLAN).map(drop))
        .before(&["create --name box --network netbox busybox sleep 1000"])
        .leaves(&["created", "exited", "running"])
        .check(is_on_the_link)
        .walk();
}

/// Joined again, whatever the interruption has left.
const REJOINS: &[&str] = &[
    "network disconnect --force netbox box",
    "network connect netbox box",
    "exec box true",
];

#[test]
fn connect() {
    operation("network connect netbox box")
        .before(&[CREATED, "start box", "network create --ipv6 netbox"])
        .leaves(&["running"])
        .again(REJOINS)
        .clean(&[RM, UNNET])
        .walk();
}

#[test]
fn disconnect() {
    operation("network disconnect netbox box")
        .before(&[
            CREATED,
            "start box",
            "network create --ipv6 netbox",
            "network connect netbox box",
        ])
        .leaves(&["running"])
        .again(REJOINS)
        .clean(&[RM, UNNET])
        .walk();
}
