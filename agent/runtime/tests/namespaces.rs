//! User and time namespaces of our own driver, through the shim: what a container of a remapped engine sees of its
//! root, its volumes, its devices, its limits, and in exec.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::MetadataExt as _;

use serde_json::json;
use support::{Bed, Kind, within};

const BASE: u32 = 100_000;

fn remapped() -> Option<Bed> {
    let mut bed = Bed::new(Kind::Native)?;
    support::bundle::remap(&mut bed.spec, BASE);
    Some(bed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remapped_container_owns_its_root_and_nothing_is_chowned() {
    let Some(mut bed) = remapped() else { return };
    let done = bed
        .run(
            "id -u; stat -c '%u %a' /bin /dev/null /dev/shm; echo x > /etc/new; stat -c %u /etc/new; \
             cat /proc/self/uid_map | tr -s ' '; echo x > /dev/null && head -c 2 /dev/zero | wc -c; \
             chown web /etc/new; stat -c %u /etc/new; hostname; echo err >&2; echo x > /dev/stdout; id -G",
        )
        .await;
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        (
            "0\n0 755\n0 666\n0 1777\n0\n 0 100000 65536\n2\n1000\nbox\nx\n0\n",
            "err\n"
        )
    );
    assert_eq!(done.record.code, 0);
    // On disk the owner is the one inside.
    assert_eq!(std::fs::metadata(bed.path("upper/etc/new")).unwrap().uid(), 1000);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_processes_are_nobody_outside_in_exec_too() {
    let Some(mut bed) = remapped() else { return };
    let client = bed.up().await;
    let owner = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
        uid.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(owner(client.pid()), BASE);
    let script = "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; \
        grep -E '^(CapEff|Seccomp:)' /proc/self/status; unshare -U true 2>/dev/null; echo $?; cat /proc/self/fd/0; echo x > /dev/stderr";
    let (code, out, err) = bed.exec(&client, "e", script).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((code, err.as_str()), (0, "x\n"), "{out}");
    assert_eq!(lines[0], "0");
    assert_eq!(lines[1], lines[2]);
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    assert_ne!(lines[1], own.to_str().unwrap());
    assert_eq!(&lines[3..], ["CapEff:\t00000000a80425fb", "Seccomp:\t2", "1"]);
    within(client.kill(9, true)).await.unwrap();
    within(client.wait()).await.unwrap();
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_id_mapped_when_asked() {
    let Some(mut bed) = remapped() else { return };
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "data\n").unwrap();
    for (target, options) in [
        ("/mapped", json!(["rbind", "ridmap"])),
        ("/plain", json!(["rbind"])),
    ] {
        bed.push_mount(json!({"destination": target, "type": "bind", "source": volume, "options": options}));
    }
    let half = json!([{"containerID": 0, "hostID": BASE + 7, "size": 1}]);
    bed.push_mount(
        json!({"destination": "/own", "type": "bind", "source": volume, "options": ["bind"],
        "uidMappings": half, "gidMappings": half}),
    );
    let done = bed
        .run("stat -c %u /mapped/f /plain/f /own/f; echo y > /mapped/g; touch /plain/h; stat -c %u /mapped/g")
        .await;
    assert_eq!(done.stdout, "0\n65534\n7\n0\n", "{}", done.stderr);
    assert!(done.stderr.contains("Permission denied"), "{}", done.stderr);
    assert_eq!(std::fs::metadata(volume.join("g")).unwrap().uid(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_and_a_user_of_its_own() {
    let Some(mut bed) = remapped() else { return };
    bed.config.tty = true;
    bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let done = bed
        .run("id -u; tty; stat -c %u $(tty); echo x > /dev/stdout")
        .await;
    assert_eq!(
        done.stdout, "1000\r\n/dev/pts/0\r\n1000\r\nx\r\n",
        "{}",
        done.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_of_the_host_can_be_joined() {
    let Some(mut bed) = remapped() else { return };
    // As an engine does that makes the network namespace itself: it belongs to the host's user namespace.
    let mut holder = std::process::Command::new("unshare")
        .args(["-n", "-i", "-u", "sleep", "1000"])
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/ns", holder.id());
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(support::wait_until(
        || std::fs::read_link(format!("{path}/uts")).is_ok_and(|l| l != own)
    ));
    for namespace in bed.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        let file = match namespace["type"].as_str().unwrap() {
            "network" => "net",
            "ipc" => "ipc",
            _ => continue,
        };
        namespace["path"] = json!(format!("{path}/{file}"));
    }
    bed.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmni": "1234"});
    let done = bed
        .run(
            "readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
             /proc/sys/kernel/shmmni; ls /sys/class/net; hostname",
        )
        .await;
    let expected = std::fs::read_link(format!("{path}/net")).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let expected = format!("{}\n0\n1234\nlo\nbox\n", expected.display());
    assert_eq!(done.stdout, expected, "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_namespace_is_joined_by_path() {
    let Some(mut first) = remapped() else { return };
    let client = first.up().await;
    let mut bed = Bed::new(Kind::Native).unwrap();
    let path = format!("/proc/{}/ns", client.pid());
    let namespaces = bed.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user", "path": format!("{path}/user")}));
    for namespace in namespaces.iter_mut() {
        match namespace["type"].as_str().unwrap() {
            "pid" => namespace["path"] = json!(format!("{path}/pid")),
            "ipc" => namespace["path"] = json!(format!("{path}/ipc")),
            _ => {}
        }
    }
    let done = bed
        .run("id -u; stat -c %u /bin; readlink /proc/self/ns/user; readlink /proc/1/ns/user; [ $$ != 1 ] && echo other")
        .await;
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{}", done.stderr);
    assert_eq!((lines[0], lines[1], lines[4]), ("0", "0", "other"));
    assert_eq!(lines[2], lines[3]);
    within(client.kill(9, true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_are_offset_in_a_time_namespace() {
    for remap in [false, true] {
        let Some(mut bed) = (if remap { remapped() } else { Bed::new(Kind::Native) }) else {
            return;
        };
        if !std::path::Path::new("/proc/self/ns/time").exists() {
            return eprintln!("skipped: this kernel has no time namespaces");
        }
        let linux = bed.spec["linux"].as_object_mut().unwrap();
        linux["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "time"}));
        linux.insert(
            "timeOffsets".to_owned(),
            json!({"boottime": {"secs": 10_000_000, "nanosecs": 5}}),
        );
        let client = bed.up().await;
        let script = "cut -d. -f1 /proc/uptime";
        let (_, out, err) = bed.exec(&client, "e", script).await;
        let uptime: u64 = out.trim().parse().unwrap_or_else(|_| panic!("{out} {err}"));
        assert!(uptime >= 10_000_000, "{uptime}");
        within(client.kill(9, true)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contradictions_are_refused() {
    let Some(mut bed) = remapped() else { return };
    bed.spec["linux"]["uidMappings"] = json!([]);
    assert!(bed.create().await.is_err());
    let mut bed = remapped().unwrap();
    bed.spec["linux"]["namespaces"].as_array_mut().unwrap().pop();
    let error = bed.create().await.unwrap_err().to_string();
    assert!(error.contains("user namespace isn't enabled"), "{error}");
    let mut bed = remapped().unwrap();
    bed.spec["linux"]["uidMappings"][0]["containerID"] = json!(1);
    let error = bed.create().await.unwrap_err().to_string();
    assert!(
        error.contains("group 0 of the user namespace must be mapped"),
        "{error}"
    );
    bed.assert_nothing_left();
}
