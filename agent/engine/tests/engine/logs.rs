//! Log drivers with real containers: files, a syslog server and a journal made here, servers that are slow or go away, a
//! disk that is full, readers over rotation and restart.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use pontoon_engine::{StdioEvent, StdioInput, StdioSession};
use pontoon_proto::v1::{CreateContainerRequest, LogDriver, LogEntry, LogsRequest, StopContainerRequest};

use crate::bed::{Bed, PATIENCE, all_streams, cases, command, eventually, run, sh, with};

cases![
    logs_local,
    logs_compressed,
    logs_details,
    logs_defaults,
    logs_torn,
    logs_over_restart,
    logs_disk_full,
    syslog_datagrams,
    syslog_streams,
    syslog_reconnects,
    syslog_slow,
    syslog_stuck,
    journald,
];

fn driver(name: &str, options: &[(&str, &str)]) -> Option<LogDriver> {
    Some(LogDriver {
        name: name.into(),
        options: options
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
    })
}

fn logged(script: &str, name: &str, options: &[(&str, &str)]) -> CreateContainerRequest {
    with(sh(script), |_, host| host.log = driver(name, options))
}

fn everything(id: &str) -> LogsRequest {
    LogsRequest {
        target: id.to_owned(),
        stdout: true,
        stderr: true,
        ..LogsRequest::default()
    }
}

async fn read(bed: &Bed, request: LogsRequest) -> Vec<LogEntry> {
    let mut entries = bed.engine.logs(&request).map_err(|e| e.chain()).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = tokio::time::timeout(PATIENCE, entries.recv()).await.unwrap() {
        all.push(entry.unwrap());
    }
    all
}

fn text(entries: &[LogEntry], stream: u32) -> String {
    let lines = entries.iter().filter(|entry| entry.stream == stream);
    lines.map(|entry| String::from_utf8_lossy(&entry.line)).collect()
}

fn folder(bed: &Bed, id: &str) -> PathBuf {
    bed.path().join("data/engine/containers").join(id)
}

/// What the container's shim has told, while it runs.
fn shim_log(bed: &Bed, id: &str) -> String {
    let path = bed.path().join("run/shim").join(id).join("shim.log");
    std::fs::read_to_string(path).unwrap_or_default()
}

async fn say(session: &StdioSession, text: &str) {
    session
        .input
        .send(StdioInput::Stdin(text.to_owned().into()))
        .await
        .unwrap();
}

async fn hear(session: &mut StdioSession, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        // Only the end can still become what is waited for.
        let surplus = seen.len().saturating_sub(wanted.len());
        seen = seen.chars().skip(surplus).collect();
        match tokio::time::timeout(PATIENCE, session.output.recv())
            .await
            .unwrap()
        {
            Some(Ok(StdioEvent::Output(_, bytes))) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{wanted:?} was not said but {seen:?}, then {other:?}"),
        }
    }
}

async fn logs_local() {
    let bed = Bed::new().await;
    let script = "echo one; echo two >&2; echo three; printf rest";
    let id = bed.start(logged(script, "local", &[])).await;
    assert_eq!(bed.wait(&id).await, 0);
    let entries = read(&bed, everything(&id)).await;
    assert_eq!(
        (text(&entries, 1).as_str(), text(&entries, 2).as_str()),
        ("one\nthree\nrest", "two\n")
    );
    assert!(folder(&bed, &id).join("local-logs/container.log").exists());
    assert_eq!(bed.inspect(&id).log_path, "", "the format is not for others");
    let last = LogsRequest {
        tail: Some(1),
        ..everything(&id)
    };
    let entries = read(&bed, last).await;
    assert_eq!(text(&entries, 1), "rest");
    let json = bed.create(logged("echo x", "json-file", &[])).await;
    assert_eq!(
        bed.inspect(&json).log_path,
        "",
        "as in Docker before the first start"
    );
    bed.engine.start(&json).await.unwrap();
    bed.wait(&json).await;
    let path = folder(&bed, &json).join(format!("{json}-json.log"));
    assert_eq!(bed.inspect(&json).log_path, path.to_str().unwrap());
    bed.finish().await;
}

