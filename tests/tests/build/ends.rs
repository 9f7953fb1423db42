//! How builds end: mistakes, outputs, interruptions; what is left behind, and what a terminal shows.

use std::fs;

use anyhow::{Result, ensure};
use pontoon_tests::process::tool;
use pontoon_tests::pty::Session;
use pontoon_tests::{Host, SHORT, wait_until};

use crate::{build, built, cached, context, host};

#[test]
fn mistakes_say_where_and_what() {
    host(|host, _| {
        for (dockerfile, parts) in [
            (
                "FROM busybox\nRUNN x\n",
                [
                    "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
                    "   2 | >>> RUNN x",
                ],
            ),
            (
                "FROM 127.0.0.1:1/nothing-here\n",
                [
                    "127.0.0.1:1/nothing-here: failed to resolve source metadata for 127.0.0.1:1/nothing-here:latest",
                    ">>> FROM 127.0.0.1:1/nothing-here",
                ],
            ),
            (
                "FROM busybox\nCOPY --from=later x y\nFROM busybox AS later\nFROM 0\n",
                ["", ""],
            ),
            (
                "FROM busybox\nRUN echo some output; exit 7\n",
                ["did not complete successfully: exit code: 7", "some output"],
            ),
            (
                "FROM busybox\nUSER nobody-here\nRUN true\n",
                ["unable to find user nobody-here", ">>> RUN true"],
            ),
            (
                "FROM busybox\nRUN [\"/no/such/program\"]\n",
                ["/no/such/program", "exit code: 127"],
            ),
            (
                "FROM busybox\nRUN --network=host true\n",
                ["network.host is not allowed", "Dockerfile:2"],
            ),
            (
                "FROM busybox\nRUN --security=insecure true\n",
                ["security.insecure is not allowed", "Dockerfile:2"],
            ),
        ] {
            let dir = context(host, "wrong", &[("Dockerfile", dockerfile)])?;
            let output = build(host, &dir, &[])?;
            ensure!(output.code == 1, "{dockerfile}: {output}");
            ensure!(output.stderr.contains("ERROR: failed to solve: "), "{output}");
            for part in parts {
                ensure!(
                    output.stderr.contains(part),
                    "{dockerfile}: {part} is not in {output}"
                );
            }
        }
        let left = left_behind(host)?;
        ensure!(left.is_empty(), "failures have left {left}");
        let images = host.ok(&["images", "--quiet", "--filter", "dangling=true"])?;
        ensure!(images.is_empty(), "failures have left {images}");
        Ok(())
    });
}

#[test]
fn flags_that_cannot_be_honoured_are_refused() {
    host(|host, _| {
        let dir = context(host, "flags", &[("Dockerfile", "FROM busybox\n")])?;
        for (flags, part) in [
            (
                &["--cache-to", "type=s3,bucket=x"][..],
                "--cache-to type=s3 is not supported",
            ),
            (
                &["--output", "type=foo"][..],
                "exporter \"foo\" could not be found",
            ),
            (&["--progress", "foo"][..], "invalid progress mode foo"),
            (&["--rm=false"][..], "--rm=false"),
            (&["--network", "foo"][..], "network mode \"foo\""),
            (&["-t", "BAD"][..], "invalid tag \"BAD\""),
            (&["--squash"][..], "--squash is not supported"),
            (&["--sbom"][..], "Attestation is not supported"),
            (&["--provenance=mode=max"][..], "Attestation is not supported"),
            (&["--attest", "type=sbom"][..], "Attestation is not supported"),
            (&["--isolation", "hyperv"][..], "linux only supports 'default'"),
            (
                &["--security-opt", "seccomp=unconfined"][..],
                "RUN --security=insecure",
            ),
            (
                &["--disable-content-trust=false"][..],
                "signatures are not checked",
            ),
            (
                &["--annotation", "index:a=b"][..],
                "index annotations not supported",
            ),
            (
                &["--platform", "linux/amd64,linux/arm64"][..],
                "Multi-platform build is not supported",
            ),
            (
                &["--platform", "linux/amd64/v1/x"][..],
                "invalid platform specifier",
            ),
        ] {
            let output = build(host, &dir, flags)?;
            ensure!(
                output.code != 0 && output.stderr.contains(part),
                "{flags:?}: {output}"
            );
        }
        // What is so anyway may be asked for.
        let usual = [
            "--attest=type=provenance,disabled=true",
            "--sbom=false",
            "--provenance=false",
            "--isolation=default",
            "--squash=false",
            "--compress",
            "--disable-content-trust",
            "--force-rm",
            "--rm",
        ];
        built(host, &dir, "usual", &usual)?;
        host.pontoon(&["build", "/no/such/folder"])?
            .fails(1, &["path \"/no/such/folder\" path not found"])?;
        Ok(())
    });
}

