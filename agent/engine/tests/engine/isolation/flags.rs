//! What `run`'s flags do, one line of a table for each, seen from inside.

use pontoon_proto::v1::Ulimit;

use super::{Case, check, device};
use crate::bed::{Bed, cases, sh, with};

cases![flags,];

const FLAGS: &[Case] = &[
    (
        "group-add by name and number",
        |config, _| config.groups = vec!["extra".into(), "4000".into()],
        "id -G",
        "0 2000 4000\n",
    ),
    (
        "a user's own groups",
        |config, _| config.user = "app".into(),
        "id -u; id -G",
        "1000\n1000 2000\n",
    ),
    (
        "an environment variable of the image taken away",
        |config, _| config.env = vec!["FROM_IMAGE".into(), "A=1".into()],
        "echo ${FROM_IMAGE-gone} $A",
        "gone 1\n",
    ),
    (
        "a device under another name, for reading only",
        |_, host| host.devices = vec![device("/dev/loop-control", "/dev/mine", "r")],
        "busybox stat -c %t:%T /dev/mine; (: < /dev/mine) && echo read; (: > /dev/mine) 2>/dev/null || echo refused",
        "a:ed\nread\nrefused\n",
    ),
    (
        "a device that is not given can't be opened even with a node",
        |_, _| {},
        "busybox mknod /tmp/k c 10 237 && (: < /tmp/k) 2>/dev/null || echo refused",
        "refused\n",
    ),
    (
        "device-cgroup-rule",
        |_, host| host.device_cgroup_rules = vec!["c 10:237 r".into()],
        "busybox mknod /tmp/k c 10 237 && (: < /tmp/k) && echo read",
        "read\n",
    ),
    (
        "a folder of devices",
        |_, host| host.devices = vec![device("/dev/net", "/dev/other", "rwm")],
        "busybox stat -c %t:%T /dev/other/tun",
        "a:c8\n",
    ),
    (
        "ulimits, the last of a name holds",
        |config, _| {
            let limit = |soft, hard| Ulimit {
                name: "nofile".into(),
                soft,
                hard,
            };
            config.ulimits = vec![limit(9, 9), limit(100, 200)];
        },
        "ulimit -Sn; ulimit -Hn",
        "100\n200\n",
    ),
    (
        "sysctl of the ipc namespace",
        |config, _| {
            config.sysctls = [("kernel.shmmni".to_owned(), "77".to_owned())].into();
        },
        "cat /proc/sys/kernel/shmmni",
        "77\n",
    ),
    (
        "sysctl of the network namespace, and Docker's defaults",
        |config, _| {
            config.sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
        },
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "1\n0\n",
    ),
    (
        "shm-size",
        |_, host| host.shm_size = 3 << 20,
        "busybox df -k /dev/shm | busybox awk 'END {print $2}'",
        "3072\n",
    ),
    (
        "oom-score-adj",
        |_, host| host.oom_score_adj = 321,
        "cat /proc/self/oom_score_adj",
        "321\n",
    ),
    (
        "hostname and domainname",
        |config, _| config.hostname = "web".into(),
        "hostname; cat /etc/hostname",
        "web\nweb\n",
    ),
    (
        "cap-drop ALL with one added",
        |config, _| {
            config.cap_drop = vec!["ALL".into()];
            config.cap_add = vec!["cap_chown".into()];
        },
        "grep CapEff /proc/self/status; grep CapBnd /proc/self/status",
        "CapEff:\t0000000000000001\nCapBnd:\t0000000000000001\n",
    ),
    (
        "no-new-privileges, also switched off again",
        |_, host| {
            host.security_opt = vec!["no-new-privileges".into(), "no-new-privileges=false".into()];
        },
        "grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t0\n",
    ),
    (
        "masked and read-only paths",
        |_, _| {},
        "(: < /proc/kcore) 2>/dev/null; busybox wc -c < /proc/keys; (echo 1 > /proc/sys/kernel/shmmni) 2>/dev/null || echo refused",
        "0\nrefused\n",
    ),
    (
        "systempaths=unconfined",
        |_, host| host.security_opt = vec!["systempaths=unconfined".into()],
        "mount | grep -c ' on /proc/'",
        "0\n",
    ),
    (
        "ipc none has no /dev/shm",
        |_, host| host.ipc_mode = "none".into(),
        "test -d /dev/shm && mount | grep -c ' /dev/shm ' || echo none",
        "none\n",
    ),
    (
        "init reaps as pid 1",
        |config, _| config.init = true,
        "test $$ -ne 1 && echo child",
        "child\n",
    ),
    (
        "a runtime of the machine is not asked for: the cgroup tree is read-only",
        |_, _| {},
        "for d in /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo $d; done; echo done",
        "done\n",
    ),
    (
        "writable-cgroups",
        |_, host| host.security_opt = vec!["writable-cgroups=true".into()],
        "cd /sys/fs/cgroup; cd pids 2>/dev/null; mkdir x && busybox rmdir x && echo made",
        "made\n",
    ),
];

async fn flags() {
    let bed = Bed::new().await;
    check(&bed, FLAGS).await;
    // A working directory is cleaned, and made.
    let request = with(sh("pwd"), |config, _| config.dir = "/a/../b//c/.".into());
    let (_, out, err) = bed.run(request).await;
    assert_eq!(out, "/b/c\n", "{err}");
    bed.finish().await;
}