async fn logs_compressed() {
    let bed = Bed::new().await;
    for (name, options) in [
        ("local", &[("max-size", "50k"), ("max-file", "99")][..]),
        (
            "json-file",
            &[("max-size", "50k"), ("max-file", "99"), ("compress", "true")],
        ),
        (
            "json-file",
            &[
                ("max-size", "50k"),
                ("max-file", "99"),
                ("compress", "true"),
                ("mode", "non-blocking"),
                ("max-buffer-size", "9m"),
            ],
        ),
    ] {
        let id = bed.create(logged("read x; seq 1 30000", name, options)).await;
        let mut session = with_stdin(&bed, &id).await;
        let follow = LogsRequest {
            follow: true,
            ..everything(&id)
        };
        let following = read(&bed, follow);
        let (followed, ()) = tokio::join!(following, async {
            say(&session, "go\n").await;
            hear(&mut session, "30000\n").await;
        });
        let expected: String = (1..=30000).map(|n| format!("{n}\n")).collect();
        assert_eq!(text(&followed, 1), expected, "{name} {options:?}");
        assert_eq!(bed.wait(&id).await, 0);
        assert_eq!(text(&read(&bed, everything(&id)).await, 1), expected);
        let tail = LogsRequest {
            tail: Some(23210),
            ..everything(&id)
        };
        let entries = read(&bed, tail).await;
        assert_eq!(
            (entries.len(), entries[0].line.as_ref()),
            (23210, b"6791\n".as_slice())
        );
        let since = LogsRequest {
            since: followed[5000].timestamp,
            ..everything(&id)
        };
        assert!(text(&read(&bed, since).await, 1).ends_with("29999\n30000\n"));
        let mut folder = folder(&bed, &id);
        if name == "local" {
            folder.push("local-logs");
        }
        let names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            names.iter().filter(|name| name.ends_with(".gz")).count() > 2,
            "{names:?}"
        );
        assert!(
            !names
                .iter()
                .any(|name| name.ends_with(".tmp") || name.ends_with(".new")),
            "{names:?}"
        );
    }
    bed.finish().await;
}

/// Starts a container whose stdin is open, with a client.
async fn with_stdin(bed: &Bed, id: &str) -> StdioSession {
    let session = bed.engine.attach(id, all_streams(), false).await.unwrap();
    bed.engine.start(id).await.map_err(|e| e.chain()).unwrap();
    session
}

