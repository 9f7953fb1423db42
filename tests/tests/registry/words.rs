//! What pulls, pushes and their like say, and what they leave.

use anyhow::ensure;
use pontoon_tests::pty::Session;

use crate::{bed, digest};

#[test]
fn push_in_dockers_words() {
    bed(|host, registry, user| {
        let name = registry.name("team/box:1");
        user.ok(&["tag", "busybox", &name])?;
        let pushed = user.ok(&["push", &name])?;
        let lines: Vec<&str> = pushed.lines().collect();
        ensure!(
            lines[0] == format!("The push refers to repository [{}]", registry.name("team/box")),
            "{pushed}"
        );
        ensure!(
            lines[1].ends_with(": Preparing") && lines[2].ends_with(": Pushed"),
            "{pushed}"
        );
        let sum = digest(&pushed)?;
        ensure!(
            lines[3].starts_with(&format!("1: digest: {sum} size: ")),
            "{pushed}"
        );
        let again = user.ok(&["push", &name])?;
        ensure!(
            again.contains(": Layer already exists") && digest(&again)? == sum,
            "{again}"
        );
        // Another repository takes the layer from there.
        let other = registry.name("other/box");
        user.ok(&["tag", "busybox", &other])?;
        let mounted = user.ok(&["push", &other])?;
        ensure!(mounted.starts_with("Using default tag: latest\n"), "{mounted}");
        ensure!(mounted.contains(": Mounted from team/box"), "{mounted}");
        ensure!(user.ok(&["push", "-q", &other])? == format!("{other}:latest"));
        let events = [
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=push",
        ];
        let events = host.ok(&events)?;
        ensure!(events.contains(&format!("image push {name}")), "{events}");
        Ok(())
    });
}

#[test]
fn pull_in_dockers_words() {
    bed(|host, registry, user| {
        let (name, other) = (registry.name("team/box:1"), registry.name("other/box"));
        user.ok(&["tag", "busybox", &name])?;
        user.ok(&["tag", "busybox", &other])?;
        let sum = digest(&user.ok(&["push", &name])?)?;
        user.ok(&["push", "-q", &other])?;
        user.ok(&["rmi", &name, &other, "busybox"])?;
        let pulled = user.ok(&["pull", &other])?;
        let lines: Vec<&str> = pulled.lines().collect();
        ensure!(lines[0] == "Using default tag: latest", "{pulled}");
        ensure!(lines[1] == "latest: Pulling from other/box", "{pulled}");
        for (line, words) in lines[2..6].iter().zip([
            "Pulling fs layer",
            "Verifying Checksum",
            "Download complete",
            "Pull complete",
        ]) {
            ensure!(line.ends_with(&format!(": {words}")), "{pulled}");
        }
        ensure!(lines[6] == format!("Digest: {sum}"), "{pulled}");
        ensure!(
            lines[7] == format!("Status: Downloaded newer image for {other}:latest"),
            "{pulled}"
        );
        ensure!(lines[8] == format!("{other}:latest"), "{pulled}");
        let again = user.ok(&["pull", &other])?;
        ensure!(
            again.contains(&format!("Status: Image is up to date for {other}:latest")),
            "{again}"
        );
        ensure!(!again.contains("Pulling fs layer"), "{again}");
        // The layer is here: only the name is new.
        let known = user.ok(&["pull", &name])?;
        ensure!(known.contains("Status: Downloaded newer image"), "{known}");
        let by_digest = format!("{}@{sum}", registry.name("team/box"));
        ensure!(user.ok(&["pull", "-q", &by_digest])? == by_digest);
        let shown = user.ok(&[
            "images",
            "--digests",
            "--format",
            "{{.Repository}} {{.Digest}}",
            &other,
        ])?;
        ensure!(shown == format!("{other} {sum}"), "{shown}");
        ensure!(user.ok(&["run", "--rm", &other, "echo", "hi"])? == "hi");
        let events = host.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=pull",
        ])?;
        ensure!(events.contains(&format!("image pull {other}:latest")), "{events}");
        Ok(())
    });
}

