//! One test for each known weakness of container runtimes that concerns this crate: it tries the attack.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_runtime::{Error, ExecSpec};
use serde_json::json;
use support::{Bed, Kind, within};

fn bed() -> Option<Bed> {
    Bed::new(Kind::Native)
}

/// A process like the container's, with other arguments, that nobody listens to.
fn detached(bed: &Bed, id: &str, args: &[&str]) -> ExecSpec {
    let mut process = bed.process("");
    process.set_args(Some(args.iter().map(|&a| a.to_owned()).collect()));
    ExecSpec {
        id: id.to_owned(),
        process,
        tty: false,
        stdin: false,
        detach: true,
    }
}

/// Takes the container's own `/dev` away, so that the image's is used.
fn with_dev_of_the_image(bed: &mut Bed) {
    bed.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
}

/// CVE-2019-5736: the container makes the runtime execute itself inside, keeps a descriptor of that binary, and
/// writes to it once it is no longer running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_binary_is_not_written() {
    let Some(mut bed) = bed() else { return };
    let binary = Path::new(env!("CARGO_BIN_EXE_pontoon-runtime-test-shim"));
    let before = std::fs::metadata(binary).unwrap();
    let client = bed.up().await;
    let spec = detached(
        &bed,
        "own",
        &["/proc/self/exe", "init", "--", "/bin/sleep", "1000"],
    );
    let exec = within(client.exec(spec)).await.unwrap();
    let attack = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) \
          exec 9<$p/exe; kill -9 ${p#/proc/}; \
          while [ -e $p ]; do sleep 0.01; done; echo found; echo x > /proc/self/fd/9 && echo written ;; esac; done";
    let (_, out, err) = bed.exec(&client, "attack", attack).await;
    assert_eq!(out, "found\n", "{err}");
    assert!(err.contains("Read-only file system"), "{err}");
    let _ = within(exec.wait()).await;
    let after = std::fs::metadata(binary).unwrap();
    assert_eq!(
        (before.len(), before.mtime_nsec()),
        (after.len(), after.mtime_nsec())
    );
    within(client.kill(9, true)).await.unwrap();
}

/// CVE-2024-21626: a working directory that is a descriptor which the runtime has left open on the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_descriptor_is_a_working_directory() {
    let Some(mut bed) = bed() else { return };
    for number in 3..16 {
        bed.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let Ok(client) = bed.create().await else { continue };
        assert!(within(client.start()).await.is_err(), "descriptor {number}");
        within(client.wait()).await.unwrap();
    }
    bed.spec["process"]["cwd"] = json!("/");
    let client = bed.up().await;
    for number in 3..16 {
        let mut spec = detached(&bed, &format!("e{number}"), &["/bin/true"]);
        spec.process.set_cwd(format!("/proc/self/fd/{number}").into());
        assert!(
            within(client.exec(spec)).await.is_err(),
            "descriptor {number} in exec"
        );
    }
    within(client.kill(9, true)).await.unwrap();
    within(client.wait()).await.unwrap();
    // The same through a link of the image.
    for number in 3..16 {
        let link = bed.path("upper").join(format!("link{number}"));
        symlink(format!("/proc/self/fd/{number}"), link).unwrap();
        bed.spec["process"]["cwd"] = json!(format!("/link{number}"));
        let Ok(client) = bed.create().await else { continue };
        assert!(
            within(client.start()).await.is_err(),
            "link to descriptor {number}"
        );
        within(client.wait()).await.unwrap();
    }
}

/// CVE-2025-31133: an image whose /dev/null is something else, which masking then mounts over the masked paths.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masks_are_the_hosts_null_device() {
    let Some(mut bed) = bed() else { return };
    with_dev_of_the_image(&mut bed);
    std::fs::create_dir(bed.path("upper/dev")).unwrap();
    symlink("/etc/passwd", bed.path("upper/dev/null")).unwrap();
    bed.spec["linux"]["maskedPaths"] = json!(["/etc/plain", "/proc/kcore"]);
    let done = bed
        .run("cat /etc/plain /proc/kcore | wc -c; stat -c %t:%T /etc/plain; wc -l < /etc/passwd")
        .await;
    assert_eq!(done.stdout, "0\n1:3\n2\n", "{}", done.stderr);
}

