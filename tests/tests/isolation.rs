//! Isolation and limits by the command line: what containers see, what is refused and with which status, namespaces of other containers,
//! and the daemon's own defaults.

use anyhow::{Result, ensure};
use pontoon_tests::{Host, with_fleet, with_host};

/// Runs busybox with flags; gives what it has written.
fn run(host: &Host, flags: &[&str], script: &str) -> Result<String> {
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", script]);
    host.ok(&words)
}

#[test]
fn flags_are_seen_inside() {
    with_host(|host, _| {
        for (flags, script, expected) in [
            (
                &["--cap-drop", "ALL", "--cap-add", "chown"][..],
                "grep CapEff /proc/self/status",
                "CapEff:\t0000000000000001",
            ),
            (&["--group-add", "4000"], "id -G", "0 4000"),
            (
                &["--ulimit", "nofile=64:128"],
                "ulimit -Sn; ulimit -Hn",
                "64\n128",
            ),
            (
                &["--device", "/dev/loop-control:/dev/mine:r"],
                "stat -c %t:%T /dev/mine",
                "a:ed",
            ),
            (&["--oom-score-adj", "7"], "cat /proc/self/oom_score_adj", "7"),
            (
                &["--sysctl", "kernel.shmmni=99"],
                "cat /proc/sys/kernel/shmmni",
                "99",
            ),
            (
                &["--security-opt", "no-new-privileges"],
                "grep NoNewPrivs /proc/self/status",
                "NoNewPrivs:\t1",
            ),
            (&["--hostname", "web", "--uts", ""], "hostname", "web"),
            (
                &["--cgroupns", "private"],
                "grep -vc ':/$' /proc/self/cgroup || true",
                "0",
            ),
            (&["-e", "A", "--env", "B=2"], "echo ${A-unset} $B", "unset 2"),
        ] {
            let output = run(host, flags, script)?;
            ensure!(output == expected, "{flags:?}: {output:?}");
        }
        Ok(())
    });
}

#[test]
fn what_is_no_good_is_refused_before_anything_is_made() {
    with_host(|host, _| {
        for (flags, code, text) in [
            (&["--cap-add", "fly"][..], 125, "unknown capability: \"CAP_FLY\""),
            (&["-m", "1m"], 125, "Minimum memory limit allowed is 6MB"),
            (&["--cpus", "1000"], 125, "range of CPUs is from 0.01"),
            (&["--ipc", "foo"], 125, "invalid IPC mode: foo"),
            (&["--pid", "foo"], 125, "--pid: invalid PID mode"),
            (&["--pid", "container:nobody"], 125, "No such container: nobody"),
            (
                &["--uts", "host", "--hostname", "x"],
                125,
                "conflicting options: hostname and the UTS mode",
            ),
            (
                &["--storage-opt", "size=1G"],
                125,
                "--storage-opt is supported only for overlay over xfs",
            ),
            (&["--gpus", "all"], 125, "could not select device driver"),
            (&["--kernel-memory", "1g"], 125, "--kernel-memory"),
            (&["--use-api-socket"], 125, "--use-api-socket"),
            (
                &["--platform", "linux/s390x"],
                125,
                "does not match the specified platform (linux/s390x)",
            ),
            (&["--pull", "sometimes"], 125, "invalid pull option: 'sometimes'"),
            (
                &["--device", "/dev/nope"],
                127,
                "error gathering device information",
            ),
            (
                &["--sysctl", "kernel.pid_max=1"],
                125,
                "sysctl 'kernel.pid_max=1' is not allowed",
            ),
            (
                &["--security-opt", "seccomp=/nope"],
                125,
                "opening seccomp profile (/nope) failed",
            ),
        ] {
            let mut words = vec!["run", "--rm"];
            words.extend(flags);
            words.extend(["busybox", "true"]);
            host.pontoon(&words)?.fails(code, &[text])?;
        }
        host.pontoon(&["run", "--rm", "--pull", "never", "no-such"])?
            .fails(125, &["No such image: no-such:latest"])?;
        ensure!(host.ok(&["ps", "-aq"])?.is_empty());
        Ok(())
    });
}

#[test]
fn containers_share_namespaces() {
    with_host(|host, _| {
        host.line("run -d --name donor --ipc shareable busybox sleep 1000")?;
        let script = "ps | grep -c '[s]leep 1000'; echo x > /dev/shm/x";
        let flags = ["--pid", "container:donor", "--ipc", "container:donor"];
        ensure!(run(host, &flags, script)? == "1");
        ensure!(host.ok(&["exec", "donor", "cat", "/dev/shm/x"])? == "x");
        host.ok(&["stop", "-t", "0", "donor"])?;
        host.pontoon(&["run", "--rm", "--pid", "container:donor", "busybox", "true"])?
            .fails(125, &["failed to join PID namespace", "is not running"])?;
        Ok(())
    });
}

#[test]
fn the_daemons_defaults_hold_for_all() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        fleet.load_images()?;
        host.stop()?;
        host.configure(
            "default-ulimit = [\"nofile=77:88\"]\ndefault-shm-size = \"2m\"\ndefault-ipc-mode = \"shareable\"\n\
             no-new-privileges = true\nseccomp-profile = \"unconfined\"\n",
        )?;
        host.start()?;
        let output = run(
            host,
            &[],
            "ulimit -n; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; df -k /dev/shm | awk 'END {print $2}'",
        )?;
        ensure!(output == "77\nNoNewPrivs:\t1\nSeccomp:\t0\n2048", "{output:?}");
        let output = run(
            host,
            &[
                "--ulimit",
                "nofile=99",
                "--security-opt",
                "no-new-privileges=false",
                "--security-opt",
                "seccomp=builtin",
            ],
            "ulimit -n; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status",
        )?;
        ensure!(output == "99\nNoNewPrivs:\t0\nSeccomp:\t2", "{output:?}");
        let options = host.ok(&["info", "--format", "{{json .SecurityOptions}}"])?;
        ensure!(
            options.contains("name=no-new-privileges") && options.contains("profile=unconfined"),
            "{options}"
        );
        Ok(())
    });
}

#[test]
fn services_are_refused_when_they_are_made() {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        fleet.form_cluster(1)?;
        let host = fleet.host(1);
        for (flags, text) in [
            (["--dns", "foo"], "foo is not an ip address"),
            (["--host", "foo"], "bad format for add-host: \"foo\""),
            (["--hostname", "{{.Foo}}"], "unknown placeholder {{.Foo}}"),
        ] {
            let mut words = vec!["service", "create", "-d"];
            words.extend(flags);
            words.push("busybox");
            host.pontoon(&words)?.fails(1, &[text])?;
        }
        ensure!(host.ok(&["service", "ls", "-q"])?.is_empty());
        Ok(())
    });
}
