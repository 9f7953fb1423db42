//! What users ask of the engine as a whole: events, info, disk use.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, ensure};
use pontoon_tests::{SHORT, process, wait_until, with_host};
use serde_json::Value;

#[test]
fn events_are_told_live_and_looking_back() {
    with_host(|host, _| {
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

        let past = host.line("events --since 1h --until 0s --filter event=die --format json")?;
        let event: Value = serde_json::from_str(&past).with_context(|| past.clone())?;
        ensure!(
            event["Type"] == "container"
                && event["status"] == "die"
                && event["Actor"]["Attributes"]["exitCode"] == "0",
            "{event}"
        );
        let line = host.line("events --since 1h --until 0s --filter type=image --filter image=busybox")?;
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
fn disk_use_adds_up_and_prune_gives_it_back() {
    with_host(|host, _| {
        host.ok(&["run", "--name", "writer", "--volume", "named:/data", "--volume", "/anonymous", "busybox", "sh", "-c",
            "dd if=/dev/zero of=/big bs=1k count=300 2>/dev/null; dd if=/dev/zero of=/data/x bs=1k count=200 2>/dev/null"])?;
        host.ok(&["run", "--detach", "--name", "runner", "busybox", "sleep", "1000"])?;
        host.ok(&["network", "create", "idle"])?;
        // The first image loses its name to the second: the one that a prune takes.
        host.ok(&["commit", "writer", "kept:1"])?;
        host.ok(&["commit", "runner", "kept:1"])?;
        let lines = host.ok(&[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Active}}",
        ])?;
        let images = host.ok(&["images", "--all", "--quiet", "--no-trunc"])?;
        let images: std::collections::BTreeSet<&str> = images.lines().collect();
        let expected = format!(
            "Images {} 1\nContainers 2 1\nLocal Volumes 2 2\nBuild Cache 0 0",
            images.len()
        );
        ensure!(lines == expected, "{lines}\nexpected\n{expected}");
        // Whatever df says is taken is what du finds below the data folder, but for folders and bookkeeping.
        let usage = host.ok(&["system", "df", "--verbose", "--format", "json"])?;
        let usage: Value = serde_json::from_str(&usage)?;
        let volume = usage["Volumes"]
            .as_array()
            .and_then(|volumes| volumes.iter().find(|volume| volume["Name"] == "named"))
            .context("the named volume")?;
        ensure!(volume["Size"] == "204.8kB" && volume["Links"] == "1", "{volume}");
        let writer = usage["Containers"]
            .as_array()
            .and_then(|all| all.iter().find(|container| container["Names"] == "writer"))
            .context("the writer")?;
        ensure!(writer["Size"] == "307kB", "{writer}");

        let pruned = host.ok(&["system", "prune", "--force", "--volumes"])?;
        ensure!(
            [
                "Deleted Containers:",
                "Deleted Networks:\nidle",
                "Deleted Volumes:",
                "Deleted Images:",
                // The writer's layer, the image's, and the blob of that.
                "Total reclaimed space: 925"
            ]
            .iter()
            .all(|part| pruned.contains(part)),
            "{pruned}"
        );
        ensure!(host.ok(&["ps", "--all", "--format", "{{.Names}}"])? == "runner");
        ensure!(
            host.ok(&["volume", "ls", "--quiet"])? == "named",
            "a named volume stays"
        );
        ensure!(host.ok(&["images", "--quiet", "kept"])?.lines().count() == 1);
        host.ok(&["rm", "--force", "runner"])?;
        let pruned = host.ok(&["system", "prune", "--all", "--force"])?;
        ensure!(pruned.contains("untagged: kept:1"), "{pruned}");
        ensure!(host.ok(&["images", "--quiet"])?.is_empty());
        host.ok(&["volume", "prune", "--all", "--force"])?;
        let lines = host.ok(&[
            "system",
            "df",
            "--format",
            "{{.TotalCount}} {{.Size}} {{.Reclaimable}}",
        ])?;
        ensure!(lines.lines().all(|line| line == "0 0B 0B"), "{lines}");

        host.pontoon(&["system", "prune", "--force", "--filter", "colour=red"])?
            .fails(1, &["invalid filter 'colour'"])?;
        host.pontoon(&["system", "prune", "--force", "--volumes", "--filter", "until=1h"])?
            .fails(1, &["The \"until\" filter is not supported with \"--volumes\""])?;
        let declined = process::run_with_input(host.command(&["system", "prune"]), b"n\n")?;
        ensure!(
            declined.code == 0
                && declined
                    .stdout
                    .contains("Are you sure you want to continue? [y/N]"),
            "{declined}"
        );
        Ok(())
    });
}

#[test]
fn version_and_info_tell_who_is_there() {
    with_host(|host, _| {
        let both = host.ok(&[
            "version",
            "--format",
            "{{.Client.Version}} {{.Server.Version}} {{.Server.Os}} {{.Server.Arch}}",
        ])?;
        let words: Vec<&str> = both.split(' ').collect();
        ensure!(
            words.len() == 4 && words[0] == words[1] && words[2] == "linux",
            "{both}"
        );
        let shown = host.ok(&["version"])?;
        ensure!(
            shown.contains("Client:") && shown.contains("Server:") && shown.contains(words[1]),
            "{shown}"
        );
        host.line("run --detach --name runs busybox sleep 1000")?;
        host.line("run --detach --name rests busybox sleep 1000")?;
        host.line("pause rests")?;
        host.line("create busybox true")?;
        let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Name}} {{.NCPU}}";
        let counts = host.ok(&["info", "--format", counts])?;
        let cpus = std::thread::available_parallelism()?;
        ensure!(counts == format!("3 1 1 1 host1 {cpus}"), "{counts}");
        let shown = host.ok(&["info"])?;
        for part in [
            "Containers: 3",
            " Running: 1",
            " Paused: 1",
            " Stopped: 1",
            "Server Version: ",
            "Cgroup Version: ",
        ] {
            ensure!(shown.contains(part), "{part:?} is not in {shown}");
        }
        // The client's part is told without a daemon, and that there is none.
        let alone = process::run({
            let mut command = std::process::Command::new(pontoon_tests::programs::pontoon()?);
            command.args(["--host", "unix:///nonexistent.sock", "version"]);
            command
        })?;
        ensure!(alone.code == 1 && alone.stdout.contains("Client:"), "{alone}");
        ensure!(
            alone.stderr.contains("Cannot connect to the Pontoon daemon"),
            "{alone}"
        );
        Ok(())
    });
}
