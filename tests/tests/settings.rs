//! The daemon's settings by flag and by file: how they are read, and what the default bridge becomes by them.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use pontoon_tests::{Host, SHORT, process, programs, wait_until, with_fleet, with_host};
use rustix::process::Signal;

#[test]
fn the_settings_file_is_read() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        host.stop()?;
        host.configure("log-level = \"debug\"\nlabel = [\"zone=a\"]\n")?;
        host.start()?;
        let labels = host.ok(&["info", "--format", "{{json .Labels}} {{.Debug}}"])?;
        ensure!(labels == r#"["zone=a"] true"#, "{labels}");
        host.configure("label = [\"zone=b\"]\n")?;
        host.signal(Signal::HUP)?;
        wait_until("the settings are read again", SHORT, || {
            let labels = host.ok(&["info", "--format", "{{json .Labels}} {{.Debug}}"])?;
            ensure!(labels == r#"["zone=b"] false"#, "{labels}");
            Ok(())
        })?;
        let told = host.line("events --since 1h --until 0s --filter type=daemon")?;
        ensure!(
            told.contains(" daemon reload ") && told.contains("labels=[zone=b]"),
            "{told}"
        );
        for (settings, message) in [
            ("colour = 1", "unknown setting \"colour\""),
            ("label = [\"zone\"]", "bad attribute format: zone"),
            ("x = ", "TOML parse error"),
            (
                "image-gc-low-mark = 60",
                "means nothing without --image-gc-high-mark",
            ),
            (
                "image-gc-high-mark = 60\nimage-gc-low-mark = \"70%\"",
                "must be below the high mark",
            ),
        ] {
            let path = host.folder().join("bad.toml");
            fs::write(&path, settings)?;
            let mut command = Command::new(programs::pontoon()?);
            command.arg("daemon").arg("--config").arg(&path);
            process::run(command)?.fails(1, &[message])?;
        }
        Ok(())
    });
}

/// Checks the default bridge's address on the host (it is there once a container needs it), and its subnet, range and gateway.
fn bridge_is(host: &Host, expected: (&str, &str)) -> Result<()> {
    let shown = host
        .exec(&["ip", "-oneline", "-4", "addr", "show", "dev", "pontoon0"])?
        .ok()?;
    let addresses: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .collect();
    let format = "{{range .IPAM.Config}}{{.Subnet}} {{.IPRange}} {{.Gateway}}{{end}}";
    let config = host.ok(&["network", "inspect", "--format", format, "bridge"])?;
    ensure!(
        addresses == [expected.0] && config == expected.1,
        "{addresses:?}, {config}"
    );
    Ok(())
}

/// The address of a new container that goes on.
fn new_address(host: &Host) -> Result<String> {
    let id = host.line("run --detach busybox sleep 1000")?;
    host.ok(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", &id])
}

fn remove_all(host: &Host) -> Result<()> {
    for id in host.line("ps --all --quiet")?.lines() {
        host.ok(&["rm", "--force", id])?;
    }
    Ok(())
}

#[test]
fn the_default_bridge_has_the_address_and_range_that_are_set() {
    with_host(|host, fleet| {
        let before = new_address(host)?;
        ensure!(before.starts_with("172."), "{before}");
        remove_all(host)?;
        host.stop()?;
        host.start_flagged(&["--bip", "10.99.0.1/24", "--fixed-cidr", "10.99.0.128/30"])?;
        let mut addresses = (0..4).map(|_| new_address(host)).collect::<Result<Vec<_>>>()?;
        let expected = ("10.99.0.1/24", "10.99.0.0/24 10.99.0.128/30 10.99.0.1");
        bridge_is(host, expected)?;
        addresses.sort();
        ensure!(
            addresses == ["10.99.0.128", "10.99.0.129", "10.99.0.130", "10.99.0.131"],
            "{addresses:?}"
        );
        host.pontoon(&["run", "--rm", "busybox", "true"])?.fails(
            125,
            &["no available IPv4 addresses on this network's address pools: bridge"],
        )?;
        // The way out is through that address, and the containers keep theirs when the same comes from the file.
        let id = host.line("ps --quiet --latest")?;
        let route = host.ok(&["exec", &id, "ip", "route"])?;
        ensure!(route.contains("default via 10.99.0.1 "), "{route}");
        host.ok(&["exec", &id, "ping", "-c", "1", "-W", "3", "192.168.77.254"])?;
        host.stop()?;
        host.configure("bip = \"10.99.0.1/24\"\nfixed-cidr = \"10.99.0.128/30\"\n")?;
        host.start()?;
        bridge_is(host, expected)?;
        host.ok(&["exec", &id, "ping", "-c", "1", "-W", "3", "192.168.77.254"])?;
        // Docker's file.
        remove_all(host)?;
        host.stop()?;
        host.configure("")?;
        let json = fleet.folder().join("daemon.json");
        fs::write(&json, r#"{"bip": "10.96.0.1/16", "fixed-cidr": "10.96.7.0/24"}"#)?;
        host.start_flagged(&["--config", &json.display().to_string()])?;
        let address = new_address(host)?;
        ensure!(address.starts_with("10.96.7."), "{address}");
        bridge_is(host, ("10.96.0.1/16", "10.96.0.0/16 10.96.7.0/24 10.96.0.1"))
    });
}

#[test]
fn a_range_alone_is_the_default_bridges_subnet() {
    with_host(|host, _| {
        host.stop()?;
        host.start_flagged(&["--fixed-cidr=10.95.0.0/28"])?;
        let address = new_address(host)?;
        ensure!(address.starts_with("10.95.0."), "{address}");
        bridge_is(host, ("10.95.0.1/28", "10.95.0.0/28 10.95.0.0/28 10.95.0.1"))
    });
}

/// Docker's words for what is switched on and off, and a flag wins over the file.
#[test]
fn switches_are_set_by_the_file_and_taken_back_by_flags() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        host.stop()?;
        host.configure("ipv6 = true\nicc = false\n")?;
        let shown = |expected: &str| {
            let format = "{{.EnableIPv6}} {{index .Options \"com.docker.network.bridge.enable_icc\"}}";
            let is = host.ok(&["network", "inspect", "--format", format, "bridge"])?;
            ensure!(is == expected, "{is}");
            Ok(())
        };
        host.start()?;
        shown("true false")?;
        host.stop()?;
        host.start_flagged(&["--ipv6=false", "--icc"])?;
        shown("false true")
    });
}