/// CVE-2025-52565: an image whose /dev/console or /dev/pts/ptmx leads elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_is_a_terminal_of_ours() {
    let Some(mut bed) = bed() else { return };
    with_dev_of_the_image(&mut bed);
    bed.config.tty = true;
    std::fs::create_dir(bed.path("upper/dev")).unwrap();
    std::fs::create_dir(bed.path("upper/dev/pts")).unwrap();
    // Without a devpts the image's own file stands where the multiplexer should be.
    symlink("/etc/passwd", bed.path("upper/dev/pts/ptmx")).unwrap();
    bed.sh("true");
    assert!(bed.create().await.is_err());
    std::fs::remove_file(bed.path("upper/dev/pts/ptmx")).unwrap();
    std::fs::write(bed.path("upper/dev/pts/ptmx"), "").unwrap();
    assert!(bed.create().await.is_err());
    // With one, and a console that is a link into /proc.
    bed.push_mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}));
    symlink("/proc/sys/kernel/core_pattern", bed.path("upper/dev/console")).unwrap();
    let error = bed.create().await.unwrap_err().to_string();
    assert!(error.contains("/dev/console"), "{error}");
    bed.assert_nothing_left();
}

/// CVE-2025-52881 and CVE-2019-19921: writes that are meant for procfs land in files of the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kernel_parameters_are_not_written_to_the_image() {
    let Some(mut bed) = bed() else { return };
    bed.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    bed.spec["process"]["oomScoreAdj"] = json!(500);
    bed.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| m["destination"] != "/proc");
    bed.spec["linux"]["maskedPaths"] = json!([]);
    bed.spec["linux"]["readonlyPaths"] = json!([]);
    let proc = bed.path("upper/proc");
    std::fs::create_dir_all(proc.join("sys/net/ipv4")).unwrap();
    std::fs::create_dir_all(proc.join("self/attr")).unwrap();
    for file in ["sys/net/ipv4/ip_forward", "self/oom_score_adj", "self/attr/exec"] {
        std::fs::write(proc.join(file), "untouched\n").unwrap();
    }
    let done = bed
        .run("cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj /proc/self/attr/exec")
        .await;
    assert_eq!(
        done.stdout, "untouched\nuntouched\nuntouched\n",
        "{}",
        done.stderr
    );
}

/// CVE-2021-30465: a mount target that is swapped for a link while it is looked at and mounted on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_target_stays_inside() {
    let Some(mut bed) = bed() else { return };
    let escape = tempfile::tempdir().unwrap();
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("mark"), "inside\n").unwrap();
    // A directory that container and host share, in which somebody else changes the target.
    let shared = bed.path("shared");
    std::fs::create_dir_all(shared.join("target")).unwrap();
    symlink(
        format!("../../../../../../../..{}", escape.path().display()),
        shared.join("link"),
    )
    .unwrap();
    bed.push_mount(json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["bind"]}));
    bed.push_mount(
        json!({"destination": "/shared/target", "type": "bind", "source": volume, "options": ["bind"]}),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, shared) = (stop.clone(), shared.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    shared.join("target"),
                    rustix::fs::CWD,
                    shared.join("link"),
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        })
    };
    for _ in 0..15 {
        bed.sh("true");
        // Whether the target is found in time or not, it is looked for inside.
        let _ = bed.finish().await;
        assert!(!escape.path().join("mark").exists());
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(std::fs::read_dir(escape.path()).unwrap().count(), 0);
}

/// CVE-2023-27561 and CVE-2023-28642: procfs or sysfs mounted through a link of the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn procfs_is_not_mounted_through_a_link() {
    for name in ["proc", "sys"] {
        let Some(bed) = bed() else { return };
        std::fs::create_dir(bed.path("upper/elsewhere")).unwrap();
        symlink("/elsewhere", bed.path("upper").join(name)).unwrap();
        let error = bed.create().await.unwrap_err();
        assert!(
            matches!(&error, Error::Create(text) if text.contains(name)),
            "{error}"
        );
        bed.assert_nothing_left();
    }
}

/// CVE-2022-0492: the release agent of a v1 hierarchy, which the kernel runs as the host's root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_release_agent_is_in_reach() {
    let Some(mut bed) = bed() else { return };
    let done = bed
        .run(
            "find /sys/fs/cgroup -name release_agent | wc -l; \
             for f in $(find /sys/fs/cgroup -name notify_on_release); do { echo 1 > $f; } 2>/dev/null && echo written; done; \
             mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c 2>/dev/null && echo mounted; \
             unshare -UrmC sh -c 'mount -t cgroup -o rdma cgroup /tmp/c' 2>/dev/null && echo mounted; echo done",
        )
        .await;
    assert_eq!(done.stdout, "0\ndone\n", "{}", done.stderr);
}

