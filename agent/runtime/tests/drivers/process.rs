//! A container's process: how it ends, who it is, what it may, what exec adds.

use pontoon_runtime::{Error, ExecSpec};
use serde_json::json;

use crate::support::{Bed, Kind, OUTPUT, collect, halves, read_until, within};

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
        .run("id -u; id -g; id -G; umask; echo $HOME; echo x > /dev/stdout; grep CapEff /proc/self/status")
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

pub async fn signals(mut bed: Bed) {
    bed.sh("trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done");
    let client = bed.create().await.unwrap();
    let (mut reader, _stdin) = halves(client.attach(OUTPUT).await.unwrap());
    within(client.start()).await.unwrap();
    read_until(&mut reader, "ready\n").await;
    within(client.kill(10, false)).await.unwrap();
    assert_eq!(collect(reader).await.0, "got\n");
    assert_eq!(within(client.wait()).await.unwrap().code, 5);
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
