//! What the shim does for processes: their output, their end, their limits, and what it keeps from them.
use crate::support::{OUTPUT, collect, halves, read_until, wait_until, within};
use pontoon_runtime::{Error, ExecSpec};
use serde_json::json;

use crate::bed;

#[tokio::test(flavor = "multi_thread")]
async fn early_output_is_not_lost() {
    let Some(mut bed) = bed() else { return };
    bed.args(&["echo", "early"]);
    for _ in 0..20 {
        assert_eq!(bed.finish().await.unwrap().stdout, "early\n");
    }
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
