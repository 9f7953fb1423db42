//! What programs find when they run: the engine's binary, descriptors, working folders, control groups, capabilities.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::ensure;
use pontoon_tests::{programs, with_host};

use super::{load, sh};

/// CVE-2019-5736: a container that gets hold of the engine's binary, while that becomes an exec'd process, overwrites it.
/// CVE-2016-9962: or looks into the descriptors of that process.
#[test]
fn the_engines_binary_is_out_of_reach() {
    with_host(|host, fleet| {
        // The kernel resolves the interpreter in the process that is about to become the program: the engine's.
        load(fleet, host, "evil", |image| {
            image.file("/bin/evil", 0o755, "#!/proc/self/exe\n")
        })?;
        let binary = programs::pontoon()?;
        let before = fs::metadata(&binary)?;
        let grab = "while :; do for p in /proc/[0-9]*; do \
                    case $(readlink $p/exe) in /bin/busybox|'') continue;; esac; \
                    echo \"saw $(readlink $p/exe)\"; \
                    (: >>$p/exe) 2>/dev/null && echo \"wrote $p\"; \
                    ls $p/fd/ 2>/dev/null | while read f; do echo \"fd $f\"; done; done; done";
        for privileged in [false, true] {
            let mut args = vec!["run", "--detach", "--name", "trap"];
            if privileged {
                args.push("--privileged");
            }
            args.extend(["evil", "sh", "-c", grab]);
            host.ok(&args)?;
            for _ in 0..10 {
                let output = host.pontoon(&["exec", "trap", "/bin/evil"])?;
                ensure!(
                    output.code != 0,
                    "the engine's binary can be executed in a container: {output}"
                );
                host.ok(&["exec", "trap", "true"])?;
            }
            let said = host.ok(&["logs", "trap"])?;
            eprintln!(
                "privileged {privileged}: saw the engine {} times",
                said.matches("saw").count()
            );
            ensure!(!said.contains("wrote"), "{said}");
            host.ok(&["rm", "--force", "trap"])?;
        }
        let after = fs::metadata(&binary)?;
        ensure!(
            (before.len(), before.mtime()) == (after.len(), after.mtime()),
            "the binary was changed"
        );
        Ok(())
    });
}

/// CVE-2024-21626: a working folder that names a descriptor of the engine's leads out of the container.
#[test]
fn working_folders_stay_inside() {
    with_host(|host, _| {
        host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
        for number in 0..24 {
            for prefix in ["/proc/self/fd", "/proc/1/fd", "/dev/fd", "/proc/thread-self/fd"] {
                let folder = format!("{prefix}/{number}");
                let look = [
                    "sh",
                    "-c",
                    "ls -d ../../../../../../../.. >/dev/null; cat etc/shadow ../../../../etc/shadow",
                ];
                let mut run = vec!["run", "--rm", "--workdir", &folder, "busybox"];
                run.extend(look);
                let mut exec = vec!["exec", "--workdir", &folder, "box"];
                exec.extend(look);
                // Half of them is enough for each way.
                let args = if number % 2 == 0 { run } else { exec };
                let output = host.pontoon(&args)?;
                ensure!(
                    output.code != 0 && output.stdout.is_empty(),
                    "{folder} is a working folder: {output}"
                );
            }
        }
        Ok(())
    });
}

/// CVE-2024-21626, CVE-2016-9962: no descriptor of the host's is left open in the container.
#[test]
fn no_descriptor_leaks() {
    with_host(|host, _| {
        // 3 is the listing's own.
        let list = "for p in self 1; do for f in /proc/$p/fd/*; do echo ${f##*/}; done; done";
        let seen = sh(host, &["--init"], list)?.ok()?;
        ensure!(only_own(&seen), "run --init: {seen}");
        let seen = sh(host, &[], list)?.ok()?;
        ensure!(only_own(&seen), "run: {seen}");
        let seen = sh(host, &["--interactive"], list)?.ok()?;
        ensure!(only_own(&seen), "run -i: {seen}");
        host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
        let seen = host.ok(&["exec", "box", "sh", "-c", list])?;
        ensure!(only_own(&seen), "exec: {seen}");
        // What they are, as the host sees it: pipes and null only.
        let pid = host.ok(&["inspect", "--format", "{{.State.Pid}}", "box"])?;
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let target = fs::read_link(entry.path())?;
            let target = target.to_string_lossy();
            ensure!(target.starts_with("pipe:") || target == "/dev/null", "{target}");
        }
        Ok(())
    });
}

fn only_own(seen: &str) -> bool {
    // The shell's own script or the folder that it lists may take 3 and 10.
    seen.split_whitespace()
        .all(|fd| ["0", "1", "2", "3", "10"].contains(&fd))
}

/// CVE-2022-0492: release_agent of cgroup v1, and CVE-2022-24769: inheritable capabilities.
#[test]
fn control_groups_and_capabilities_give_no_way_out() {
    with_host(|host, _| {
        let script = "mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c && echo mounted; \
                      unshare -Ur mount -t cgroup -o memory cgroup /tmp/c && echo mounted; \
                      for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs -o -name devices.allow 2>/dev/null); do \
                      (echo x >$f) 2>/dev/null && echo \"wrote $f\"; done; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/*/x 2>/dev/null && echo made; true";
        let output = sh(host, &[], script)?;
        ensure!(output.code == 0 && output.stdout.is_empty(), "{output}");
        host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
        let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
        for (what, said) in [
            ("run", sh(host, &[], status)?.ok()?),
            ("exec", host.ok(&["exec", "box", "sh", "-c", status])?),
        ] {
            for (name, value) in [
                ("CapInh", "0000000000000000"),
                ("CapPrm", "00000000a80425fb"),
                ("CapBnd", "00000000a80425fb"),
                ("CapAmb", "0000000000000000"),
                ("Seccomp", "2"),
            ] {
                ensure!(said.contains(&format!("{name}:\t{value}")), "{what}: {said}");
            }
        }
        for said in [
            sh(host, &["--user", "33"], status)?.ok()?,
            host.ok(&["exec", "--user", "33", "box", "sh", "-c", status])?,
        ] {
            for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                ensure!(said.contains(&format!("{name}:\t0000000000000000")), "{said}");
            }
        }
        Ok(())
    });
}

/// Devices of the host are out of reach, also when a program makes their nodes itself.
#[test]
fn devices_are_out_of_reach() {
    with_host(|host, _| {
        let disk = fs::metadata("/tmp")?.dev();
        let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
        let script = format!("mknod /tmp/disk b {major} {minor}; cat /tmp/disk >/dev/null");
        let output = sh(host, &[], &script)?;
        ensure!(
            output.code != 0 && output.stderr.contains("not permitted"),
            "{output}"
        );
        let output = sh(host, &[], "mknod /tmp/mem c 1 1; cat /tmp/mem >/dev/null")?;
        ensure!(output.code != 0, "{output}");
        Ok(())
    });
}
