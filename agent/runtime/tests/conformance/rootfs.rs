//! config-linux.md: the root's attributes, default file systems, masked and read-only paths, sysctls, propagation.

use serde_json::{Value, json};

use crate::case::{Case, code, prints, refused, skip};

fn none(_: &mut Value) {}

pub fn cases() -> Vec<Case> {
    let mut cases = root();
    cases.extend(paths());
    cases.extend(sysctls());
    cases.extend(propagation());
    cases
}

fn root() -> Vec<Case> {
    vec![
        prints(
            "root_writable",
            "root.readonly defaults to false",
            none,
            "touch /x && echo ok",
            "ok\n",
        ),
        prints(
            "root_read_only",
            "root.readonly true: the root MUST be read-only",
            |s| s["root"]["readonly"] = json!(true),
            "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo shm",
            "refused\nshm\n",
        ),
        prints(
            "root_is_confined",
            "the container's root is the bundle's",
            none,
            "ls / | tr '\\n' ' '; ls /../.. | wc -l",
            "bin dev etc full home proc root sys tmp 9\n",
        ),
        prints(
            "host_is_unmounted",
            "nothing of the host's tree is in the mount table",
            none,
            "awk '{print $5}' /proc/self/mountinfo | grep -v '^/\\(proc\\|dev\\|sys\\)' | tr '\\n' ' '",
            "/ ",
        ),
        prints(
            "default_filesystems",
            "/proc, /sys, /dev/pts and /dev/shm SHOULD be available",
            none,
            "awk '{print $2, $3}' /proc/mounts | grep -E '^/(proc|sys|dev|dev/pts|dev/shm) ' | sort",
            "/dev tmpfs\n/dev/pts devpts\n/dev/shm tmpfs\n/proc proc\n/sys sysfs\n",
        ),
        prints(
            "proc_is_the_containers",
            "/proc shows the container's processes",
            none,
            "ls -d /proc/[0-9]* | wc -l | grep -qE '^[1-4]$' && echo few",
            "few\n",
        ),
        prints(
            "dev_symlinks",
            "fd, stdin, stdout, stderr and ptmx are symlinks in /dev",
            none,
            "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done",
            "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n",
        ),
        prints(
            "cgroup_is_seen",
            "the cgroup mount shows the container's own part",
            none,
            "ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -n1 | wc -l",
            "1\n",
        ),
    ]
}

fn paths() -> Vec<Case> {
    vec![
        prints(
            "masked_file",
            "maskedPaths: the files MUST NOT be readable",
            |s| s["linux"]["maskedPaths"] = json!(["/full/file"]),
            "wc -c < /full/file; ls /full/deep",
            "0\nfile\n",
        ),
        prints(
            "masked_directory",
            "the same for directories",
            |s| s["linux"]["maskedPaths"] = json!(["/full/deep"]),
            "ls -A /full/deep | wc -l; touch /full/deep/x 2>/dev/null || echo refused",
            "0\nrefused\n",
        ),
        prints(
            "masked_missing",
            "a masked path that does not exist is no error",
            |s| s["linux"]["maskedPaths"] = json!(["/nowhere/x"]),
            "echo ok",
            "ok\n",
        ),
        prints(
            "masked_in_proc",
            "files of /proc can be masked",
            |s| s["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys"]),
            "wc -c < /proc/keys; head -c 1 /proc/kcore | wc -c",
            "0\n0\n",
        ),
        refused(
            "masked_relative",
            "the values MUST be absolute paths",
            |s| s["linux"]["maskedPaths"] = json!(["proc/kcore"]),
            "",
        ),
        prints(
            "readonly_path",
            "readonlyPaths are set as read-only",
            |s| s["linux"]["readonlyPaths"] = json!(["/full", "/proc/sys"]),
            "touch /full/x 2>/dev/null || echo refused; echo 1 2>/dev/null > /proc/sys/kernel/shmmni || echo refused; touch /x && echo ok",
            "refused\nrefused\nok\n",
        ),
        prints(
            "readonly_path_missing",
            "one that does not exist is no error",
            |s| s["linux"]["readonlyPaths"] = json!(["/nowhere"]),
            "echo ok",
            "ok\n",
        ),
        refused(
            "readonly_relative",
            "the values MUST be absolute paths",
            |s| s["linux"]["readonlyPaths"] = json!(["proc/sys"]),
            "",
        ),
    ]
}

