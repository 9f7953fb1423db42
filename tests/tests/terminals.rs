//! Terminals of containers: size, keys, exit status, and how they are left and taken again.

use anyhow::{Result, ensure};
use pontoon_tests::pty::Session;
use pontoon_tests::{SHORT, wait_until, with_host};

#[test]
fn a_terminal_has_size_keys_and_exit_status() {
    with_host(|host, _| {
        let command = host.command(&["run", "--rm", "-it", "--name", "term", "busybox", "sh"]);
        let mut session = Session::start(&command, 31, 97)?;
        session.type_text("echo a''b\n")?;
        session.expect("ab")?;
        session.type_text("stty size\n")?;
        session.expect("31 97")?;
        session.resize(40, 120)?;
        wait_until("the new size has arrived", SHORT, || {
            ensure!(host.ok(&["exec", "term", "sh", "-c", "stty size </proc/1/fd/0"])? == "40 120");
            Ok(())
        })?;
        // Ctrl-C interrupts what runs, not the session.
        session.type_text("sleep 1000\n")?;
        wait_until("the program runs", SHORT, || {
            host.ok(&["exec", "term", "pidof", "sleep"])
        })?;
        session.type_text("\x03")?;
        session.type_text("echo st''ill\n")?;
        session.expect("still")?;
        session.type_text("exit 5\n")?;
        ensure!(session.end()? == 5, "{}", session.shown());
        Ok(())
    });
}

#[test]
fn a_terminal_can_be_left_and_taken_again() {
    with_host(|host, _| {
        let command = host.command(&["run", "-it", "--name", "term", "busybox", "sh"]);
        let mut session = Session::start(&command, 24, 80)?;
        session.type_text("echo fi''rst\n")?;
        session.expect("first")?;
        // Ctrl-P Ctrl-Q detaches.
        session.type_text("\x10\x11")?;
        ensure!(session.end()? == 0, "{}", session.shown());
        ensure!(host.ok(&["inspect", "-f", "{{.State.Running}}", "term"])? == "true");
        let mut session = Session::start(&host.command(&["attach", "term"]), 24, 80)?;
        session.type_text("echo sec''ond\n")?;
        session.expect("second")?;
        session.type_text("exit 0\n")?;
        ensure!(session.end()? == 0, "{}", session.shown());
        host.ok(&["rm", "term"])?;
        Ok(())
    });
}

#[test]
fn leaving_by_keys_has_dockers_statuses() {
    with_host(|host, _| {
        let run = host.command(&["run", "-it", "--name", "box", "busybox", "sh"]);
        let leave = |command: &std::process::Command, status: i32| -> Result<()> {
            let mut session = Session::start(command, 24, 80)?;
            session.type_text("echo he''re\n")?;
            session.expect("here")?;
            session.type_text("\x10\x11")?;
            if status != 0 {
                session.expect("read escape sequence")?;
            }
            let ended = session.end()?;
            ensure!(
                ended == status,
                "{command:?} ended with {ended}: {:?}",
                session.shown()
            );
            Ok(())
        };
        leave(&run, 0)?;
        leave(&host.command(&["attach", "box"]), 1)?;
        leave(&host.command(&["exec", "-it", "box", "sh"]), 1)?;
        host.ok(&["stop", "-t", "0", "box"])?;
        leave(&host.command(&["start", "-ai", "box"]), 0)?;
        // Keys of the user's own; Docker's are the program's then.
        let mut session = Session::start(
            &host.command(&["attach", "--detach-keys", "ctrl-x,q", "box"]),
            24,
            80,
        )?;
        session.type_text("echo th''ere\n")?;
        session.expect("there")?;
        session.type_text("\x10\x11echo ag''ain\n")?;
        session.expect("again")?;
        session.type_text("\x18q")?;
        session.expect("read escape sequence")?;
        ensure!(session.end()? == 1, "{}", session.shown());
        Ok(())
    });
}