#[test]
fn annotations_are_the_manifests() {
    host(|host, _| {
        let dir = context(host, "annotated", &[("Dockerfile", "FROM busybox\nENV A=1\n")])?;
        let manifest = |name: &str| -> Result<String> {
            let archive = host.folder().join("annotated.tar").display().to_string();
            host.ok(&["save", "-o", &archive, name])?;
            let index = tool("tar", &["-xOf", &archive, "index.json"])?;
            let digest = index.split("\"digest\":\"sha256:").nth(1).unwrap_or_default();
            tool(
                "tar",
                &["-xOf", &archive, &format!("blobs/sha256/{}", &digest[..64])],
            )
        };
        built(host, &dir, "plain", &[])?;
        ensure!(!manifest("plain")?.contains("annotations"));
        let flags = [
            "--annotation",
            "org.example.one=1",
            "--annotation",
            "manifest:two=2",
        ];
        built(host, &dir, "noted", &flags)?;
        let text = manifest("noted")?;
        ensure!(
            text.contains("\"annotations\":{\"org.example.one\":\"1\",\"two\":\"2\"}"),
            "{text}"
        );
        let id = |name: &str| host.ok(&["inspect", "--format", "{{.Id}}", name]);
        ensure!(
            id("plain")? == id("noted")?,
            "annotations are not the image's configuration"
        );
        // It is the last build that counts, since both are one image.
        built(host, &dir, "plain", &[])?;
        ensure!(!manifest("plain")?.contains("annotations"));
        Ok(())
    });
}

#[test]
fn raw_json_is_what_programs_read() {
    host(|host, _| {
        let dir = context(
            host,
            "raw",
            &[("Dockerfile", "FROM busybox\nRUN echo some words\n")],
        )?;
        let output = build(host, &dir, &["--progress", "rawjson"])?;
        ensure!(output.code == 0, "{output}");
        let mut lines = output.stderr.lines();
        ensure!(
            lines.all(|line| line.starts_with('{') && line.ends_with('}')),
            "{output}"
        );
        let words = "c29tZSB3b3Jkcwo=";
        for part in [
            "\"vertexes\":[",
            "[2/2] RUN echo some words",
            "\"logs\":[",
            words,
            "\"completed\":",
        ] {
            ensure!(output.stderr.contains(part), "{part} is not in {output}");
        }
        let again = build(host, &dir, &["--progress=rawjson"])?;
        ensure!(again.stderr.contains("\"cached\":true"), "{again}");
        Ok(())
    });
}

#[test]
fn images_for_another_platform_are_built_as_far_as_this_host_can() {
    host(|host, _| {
        let foreign = if cfg!(target_arch = "x86_64") {
            "arm64"
        } else {
            "amd64"
        };
        let platform = format!("linux/{foreign}");
        // The beginning of a program for another machine: an ELF header says which.
        let machine: u8 = if foreign == "arm64" { 183 } else { 62 };
        let mut program = vec![
            0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, machine, 0, 1, 0, 0, 0,
        ];
        program.resize(64, 0);
        let dir = context(
            host,
            "foreign",
            &[(
                "Dockerfile",
                "FROM scratch\nCOPY --chmod=755 program /bin/program\nENV A=1\nWORKDIR /w\nCMD [\"/bin/program\"]\n",
            )],
        )?;
        fs::write(dir.join("program"), &program)?;
        let name = "localhost:1/foreign";
        built(host, &dir, name, &["--platform", &platform])?;
        let format = "{{.Os}}/{{.Architecture}}";
        ensure!(host.ok(&["inspect", "--format", format, name])? == platform);
        let runs = context(
            host,
            "runs",
            &[("Dockerfile", "FROM localhost:1/foreign\nRUN [\"/bin/program\"]\n")],
        )?;
        if !std::path::Path::new("/proc/sys/fs/binfmt_misc/status").exists() {
            let output = build(host, &runs, &["--platform", &platform])?;
            output.fails(
                1,
                &["exec format error", "binfmt_misc", ">>> RUN [\"/bin/program\"]"],
            )?;
        }
        // For this host's platform it would have to be pulled.
        build(host, &runs, &[])?.fails(
            1,
            &[
                "failed to resolve source metadata",
                ">>> FROM localhost:1/foreign",
            ],
        )?;
        Ok(())
    });
}

