//! Entries and lines in the programs that users have: systemd's journal and a syslog daemon, each started here. The case's own
//! mount namespace hides the machine's journal.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::logged;
use crate::bed::{Bed, cases, eventually, run};

cases![journal_of_systemd, syslogd];

/// A program that ends with the case, however it ends.
struct Receiver(Child);

impl Receiver {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}")),
        )
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn journal_of_systemd() {
    let bed = Bed::new().await;
    for place in ["/run/systemd", "/run/log"] {
        std::fs::create_dir_all(place).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", place]);
    }
    // Volatile: a journal below /var/log would be the machine's.
    std::fs::create_dir_all("/run/systemd/journal").unwrap();
    std::fs::create_dir_all("/run/systemd/journald.conf.d").unwrap();
    std::fs::write(
        "/run/systemd/journald.conf.d/test.conf",
        "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n",
    )
    .unwrap();
    let id_file = "/run/systemd/machine-id";
    std::fs::write(id_file, "0123456789abcdef0123456789abcdef\n").unwrap();
    run("mount", &["--bind", id_file, "/etc/machine-id"]);
    let _journald = Receiver::start("/lib/systemd/systemd-journald", &[]);
    eventually("the journal listens", async || {
        Path::new("/run/systemd/journal/socket").exists().then_some(())
    })
    .await;
    let mut request = logged(
        "echo out; echo err >&2; printf 'bin\\377ary\\n'; head -c 300000 /dev/zero | tr '\\0' x",
        "journald",
        &[("tag", "t-{{.Name}}")],
    );
    request.name = "box".to_owned();
    let id = bed.start(request).await;
    bed.wait(&id).await;
    let field = |name: &str| {
        let arguments = [
            "--directory=/run/log/journal",
            "--output=cat",
            "--all",
            &format!("--output-fields={name}"),
            &format!("CONTAINER_ID_FULL={id}"),
        ];
        let output = Command::new("journalctl").args(arguments).output().unwrap();
        output.stdout
    };
    let messages = eventually("all of it is in the journal", async || {
        let messages = field("MESSAGE");
        let length = messages.iter().filter(|byte| **byte == b'x').count();
        (length == 300_000).then_some(messages)
    })
    .await;
    let mut lines: Vec<&[u8]> = messages.split(|byte| *byte == b'\n').take(3).collect();
    lines.sort_unstable();
    assert_eq!(lines, [&b"bin\xffary"[..], b"err", b"out"]);
    let priorities = String::from_utf8(field("PRIORITY")).unwrap();
    assert_eq!(priorities.lines().filter(|line| *line == "3").count(), 1);
    let identifiers = String::from_utf8(field("SYSLOG_IDENTIFIER")).unwrap();
    assert!(identifiers.lines().all(|line| line == "t-box"), "{identifiers}");
    let kept = bed.log(&id).await;
    assert_eq!(kept.matches('x').count(), 300_000);
    bed.finish().await;
}

async fn syslogd() {
    let bed = Bed::new().await;
    // The daemon listens at /dev/log, which the machine may have: a /dev of the case's own.
    // One command: without /dev/null there is no second.
    run(
        "sh",
        &[
            "-ec",
            "mount -t tmpfs -o mode=755 tmpfs /dev
            for device in null:3 zero:5 full:7 random:8 urandom:9; do
                mknod -m 666 /dev/${device%:*} c 1 ${device#*:}
            done",
        ],
    );
    let log = bed.path().join("messages");
    let _syslogd = Receiver::start("busybox", &["syslogd", "-n", "-O", &log.display().to_string()]);
    eventually("the daemon listens", async || {
        Path::new("/dev/log").exists().then_some(())
    })
    .await;
    let id = bed
        .start(logged(
            "echo one; echo two >&2",
            "syslog",
            &[("tag", "tagged"), ("syslog-facility", "local3")],
        ))
        .await;
    bed.wait(&id).await;
    let text = eventually("both lines are written", async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.contains("one") && text.contains("two")).then_some(text)
    })
    .await;
    for (priority, message) in [("local3.info", "one"), ("local3.err", "two")] {
        let found = text
            .lines()
            .any(|line| line.contains(priority) && line.contains("tagged[") && line.ends_with(message));
        assert!(found, "{priority} {message}: {text}");
    }
    bed.finish().await;
}
