//! The shim without its daemon: found again, killed, destroyed, undisturbed when the daemon is.

use std::path::Path;

use pontoon_runtime::{Error, ShimClient, destroy, read_exit_record};

use crate::bed;
use crate::support::{ALL, OUTPUT, halves, read_until, wait_until, within};

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
async fn a_created_container_can_be_killed() {
    let Some(bed) = bed() else { return };
    let client = bed.create().await.unwrap();
    assert_eq!(client.state().await.unwrap().status, "created");
    within(client.kill(9, false)).await.unwrap();
    assert_eq!(within(client.wait()).await.unwrap().code, 137);
    bed.assert_nothing_left();
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
        .args(["--exact", "--ignored", "--nocapture", "daemons::daemon"])
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
