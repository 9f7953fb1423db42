//! config.md: terminal and consoleSize, delivered through `--console-socket`.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::bed::Bed;
use crate::case::{Case, code};

/// Creates the container with a console socket; the master of its terminal.
fn create(bed: &mut Bed, script: &str) -> std::fs::File {
    bed.spec["process"]["terminal"] = json!(true);
    bed.sh(script);
    let path = bed.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    bed.try_create(&["--console-socket", path.to_str().unwrap()])
        .unwrap_or_else(|e| panic!("create: {e}"));
    receive(&listener)
}

fn receive(listener: &UnixListener) -> std::fs::File {
    let (connection, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [0; 256];
    recvmsg(
        &connection,
        &mut [IoSliceMut::new(&mut data)],
        &mut control,
        RecvFlags::empty(),
    )
    .unwrap();
    let master: OwnedFd = control
        .drain()
        .find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .expect("a descriptor");
    master.into()
}

/// Everything that the terminal says until its last user has gone.
fn text(master: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(bytes).unwrap()
}

pub fn cases() -> Vec<Case> {
    vec![
        code(
            "terminal",
            "terminal true: a pseudo terminal is the process's standard streams",
            |bed| {
                let mut master = create(bed, "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; exit 4");
                bed.start();
                assert_eq!(text(&mut master), "/dev/pts/0\r\nall\r\n");
                assert_eq!(bed.wait(), 4);
            },
        ),
        code(
            "terminal_is_the_containers_devpts",
            "the terminal is of the container's own devpts",
            |bed| {
                let mut master = create(bed, "ls /dev/pts");
                bed.start();
                let shown = text(&mut master);
                assert!(shown.starts_with('0'), "{shown}");
            },
        ),
        code("console_device", "/dev/console is the terminal", |bed| {
            let mut master = create(
                bed,
                "stat -c %t:%T /dev/console $(tty) | sort -u | wc -l; echo x > /dev/console",
            );
            bed.start();
            assert_eq!(text(&mut master), "1\r\nx\r\n");
        }),
        code("console_size", "consoleSize is the terminal's size", |bed| {
            bed.spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
            let mut master = create(bed, "stty size");
            bed.start();
            assert_eq!(text(&mut master), "33 99\r\n");
        }),
        code("console_input", "input arrives", |bed| {
            let mut master = create(bed, "stty -echo; echo ready; read line; echo got $line");
            bed.start();
            let mut seen = String::new();
            let mut byte = [0];
            while !seen.ends_with("ready\r\n") {
                master.read_exact(&mut byte).unwrap();
                seen.push(char::from(byte[0]));
            }
            master.write_all(b"hello\n").unwrap();
            assert_eq!(text(&mut master), "got hello\r\n");
        }),
        code("controlling_terminal", "it is the controlling terminal", |bed| {
            let mut master = create(bed, "echo x > /dev/tty");
            bed.start();
            assert_eq!(text(&mut master), "x\r\n");
        }),
        code(
            "terminal_of_another_user",
            "a user other than root owns the terminal",
            |bed| {
                bed.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                let mut master = create(bed, "stat -c %u $(tty); echo again > /dev/stdout");
                bed.start();
                assert_eq!(text(&mut master), "1000\r\nagain\r\n");
            },
        ),
        code(
            "terminal_without_socket",
            "a detached terminal needs a console socket",
            |bed| {
                bed.spec["process"]["terminal"] = json!(true);
                bed.sleeper();
                bed.try_create(&[]).unwrap_err();
            },
        ),
        code(
            "socket_without_terminal",
            "a console socket needs a terminal",
            |bed| {
                bed.sleeper();
                let path = bed.path("console.sock");
                let _listener = UnixListener::bind(&path).unwrap();
                bed.try_create(&["--console-socket", path.to_str().unwrap()])
                    .unwrap_err();
            },
        ),
        code(
            "socket_missing",
            "one that does not exist is an error that leaves nothing",
            |bed| {
                bed.spec["process"]["terminal"] = json!(true);
                bed.sleeper();
                let path = bed.path("nowhere.sock");
                bed.try_create(&["--console-socket", path.to_str().unwrap()])
                    .unwrap_err();
                assert!(!bed.path("state").join(&bed.id).exists());
            },
        ),
        code("exec_terminal", "exec has a terminal of its own", |bed| {
            bed.up();
            let path = bed.path("exec.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let flags = [
                "--detach",
                "--tty",
                "--console-socket",
                path.to_str().unwrap(),
                "--pid-file",
                "exec-pid",
            ];
            let done = bed.exec_with(&flags, &["sh", "-c", "tty; [ -t 2 ] && echo all"]);
            assert_eq!(done.code, 0, "{} {}", done.stderr, bed.error());
            let mut master = receive(&listener);
            assert_eq!(text(&mut master), "/dev/pts/0\r\nall\r\n");
            let pid = rustix::process::Pid::from_raw(bed.read("exec-pid").parse().unwrap());
            let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
        }),
    ]
}
