//! What users ask of the engine as a whole: events, info, settings, disk use.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, SHORT, process, programs, wait_until, with_fleet};
use rustix::process::Signal;
use serde_json::Value;

/// One host with the test images.
fn host(test: impl FnOnce(&Host, &Fleet) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        test(fleet.host(1), fleet)
    });
}

#[test]
fn events_are_told_live_and_looking_back() {
    host(|host, _| {
        let told = host.folder().join("events");
        let mut watcher = host
            .command(&[
                "events",
                "--filter",
                "type=container",
                "--format",
                "{{.Action}} {{.Actor.Attributes.name}}",
            ])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&told)?)
            .spawn()?;
        // The watcher has to be there first; looking back would hide that it hears nothing.
        wait_until("somebody watches", SHORT, || {
            let count = host.ok(&["info", "--format", "{{.NEventsListener}}"])?;
            ensure!(count == "1", "{count} watchers");
            Ok(())
        })?;
        host.ok(&["run", "--name", "box", "busybox", "true"])?;
        host.ok(&["rm", "box"])?;
        let expected = "create box\nattach box\nstart box\ndie box\ndestroy box\n";
        let heard = wait_until("all is told", SHORT, || {
            let text = fs::read_to_string(&told)?;
            ensure!(text.ends_with("destroy box\n"), "{text}");
            Ok(text)
        })?;
        watcher.kill()?;
        watcher.wait()?;
        ensure!(heard == expected, "{heard}");

        let past = host.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=die",
            "--format",
            "json",
        ])?;
        let event: Value = serde_json::from_str(&past).with_context(|| past.clone())?;
        ensure!(
            event["Type"] == "container"
                && event["status"] == "die"
                && event["Actor"]["Attributes"]["exitCode"] == "0",
            "{event}"
        );
        let line = host.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "type=image",
            "--filter",
            "image=busybox",
        ])?;
        ensure!(
            line.contains(" image load sha256:") && line.contains("(name=busybox:latest)"),
            "{line}"
        );
        host.pontoon(&["events", "--filter", "colour=red"])?
            .fails(1, &["invalid filter 'colour'"])?;
        host.pontoon(&["events", "--since", "1m", "--until", "1h"])?
            .fails(1, &["`since` time cannot be after `until` time"])?;
        host.pontoon(&["events", "--format", "{{"])?
            .fails(64, &["template"])?;
        Ok(())
    });
}

#[test]
fn the_settings_file_is_read() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        host.stop()?;
        host.configure("log-level = \"debug\"\nlabel = [\"zone=a\"]\n")?;
        host.start()?;
        let labels = host.ok(&["info", "--format", "{{json .Labels}} {{.Debug}}"])?;
        ensure!(labels == r#"["zone=a"] true"#, "{labels}");
        host.configure("label = [\"zone=b\"]\n")?;
        host.signal(Signal::HUP)?;
        wait_until("the settings are read again", SHORT, || {
            let labels = host.ok(&["info", "--format", "{{json .Labels}} {{.Debug}}"])?;
            ensure!(labels == r#"["zone=b"] false"#, "{labels}");
            Ok(())
        })?;
        let told = host.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "type=daemon",
        ])?;
        ensure!(
            told.contains(" daemon reload ") && told.contains("labels=[zone=b]"),
            "{told}"
        );
        for (settings, message) in [
            ("colour = 1", "unknown setting \"colour\""),
            ("label = [\"zone\"]", "bad attribute format: zone"),
            ("x = ", "TOML parse error"),
        ] {
            let path = host.folder().join("bad.toml");
            fs::write(&path, settings)?;
            let mut command = Command::new(programs::pontoon()?);
            command.arg("daemon").arg("--config").arg(&path);
            process::run(command)?.fails(1, &[message])?;
        }
        Ok(())
    });
}
