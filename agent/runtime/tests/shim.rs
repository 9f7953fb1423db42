//! What the shim owes the daemon: it outlives it, loses nothing, leaves nothing, and is small.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::json;
use support::{ALL, Bed, Kind, OUTPUT, collect, halves, read_until, wait_until, within};

use pontoon_runtime::{Error, ExecSpec, ShimClient, destroy, read_exit_record};

fn bed() -> Option<Bed> {
    Bed::new(Kind::Native)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_finds_it_and_everything_goes_on() {
    let Some(mut bed) = bed() else { return };
    bed.config.open_stdin = true;
    bed.config.stdin_once = false;
    bed.sh("while read line; do echo got $line; done; exit 6");
    let first = bed.create().await.unwrap();
    let (mut reader, mut stdin) = halves(first.attach(ALL).await.unwrap());
    within(first.start()).await.unwrap();
    within(stdin.write(b"one\n")).await.unwrap();
    read_until(&mut reader, "got one\n").await;
    // The daemon is gone: all its connections break at once.
    drop((first, reader, stdin));
    let second = within(ShimClient::connect(&bed.config.dir)).await.unwrap();
    assert_eq!(second.state().await.unwrap().status, "running");
    let (mut reader, mut stdin) = halves(second.attach(ALL).await.unwrap());
    within(stdin.write(b"two\n")).await.unwrap();
    read_until(&mut reader, "got two\n").await;
    within(second.close_stdin(None)).await.unwrap();
    let record = within(second.wait()).await.unwrap();
    assert_eq!(record.code, 6);
    assert_eq!(read_exit_record(&bed.config.dir).unwrap().unwrap(), record);
    bed.assert_nothing_left();
    assert_eq!(
        within(second.wait()).await.unwrap(),
        record,
        "answered from the record"
    );
    assert!(matches!(
        ShimClient::connect(&bed.config.dir).await,
        Err(Error::NotRunning { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_reported_and_cleaned_up() {
    let Some(mut bed) = bed() else { return };
    let client = bed.up().await;
    let state = client.state().await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait().await }
    });
    let pid = rustix::process::Pid::from_raw(state.shim_pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(matches!(within(waiting).await.unwrap(), Err(Error::ShimDied)));
    within(destroy(&bed.config.dir)).await.unwrap();
    within(destroy(&bed.config.dir)).await.unwrap();
    assert!(wait_until(
        || !Path::new(&format!("/proc/{}/exe", state.pid)).exists()
    ));
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn destroy_ends_a_living_container() {
    let Some(mut bed) = bed() else { return };
    bed.up().await;
    within(destroy(&bed.config.dir)).await.unwrap();
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn early_output_is_not_lost() {
    let Some(mut bed) = bed() else { return };
    bed.args(&["echo", "early"]);
    for _ in 0..20 {
        assert_eq!(bed.finish().await.unwrap().stdout, "early\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_can_be_killed() {
    let Some(bed) = bed() else { return };
    let client = bed.create().await.unwrap();
    assert_eq!(client.state().await.unwrap().status, "created");
    within(client.kill(9, false)).await.unwrap();
    assert_eq!(within(client.wait()).await.unwrap().code, 137);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn init_forwards_and_reaps() {
    let Some(mut bed) = bed() else { return };
    bed.config.init = true;
    bed.sh(
        "trap 'exit 5' TERM; (sleep 0.01 & ) ; echo $$ ready; cat /proc/1/comm; while :; do sleep 0.05; done",
    );
    let client = bed.create().await.unwrap();
    let (mut reader, _stdin) = halves(client.attach(OUTPUT).await.unwrap());
    within(client.start()).await.unwrap();
    let seen = read_until(&mut reader, "\n").await;
    assert!(seen.starts_with("2 ready"), "{seen:?}");
    // The orphaned sleep must not stay as a zombie.
    let mut reaped = false;
    for n in 0..500 {
        let (_, out, _) = bed
            .exec(
                &client,
                &format!("e{n}"),
                "grep -l 'State:.Z' /proc/[0-9]*/status",
            )
            .await;
        reaped = out.is_empty();
        if reaped {
            break;
        }
    }
    assert!(reaped);
    within(client.kill(15, false)).await.unwrap();
    assert_eq!(within(client.wait()).await.unwrap().code, 5);
    bed.args(&["nope"]);
    match bed.finish().await {
        Err(Error::Exec { code: 127, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_what_it_does_not_do() {
    let Some(mut bed) = bed() else { return };
    let good = bed.spec.clone();
    bed.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    // Without mappings nobody would exist in it.
    assert!(matches!(bed.create().await, Err(Error::InvalidSpec(text)) if text.contains("uid mappings")));
    bed.spec = good.clone();
    bed.spec["process"]["args"] = json!([]);
    assert!(matches!(bed.create().await, Err(Error::InvalidSpec(_))));
    bed.spec = good.clone();
    bed.push_mount(
        json!({"destination": "/proc/self", "type": "bind", "source": "/tmp", "options": ["bind"]}),
    );
    assert!(matches!(bed.create().await, Err(Error::InvalidSpec(_))));
    bed.spec = good.clone();
    bed.push_mount(
        json!({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["bind"]}),
    );
    assert!(matches!(bed.create().await, Err(Error::Create(text)) if text.contains("/does/not/exist")));
    bed.assert_nothing_left();
    bed.spec = good;
    bed.spec["process"]["cwd"] = json!("/proc/self/fd/7");
    // CVE-2024-21626: whatever the descriptor is, the directory must not be the host's.
    bed.sh("ls -d /");
    assert!(bed.create().await.is_err() || bed.finish().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_beyond_ours_are_warnings() {
    let Some(mut bed) = bed() else { return };
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let Some(hard) = hard else {
        return eprintln!("skipped: no hard limit on open files here");
    };
    bed.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}]);
    bed.spec["process"]["oomScoreAdj"] = json!(-500);
    bed.sh("ulimit -Hn");
    let client = bed.create().await.unwrap();
    let privileged = client.warnings().is_empty();
    let (reader, _stdin) = halves(client.attach(OUTPUT).await.unwrap());
    within(client.start()).await.unwrap();
    let (out, _) = collect(reader).await;
    let allowed = if privileged { hard + 1 } else { hard };
    assert_eq!(out.trim(), allowed.to_string());
    assert!(
        privileged || client.warnings().len() == 2,
        "{:?}",
        client.warnings()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn our_binary_is_out_of_reach() {
    let Some(mut bed) = bed() else { return };
    // CVE-2019-5736: the container's program is our own binary, through the link to itself.
    bed.config.init = true;
    bed.sh("echo x > /proc/1/exe; echo $?; mount -o remount,rw /proc/1/exe 2>/dev/null; echo x >> /proc/1/exe; echo $?");
    let done = bed.finish().await.unwrap();
    assert_eq!(done.stdout, "1\n1\n", "{}", done.stderr);
    assert!(
        done.stderr.contains("Read-only file system") || done.stderr.contains("Text file busy"),
        "{}",
        done.stderr
    );
    let exe = bed.up().await.state().await.unwrap().shim_pid;
    let mount = rustix::fs::statvfs(format!("/proc/{exe}/exe")).unwrap();
    assert!(
        mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        "not a read-only mount"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_propagation_reaches_the_container() {
    let Some(mut bed) = bed() else { return };
    // Stand-in for a shared mount of the host, inside a bind of our own.
    let volume = bed.path("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    bed.push_mount(
        json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "rslave"]}),
    );
    bed.push_mount(json!({"destination": "/p", "type": "bind", "source": volume, "options": ["rbind"]}));
    let done = bed.run("grep ' /v ' /proc/self/mountinfo | grep -c shared; grep ' /p ' /proc/self/mountinfo | grep -c 'shared\\|master'").await;
    assert_eq!(done.stdout, "0\n0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_rotates_under_a_container() {
    let Some(mut bed) = bed() else { return };
    let path = bed.path("log");
    bed.config.log = support::json_log(path.clone(), Some(4096), 2);
    bed.run("i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done")
        .await;
    assert!(path.with_extension("1").exists() || bed.path("log.1").exists());
    assert!(!bed.path("log.2").exists());
    let text = std::fs::read_to_string(&path).unwrap_or_default()
        + &std::fs::read_to_string(bed.path("log.1")).unwrap();
    assert!(text.contains("line 499\\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_is_replaced() {
    let Some(mut bed) = bed() else { return };
    let path = bed.path("log");
    bed.config.open_stdin = true;
    bed.config.log = support::json_log(path.clone(), None, 1);
    bed.config.log.buffer = Some(1 << 20);
    bed.sh("while read line; do echo got $line; done");
    let client = bed.create().await.unwrap();
    let (mut reader, mut stdin) = halves(client.attach(ALL).await.unwrap());
    within(client.start()).await.unwrap();
    let dir = bed.config.dir.display().to_string();
    let writers = || -> Vec<u32> {
        let pids = support::pids_of(&format!("write\0{dir}"));
        pids.iter().map(|pid| pid.parse().unwrap()).collect()
    };
    for (place, line) in ["one", "two", "three"].into_iter().enumerate() {
        within(stdin.write(format!("{line}\n").as_bytes())).await.unwrap();
        read_until(&mut reader, &format!("got {line}\n")).await;
        let text = || std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            wait_until(|| text().contains(&format!("got {line}\\n"))),
            "{}",
            text()
        );
        if place == 1 {
            continue;
        }
        assert!(wait_until(|| writers().len() == 1), "{:?}", writers());
        let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", writers()[0])).unwrap();
        println!(
            "a writer: {:?}",
            memory.lines().find(|line| line.starts_with("Private_Dirty"))
        );
        let pid = rustix::process::Pid::from_raw(writers()[0].try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(wait_until(
            || !writers().contains(&pid.as_raw_nonzero().get().unsigned_abs())
        ));
    }
    // The last one has been killed too: what is left is written all the same, and nothing stays.
    within(stdin.write(b"last\n")).await.unwrap();
    read_until(&mut reader, "got last\n").await;
    within(stdin.close()).await.unwrap();
    within(client.wait()).await.unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("got last\\n"));
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_execs_leave_no_descriptors() {
    let Some(mut bed) = bed() else { return };
    let client = bed.up().await;
    let shim = client.state().await.unwrap().shim_pid;
    let count = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    bed.exec(&client, "warm", "true").await;
    let before = count();
    for n in 0..20 {
        bed.exec(&client, &format!("e{n}"), "echo x").await;
        let process = bed.process("sleep 0");
        let spec = ExecSpec {
            id: format!("d{n}"),
            process,
            tty: false,
            stdin: true,
            detach: true,
        };
        let exec = within(client.exec(spec)).await.unwrap();
        assert_eq!(within(exec.wait()).await.unwrap(), 0);
    }
    assert!(
        wait_until(|| count() <= before),
        "{before} descriptors became {}",
        count()
    );
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let dirty = rollup
        .lines()
        .find_map(|l| {
            l.strip_prefix("Private_Dirty:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .unwrap();
    println!("idle shim: {dirty} KiB of memory of its own");
    assert!(dirty < 1536, "{rollup}");
}

/// Runs a test of this file (one that is ignored otherwise) where all mounts are shared, as systemd has them.
fn in_shared_mounts(test: &str) {
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "shared"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", test])
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{test} fails with shared mounts"),
        Err(error) => eprintln!("skipped: unshare: {error}"),
    }
}

#[test]
fn shared_mounts() {
    if rustix::process::geteuid().is_root() {
        in_shared_mounts("propagation_of_shared_mounts");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by shared_mounts in a mount namespace of its own"]
async fn propagation_of_shared_mounts() {
    let Some(mut bed) = bed() else { return };
    let volume = bed.path("volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = |at: &Path| {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(at)
            .status();
        assert!(status.unwrap().success());
    };
    mount(&volume);
    for dir in ["host", "box"] {
        std::fs::create_dir(volume.join(dir)).unwrap();
    }
    for (target, mode) in [
        ("/slave", "rslave"),
        ("/private", "rprivate"),
        ("/shared", "rshared"),
    ] {
        bed.push_mount(
            json!({"destination": target, "type": "bind", "source": volume, "options": ["rbind", mode]}),
        );
    }
    let set = &mut bed.spec["process"]["capabilities"];
    for kind in ["bounding", "effective", "permitted"] {
        set[kind].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
    }
    bed.spec["linux"]["seccomp"] = json!(null);
    let client = bed.up().await;
    let host_mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rootfs = bed.path("rootfs");
    assert!(
        !host_mounts().contains(rootfs.to_str().unwrap()),
        "the root is visible on the host"
    );
    // From the host into the container.
    mount(&volume.join("host"));
    std::fs::write(volume.join("host/f"), "").unwrap();
    let (_, out, _) = bed
        .exec(&client, "ls", "ls /slave/host; ls /shared/host; ls /private/host")
        .await;
    assert_eq!(out, "f\nf\n", "slave and shared see it, private does not");
    // And back, only where it is shared.
    let script = "mount -t tmpfs t /slave/box; mount -t tmpfs t /private/box";
    assert_eq!(bed.exec(&client, "m1", script).await.0, 0);
    assert!(!host_mounts().contains("/volume/box"));
    assert_eq!(bed.exec(&client, "m2", "mount -t tmpfs t /shared/box").await.0, 0);
    assert!(host_mounts().contains("/volume/box"));
    within(client.kill(9, true)).await.unwrap();
    within(client.wait()).await.unwrap();
    for at in [volume.join("box"), volume.join("host"), volume] {
        let _ = std::process::Command::new("umount").arg(at).status();
    }
}

/// The daemon of the next test: one container, then nothing but to be killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_killed_daemon_disturbs_nothing"]
async fn daemon() {
    let Some(mut bed) = bed() else { return };
    bed.sh("i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done");
    let client = bed.create().await.unwrap();
    let (mut reader, _stdin) = halves(client.attach(OUTPUT).await.unwrap());
    within(client.start()).await.unwrap();
    println!("\ndaemon {} {}", bed.config.dir.display(), bed.cgroup);
    while let Ok(Some(_)) = reader.next().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_disturbs_nothing() {
    use std::io::BufRead as _;
    let Some(mut bed) = bed() else { return };
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "daemon"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .map_while(Result::ok)
        .find(|l| l.starts_with("daemon "))
        .unwrap();
    let [_, dir, cgroup] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{line}")
    };
    child.kill().unwrap();
    child.wait().unwrap();
    // From here on this bed stands for the other one, so that it is cleaned up like its own.
    bed.config.dir = dir.into();
    bed.cgroup = cgroup.to_owned();
    let log = bed.config.dir.with_file_name("log");
    let size = || std::fs::metadata(&log).map_or(0, |m| m.len());
    let before = size();
    assert!(wait_until(|| size() > before), "the log goes on");
    let client = within(ShimClient::connect(&bed.config.dir)).await.unwrap();
    let (mut reader, _stdin) = halves(client.attach(OUTPUT).await.unwrap());
    read_until(&mut reader, "\n").await;
    assert_eq!(bed.exec(&client, "e", "exit 3").await.0, 3);
    within(client.kill(9, false)).await.unwrap();
    assert_eq!(within(client.wait()).await.unwrap().code, 137);
    bed.assert_nothing_left();
    std::fs::remove_dir_all(bed.config.dir.parent().unwrap()).unwrap();
}
