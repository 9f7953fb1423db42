//! Known attacks on container engines, by hostile images and by programs in containers, tried through the command line on a real
//! daemon. Each test names the CVE or the rule that it stands for. The runtime's and the image store's own suites try theirs below the engine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_image::scratch::Builder;
use pontoon_image::{ContainerConfig, Reference};
use pontoon_tests::process::tool;
use pontoon_tests::{Fleet, Host, LONG, Output, programs, wait_until, with_fleet};

fn host(test: impl FnOnce(&Fleet, &Host) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        test(fleet, fleet.host(1))
    });
}

/// A shell in a fresh container.
fn sh(host: &Host, options: &[&str], script: &str) -> Result<Output> {
    let mut args = vec!["run", "--rm"];
    args.extend(options);
    args.extend(["busybox", "sh", "-c", script]);
    host.pontoon(&args)
}

/// Loads busybox with more files.
fn load(fleet: &Fleet, host: &Host, name: &str, change: impl FnOnce(Builder) -> Builder) -> Result<()> {
    let mut image = Builder::new().host_file("/bin/busybox", 0o755, Path::new("/bin/busybox"))?;
    for applet in [
        "sh", "cat", "ls", "stat", "id", "sleep", "readlink", "true", "mount",
    ] {
        image = image.symlink(&format!("/bin/{applet}"), "busybox");
    }
    let config = ContainerConfig {
        cmd: Some(vec!["sh".to_owned()]),
        env: vec!["PATH=/bin".to_owned()],
        ..ContainerConfig::default()
    };
    let path = fleet.folder().join(format!("{name}.tar"));
    let file = fs::File::create(&path).context("cannot make an archive")?;
    change(image)
        .config(config)
        .write(&[Reference::parse(name)?], file)?;
    host.ok(&["load", "--quiet", "--input", &path.display().to_string()])?;
    Ok(())
}