async fn logs_details() {
    let bed = Bed::new().await;
    let options = [
        ("labels", "role,none"),
        ("env-regex", "^TIER"),
        ("tag", "{{.ImageName}}/{{.Name}}"),
    ];
    for name in ["json-file", "local"] {
        let mut request = with(logged("echo x", name, &options), |config, _| {
            config.labels = HashMap::from([("role".into(), "db".into()), ("other".into(), "1".into())]);
            config.env = vec!["TIER=gold".into(), "X=y".into()];
        });
        request.name = format!("box-{name}");
        let id = bed.start(request).await;
        bed.wait(&id).await;
        let details = LogsRequest {
            details: true,
            ..everything(&id)
        };
        let expected: HashMap<String, String> = [
            ("role", "db"),
            ("TIER", "gold"),
            ("tag", &format!("busybox/box-{name}")),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        assert_eq!(read(&bed, details).await[0].attributes, expected);
        assert!(read(&bed, everything(&id)).await[0].attributes.is_empty());
    }
    bed.finish().await;
}

async fn logs_defaults() {
    let bed = Bed::configured(|config| {
        config.log = driver("local", &[("max-file", "2"), ("max-size", "1m")]).unwrap();
    })
    .await;
    let id = bed.create(logged("true", "", &[("max-size", "2m")])).await;
    let expected = driver("local", &[("max-file", "2"), ("max-size", "2m")]);
    assert_eq!(bed.inspect(&id).host.unwrap().log, expected);
    let id = bed.create(logged("true", "json-file", &[])).await;
    assert_eq!(bed.inspect(&id).host.unwrap().log, driver("json-file", &[]));
    let info = bed.engine.info().await.map_err(|e| e.chain()).unwrap();
    assert_eq!(info.logging_driver, "local");
    let unreadable = "configured logging driver does not support reading";
    for log in [
        driver("none", &[]),
        driver("journald", &[("cache-disabled", "true")]),
    ] {
        let id = bed.create(with(sh("true"), |_, host| host.log = log)).await;
        assert_eq!(
            bed.engine.logs(&everything(&id)).unwrap_err().to_string(),
            unreadable
        );
    }
    let missing = bed.create(logged("true", "journald", &[])).await;
    let error = bed.engine.start(&missing).await.unwrap_err().chain();
    assert!(
        error.contains("failed to initialize logging driver")
            && error.contains("journald is not enabled on this host"),
        "{error}"
    );
    bed.finish().await;
}

/// What a crash of the host leaves is skipped, and the next start writes on behind it.
async fn logs_torn() {
    let bed = Bed::new().await;
    for (name, torn) in [
        ("json-file", &b"{\"log\":\"torn"[..]),
        ("local", &[0, 0, 0, 60, 10, 6, b's']),
    ] {
        let id = bed.start(logged("echo whole", name, &[])).await;
        bed.wait(&id).await;
        let path = match name {
            "local" => folder(&bed, &id).join("local-logs/container.log"),
            _ => folder(&bed, &id).join(format!("{id}-json.log")),
        };
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, torn).unwrap();
        assert_eq!(bed.log(&id).await, "whole\n");
        bed.engine.start(&id).await.unwrap();
        bed.wait(&id).await;
        assert_eq!(bed.log(&id).await, "whole\nwhole\n", "{name}");
    }
    bed.finish().await;
}