/// CVE-2022-24769: inheritable capabilities that a file's inheritable ones turn into permitted ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inheritable_capabilities_are_empty() {
    let Some(mut bed) = bed() else { return };
    let client = bed.up().await;
    let own = std::fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
    assert!(own.contains("CapInh:\t0000000000000000"), "{own}");
    let (_, out, _) = bed
        .exec(&client, "e", "grep -E '^Cap(Inh|Amb)' /proc/self/status")
        .await;
    assert_eq!(out, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n");
    within(client.kill(9, true)).await.unwrap();
}

/// CVE-2020-15257: a control socket in the abstract namespace, which containers on the host's network reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shims_socket_is_a_file_of_root() {
    let Some(mut bed) = bed() else { return };
    bed.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "network");
    bed.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| m["destination"] != "/sys");
    let client = bed.up().await;
    let state = client.state().await.unwrap();
    let socket = std::fs::metadata(bed.config.dir.join("shim.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, 0));
    let directory = std::fs::metadata(&bed.config.dir).unwrap();
    assert_eq!(directory.permissions().mode() & 0o077, 0);
    // Every socket that the shim holds has a path or no name at all.
    let mut inodes = Vec::new();
    for fd in std::fs::read_dir(format!("/proc/{}/fd", state.shim_pid))
        .unwrap()
        .flatten()
    {
        // The connection of the last call may be closed only now.
        let Ok(link) = std::fs::read_link(fd.path()) else {
            continue;
        };
        let link = link.display().to_string();
        inodes.extend(
            link.strip_prefix("socket:[")
                .map(|l| l.trim_end_matches(']').to_owned()),
        );
    }
    assert!(!inodes.is_empty());
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields
            .get(6)
            .is_some_and(|inode| inodes.iter().any(|i| i == inode))
        {
            assert!(!fields.get(7).is_some_and(|name| name.starts_with('@')), "{line}");
        }
    }
    within(client.kill(9, true)).await.unwrap();
}

/// CVE-2016-9962: a process of the container looks at one that is joining it, and takes its descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_processes_are_closed_to_the_container() {
    let Some(mut bed) = bed() else { return };
    support::bundle::remap(&mut bed.spec, 100_000);
    bed.sh(
        "while :; do for p in /proc/[0-9]*; do for f in $p/fd/*; do l=$(readlink $f) || continue; \
        case $l in pipe:*|/dev/*|/proc/*|/bin/*) ;; *) echo $l >> /tmp/leaks ;; esac; done; done; done",
    );
    let client = bed.create().await.unwrap();
    // The init that waits is root's to look at, though it runs as somebody else: it can't be traced.
    let path = format!("/proc/{}/fd", client.pid());
    assert_eq!(std::fs::metadata(&path).unwrap().uid(), 0);
    within(client.start()).await.unwrap();
    for number in 0..20 {
        let (code, ..) = bed.exec(&client, &format!("e{number}"), "true").await;
        assert_eq!(code, 0);
    }
    let leaks = std::fs::read_to_string(bed.path("upper/tmp/leaks")).unwrap_or_default();
    assert_eq!(leaks, "");
    within(client.kill(9, true)).await.unwrap();
}

const ALL: &str = "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE \
    DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN \
    NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT \
    SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM";

/// No privilege that the engine lacks is asked of the kernel; the user is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_capabilities_are_those_that_can_be_given() {
    let Some(mut bed) = bed() else { return };
    let all: Vec<String> = ALL.split_whitespace().map(|name| format!("CAP_{name}")).collect();
    bed.spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    drop(bed.spec["linux"].as_object_mut().unwrap().remove("seccomp"));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    let client = bed.up().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.pid())).unwrap();
    assert_eq!(field(&status, "CapEff"), field(&own, "CapPrm"));
    let complete = field(&own, "CapPrm") == (1 << 41) - 1;
    assert_eq!(
        client.warnings().iter().any(|w| w.contains("CAP_")),
        !complete,
        "{:?}",
        client.warnings()
    );
    within(client.kill(9, true)).await.unwrap();
}