#[test]
fn outputs_are_files_and_archives() {
    host(|host, _| {
        let dir = context(
            host,
            "out",
            &[("Dockerfile", "FROM scratch\nCOPY f /d/f\n"), ("f", "content\n")],
        )?;
        let folder = host.folder().join("exported");
        let output = build(host, &dir, &["-o", &folder.display().to_string()])?;
        ensure!(output.code == 0, "{output}");
        ensure!(fs::read_to_string(folder.join("d/f"))? == "content\n");
        let tar = host.folder().join("files.tar");
        let output = build(
            host,
            &dir,
            &["--output", &format!("type=tar,dest={}", tar.display())],
        )?;
        ensure!(output.code == 0, "{output}");
        let listed = tool("tar", &["-tf", &tar.display().to_string()])?;
        ensure!(listed.trim() == "d/\nd/f", "{listed}");
        let archive = host.folder().join("image.tar");
        let dest = format!("type=docker,dest={}", archive.display());
        let output = build(host, &dir, &["-t", "packed:1", "--output", &dest])?;
        ensure!(output.code == 0, "{output}");
        host.pontoon(&["inspect", "packed:1"])?.fails(1, &["packed:1"])?;
        ensure!(
            host.ok(&["load", "-i", &archive.display().to_string()])?
                .contains("packed:1")
        );
        let metadata = host.folder().join("metadata.json");
        built(
            host,
            &dir,
            "meta",
            &["--metadata-file", &metadata.display().to_string()],
        )?;
        ensure!(fs::read_to_string(metadata)?.contains("containerimage.config.digest"));
        Ok(())
    });
}

/// What a build under way leaves besides cache.
fn left_behind(host: &Host) -> Result<String> {
    let data = host.data_dir().join("engine/build/tmp");
    let mut left = Vec::new();
    for dir in [
        data,
        host.run_dir().join("build"),
        host.run_dir().join("shim"),
        host.data_dir().join("image/rootfs"),
    ] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            left.push(entry.path().display().to_string());
        }
    }
    Ok(left.join("\n"))
}

#[test]
fn an_interrupted_build_leaves_only_cache() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nRUN echo kept >/kept\nCOPY f /f\nRUN echo begun; sleep 1000\n";
        let dir = context(host, "long", &[("Dockerfile", dockerfile), ("f", "x")])?;
        let begin = || -> Result<std::process::Child> {
            let mut command = host.command(&["build", "--progress", "plain", &dir.display().to_string()]);
            command
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped());
            let mut child = command.spawn()?;
            let stderr = child.stderr.take().ok_or_else(|| anyhow::anyhow!("no stderr"))?;
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
            let found = lines
                .by_ref()
                .any(|line| line.is_ok_and(|line| line.ends_with(" begun")));
            // Somebody has to read on.
            std::thread::spawn(move || lines.for_each(drop));
            ensure!(found, "the build ended early");
            Ok(child)
        };
        let mut client = begin()?;
        client.kill()?;
        client.wait()?;
        wait_until("nothing is left", SHORT, || {
            let left = left_behind(host)?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        let mut client = begin()?;
        host.kill()?;
        client.wait()?;
        host.start()?;
        wait_until("nothing is left", SHORT, || {
            let left = left_behind(host)?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        let short = fs::read_to_string(dir.join("Dockerfile"))?.replace("; sleep 1000", "");
        fs::write(dir.join("Dockerfile"), short)?;
        let said = built(host, &dir, "after", &[])?;
        ensure!(cached(&said) == 2, "what was made before is cached: {said}");
        Ok(())
    });
}

#[test]
fn a_terminal_shows_steps_live_and_ctrl_c_ends_them() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nRUN echo first >/first\nRUN echo begun; until test -e /tmp/never; do sleep 1; done\n";
        let dir = context(host, "live", &[("Dockerfile", dockerfile)])?;
        let folder = dir.display().to_string();
        let packed = host.folder().join("packed.tar");
        let output = format!("type=tar,dest={}", packed.display());
        let command = host.command(&["build", "--output", &output, &folder]);
        let mut session = Session::start(&command, 24, 80)?;
        session.expect("[+] Building")?;
        session.expect(" => [2/3] RUN echo first >/first")?;
        session.expect(" => => # begun")?;
        session.type_text("\x03")?;
        ensure!(session.end()? == 130, "{}", session.shown());
        session.expect("context canceled")?;
        wait_until("nothing is left", SHORT, || {
            let left = left_behind(host)?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        for entry in fs::read_dir(host.folder())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with("packed.tar"), "{name} is left");
        }
        let short = "FROM busybox\nRUN echo first >/first\nRUN echo some words; exit 3\n";
        fs::write(dir.join("Dockerfile"), short)?;
        let mut session = Session::start(&host.command(&["build", &folder]), 24, 80)?;
        ensure!(session.end()? == 1, "{}", session.shown());
        for text in [
            " => CACHED [2/3] RUN echo first >/first",
            " => ERROR [3/3] RUN echo some words; exit 3",
            "some words",
            "Dockerfile:3",
            ">>> RUN echo some words; exit 3",
            "exit code: 3",
        ] {
            session.expect(text)?;
        }
        fs::write(dir.join("Dockerfile"), short.replace("; exit 3", ""))?;
        let mut session = Session::start(&host.command(&["build", "-t", "live", &folder]), 24, 80)?;
        ensure!(session.end()? == 0, "{}", session.shown());
        session.expect("FINISHED")?;
        session.expect("naming to docker.io/library/live:latest")?;
        Ok(())
    });
}