#[test]
fn all_tags_and_lists() {
    bed(|_, registry, user| {
        let name = registry.name("web");
        for tag in ["1", "2"] {
            user.ok(&["tag", &format!("web:{tag}"), &format!("{name}:{tag}")])?;
        }
        let pushed = user.ok(&["push", "--all-tags", &name])?;
        ensure!(
            pushed.contains("\n1: digest: ") && pushed.contains("\n2: digest: "),
            "{pushed}"
        );
        user.ok(&["rmi", &format!("{name}:1"), &format!("{name}:2")])?;
        let pulled = user.ok(&["pull", "-a", &name])?;
        ensure!(
            pulled.contains("1: Pulling from web") && pulled.contains("2: Pulling from web"),
            "{pulled}"
        );
        ensure!(pulled.ends_with(&name), "{pulled}");
        ensure!(user.ok(&["images", "-q", &name])?.lines().count() == 2);

        let manifest = user.ok(&["manifest", "inspect", &format!("{name}:1")])?;
        ensure!(manifest.starts_with("{\n\t\"schemaVersion\": 2,"), "{manifest}");
        let verbose = user.ok(&["manifest", "inspect", "--verbose", &format!("{name}:1")])?;
        let verbose: serde_json::Value = serde_json::from_str(&verbose)?;
        ensure!(verbose["Descriptor"]["platform"]["os"] == "linux", "{verbose}");
        let found = user.ok(&["search", "--format", "{{.Name}}", &registry.name("we")])?;
        ensure!(found == name, "{found}");
        let table = user.ok(&["search", "--no-trunc", &registry.name("we")])?;
        let heading: Vec<&str> = table
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        ensure!(heading == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"], "{table}");
        let starred = [
            "search",
            "--filter",
            "stars=1",
            "--format",
            "{{.Name}}",
            &registry.name("we"),
        ];
        ensure!(user.ok(&starred)?.is_empty());
        user.pontoon(&["search", "--limit", "101", "x"])?
            .fails(1, &["limit 101 is outside the range of [1, 100]"])?;
        user.pontoon(&["search", "--filter", "colour=red", &registry.name("x")])?
            .fails(1, &["invalid filter 'colour'"])?;
        Ok(())
    });
}

#[test]
fn mistakes() {
    bed(|_, registry, user| {
        let name = registry.name("web");
        let tagged = format!("{name}:1");
        user.ok(&["tag", "web:1", &tagged])?;
        user.ok(&["push", "-q", &tagged])?;
        user.pontoon(&["pull", "-a", &format!("{name}:1")])?
            .fails(1, &["tag can't be used with --all-tags/-a"])?;
        user.pontoon(&["push", "-a", &format!("{name}:1")])?
            .fails(1, &["tag can't be used with --all-tags/-a"])?;
        user.pontoon(&["pull", &format!("{name}:none")])?
            .fails(1, &["manifest for", "web:none not found: manifest unknown"])?;
        user.pontoon(&["push", &registry.name("nothing:here")])?
            .fails(1, &["An image does not exist locally with the tag"])?;
        user.pontoon(&["pull", "UPPER"])?
            .fails(1, &["must be lowercase"])?;
        user.pontoon(&["pull", "--platform", "linux/arm64", &format!("{name}:1")])?
            .fails(1, &["does not match the specified platform (linux/arm64)"])?;
        user.ok(&["push", "-q", "--platform", "linux/amd64", &tagged])?;
        user.pontoon(&["push", "--platform", "linux/arm64", &tagged])?
            .fails(1, &["does not provide the specified platform (linux/arm64)"])?;
        user.pontoon(&["pull", "--disable-content-trust=false", &name])?
            .fails(1, &["content trust is not supported"])?;
        user.pontoon(&["manifest", "create", "a", "b"])?
            .fails(1, &["manifest create is not supported"])?;
        Ok(())
    });
}

#[test]
fn a_line_a_layer_on_a_terminal() {
    bed(|host, registry, user| {
        // A second layer on the first.
        host.ok(&["run", "--name", "more", "busybox", "touch", "/more"])?;
        let name = registry.name("box:1");
        host.ok(&["commit", "more", &name])?;
        host.ok(&["rm", "more"])?;
        let layers = host.ok(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", &name])?;
        let layers: Vec<String> = serde_json::from_str(&layers)?;
        ensure!(layers.len() == 2, "{layers:?}");
        let mut push = Session::start(&user.command(&["push", &name]), 24, 130)?;
        ensure!(push.end()? == 0, "{}", push.shown());
        let shown = push.shown();
        for layer in &layers {
            let id = &layer["sha256:".len()..][..12];
            ensure!(shown.contains(&format!("{id}: Pushing [")), "{id}: {shown}");
            ensure!(shown.contains(&format!("{id}: Pushed")), "{id}: {shown}");
        }
        ensure!(shown.contains("\u{1b}[2K"), "{shown}");

        let manifest = user.ok(&["manifest", "inspect", &name])?;
        let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
        user.ok(&["rmi", &name, "busybox"])?;
        let mut pull = Session::start(&user.command(&["pull", &name]), 24, 130)?;
        ensure!(pull.end()? == 0, "{}", pull.shown());
        let shown = pull.shown();
        for layer in 0..2_usize {
            let id = manifest["layers"][layer]["digest"].as_str().unwrap_or_default();
            let id = &id["sha256:".len()..][..12];
            for words in [": Downloading [", ": Pull complete"] {
                ensure!(shown.contains(&format!("{id}{words}")), "{id}{words}: {shown}");
            }
        }
        for text in ["=>", "Digest: sha256:", "\u{1b}[2K"] {
            ensure!(shown.contains(text), "{text}: {shown}");
        }
        Ok(())
    });
}
