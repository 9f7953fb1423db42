//! What users ask of the engine as a whole: events, info, settings, and how the client finds its daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pontoon_tests::{Fleet, Host, SHORT, process, programs, wait_until, with_fleet};
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

/// A stand-in for ssh(1): checks what it is told and runs the command here, as a far shell would.
const FAKE_SSH: &str = r#"#!/bin/sh
echo "$*" >>"$SSH_LOG"
while [ "$1" != -- ]; do shift; done
[ "$2" = me@far ] || { echo "ssh: unknown host $2" >&2; exit 255; }
shift 2
exec sh -c "$*"
"#;

#[test]
fn contexts_lead_to_daemons() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        let folder = host.folder().join("client");
        fs::create_dir_all(folder.join("bin"))?;
        fs::write(folder.join("bin/ssh"), FAKE_SSH)?;
        fs::set_permissions(folder.join("bin/ssh"), fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(programs::pontoon()?, folder.join("bin/pontoon"))?;
        let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH")?);
        let log = folder.join("ssh.log");
        let client = |args: &[&str]| {
            let mut command = Command::new(folder.join("bin/pontoon"));
            command
                .env_remove("PONTOON_HOST")
                .env("PONTOON_CONFIG_DIR", folder.join("config"))
                .env("SSH_LOG", &log)
                .env("PATH", &path)
                .args(args);
            process::run(command)
        };
        let socket = host.socket();
        let far = format!("ssh://me@far:2222{}", socket.trim_start_matches("unix://"));
        client(&["context", "create", "near", "--docker", &format!("host={socket}")])?.ok()?;
        client(&[
            "context",
            "create",
            "far",
            "--description",
            "by ssh",
            "--docker",
            &format!("host={far}"),
        ])?
        .ok()?;
        client(&["context", "use", "near"])?.ok()?;
        ensure!(client(&["context", "show"])?.ok()? == "near");
        let id = client(&["info", "--format", "{{.ID}}"])?.ok()?;
        ensure!(id == host.ok(&["info", "--format", "{{.ID}}"])?, "{id}");
        ensure!(!log.exists(), "no ssh for a socket of this host");
        ensure!(client(&["--context", "far", "info", "--format", "{{.ID}}"])?.ok()? == id);
        let said = fs::read_to_string(&log)?;
        ensure!(
            said.contains("-p 2222") && said.contains("-- me@far pontoon --host="),
            "{said}"
        );

        let listed = client(&[
            "context",
            "ls",
            "--format",
            "{{.Name}} {{.Current}} {{.DockerEndpoint}}",
        ])?
        .ok()?;
        ensure!(
            listed
                == format!(
                    "default false unix:///run/pontoon/pontoon.sock\nfar false {far}\nnear true {socket}"
                ),
            "{listed}"
        );
        client(&["context", "rm", "near"])?.fails(1, &["is in use, set -f flag"])?;
        client(&[
            "context",
            "export",
            "far",
            &folder.join("far.tar").display().to_string(),
        ])?
        .ok()?;
        client(&[
            "context",
            "import",
            "again",
            &folder.join("far.tar").display().to_string(),
        ])?
        .ok()?;
        ensure!(client(&["context", "inspect", "again", "-f", "{{.Endpoints.docker.Host}}"])?.ok()? == far);
        client(&["context", "rm", "-f", "near", "far"])?.ok()?;
        ensure!(client(&["context", "show"])?.ok()? == "default");

        client(&["--context", "near", "ps"])?.fails(1, &["context not found"])?;
        client(&["--context", "again", "--host", &socket, "ps"])?
            .fails(1, &["cannot specify both --host and --context"])?;
        client(&["--host", "ssh://nobody@nowhere", "ps"])?.fails(
            1,
            &["Cannot connect to the Pontoon daemon at ssh://nobody@nowhere"],
        )?;
        client(&["context", "create", "tls", "--docker", "host=tcp://1.2.3.4:2376"])?
            .fails(1, &["invalid host"])?;
        Ok(())
    });
}
