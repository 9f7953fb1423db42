//! Namespaces shared between containers.

use pontoon_engine::Error;

use crate::bed::{Bed, cases, command, eventually, is_running, sh, with};

cases![pid_namespace_of_another, ipc_namespace_of_another,];

async fn pid_namespace_of_another() {
    let bed = Bed::new().await;
    let donor = bed.create(command(&["sleep", "1000"])).await;
    let name = bed.inspect(&donor).name;
    let join = |script: &str| with(sh(script), |_, host| host.pid_mode = format!("container:{name}"));
    let guest = bed.create(join("ps | grep -c '[s]leep 1000'; sleep 500")).await;
    assert_eq!(
        bed.inspect(&guest).host.unwrap().pid_mode,
        format!("container:{donor}")
    );
    let error = bed.engine.start(&guest).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(
        error.to_string(),
        format!("failed to join PID namespace: container {donor} is not running")
    );
    bed.engine.start(&donor).await.unwrap();
    bed.engine.start(&guest).await.unwrap();
    eventually("the guest sees the donor's program", || async {
        (bed.log(&guest).await == "1\n").then_some(())
    })
    .await;
    // A namespace of pids ends with its first process, and everything in it with that.
    bed.engine.kill(&donor, "KILL").await.unwrap();
    assert_eq!(bed.wait(&guest).await, 137);
    bed.until(&guest, "the guest has ended", |view| !is_running(view))
        .await;
    bed.finish().await;
}

async fn ipc_namespace_of_another() {
    let bed = Bed::new().await;
    let shareable = with(sh("echo shared > /dev/shm/file; sleep 1000"), |_, host| {
        host.ipc_mode = "shareable".into();
        host.shm_size = 1 << 20;
    });
    let donor = bed.start(shareable).await;
    let private = bed.start(command(&["sleep", "1000"])).await;
    let join = |target: &str, script: &str| {
        let mode = format!("container:{target}");
        with(sh(script), move |_, host| host.ipc_mode = mode)
    };
    let script = "until cat /dev/shm/file 2>/dev/null; do busybox usleep 10000; done; readlink /proc/self/ns/ipc || busybox readlink /proc/self/ns/ipc";
    let (_, out, err) = bed.run(join(&donor, script)).await;
    let pid = bed.inspect(&donor).pid;
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap();
    assert_eq!(out, format!("shared\n{}\n", namespace.display()), "{err}");
    let guest = bed.create(join(&private, "true")).await;
    let error = bed.engine.start(&guest).await.unwrap_err().to_string();
    assert!(
        error.ends_with("non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
        "{error}"
    );
    // The memory stays for the guest when the donor has gone, and its mount leaves the host.
    let guest = bed
        .start(join(
            &donor,
            "sleep 1; until test -e /dev/shm/go; do busybox usleep 10000; done; cat /dev/shm/file",
        ))
        .await;
    bed.engine.remove(&donor, true).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/shm/{donor}")), "{mounts}");
    let exec = pontoon_proto::v1::ExecStart {
        target: guest.clone(),
        command: vec!["touch".into(), "/dev/shm/go".into()],
        ..Default::default()
    };
    let session = bed.engine.exec(exec).await.unwrap();
    crate::bed::collect(session).await;
    assert_eq!(bed.wait(&guest).await, 0);
    assert_eq!(bed.log(&guest).await, "shared\n");
    bed.finish().await;
}
