//! Lines at a syslog server: formats, transports, a server that goes away, is slow, or never reads.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::mpsc;

use pontoon_engine::StdioInput;

use super::{hear, logged, read, say, shim_log, text, with_stdin};
use crate::bed::{Bed, PATIENCE, all_logs, cases, eventually, run, with};

cases![
    syslog_datagrams,
    syslog_streams,
    syslog_reconnects,
    syslog_slow,
    syslog_stuck,
];

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
        let entries = read(&bed, all_logs(&id)).await;
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
