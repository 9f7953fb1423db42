//! Attach, exec, logs.

use pontoon_engine::{StdioEvent, StdioInput};
use pontoon_proto::v1::{ExecStart, LogDriver, LogsRequest, TerminalSize};

use crate::bed::{Bed, all_streams, cases, collect, command, eventually, sh, with};

cases![
    attach_stdin,
    terminal,
    exec,
    logs_follow,
    logs_select,
    log_options
];

async fn attach_stdin() {
    let bed = Bed::new().await;
    let mut request = with(command(&["cat"]), |config, _| config.open_stdin = true);
    request.stdin_once = true;
    let id = bed.create(request).await;
    let session = bed.engine.attach(&id, all_streams(), false).await.unwrap();
    session
        .input
        .send(StdioInput::Stdin("early ".into()))
        .await
        .unwrap();
    bed.engine.start(&id).await.unwrap();
    session
        .input
        .send(StdioInput::Stdin("late\n".into()))
        .await
        .unwrap();
    session.input.send(StdioInput::Close).await.unwrap();
    let (out, _, code) = collect(session).await;
    assert_eq!((out.as_str(), code), ("early late\n", Some(0)));
    assert_eq!(bed.wait(&id).await, 0);
    let session = bed.engine.attach(&id, all_streams(), true).await.unwrap();
    let mut output = session.output;
    assert!(matches!(output.recv().await, Some(Ok(StdioEvent::Output(_, bytes))) if bytes == "early late\n"));
    bed.finish().await;
}

async fn terminal() {
    let bed = Bed::new().await;
    let request = with(sh("stty size; read x; stty size; echo $TERM"), |config, _| {
        config.tty = true;
        config.open_stdin = true;
    });
    let id = bed.create(request).await;
    let session = bed.engine.attach(&id, all_streams(), false).await.unwrap();
    bed.engine.start(&id).await.unwrap();
    session
        .input
        .send(StdioInput::Resize {
            rows: 33,
            columns: 77,
        })
        .await
        .unwrap();
    session
        .input
        .send(StdioInput::Stdin("go\n".into()))
        .await
        .unwrap();
    let (out, _, _) = collect(session).await;
    assert!(out.contains("33 77\r\n") && out.ends_with("xterm\r\n"), "{out:?}");
    // A client that leaves does not end a terminal's input for the next one.
    let mut request = with(sh("read x; echo got $x"), |config, _| {
        config.tty = true;
        config.open_stdin = true;
    });
    request.stdin_once = true;
    let id = bed.start(request).await;
    drop(bed.engine.attach(&id, all_streams(), false).await.unwrap());
    let session = bed.engine.attach(&id, all_streams(), false).await.unwrap();
    session
        .input
        .send(StdioInput::Stdin("it\n".into()))
        .await
        .unwrap();
    let (out, _, _) = collect(session).await;
    assert!(out.ends_with("got it\r\n"), "{out:?}");
    bed.finish().await;
}

async fn exec() {
    let bed = Bed::new().await;
    let id = bed
        .start(with(command(&["sleep", "1000"]), |config, _| {
            config.env = vec!["A=b".into()]
        }))
        .await;
    let start = |command: &[&str]| ExecStart {
        target: id.clone(),
        command: command.iter().map(ToString::to_string).collect(),
        ..ExecStart::default()
    };
    let run = async |start: ExecStart| collect(bed.engine.exec(start).await.unwrap()).await;
    let (out, err, code) = run(start(&["sh", "-c", "echo $A; echo err >&2; exit 4"])).await;
    assert_eq!((out.as_str(), err.as_str(), code), ("b\n", "err\n", Some(4)));
    let with_all = ExecStart {
        user: "app".into(),
        dir: "/tmp".into(),
        env: vec!["A=c".into()],
        ..start(&["sh", "-c", "echo $(id -u) $(pwd) $A $HOME"])
    };
    assert_eq!(run(with_all).await.0, "1000 /tmp c /home/app\n");
    let tty = ExecStart {
        tty: true,
        size: Some(TerminalSize {
            rows: 11,
            columns: 22,
        }),
        stdin: true,
        ..start(&["sh", "-c", "read x; stty size; echo $x"])
    };
    let session = bed.engine.exec(tty).await.unwrap();
    session
        .input
        .send(StdioInput::Stdin("typed\n".into()))
        .await
        .unwrap();
    let (out, _, code) = collect(session).await;
    assert!(
        out.contains("11 22") && out.contains("typed") && code == Some(0),
        "{out:?}"
    );
    let error = bed.engine.exec(start(&["/nothing"])).await.unwrap_err();
    assert_eq!(error.exit_code(), 127, "{}", error.chain());
    let privileged = ExecStart {
        privileged: true,
        ..start(&["grep", "CapEff", "/proc/self/status"])
    };
    assert!(!run(privileged).await.0.contains("a80425fb"));
    let detached = ExecStart {
        detach: true,
        ..start(&["touch", "/tmp/done"])
    };
    bed.engine.exec(detached).await.unwrap();
    eventually("the detached one has run", || async {
        (run(start(&["test", "-e", "/tmp/done"])).await.2 == Some(0)).then_some(())
    })
    .await;
    let session = bed.engine.exec(start(&["sleep", "1000"])).await.unwrap();
    session.input.send(StdioInput::Signal(15)).await.unwrap();
    assert_eq!(collect(session).await.2, Some(143));
    bed.finish().await;
}