#[test]
fn settings_of_the_default_bridge_that_are_no_good_are_refused() {
    with_fleet(1, |fleet| {
        let daemon = |settings: &str, flags: &[&str]| {
            let path = fleet.folder().join("bad.toml");
            fs::write(&path, settings)?;
            let mut command = Command::new(programs::pontoon()?);
            command.arg("daemon").arg("--config").arg(&path).args(flags);
            process::run(command)
        };
        for (flags, texts) in [
            (&["--bip", "nonsense"][..], &["--bip", "nonsense"][..]),
            (&["--bip", "10.0.0.1/33"], &["--bip", "10.0.0.1/33"]),
            (&["--bip", "fd00::1/64"], &["--bip", "IPv4"]),
            (&["--bip", "10.99.0.0/24"], &["--bip 10.99.0.0/24", "address"]),
            (&["--bip", "10.99.0.255/24"], &["--bip 10.99.0.255/24", "address"]),
            (&["--fixed-cidr", "nonsense"], &["--fixed-cidr", "nonsense"]),
            (&["--fixed-cidr", "fd00::/64"], &["--fixed-cidr", "IPv4"]),
            (
                &["--bip", "10.99.0.1/24", "--fixed-cidr", "10.98.0.0/28"],
                &["--fixed-cidr 10.98.0.0/28 is not inside --bip 10.99.0.1/24"],
            ),
            (
                &["--bip", "10.99.0.1/24", "--fixed-cidr", "10.99.0.0/16"],
                &["--fixed-cidr 10.99.0.0/16 is not inside --bip 10.99.0.1/24"],
            ),
            (&["--fixed-cidr-v6", "10.0.0.0/8"], &["--fixed-cidr-v6", "IPv6"]),
            (
                &["--default-address-pool", "x"],
                &["--default-address-pool", "base=10.10.0.0/16,size=24"],
            ),
        ] {
            let output = daemon("", flags)?;
            ensure!(output.code != 0, "{output}");
            let code = output.code;
            output.fails(code, texts)?;
        }
        for (settings, texts) in [
            ("bip = \"nonsense\"", &["bip", "nonsense"][..]),
            (
                "bip = [\"10.0.0.1/8\", \"10.0.0.2/8\"]",
                &["bip: a single value is expected"],
            ),
            ("fixed-cidr = \"10.98.0.0/33\"", &["fixed-cidr", "10.98.0.0/33"]),
            (
                "bip = \"10.99.0.1/24\"\nfixed-cidr = \"10.98.0.0/28\"",
                &["--fixed-cidr 10.98.0.0/28 is not inside --bip 10.99.0.1/24"],
            ),
        ] {
            let output = daemon(settings, &[])?;
            ensure!(output.code != 0, "{output}");
            let code = output.code;
            output.fails(code, texts)?;
        }
        Ok(())
    });
}

/// Where the users of remapped containers begin on the host.
const FIRST: u32 = 231_072;

/// `userns-remap` with subordinate ids that only this daemon sees.
#[test]
fn users_are_remapped_unless_a_container_wants_the_hosts() {
    with_host(|host, _| {
        if !["/etc/subuid", "/etc/subgid"]
            .iter()
            .all(|file| fs::exists(file).is_ok_and(|is| is))
        {
            eprintln!("skipped: no /etc/subuid or /etc/subgid to mount over");
            return Ok(());
        }
        host.stop()?;
        let own = host.folder().join("subids");
        fs::write(&own, format!("pontoon:{FIRST}:65536\n"))?;
        host.configure("userns-remap = \"default\"\n")?;
        let own = own.display();
        host.start_with(&format!(
            "mount --bind {own} /etc/subuid; mount --bind {own} /etc/subgid"
        ))?;
        let archive = pontoon_tests::images::write_busybox(host.folder())?;
        host.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
        let map = |flags: &[&str]| {
            let run = [&["run", "--rm"], flags, &["busybox", "cat", "/proc/self/uid_map"]].concat();
            let text = host.ok(&run)?;
            anyhow::Ok(text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let remapped = map(&[])?;
        ensure!(
            remapped == ["0".to_owned(), FIRST.to_string(), "65536".to_owned()],
            "{remapped:?}"
        );
        let hosts = map(&["--userns", "host"])?;
        ensure!(hosts[1] == "0", "{hosts:?}");
        let options = host.ok(&["info", "--format", "{{json .SecurityOptions}}"])?;
        ensure!(options.contains("name=userns"), "{options}");
        host.pontoon(&["run", "--rm", "--privileged", "busybox", "true"])?
            .fails(125, &["privileged mode is incompatible with user namespaces"])?;
        Ok(())
    });
}
