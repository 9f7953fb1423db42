//! config-linux.md, "Devices", "Default Devices", and the device cgroup.

use serde_json::{Value, json};

use crate::case::{Case, code, prints, refused};

fn device(s: &mut Value, device: Value) {
    s["linux"]["devices"] = json!([device]);
}

pub fn cases() -> Vec<Case> {
    vec![
        prints(
            "default_devices",
            "null, zero, full, random, urandom and tty MUST be supplied",
            |_| {},
            "for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done",
            "/dev/null character special file 1:3 666\n/dev/zero character special file 1:5 666\n/dev/full character special file 1:7 666\n\
             /dev/random character special file 1:8 666\n/dev/urandom character special file 1:9 666\n/dev/tty character special file 5:0 666\n",
        ),
        prints(
            "default_devices_work",
            "and can be used",
            |_| {},
            "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 3 /dev/urandom | wc -c; echo x 2>/dev/null > /dev/full || echo full",
            "3\n3\nfull\n",
        ),
        prints(
            "ptmx",
            "/dev/ptmx is a link to pts/ptmx",
            |_| {},
            "readlink /dev/ptmx; stat -c '%t:%T' /dev/pts/ptmx",
            "pts/ptmx\n5:2\n",
        ),
        prints(
            "device_with_mode_and_owner",
            "path, type, major, minor, fileMode, uid and gid",
            |s| {
                device(
                    s,
                    json!({"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 1000, "gid": 7}),
                )
            },
            "stat -c '%F %t:%T %a %u %g' /dev/fuse2",
            "character special file a:e5 640 1000 7\n",
        ),
        prints(
            "block_device",
            "type b",
            |s| {
                device(
                    s,
                    json!({"path": "/dev/block", "type": "b", "major": 7, "minor": 250}),
                )
            },
            "stat -c '%F %t:%T' /dev/block",
            "block special file 7:fa\n",
        ),
        prints(
            "fifo",
            "type p",
            |s| {
                device(
                    s,
                    json!({"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0, "fileMode": 0o600}),
                )
            },
            "stat -c '%F %a' /dev/pipe",
            "fifo 600\n",
        ),
        prints(
            "device_outside_dev",
            "path is any path in the container",
            |s| {
                device(
                    s,
                    json!({"path": "/srv/deep/null", "type": "c", "major": 1, "minor": 3}),
                )
            },
            "echo x > /srv/deep/null && stat -c %t:%T /srv/deep/null",
            "1:3\n",
        ),
        prints(
            "device_unbuffered",
            "type u is a character device",
            |s| device(s, json!({"path": "/dev/u", "type": "u", "major": 1, "minor": 3})),
            "stat -c '%F' /dev/u",
            "character special file\n",
        ),
        refused(
            "device_type_unknown",
            "type is c, b, u or p",
            |s| device(s, json!({"path": "/dev/x", "type": "x", "major": 1, "minor": 3})),
            "",
        ),
        prints(
            "mknod_of_anything_use_of_nothing",
            "a device that is not allowed can't be opened",
            |_| {},
            "mknod /tmp/mem c 1 1 && { head -c 1 /tmp/mem 2>/dev/null || echo refused; }",
            "refused\n",
        ),
        prints(
            "device_allowed",
            "resources.devices allows one",
            |s| {
                device(
                    s,
                    json!({"path": "/dev/net/tun2", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666}),
                );
                s["linux"]["resources"]["devices"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"}));
            },
            "{ true < /dev/net/tun2; } && echo read; { true 2>/dev/null > /dev/net/tun2; } 2>/dev/null || echo not written",
            "read\nnot written\n",
        ),
        prints(
            "device_denied_later",
            "the rules apply in their order",
            |s| {
                let rules = s["linux"]["resources"]["devices"].as_array_mut().unwrap();
                rules.push(json!({"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"}));
                rules.push(json!({"allow": false, "type": "c", "major": 10, "minor": 200, "access": "rwm"}));
            },
            "mknod /tmp/k c 10 200 && { { true < /tmp/k; } 2>/dev/null || echo refused; }",
            "refused\n",
        ),
        code("devices_in_exec", "exec is under the same rules", |bed| {
            bed.up();
            assert_eq!(
                bed.exec("mknod /tmp/mem c 1 1 && { head -c 1 /tmp/mem 2>/dev/null || echo refused; }")
                    .stdout,
                "refused\n"
            );
        }),
        code(
            "devices_of_a_bound_dev",
            "no devices are made in a /dev that is bound from the host",
            |bed| {
                let dev = bed.directory("dev");
                bed.spec["mounts"] = json!([
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}
                ]);
                bed.run("true");
                assert!(!dev.join("zero").exists());
            },
        ),
    ]
}
