//! What images and mounts try with paths, and who may look into the engine's own folders.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_image::scratch::Builder;
use pontoon_tests::process::tool;
use pontoon_tests::{Host, with_host};

use super::{load, sh};

/// CVE-2020-15257: the shim's socket is a file of root's in a folder of root's; nothing is abstract. CVE-2021-41091, CVE-2021-41103: nobody else gets into
/// the engine's folders. OWASP rule 1: the daemon's sockets are not for everybody.
#[test]
fn sockets_and_folders_are_private() {
    with_host(|host, _| {
        host.line("run --detach --name box --publish 8080:8080 web:1")?;
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
    with_host(|host, fleet| {
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
    with_host(|host, fleet| {
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
