//! config-linux.md, "Control groups": paths, membership, the mount, unified resources, updates.

use serde_json::{Value, json};

use crate::case::{Case, code, prints, skip};

fn resources(s: &mut Value, name: &str, value: Value) {
    s["linux"]["resources"][name] = value;
}

fn on_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The hierarchies of this process with a controller each, and the cgroup in them of another.
fn memberships(pid: u32) -> Vec<(String, String)> {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .unwrap()
        .lines()
        // Hierarchies of v1 that are not mounted are out of reach.
        .filter(|l| !on_v2() || l.starts_with("0::"))
        .map(|l| {
            let mut fields = l.splitn(3, ':').skip(1);
            (
                fields.next().unwrap().to_owned(),
                fields.next().unwrap().to_owned(),
            )
        })
        .collect()
}

fn update(bed: &crate::bed::Bed, resources: &Value) -> std::process::Output {
    let file = bed.path("update.json");
    std::fs::write(&file, resources.to_string()).unwrap();
    bed.call(&["update", "--resources", file.to_str().unwrap(), &bed.id])
}

pub fn cases() -> Vec<Case> {
    vec![
        code(
            "cgroups_path",
            "cgroupsPath is where the container's cgroup is, from the top of each hierarchy",
            |bed| {
                bed.spec["linux"]["cgroupsPath"] = json!(format!("/{}/inner/deep", bed.id));
                bed.up();
                for (controllers, path) in memberships(bed.pid()) {
                    if controllers != "misc" && (!controllers.is_empty() || on_v2()) {
                        assert_eq!(path, format!("/{}/inner/deep", bed.id), "{controllers}");
                    }
                }
                bed.must(&["delete", "--force", &bed.id]);
                for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
                    assert!(!hierarchy.path().join(&bed.id).join("inner/deep").exists());
                }
                // The folders above are not the runtime's to remove.
                crate::group::Group::named(&bed.id).clear();
            },
        ),
        code(
            "cgroups_path_default",
            "without cgroupsPath the runtime chooses a place",
            |bed| {
                drop(bed.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath"));
                bed.up();
                let own = memberships(std::process::id());
                let (controllers, path) = memberships(bed.pid())
                    .into_iter()
                    .find(|(c, _)| c == "pids" || (on_v2() && c.is_empty()))
                    .unwrap_or_else(|| skip("no pids controller"));
                assert!(
                    path.contains(&bed.id) && !own.contains(&(controllers, path.clone())),
                    "{path}"
                );
            },
        ),
        code(
            "member_of_every_hierarchy",
            "the process is in the cgroup of every hierarchy, named ones too",
            |bed| {
                bed.up();
                for (controllers, path) in memberships(bed.pid()) {
                    if on_v2()
                        || controllers == "name=systemd"
                        || controllers == "devices"
                        || controllers == "memory"
                    {
                        assert_eq!(path, format!("/{}", bed.id), "{controllers}");
                    }
                }
            },
        ),
        code("exec_is_a_member", "so is a process that joins", |bed| {
            bed.up();
            let done = bed.exec("cut -d: -f3 /proc/self/cgroup | sort -u");
            assert!(done.stdout.lines().all(|l| l == "/"), "{}", done.stdout);
        }),
        code(
            "members_before_start",
            "a created container's process is in its cgroup",
            |bed| {
                bed.sleeper();
                bed.create();
                assert!(memberships(bed.pid()).iter().any(|(_, p)| p.ends_with(&bed.id)));
            },
        ),
        code(
            "children_are_killed",
            "delete ends what the container has left running",
            |bed| {
                bed.spec["linux"]["namespaces"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|n| n["type"] != "pid");
                bed.sh("sleep 1000 & echo $!");
                bed.create();
                bed.start();
                let done = bed.done();
                let child = done.stdout.trim().to_owned();
                bed.must(&["delete", "--force", &bed.id]);
                let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                assert!(crate::commands::until(
                    || state().is_empty() || state().contains(") Z ")
                ));
                let pid = rustix::process::Pid::from_raw(child.parse().unwrap());
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
            },
        ),
        prints(
            "no_resources",
            "resources is OPTIONAL",
            |s| drop(s["linux"].as_object_mut().unwrap().remove("resources")),
            "echo ok",
            "ok\n",
        ),
        code(
            "unified_on_v1",
            "unified on a host that it means nothing to is an error",
            |bed| {
                if !std::path::Path::new("/sys/fs/cgroup/memory").exists() {
                    skip("this host has cgroup v2 alone");
                }
                resources(&mut bed.spec, "unified", json!({"memory.high": "1000000"}));
                bed.refusal();
            },
        ),
        code(
            "update_memory",
            "limits of a running container can be changed",
            |bed| {
                bed.need("memory");
                resources(
                    &mut bed.spec,
                    "memory",
                    json!({"limit": 67_108_864, "swap": 67_108_864}),
                );
                bed.up();
                for limit in [134_217_728, 33_554_432] {
                    let output = update(bed, &json!({"memory": {"limit": limit, "swap": limit}}));
                    assert!(output.status.success(), "{}", bed.error());
                    if let Some(value) = bed.cgroup_file("memory", "memory.limit_in_bytes") {
                        assert_eq!(value, limit.to_string());
                    }
                }
            },
        ),
        code("update_others_stay", "what is not named stays", |bed| {
            bed.need("cpu");
            bed.need("pids");
            resources(&mut bed.spec, "cpu", json!({"shares": 512}));
            resources(&mut bed.spec, "pids", json!({"limit": 50}));
            bed.up();
            assert!(
                update(bed, &json!({"pids": {"limit": 60}})).status.success(),
                "{}",
                bed.error()
            );
            if let Some(value) = bed.cgroup_file("cpu", "cpu.shares") {
                assert_eq!(value, "512");
            }
            if let Some(value) = bed.cgroup_file("pids", "pids.max") {
                assert_eq!(value, "60");
            }
        }),
        code("update_cpu", "the processor's share too", |bed| {
            bed.need("cpu");
            bed.up();
            assert!(
                update(
                    bed,
                    &json!({"cpu": {"quota": 20_000, "period": 50_000, "shares": 99}})
                )
                .status
                .success(),
                "{}",
                bed.error()
            );
            for (file, value) in [
                ("cpu.cfs_quota_us", "20000"),
                ("cpu.cfs_period_us", "50000"),
                ("cpu.shares", "99"),
            ] {
                if let Some(found) = bed.cgroup_file("cpu", file) {
                    assert_eq!(found, value, "{file}");
                }
            }
        }),
        code("update_stopped", "a stopped container can't be updated", |bed| {
            bed.sh("true");
            bed.create();
            bed.start();
            bed.wait();
            assert!(!update(bed, &json!({"pids": {"limit": 60}})).status.success() || !bed.ours());
        }),
        code(
            "update_bad_value",
            "a value that the kernel refuses is an error",
            |bed| {
                bed.need("cpuset");
                bed.up();
                assert!(!update(bed, &json!({"cpu": {"cpus": "4095"}})).status.success());
            },
        ),
    ]
}