async fn logs_over_restart() {
    let bed = Bed::new().await;
    let script = "echo run; while :; do sleep 0.05; done";
    let id = bed.start(logged(script, "local", &[])).await;
    let follow = LogsRequest {
        follow: true,
        ..everything(&id)
    };
    let mut entries = bed.engine.logs(&follow).unwrap();
    let stop = |timeout| StopContainerRequest {
        target: id.clone(),
        timeout: Some(timeout),
        ..StopContainerRequest::default()
    };
    for _ in 0..3 {
        let entry = tokio::time::timeout(PATIENCE, entries.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(entry.unwrap().line, "run\n");
        bed.engine.restart(stop(0)).await.map_err(|e| e.chain()).unwrap();
    }
    let entry = tokio::time::timeout(PATIENCE, entries.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(entry.unwrap().line, "run\n");
    bed.engine.stop(stop(0)).await.unwrap();
    assert!(
        tokio::time::timeout(PATIENCE, entries.recv())
            .await
            .unwrap()
            .is_none(),
        "it ends with the container"
    );
    bed.finish().await;
}

/// The container goes on, the loss is counted, and when there is room again lines are written again.
async fn logs_disk_full() {
    let bed = Bed::new().await;
    let script =
        "while read x; do case $x in fill) seq 1 100000;; *) echo said $x;; esac; echo done $x >&2; done";
    let request = with(logged(script, "local", &[]), |config, _| config.open_stdin = true);
    let id = bed.create(request).await;
    let disk = folder(&bed, &id).join("local-logs");
    std::fs::create_dir_all(&disk).unwrap();
    let path = disk.to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=512k", "tmpfs", path]);
    std::fs::write(disk.join("ballast"), vec![0; 256 << 10]).unwrap();
    let mut session = with_stdin(&bed, &id).await;
    say(&session, "fill\n").await;
    hear(&mut session, "done fill\n").await;
    eventually("the loss is told", || async {
        shim_log(&bed, &id).contains("output is being lost").then_some(())
    })
    .await;
    std::fs::remove_file(disk.join("ballast")).unwrap();
    say(&session, "again\n").await;
    hear(&mut session, "done again\n").await;
    eventually("writing goes on", || async {
        let log = shim_log(&bed, &id);
        (log.contains("is being written again") && log.contains("were lost")).then_some(())
    })
    .await;
    say(&session, "more\n").await;
    hear(&mut session, "done more\n").await;
    let written = eventually("the last line is there", || async {
        let entries = read(&bed, everything(&id)).await;
        text(&entries, 2).contains("done more\n").then_some(entries)
    })
    .await;
    let output = text(&written, 1);
    // Lines are whole and in order; between those that were written before the disk was full none is missing.
    let numbers: Vec<u32> = output.lines().map_while(|line| line.parse().ok()).collect();
    assert!(
        numbers.len() > 1000 && numbers.len() < 100_000,
        "{}",
        numbers.len()
    );
    assert!(
        numbers
            .iter()
            .zip(1..=1000)
            .all(|(number, place)| *number == place)
    );
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        output.ends_with("said more\n"),
        "{:?}",
        &output[output.len() - 50..]
    );
    bed.engine.kill(&id, "KILL").await.unwrap();
    run("umount", &[path]);
    bed.finish().await;
}

/// A syslog line with what differs between runs left out: numbers are 0, the host's name is HOST.
fn shape(line: &str) -> String {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut shape = String::new();
    for c in line.replace(&format!(" {hostname} "), " HOST ").chars() {
        match c {
            '0'..='9' if shape.ends_with('0') => {}
            '0'..='9' => shape.push('0'),
            c => shape.push(c),
        }
    }
    shape
}

async fn syslog_datagrams() {
    let bed = Bed::new().await;
    run("ip", &["link", "set", "lo", "up"]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = bed.path().join("syslog.sock");
    let gram = UnixDatagram::bind(&path).unwrap();
    gram.set_read_timeout(Some(PATIENCE)).unwrap();
    let addresses = [
        format!("udp://{}", udp.local_addr().unwrap()),
        format!("unixgram://{}", path.display()),
    ];
    let receive = |is_udp: bool| {
        let mut buffer = vec![0; 65536];
        let length = if is_udp {
            udp.recv(&mut buffer)
        } else {
            gram.recv(&mut buffer)
        };
        String::from_utf8_lossy(&buffer[..length.unwrap()]).into_owned()
    };
    for (place, address) in addresses.iter().enumerate() {
        let options = [
            ("syslog-address", address.as_str()),
            ("syslog-format", "rfc5424"),
            ("syslog-facility", "local0"),
            ("tag", "{{.Name}}"),
        ];
        let mut request = logged("echo out; echo err >&2", "syslog", &options);
        request.name = format!("box{place}");
        let id = bed.start(request).await;
        let mut lines = [receive(place == 0), receive(place == 0)];
        lines.sort();
        assert!(
            lines[0].starts_with("<131>1 ") && lines[1].starts_with("<134>1 "),
            "{lines:?}"
        );
        assert!(lines[0].ends_with(&format!(" box{place} - err\n")), "{lines:?}");
        assert!(lines[1].ends_with(&format!(" box{place} - out\n")), "{lines:?}");
        bed.wait(&id).await;
        let entries = read(&bed, everything(&id)).await;
        assert_eq!(
            (text(&entries, 1), text(&entries, 2)),
            ("out\n".into(), "err\n".into()),
            "by the cache"
        );
    }
    bed.finish().await;
}

async fn syslog_streams() {
    let bed = Bed::new().await;
    run("ip", &["link", "set", "lo", "up"]);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = bed.path().join("syslog.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp_address = format!("tcp://{}", tcp.local_addr().unwrap());
    let unix_address = format!("unix://{}", path.display());
    for (address, format, expected) in [
        (&tcp_address, "", "<0>Xxx 0 0:0:0 TAG[0]: a b\n"),
        (&tcp_address, "rfc3164", "<0>Xxx 0 0:0:0 HOST TAG[0]: a b\n"),
        (
            &unix_address,
            "rfc5424micro",
            "<0>0 0-0-0T0:0:0.0Z HOST TAG 0 TAG - a b\n",
        ),
    ] {
        let options = [
            ("syslog-address", address.as_str()),
            ("syslog-format", format),
            ("tag", "TAG"),
        ];
        let id = bed.start(logged("echo a b", "syslog", &options)).await;
        let mut received = String::new();
        let stream: Box<dyn Read> = if *address == tcp_address {
            Box::new(tcp.accept().unwrap().0)
        } else {
            Box::new(unix.accept().unwrap().0)
        };
        BufReader::new(stream).read_to_string(&mut received).unwrap();
        bed.wait(&id).await;
        let mut shape = shape(&received);
        if let Some(month) = shape.get(3..6).filter(|_| !format.starts_with("rfc5424")) {
            shape = shape.replacen(&month.to_owned(), "Xxx", 1).replace("  ", " ");
        }
        assert_eq!(shape, expected, "{received:?}");
    }
    // A server that is not there: the container does not start.
    drop(tcp);
    let options = [("syslog-address", tcp_address.as_str())];
    let id = bed.create(logged("true", "syslog", &options)).await;
    let error = bed.engine.start(&id).await.unwrap_err().chain();
    assert!(
        error.contains("failed to initialize logging driver: dial tcp 127.0.0.1:")
            && error.contains("refused"),
        "{error}"
    );
    bed.finish().await;
}

async fn syslog_reconnects() {
    let bed = Bed::new().await;
    run("ip", &["link", "set", "lo", "up"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", server.local_addr().unwrap());
    let script = "while read x; do echo $x; done";
    let request = with(
        logged(script, "syslog", &[("syslog-address", &address)]),
        |config, _| {
            config.open_stdin = true;
        },
    );
    let id = bed.create(request).await;
    let mut session = with_stdin(&bed, &id).await;
    for n in 0..3 {
        say(&session, &format!("line{n}\n")).await;
        hear(&mut session, &format!("line{n}\n")).await;
        // Each line finds the connection of the one before closed.
        let mut line = String::new();
        let stream = server.accept().unwrap().0;
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.ends_with(&format!("line{n}\n")), "{line}");
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }
    // While nobody listens lines are lost for the server, not for `logs`.
    drop(server);
    for n in 3..5 {
        say(&session, &format!("line{n}\n")).await;
        hear(&mut session, &format!("line{n}\n")).await;
    }
    eventually("the loss is told", || async {
        shim_log(&bed, &id).contains("output is being lost").then_some(())
    })
    .await;
    eventually("all lines are in the cache", || async {
        (bed.log(&id).await == "line0\nline1\nline2\nline3\nline4\n").then_some(())
    })
    .await;
    session.input.send(StdioInput::Close).await.unwrap();
    bed.engine.kill(&id, "KILL").await.unwrap();
    bed.finish().await;
}

/// In blocking mode a slow server loses nothing.
async fn syslog_slow() {
    const LINES: usize = 20_000;
    let bed = Bed::new().await;
    run("ip", &["link", "set", "lo", "up"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", server.local_addr().unwrap());
    let (go, wait) = mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        let stream = server.accept().unwrap().0;
        wait.recv().unwrap();
        BufReader::with_capacity(512, stream)
            .lines()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    });
    let script =
        format!("yes a line that is long enough to fill all buffers on the way | head -n {LINES}; echo end");
    let id = bed
        .start(logged(
            &script,
            "syslog",
            &[("syslog-address", &address), ("mode", "blocking")],
        ))
        .await;
    // The shim answers all the while.
    assert!(bed.inspect(&id).pid > 0);
    bed.engine.pause(&id).await.unwrap();
    bed.engine.unpause(&id).await.unwrap();
    go.send(()).unwrap();
    assert_eq!(bed.wait(&id).await, 0);
    let lines = reader.join().unwrap();
    assert_eq!(lines.len(), LINES + 1);
    assert!(lines.last().unwrap().ends_with(": end"));
    bed.finish().await;
}

/// In non-blocking mode a server that never reads holds nobody up.
async fn syslog_stuck() {
    let bed = Bed::new().await;
    run("ip", &["link", "set", "lo", "up"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", server.local_addr().unwrap());
    let options = [
        ("syslog-address", address.as_str()),
        ("mode", "non-blocking"),
        ("max-buffer-size", "64k"),
    ];
    let script = "head -c 20000000 /dev/zero | tr '\\0' x | fold -w 1000; echo end; read x";
    let request = with(logged(script, "syslog", &options), |config, _| {
        config.open_stdin = true
    });
    let id = bed.create(request).await;
    let mut session = with_stdin(&bed, &id).await;
    let connection = server.accept().unwrap().0;
    hear(&mut session, "end\n").await;
    eventually("the loss is told", || async {
        shim_log(&bed, &id)
            .contains("the log's buffer is full")
            .then_some(())
    })
    .await;
    // Room again: what is said then arrives.
    let drain = std::thread::spawn(move || {
        let mut last = String::new();
        for line in BufReader::new(connection).lines().map_while(Result::ok) {
            last = line;
        }
        last
    });
    eventually("there is room again", || async {
        shim_log(&bed, &id).contains("were lost").then_some(())
    })
    .await;
    say(&session, "bye\n").await;
    assert_eq!(bed.wait(&id).await, 0);
    assert!(drain.join().unwrap().contains("]: "));
    let cached = bed.log(&id).await;
    assert!(
        cached.len() > 100_000 && cached.len() < 20_000_000,
        "{}",
        cached.len()
    );
    bed.finish().await;
}

async fn journald() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    let bed = Bed::configured(|config| config.journal = path.clone()).await;
    let options = [("labels", "com.example.role"), ("tag", "t-{{.Name}}")];
    let mut request = with(
        logged("echo out; echo err >&2", "journald", &options),
        |config, _| {
            config.labels = HashMap::from([("com.example.role".into(), "db".into())]);
        },
    );
    request.name = "box".to_owned();
    let id = bed.start(request).await;
    let mut entries = [entry(&journal), entry(&journal)];
    entries.sort_by_key(|fields| fields["PRIORITY"].clone());
    for (fields, (priority, message)) in entries.iter().zip([("3", "err"), ("6", "out")]) {
        for (name, value) in [
            ("MESSAGE", message),
            ("PRIORITY", priority),
            ("CONTAINER_ID", &id[..12]),
            ("CONTAINER_ID_FULL", &id),
            ("CONTAINER_NAME", "box"),
            ("CONTAINER_TAG", "t-box"),
            ("SYSLOG_IDENTIFIER", "t-box"),
            ("IMAGE_NAME", "busybox"),
            ("COM_EXAMPLE_ROLE", "db"),
        ] {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
    bed.wait(&id).await;
    let details = LogsRequest {
        details: true,
        ..everything(&id)
    };
    let cached = read(&bed, details).await;
    assert_eq!(
        (text(&cached, 1), text(&cached, 2)),
        ("out\n".into(), "err\n".into())
    );
    assert_eq!(cached[0].attributes["com.example.role"], "db");

    let id = bed
        .start(with(
            command(&["sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x; echo"]),
            |_, host| {
                host.log = driver("journald", &[]);
            },
        ))
        .await;
    let (first, last) = (entry(&journal), entry(&journal));
    assert_eq!(
        (first["MESSAGE"].len(), last["MESSAGE"].len()),
        (16384, 20000 - 16384)
    );
    assert_eq!(first["CONTAINER_PARTIAL_MESSAGE"], "true");
    assert_eq!(first["CONTAINER_PARTIAL_ID"], last["CONTAINER_PARTIAL_ID"]);
    assert_eq!(
        (
            first["CONTAINER_PARTIAL_LAST"].as_str(),
            last["CONTAINER_PARTIAL_LAST"].as_str()
        ),
        ("false", "true")
    );
    assert_eq!(last.get("CONTAINER_PARTIAL_MESSAGE"), None);
    bed.wait(&id).await;
    assert_eq!(bed.log(&id).await.len(), 20_001);
    assert!(Path::new(&path).exists());
    bed.finish().await;
}

/// Receives an entry; none of these has a value with newlines.
fn entry(journal: &UnixDatagram) -> HashMap<String, String> {
    let mut buffer = vec![0; 1 << 16];
    let length = journal.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length])
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