async fn logs_follow() {
    let bed = Bed::new().await;
    let id = bed
        .start(with(
            sh("i=0; while read x; do i=$((i+1)); echo $x; done; exit 3"),
            |c, _| c.open_stdin = true,
        ))
        .await;
    let request = LogsRequest {
        target: id.clone(),
        follow: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let mut entries = bed.engine.logs(&request).unwrap();
    let session = bed.engine.attach(&id, all_streams(), false).await.unwrap();
    for line in ["one", "two", "three"] {
        session
            .input
            .send(StdioInput::Stdin(format!("{line}\n").into()))
            .await
            .unwrap();
        let entry = crate::bed::next(&mut entries).await.unwrap().unwrap();
        assert_eq!((entry.line, entry.stream), (format!("{line}\n").into(), 1));
    }
    bed.engine.kill(&id, "KILL").await.unwrap();
    let end = crate::bed::next(&mut entries).await;
    assert!(end.is_none());
    bed.finish().await;
}

async fn logs_select() {
    let bed = Bed::new().await;
    let id = bed
        .start(sh("for i in 1 2 3 4; do echo o$i; echo e$i >&2; done"))
        .await;
    bed.wait(&id).await;
    let read = async |request: LogsRequest| {
        let mut entries = bed.engine.logs(&request).unwrap();
        let mut lines = Vec::new();
        while let Some(entry) = entries.recv().await {
            let entry = entry.unwrap();
            lines.push((
                String::from_utf8_lossy(&entry.line).trim().to_owned(),
                entry.timestamp,
            ));
        }
        lines
    };
    let base = LogsRequest {
        target: id.clone(),
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let all = read(base.clone()).await;
    assert_eq!(all.len(), 8);
    let out = read(LogsRequest {
        stderr: false,
        ..base.clone()
    })
    .await;
    assert_eq!(
        out.iter().map(|(line, _)| line.as_str()).collect::<Vec<_>>(),
        ["o1", "o2", "o3", "o4"]
    );
    assert_eq!(
        read(LogsRequest {
            tail: Some(2),
            ..base.clone()
        })
        .await,
        all[6..]
    );
    let middle = all[3].1;
    assert!(
        read(LogsRequest {
            since: middle,
            ..base.clone()
        })
        .await
        .iter()
        .all(|(_, time)| *time >= middle)
    );
    assert!(
        read(LogsRequest {
            until: middle,
            ..base.clone()
        })
        .await
        .iter()
        .all(|(_, time)| *time <= middle)
    );
    assert!(
        bed.engine
            .logs(&LogsRequest {
                stdout: false,
                stderr: false,
                ..base
            })
            .is_err()
    );
    bed.finish().await;
}

async fn log_options() {
    let bed = Bed::new().await;
    let driver = |name: &str, options: &[(&str, &str)]| {
        let options = options
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        Some(LogDriver {
            name: name.into(),
            options,
        })
    };
    let rotated = with(sh("seq 1 2000"), |_, host| {
        host.log = driver("json-file", &[("max-size", "20k"), ("max-file", "3")]);
    });
    let id = bed.start(rotated).await;
    bed.wait(&id).await;
    let log = bed.log(&id).await;
    assert!(
        log.ends_with("1999\n2000\n") && !log.starts_with("1\n"),
        "{} bytes",
        log.len()
    );
    let lines: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap");
    let id = bed
        .start(with(sh("echo x"), |_, host| host.log = driver("none", &[])))
        .await;
    bed.wait(&id).await;
    let request = LogsRequest {
        target: id,
        stdout: true,
        ..Default::default()
    };
    let error = bed.engine.logs(&request).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configured logging driver does not support reading"
    );
    let refused = with(sh("true"), |_, host| {
        host.log = driver("local", &[("colour", "x")])
    });
    let error = bed.engine.create(refused).await.unwrap_err();
    assert_eq!(error.to_string(), "unknown log opt 'colour' for log driver local");
    bed.finish().await;
}