fn sysctls() -> Vec<Case> {
    vec![
        prints(
            "sysctl_net",
            "sysctl sets kernel parameters of the container",
            |s| s["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}),
            "cat /proc/sys/net/ipv4/ip_forward",
            "1\n",
        ),
        prints(
            "sysctl_ipc",
            "those of the ipc namespace",
            |s| s["linux"]["sysctl"] = json!({"kernel.shmmni": "1234", "fs.mqueue.msg_max": "33"}),
            "cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max",
            "1234\n33\n",
        ),
        refused(
            "sysctl_of_the_host",
            "a parameter that is not in a namespace is refused",
            |s| s["linux"]["sysctl"] = json!({"kernel.panic": "1"}),
            "kernel.panic",
        ),
        refused(
            "sysctl_needs_its_namespace",
            "a parameter of a namespace that is the host's is refused",
            |s| {
                s["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
                s["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|n| n["type"] != "network");
            },
            "",
        ),
        refused(
            "sysctl_unknown",
            "one that the kernel lacks is an error",
            |s| s["linux"]["sysctl"] = json!({"net.ipv4.no_such_thing": "1"}),
            "no_such_thing",
        ),
        refused(
            "sysctl_bad_value",
            "a value that the kernel refuses is an error",
            |s| s["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "nope"}),
            "ip_forward",
        ),
        code(
            "sysctl_through_the_hosts_network_path",
            "a path to the host's own namespace does not make it the container's",
            |bed| {
                for namespace in bed.spec["linux"]["namespaces"].as_array_mut().unwrap() {
                    if namespace["type"] == "network" {
                        namespace["path"] = json!("/proc/self/ns/net");
                    }
                }
                bed.spec["linux"]["sysctl"] = json!({"net.ipv4.conf.lo.log_martians": "0"});
                // sysfs can't be mounted in a network namespace of others by every runtime: not the point here.
                let error = bed.refusal();
                assert!(error.contains("log_martians"), "{error}");
            },
        ),
    ]
}

/// The propagation field of the container's root in its mount table.
const SHOW: &str =
    "awk '$5 == \"/\" {for (i = 7; $i != \"-\"; i++) print $i}' /proc/self/mountinfo | cut -d: -f1 | sort";

fn propagation() -> Vec<Case> {
    vec![
        prints(
            "propagation_private",
            "rootfsPropagation private",
            |s| s["linux"]["rootfsPropagation"] = json!("private"),
            SHOW,
            "",
        ),
        prints(
            "propagation_shared",
            "rootfsPropagation shared",
            |s| s["linux"]["rootfsPropagation"] = json!("shared"),
            SHOW,
            "shared\n",
        ),
        prints(
            "propagation_unbindable",
            "rootfsPropagation unbindable",
            |s| s["linux"]["rootfsPropagation"] = json!("unbindable"),
            SHOW,
            "unbindable\n",
        ),
        code("propagation_slave", "rootfsPropagation slave", |bed| {
            bed.spec["linux"]["rootfsPropagation"] = json!("rslave");
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            if !table
                .lines()
                .any(|l| l.split(' ').nth(4) == Some("/") && l.contains("shared:"))
            {
                skip("the host's root is not shared");
            }
            assert_eq!(bed.run(SHOW).stdout, "master\n");
        }),
        refused(
            "propagation_unknown",
            "its value is shared, slave, private or unbindable",
            |s| s["linux"]["rootfsPropagation"] = json!("nope"),
            "nope",
        ),
    ]
}
