//! The same cases through the shim on both drivers, our own and runc, with the same assertions.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use support::{ALL, Bed, Kind, OUTPUT, collect, read_until, wait_until, within};

use pontoon_runtime::{Error, ExecSpec};

/// Runs each case on both drivers.
macro_rules! table {
    ($($case:ident),* $(,)?) => {$(
        mod $case {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn native() {
                if let Some(bed) = super::Bed::new(super::Kind::Native) { super::cases::$case(bed).await }
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn runc() {
                if let Some(bed) = super::Bed::new(super::Kind::Runc) { super::cases::$case(bed).await }
            }
        }
    )*};
}

table![
    exit_codes,
    signal_exit,
    process_environment,
    users_and_groups,
    capabilities_and_seccomp,
    no_new_privileges,
    resource_limits,
    read_only_root,
    masked_paths,
    cgroup_limits,
    oom_kill,
    missing_program,
    not_executable,
    mounts,
    symlink_target_stays_inside,
    cgroup_is_read_only,
    devices,
    signals,
    pause,
    terminal_with_resize,
    stdin_to_its_end,
    slow_reader,
    exec_codes,
    exec_terminal,
    no_leaked_descriptors,
    user_namespaces_blocked,
    sysctls,
    update_limits,
    log_file,
];

/// The same cases where only the unified hierarchy is mounted. Controllers that this host has given to v1 are
/// missing there, so the cases that need them are left out.
#[test]
fn unified_hierarchy_alone() {
    if !rustix::process::geteuid().is_root()
        || std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    {
        return eprintln!("skipped: needs root and a host that is not on v2 anyway");
    }
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap());
    command.args(["native", "--test-threads", "2"]);
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !controllers.contains("memory") || !controllers.contains("pids") {
        for case in [
            "cgroup_is_read_only",
            "cgroup_limits",
            "update_limits",
            "oom_kill",
        ] {
            command.args(["--skip", case]);
        }
    }
    match command.status() {
        Ok(status) => assert!(status.success(), "cases fail on v2"),
        Err(error) => eprintln!("skipped: unshare: {error}"),
    }
}

mod cases {
    use super::*;

    pub async fn exit_codes(mut bed: Bed) {
        let done = bed.run("echo out; echo err >&2; exit 7").await;
        assert_eq!((done.record.code, done.record.signal), (7, None));
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
        assert!(
            !done.record.oom_killed && done.record.error.is_none(),
            "{:?}",
            done.record
        );
        bed.assert_nothing_left();
    }

    pub async fn signal_exit(mut bed: Bed) {
        let client = bed.up().await;
        within(client.kill(9, false)).await.unwrap();
        let record = within(client.wait()).await.unwrap();
        assert_eq!((record.code, record.signal), (137, Some(9)));
        bed.assert_nothing_left();
    }

    pub async fn process_environment(mut bed: Bed) {
        bed.spec["process"]["cwd"] = json!("/work/deep");
        let done = bed
            .run("pwd; hostname; echo $A; echo $HOME; echo $$; umask; ls /")
            .await;
        assert_eq!(
            done.stdout,
            "/work/deep\nbox\nb c\n/root\n1\n0022\nbin\ndev\netc\nhome\nproc\nroot\nsys\ntmp\nwork\n"
        );
    }