/// CVE-2019-5736: a container that gets hold of the engine's binary, while that becomes an exec'd process, overwrites it.
/// CVE-2016-9962: or looks into the descriptors of that process.
#[test]
fn the_engines_binary_is_out_of_reach() {
    host(|fleet, host| {
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
    host(|_, host| {
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
    host(|_, host| {
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
    host(|_, host| {
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

/// CVE-2020-15257: the shim's socket is a file of root's in a folder of root's; nothing is abstract. CVE-2021-41091, CVE-2021-41103: nobody else gets into
/// the engine's folders. OWASP rule 1: the daemon's sockets are not for everybody.
#[test]
fn sockets_and_folders_are_private() {
    host(|_, host| {
        host.ok(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--publish",
            "8080:8080",
            "web:1",
        ])?;
        let id = host.ok(&["inspect", "--format", "{{.Id}}", "box"])?;
        let mode = |path: &Path| -> Result<u32> {
            let meta = fs::symlink_metadata(path).with_context(|| format!("no {}", path.display()))?;
            ensure!(meta.uid() == 0, "{} is not root's", path.display());
            Ok(meta.permissions().mode() & 0o7777)
        };
        let shim = host.run_dir().join("shim").join(&id);
        let sockets: Vec<_> = fs::read_dir(&shim)?
            .flatten()
            .filter(|entry| {
                entry
                    .file_type()
                    .is_ok_and(|kind| std::os::unix::fs::FileTypeExt::is_socket(&kind))
            })
            .collect();
        ensure!(sockets.len() == 1, "sockets in {}: {sockets:?}", shim.display());
        for socket in sockets {
            ensure!(mode(&socket.path())? == 0o600, "{}", socket.path().display());
        }
        for folder in [
            shim,
            host.data_dir(),
            host.data_dir().join("engine/containers").join(&id),
            host.data_dir().join("image"),
            host.run_dir().join("sandboxes"),
        ] {
            ensure!(
                mode(&folder)? == 0o700,
                "{} is {:o}",
                folder.display(),
                mode(&folder)?
            );
        }
        let socket = host.run_dir().join("pontoon.sock");
        ensure!(mode(&socket)? & 0o007 == 0, "{:o}", mode(&socket)?);
        // The host's network namespace is what containers of --network host share.
        let listed = host.exec(&["cat", "/proc/net/unix"])?.ok()?;
        let suspects: Vec<&str> = listed
            .lines()
            .filter(|line| line.contains(" @") && (line.contains("pontoon") || line.contains("shim")))
            .collect();
        ensure!(suspects.is_empty(), "abstract sockets: {suspects:?}");
        let listed = sh(
            host,
            &["--network", "host"],
            "grep -c '@.*\\(pontoon\\|shim\\)' /proc/net/unix; true",
        )?;
        ensure!(listed.stdout.trim() == "0", "{listed}");
        Ok(())
    });
}

/// CVE-2021-30465 and relatives: mount targets are resolved inside the root, whatever links the image has.
#[test]
fn mount_targets_stay_inside() {
    host(|fleet, host| {
        let outside = fleet.folder().join("outside");
        fs::create_dir(&outside)?;
        fs::write(outside.join("marker"), "outside")?;
        let source = fleet.folder().join("source");
        fs::create_dir(&source)?;
        fs::write(source.join("file"), "mounted")?;
        let out = outside.display().to_string();
        let climb = format!("../../../../../../../..{out}");
        load(fleet, host, "evil", |image| {
            image
                .symlink("/absolute", &out)
                .symlink("/relative", &climb)
                .symlink("/root1", "/proc/1/root")
                .symlink("/cwd", "/proc/self/cwd")
                .symlink("/etc/hosts", &format!("{out}/hosts"))
                .symlink("/etc/resolv.conf", &format!("{climb}/resolv.conf"))
        })?;
        let listing = |host: &Host| -> Result<(String, String)> {
            let files = tool("ls", &["-la", "--time-style=full-iso", &out])?;
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            let _ = host;
            Ok((files, mounts.lines().filter(|line| line.contains(&out)).collect()))
        };
        let before = listing(host)?;
        for target in [
            "/absolute",
            "/absolute/new",
            "/relative",
            "/relative/new",
            "/root1/x",
            "/cwd/x",
            "/absolute/../../x",
        ] {
            let volume = format!("{}:{target}", source.display());
            let output = host.pontoon(&[
                "run",
                "--rm",
                "--volume",
                &volume,
                "evil",
                "cat",
                &format!("{target}/file"),
            ])?;
            // Either it is mounted inside, or refused; never outside.
            ensure!(output.code != 0 || output.stdout == "mounted", "{output}");
            ensure!(listing(host)? == before, "{target} reached the host: {output}");
            let tmpfs = host.pontoon(&["run", "--rm", "--tmpfs", target, "evil", "true"])?;
            ensure!(
                listing(host)? == before,
                "{target} as tmpfs reached the host: {tmpfs}"
            );
        }
        let volume = format!("{}:/x/../../../..{out}/up", source.display());
        let output = host.pontoon(&["run", "--rm", "--volume", &volume, "evil", "true"])?;
        ensure!(listing(host)? == before, "dots reached the host: {output}");
        Ok(())
    });
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: an image whose /proc, /sys or /dev is a link, or that has files where masks and devices go.
#[test]
fn proc_and_dev_are_the_engines() {
    host(|fleet, host| {
        let check = "[ \"$(stat -f -c %T /proc)\" = proc ] && cat /proc/1/status >/dev/null && \
                     ! (echo 1 >/proc/sys/kernel/core_pattern) 2>/dev/null && ! (echo b >/proc/sysrq-trigger) 2>/dev/null && \
                     [ \"$(stat -c %F /dev/null)\" = 'character special file' ] && echo safe";
        type Change = fn(Builder) -> Builder;
        let images: [(&str, Change); 6] = [
            ("proc-link", |image| {
                image.dir("/tmp", 0o777).symlink("/proc", "/tmp")
            }),
            ("proc-self", |image| image.symlink("/proc", "/proc")),
            ("sys-link", |image| image.symlink("/sys", "/etc")),
            ("dev-link", |image| image.symlink("/dev", "/etc")),
            // CVE-2025-31133: the file that masks are bound from.
            ("null-link", |image| {
                image.symlink("/dev/null", "/proc/sysrq-trigger")
            }),
            // CVE-2025-52565: what the console is bound onto.
            ("console-link", |image| {
                image.symlink("/dev/console", "/proc/sysrq-trigger")
            }),
        ];
        for (name, change) in images {
            load(fleet, host, name, change)?;
            for terminal in [&[][..], &["--tty"][..]] {
                let mut args = vec!["run", "--rm"];
                args.extend(terminal);
                args.extend([name, "sh", "-c", check]);
                let output = host.pontoon(&args)?;
                ensure!(
                    output.code != 0 && !output.stdout.contains("safe") && output.stderr.len() > 10
                        || output.stdout.trim() == "safe",
                    "{name}: {output}"
                );
            }
        }
        let masked = sh(
            host,
            &[],
            "for f in /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/sched_debug; do [ ! -e $f ] || [ \"$(cat $f | wc -c)\" = 0 ] || echo open $f; done; \
             for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do [ ! -d $d ] || [ -z \"$(ls $d)\" ] || echo open $d; done; \
             for d in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger; do [ ! -e $d ] || grep -q \" $d .*\\bro,\" /proc/self/mountinfo || echo writable $d; done; \
             grep -q ' /sys ro,' /proc/self/mountinfo || echo writable /sys",
        )?;
        ensure!(masked.code == 0 && masked.stdout.is_empty(), "{masked}");
        // What the container mounts itself over /proc would fool nobody: it can't.
        let output = sh(
            host,
            &[],
            "mount -t tmpfs t /proc/self/attr || umount /proc/kcore || mount -o remount,rw /sys",
        )?;
        ensure!(output.code != 0, "{output}");
        // The same for processes that come later.
        host.ok(&["run", "--detach", "--name", "box", "busybox", "sleep", "1000"])?;
        let output = host.pontoon(&["exec", "box", "sh", "-c", "echo 1 >/proc/sys/kernel/core_pattern"])?;
        ensure!(output.code != 0, "{output}");
        Ok(())
    });
}

/// Devices of the host are out of reach, also when a program makes their nodes itself.
#[test]
fn devices_are_out_of_reach() {
    host(|_, host| {
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

/// OWASP rule 5a: a port published on the loopback address is for this host only; one that is not published is for nobody outside.
#[test]
fn ports_are_open_only_where_they_are_published() {
    with_fleet(2, |fleet| {
        fleet.load_images()?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        first.ok(&[
            "run",
            "--detach",
            "--name",
            "local",
            "--publish",
            "127.0.0.1:8080:8080",
            "web:1",
        ])?;
        first.ok(&[
            "run",
            "--detach",
            "--name",
            "open",
            "--publish",
            "9090:8080",
            "web:1",
        ])?;
        first.ok(&["run", "--detach", "--name", "closed", "web:1"])?;
        wait_until("the ports answer", LONG, || {
            first.get("http://127.0.0.1:8080/")?;
            second.get(&format!("http://{}:9090/", first.address()))
        })?;
        ensure!(second.get(&format!("http://{}:8080/", first.address())).is_err());
        // The neighbour sends the host what is addressed to its containers.
        let route = ["ip", "route", "replace", "172.16.0.0/12", "via", &first.address()];
        second.exec(&route)?.ok()?;
        let address = |name: &str| {
            first.ok(&[
                "inspect",
                "--format",
                "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
                name,
            ])
        };
        for name in ["closed", "local"] {
            let url = format!("http://{}:8080/", address(name)?);
            first
                .get(&url)
                .context("the host itself reaches its containers")?;
            ensure!(
                second.get(&url).is_err(),
                "{name} is reached from outside at {url}"
            );
        }
        Ok(())
    });
}

/// CVE-2020-8558: a neighbour that sends the host what is addressed to its loopback gets no answer from a port that is published there.
#[test]
fn loopback_ports_are_closed_to_neighbours() {
    with_fleet(2, |fleet| {
        fleet.load_images()?;
        let (first, second) = (fleet.host(1), fleet.host(2));
        first.ok(&["run", "--detach", "--publish", "127.0.0.1:8080:8080", "web:1"])?;
        wait_until("the port answers", LONG, || first.get("http://127.0.0.1:8080/"))?;
        second.exec(&["ip", "addr", "flush", "dev", "lo"])?;
        second
            .exec(&["ip", "route", "replace", "127.0.0.0/8", "via", &first.address()])?
            .ok()?;
        second.exec(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"])?;
        ensure!(
            second.get("http://127.0.0.1:8080/").is_err(),
            "loopback is reached from outside"
        );
        Ok(())
    });
}