    pub async fn users_and_groups(mut bed: Bed) {
        bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 7});
        let done = bed
            .run(
                "id -u; id -g; id -G; umask; echo $HOME; echo x > /dev/stdout; grep CapEff /proc/self/status",
            )
            .await;
        assert_eq!(
            done.stdout, "1000\n1001\n1001 5 6\n0007\n/home\nx\nCapEff:\t0000000000000000\n",
            "{}",
            done.stderr
        );
    }

    pub async fn capabilities_and_seccomp(mut bed: Bed) {
        let pattern = "^(Cap|Seccomp:|NoNewPrivs|SigIgn|SigBlk)";
        bed.args(&["grep", "-E", pattern, "/proc/self/status"]);
        // Go leaves signal 32 ignored.
        assert_eq!(
            bed.finish().await.unwrap().stdout.replace("80000000", "00000000"),
            STATUS
        );
        let client = bed.up().await;
        // The shell ignores SIGQUIT, so that its children do.
        let (code, out, _) = bed
            .exec(&client, "e", &format!("grep -E '{pattern}' /proc/self/status"))
            .await;
        assert_eq!(
            (
                code,
                out.replace("0004", "0000")
                    .replace("80000000", "00000000")
                    .as_str()
            ),
            (0, STATUS)
        );
    }

    const STATUS: &str = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nCapInh:\t0000000000000000\n\
        CapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n";

    pub async fn no_new_privileges(mut bed: Bed) {
        bed.spec["process"]["noNewPrivileges"] = json!(true);
        let client = bed.up().await;
        let script = "grep -E '^(Seccomp:|NoNewPrivs)' /proc/self/status";
        let (_, out, _) = bed.exec(&client, "e", script).await;
        assert_eq!(out, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    }

    pub async fn resource_limits(mut bed: Bed) {
        bed.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        let done = bed.run("ulimit -Sn; ulimit -Hn").await;
        assert_eq!(done.stdout, "100\n200\n");
    }

    pub async fn read_only_root(mut bed: Bed) {
        bed.spec["root"]["readonly"] = json!(true);
        let done = bed.run("touch /x; touch /dev/shm/y && echo shm").await;
        assert!(done.stderr.contains("Read-only file system"), "{}", done.stderr);
        assert_eq!(done.stdout, "shm\n");
    }

    pub async fn masked_paths(mut bed: Bed) {
        let script = "wc -c < /proc/keys; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | wc -w; \
            echo 1 > /proc/sys/kernel/hostname; touch /sys/firmware/x";
        let done = bed.run(script).await;
        assert_eq!(done.stdout, "0\n0\n");
        assert_eq!(
            done.stderr.matches("Read-only file system").count(),
            2,
            "{}",
            done.stderr
        );
    }

    pub async fn cgroup_limits(mut bed: Bed) {
        bed.spec["linux"]["resources"]["memory"] =
            json!({"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432});
        bed.spec["linux"]["resources"]["pids"] = json!({"limit": 20});
        bed.spec["linux"]["resources"]["cpu"] =
            json!({"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0"});
        let client = bed.up().await;
        for (controller, file, value) in [
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("memory", "memory.memsw.limit_in_bytes", "134217728"),
            ("memory", "memory.soft_limit_in_bytes", "33554432"),
            ("pids", "pids.max", "20"),
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpuset", "cpuset.cpus", "0"),
        ] {
            if let Some(path) = bed.cgroup_file(controller, file) {
                assert_eq!(std::fs::read_to_string(path).unwrap().trim(), value, "{file}");
            }
        }
        let (code, _, err) = bed
            .exec(
                &client,
                "bomb",
                "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done",
            )
            .await;
        assert!(code != 0 && err.contains("fork"), "{code} {err}");
    }

    pub async fn oom_kill(mut bed: Bed) {
        bed.spec["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
        let done = bed.run("x=a; while :; do x=$x$x; done").await;
        assert_eq!(done.record.code, 137, "{}", done.stderr);
        assert!(done.record.oom_killed);
    }

    async fn exec_failure(bed: &Bed) -> (i32, String) {
        match bed.finish().await {
            Err(Error::Exec { code, message }) => (code, message),
            other => panic!("{other:?}"),
        }
    }

    pub async fn missing_program(mut bed: Bed) {
        bed.args(&["nope"]);
        let (code, message) = exec_failure(&bed).await;
        assert_eq!(code, 127);
        assert!(
            message.contains("exec: \"nope\": executable file not found in $PATH"),
            "{message}"
        );
        if bed.kind == Kind::Native {
            let client = bed.create().await.unwrap();
            assert!(within(client.start()).await.is_err());
            let record = within(client.wait()).await.unwrap();
            assert_eq!(record.code, 127);
            assert!(record.error.unwrap().contains("not found"));
        }
        bed.assert_nothing_left();
    }

    pub async fn not_executable(mut bed: Bed) {
        bed.args(&["/etc/plain"]);
        let (code, message) = exec_failure(&bed).await;
        assert_eq!(code, 126);
        assert!(
            message.contains("exec: \"/etc/plain\": permission denied"),
            "{message}"
        );
    }

    pub async fn mounts(mut bed: Bed) {
        let volume = bed.path("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("f"), "data\n").unwrap();
        for (target, options) in [
            ("/ro", json!(["rbind", "ro"])),
            ("/rw", json!(["rbind", "rprivate"])),
        ] {
            bed.push_mount(
                json!({"destination": target, "type": "bind", "source": volume, "options": options}),
            );
        }
        bed.push_mount(json!({"destination": "/etc/file", "type": "bind", "source": volume.join("f"), "options": ["bind"]}));
        bed.push_mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=700", "noexec"]}));
        let done = bed
            .run("cat /ro/f /etc/file; touch /ro/x; touch /rw/y; stat -c %a /scratch; grep -c ' /scratch .*noexec' /proc/mounts; grep -c shm /proc/mounts")
            .await;
        assert_eq!(done.stdout, "data\ndata\n700\n1\n1\n", "{}", done.stderr);
        assert!(done.stderr.contains("Read-only"), "{}", done.stderr);
        assert!(volume.join("y").exists());
    }

    pub async fn symlink_target_stays_inside(mut bed: Bed) {
        let volume = bed.path("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("f"), "inside\n").unwrap();
        bed.push_mount(
            json!({"destination": "/etc/link", "type": "bind", "source": volume, "options": ["bind"]}),
        );
        let done = bed.run("cat /tmp/escape/f").await;
        assert_eq!(done.stdout, "inside\n", "{}", done.stderr);
        assert!(!std::path::Path::new("/tmp/escape").exists());
    }

    pub async fn cgroup_is_read_only(mut bed: Bed) {
        bed.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        let script = "f=/sys/fs/cgroup/memory/memory.limit_in_bytes; \
            [ -e $f ] || f=/sys/fs/cgroup/memory.max; cat $f; echo 1000000000 > $f; cat $f; mkdir /sys/fs/cgroup/x";
        let done = bed.run(script).await;
        assert_eq!(done.stdout, "67108864\n67108864\n", "{}", done.stderr);
        // runc leaves the tmpfs above the hierarchies writable.
        let expected = if bed.kind == Kind::Native { 2 } else { 1 };
        assert_eq!(
            done.stderr.matches("Read-only").count(),
            expected,
            "{}",
            done.stderr
        );
    }

    pub async fn devices(mut bed: Bed) {
        let script = "ls /dev | tr '\\n' ' '; echo x > /dev/null && head -c 3 /dev/zero | wc -c; \
            mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem";
        let done = bed.run(script).await;
        let core = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3\n";
        assert_eq!(
            done.stdout.replace("core ", ""),
            core.replace("core ", ""),
            "{}",
            done.stderr
        );
        assert!(done.stderr.contains("Operation not permitted"), "{}", done.stderr);
    }

    pub async fn signals(mut bed: Bed) {
        bed.sh("trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done");
        let client = bed.create().await.unwrap();
        let (mut reader, _stdin) = support::halves(client.attach(OUTPUT).await.unwrap());
        within(client.start()).await.unwrap();
        read_until(&mut reader, "ready\n").await;
        within(client.kill(10, false)).await.unwrap();
        assert_eq!(collect(reader).await.0, "got\n");
        assert_eq!(within(client.wait()).await.unwrap().code, 5);
    }

    pub async fn pause(mut bed: Bed) {
        let client = bed.up().await;
        within(client.pause()).await.unwrap();
        assert_eq!(client.state().await.unwrap().status, "paused");
        if let Some(path) = bed.cgroup_file("freezer", "freezer.state") {
            assert_eq!(std::fs::read_to_string(path).unwrap(), "FROZEN\n");
        }
        assert!(matches!(client.pause().await, Err(Error::State { .. })));
        within(client.resume()).await.unwrap();
        assert_eq!(bed.exec(&client, "e", "exit 3").await.0, 3);
        within(client.pause()).await.unwrap();
        within(client.kill(9, true)).await.unwrap();
        assert_eq!(within(client.wait()).await.unwrap().code, 137);
        bed.assert_nothing_left();
    }

    pub async fn terminal_with_resize(mut bed: Bed) {
        bed.config.tty = true;
        bed.config.open_stdin = true;
        bed.sh("tty; echo ready; read line; stty size; echo got $line; ls -l /dev/console | cut -c1; exit 4");
        let client = bed.create().await.unwrap();
        let (mut reader, mut stdin) = support::halves(client.attach(ALL).await.unwrap());
        within(client.start()).await.unwrap();
        let start = read_until(&mut reader, "ready\r\n").await;
        assert!(start.starts_with("/dev/pts/0\r\n"), "{start:?}");
        within(client.resize(None, 33, 99)).await.unwrap();
        within(stdin.write(b"hello\n")).await.unwrap();
        let (rest, _) = collect(reader).await;
        assert!(rest.contains("33 99\r\ngot hello\r\nc\r\n"), "{rest:?}");
        assert_eq!(within(client.wait()).await.unwrap().code, 4);
    }

    pub async fn stdin_to_its_end(mut bed: Bed) {
        bed.config.open_stdin = true;
        bed.sh("wc -c");
        let client = bed.create().await.unwrap();
        let (reader, mut stdin) = support::halves(client.attach(ALL).await.unwrap());
        within(client.start()).await.unwrap();
        for _ in 0..40 {
            within(stdin.write(&[b'x'; 50_000])).await.unwrap();
        }
        within(stdin.close()).await.unwrap();
        assert_eq!(collect(reader).await.0, "2000000\n");
        assert_eq!(within(client.wait()).await.unwrap().code, 0);
    }

    pub async fn slow_reader(mut bed: Bed) {
        bed.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2");
        let client = bed.create().await.unwrap();
        let (reader, _stdin) = support::halves(client.attach(OUTPUT).await.unwrap());
        within(client.start()).await.unwrap();
        // A second client that leaves at once must not hold anything up.
        drop(client.attach(OUTPUT).await.unwrap());
        let log = bed.path("log");
        assert!(wait_until(
            || std::fs::metadata(&log).is_ok_and(|m| m.len() > 100_000)
        ));
        let stalled = std::fs::metadata(&log).unwrap().len();
        assert!(stalled < 3_000_000, "the container is held back: {stalled}");
        let (out, err) = collect(reader).await;
        assert_eq!((out.len(), err.as_str()), (3_000_000, "done\n"));
        within(client.wait()).await.unwrap();
    }

    pub async fn exec_codes(mut bed: Bed) {
        let client = bed.up().await;
        let (a, b, c) = tokio::join!(
            bed.exec(&client, "a", "echo a; hostname; exit 3"),
            bed.exec(&client, "b", "kill -9 $$"),
            bed.exec(&client, "c", "cat /proc/1/comm; echo err >&2"),
        );
        assert_eq!(a, (3, "a\nbox\n".to_owned(), String::new()));
        assert_eq!(b.0, 137);
        assert_eq!(c, (0, "sh\n".to_owned(), "err\n".to_owned()));
        let mut process = bed.process("");
        process.set_args(Some(vec!["nope".to_owned()]));
        let spec = ExecSpec {
            id: "d".to_owned(),
            process,
            tty: false,
            stdin: false,
            detach: true,
        };
        match within(client.exec(spec)).await {
            Err(Error::Exec { code: 127, message }) => {
                assert!(message.contains("not found in $PATH"), "{message}")
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(client.wait_exec("zzz").await, Err(Error::NoSuchExec(_))));
        within(client.kill(15, false)).await.unwrap();
        assert_eq!(within(client.wait()).await.unwrap().code, 0);
        bed.assert_nothing_left();
    }

    pub async fn exec_terminal(mut bed: Bed) {
        let client = bed.up().await;
        let process = bed.process("tty; echo ready; read x; stty size; exit 9");
        let spec = ExecSpec {
            id: "t".to_owned(),
            process,
            tty: true,
            stdin: true,
            detach: false,
        };
        let mut exec = within(client.exec(spec)).await.unwrap();
        let (mut reader, mut stdin) = support::halves(exec.attachment.take().unwrap());
        read_until(&mut reader, "ready\r\n").await;
        within(client.resize(Some("t"), 12, 34)).await.unwrap();
        within(stdin.write(b"\n")).await.unwrap();
        let (rest, _) = collect(reader).await;
        assert!(rest.contains("12 34"), "{rest:?}");
        assert_eq!(within(exec.wait()).await.unwrap(), 9);
    }

    pub async fn no_leaked_descriptors(mut bed: Bed) {
        let script = "ls /proc/self/fd | tr '\\n' ' '";
        // The listing itself holds one.
        assert_eq!(bed.run(script).await.stdout, "0 1 2 3 ");
        let client = bed.up().await;
        assert_eq!(bed.exec(&client, "e", script).await.1, "0 1 2 3 ");
    }

    pub async fn user_namespaces_blocked(mut bed: Bed) {
        let script = "unshare -U true; echo $?; unshare -m true; echo $?";
        assert_eq!(bed.run(script).await.stdout, "1\n1\n");
        let client = bed.up().await;
        assert_eq!(bed.exec(&client, "e", script).await.1, "1\n1\n");
    }

    pub async fn sysctls(mut bed: Bed) {
        bed.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234"});
        let done = bed
            .run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; ip addr | grep -c UP")
            .await;
        assert_eq!(done.stdout, "1\n1234\n1\n");
        bed.spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
        assert!(bed.create().await.is_err());
    }

    pub async fn update_limits(mut bed: Bed) {
        bed.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "swap": 67_108_864});
        let client = bed.up().await;
        let resources = serde_json::from_value(
            json!({"memory": {"limit": 134_217_728, "swap": 134_217_728}, "pids": {"limit": 9}}),
        )
        .unwrap();
        within(client.update(&resources)).await.unwrap();
        if let Some(path) = bed.cgroup_file("memory", "memory.limit_in_bytes") {
            assert_eq!(std::fs::read_to_string(path).unwrap(), "134217728\n");
        }
    }

    pub async fn log_file(mut bed: Bed) {
        bed.run("echo one; echo two >&2; printf rest").await;
        let text = std::fs::read_to_string(bed.path("log")).unwrap();
        let mut lines: Vec<serde_json::Value> =
            text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        lines.sort_by_key(|l| l["log"].to_string());
        let seen: Vec<_> = lines
            .iter()
            .map(|l| (l["log"].as_str().unwrap(), l["stream"].as_str().unwrap()))
            .collect();
        assert_eq!(
            seen,
            [("one\n", "stdout"), ("rest", "stdout"), ("two\n", "stderr")]
        );
    }
}
