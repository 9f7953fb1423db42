//! Builds by the command line: every instruction in real containers, what the cache knows, what is left behind, what mistakes say.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use pontoon_tests::process::Output;
use pontoon_tests::{Fleet, Host, SHORT, wait_until, with_fleet};

/// One host with the test images.
fn host(test: impl FnOnce(&Host, &Fleet) -> Result<()>) {
    with_fleet(1, |fleet| {
        fleet.load_images()?;
        test(fleet.host(1), fleet)
    });
}

/// A context with these files.
fn context(host: &Host, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let dir = host.folder().join(name);
    for (path, content) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&dir))?;
        fs::write(path, content)?;
    }
    Ok(dir)
}

fn build(host: &Host, dir: &Path, flags: &[&str]) -> Result<Output> {
    let dir = dir.display().to_string();
    host.pontoon(&[&["build", "--progress", "plain"], flags, &[&dir]].concat())
}

/// Builds `name`, which has to succeed; gives what was said.
fn built(host: &Host, dir: &Path, name: &str, flags: &[&str]) -> Result<String> {
    let output = build(host, dir, &[&["-t", name], flags].concat())?;
    ensure!(output.code == 0, "{output}");
    Ok(output.stderr)
}

fn run(host: &Host, image: &str, script: &str) -> Result<String> {
    host.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", script])
}

/// How many steps came out of the cache.
fn cached(said: &str) -> usize {
    said.lines().filter(|line| line.ends_with(" CACHED")).count()
}

#[test]
fn every_instruction_does_what_it_says() {
    host(|host, _| {
        let dockerfile = "# syntax=docker/dockerfile:1\nARG BASE=busybox\nFROM $BASE AS base\nARG WHO=world\nENV A=1 B=\"two words\"\nLABEL l=$A\n\
            WORKDIR /srv/app\nRUN echo \"hello $WHO $A\" >greeting && id -u >uid\nCOPY a.txt sub/ ./\nCOPY --chown=www:staff --chmod=640 a.txt /owned/\n\
            COPY <<-EOF /here.txt\n\t$B\n\tEOF\nRUN <<EOF\nset -e\necho one >/multi\necho two >>/multi\nEOF\nADD archive.tar /unpacked\n\
            USER www\nRUN id -u >/tmp/user\nEXPOSE 80\nVOLUME /data\nSTOPSIGNAL SIGINT\nSHELL [\"/bin/sh\", \"-ec\"]\n\
            HEALTHCHECK --interval=30s CMD true\nONBUILD RUN echo trigger >/tmp/trigger\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"cat greeting\"]\nMAINTAINER me\n";
        let dir = context(
            host,
            "all",
            &[
                ("Dockerfile", dockerfile),
                ("a.txt", "a\n"),
                ("sub/x/deep.txt", "deep\n"),
                ("tree/in.txt", "in\n"),
            ],
        )?;
        let archive = dir.join("archive.tar").display().to_string();
        pontoon_tests::process::tool(
            "tar",
            &[
                "-cf",
                &archive,
                "-C",
                &dir.join("tree").display().to_string(),
                "in.txt",
            ],
        )?;
        built(
            host,
            &dir,
            "all:1",
            &["--build-arg", "WHO=you", "--label", "more=yes"],
        )?;
        ensure!(host.ok(&["run", "--rm", "all:1"])? == "hello you 1");
        let look = "cat /srv/app/a.txt /srv/app/x/deep.txt /here.txt /multi /unpacked/in.txt /tmp/user; stat -c '%u %g %a' /owned/a.txt";
        let out = host.ok(&["run", "--rm", "all:1", look])?;
        ensure!(out == "a\ndeep\ntwo words\none\ntwo\nin\n33\n33 50 640", "{out}");
        let config = host.ok(&[
            "inspect", "-f",
            "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{json .Config.Labels}} {{json .Config.ExposedPorts}} {{.Author}}",
            "all:1",
        ])?;
        ensure!(
            config == "www /srv/app SIGINT {\"l\":\"1\",\"more\":\"yes\"} {\"80/tcp\":{}} me",
            "{config}"
        );
        let history = host.ok(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "all:1"])?;
        for line in [
            "ENV A=1 B=two words",
            "WORKDIR /srv/app",
            "RUN |1 WHO=you /bin/sh -c echo \"hello $WHO $A\" >greeting && id -u >uid # buildkit",
            "COPY --chown=www:staff --chmod=640 a.txt /owned/ # buildkit",
            "EXPOSE map[80/tcp:{}]",
            "CMD [\"cat greeting\"]",
            "STOPSIGNAL SIGINT",
        ] {
            ensure!(
                history.lines().any(|found| found == line),
                "{line} is not in\n{history}"
            );
        }
        // Triggers run in the image that is built on it.
        let next = context(
            host,
            "next",
            &[(
                "Dockerfile",
                "FROM all:1\nUSER root\nCMD [\"cat /tmp/trigger\"]\n",
            )],
        )?;
        built(host, &next, "next", &[])?;
        ensure!(host.ok(&["run", "--rm", "next"])? == "trigger");
        ensure!(
            host.ok(&["ps", "--all", "--quiet"])?.is_empty(),
            "steps are no containers"
        );
        Ok(())
    });
}

#[test]
fn stages_are_copied_from_and_skipped() {
    host(|host, _| {
        let dockerfile = "FROM busybox AS one\nRUN mkdir /out && echo one >/out/f && ln -s f /out/l && chown 33:50 /out/f\nFROM busybox AS unused\nRUN false\n\
            FROM scratch AS files\nCOPY --from=one /out /\nFROM busybox AS last\nCOPY --from=one /out/l /copied\nCOPY --from=files / /files/\n\
            COPY --link --from=one /out/f /linked/f\nCOPY --from=web:1 /web /web\nCOPY --parents --from=one /out/f /with/\nRUN --mount=type=bind,from=one,source=/out,target=/m cat /m/f >/mounted && ! touch /m/x\n";
        let dir = context(host, "stages", &[("Dockerfile", dockerfile)])?;
        let said = built(host, &dir, "stages", &[])?;
        ensure!(
            !said.contains("RUN false"),
            "a stage that nothing needs is not built: {said}"
        );
        let look = "cat /copied /mounted /linked/f /with/out/f; stat -c '%u:%g' /files/f; readlink /files/l; ls -d /m 2>&1; test -x /web && echo web";
        let out = run(host, "stages", look)?;
        ensure!(
            out == "one\none\none\none\n33:50\nf\nls: /m: No such file or directory\nweb",
            "{out}"
        );
        built(host, &dir, "files", &["--target", "files"])?;
        let layers = host.ok(&["inspect", "-f", "{{len .RootFS.Layers}}", "files"])?;
        ensure!(layers == "1", "{layers}");
        build(host, &dir, &["--target", "lst"])?.fails(
            1,
            &["target stage \"lst\" could not be found (did you mean last?)"],
        )?;
        Ok(())
    });
}

#[test]
fn the_cache_knows_content_and_survives_the_daemon() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nARG V=1\nRUN date +%s%N >/first\nCOPY in.txt /in.txt\nRUN cat /in.txt >/second; date +%s%N >>/second\nLABEL x=y\n";
        let dir = context(
            host,
            "cache",
            &[
                ("Dockerfile", dockerfile),
                ("in.txt", "1\n"),
                ("other.txt", "1\n"),
            ],
        )?;
        let first = built(
            host,
            &dir,
            "c:1",
            &["--iidfile", &dir.join("../id1").display().to_string()],
        )?;
        ensure!(cached(&first) == 0, "{first}");
        let id = fs::read_to_string(dir.join("../id1"))?;
        // Times and files that nothing takes don't count.
        fs::write(dir.join("other.txt"), "2\n")?;
        fs::write(dir.join("in.txt"), "1\n")?;
        let again = built(
            host,
            &dir,
            "c:2",
            &["--iidfile", &dir.join("../id2").display().to_string()],
        )?;
        ensure!(cached(&again) == 3, "{again}");
        ensure!(
            fs::read_to_string(dir.join("../id2"))? == id,
            "the same image again"
        );
        // The content of what is copied does; what is before stays.
        fs::write(dir.join("in.txt"), "2\n")?;
        let changed = built(host, &dir, "c:3", &[])?;
        ensure!(cached(&changed) == 1, "{changed}");
        fs::set_permissions(dir.join("in.txt"), fs::Permissions::from_mode(0o600))?;
        ensure!(cached(&built(host, &dir, "c:3", &[])?) == 1, "so does its mode");
        // An argument counts from where it is declared.
        ensure!(cached(&built(host, &dir, "c:4", &["--build-arg", "V=2"])?) == 0);
        ensure!(cached(&built(host, &dir, "c:5", &["--no-cache"])?) == 0);
        host.stop()?;
        host.start()?;
        let kept = built(host, &dir, "c:6", &[])?;
        ensure!(cached(&kept) == 3, "{kept}");
        let usage = host.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])?;
        ensure!(
            usage
                .lines()
                .any(|line| line.starts_with("Build Cache ") && !line.ends_with(" 0")),
            "{usage}"
        );
        let pruned = host.ok(&["builder", "prune", "--all", "--force"])?;
        ensure!(
            pruned.contains("Deleted build cache objects:") && pruned.contains("Total reclaimed space:"),
            "{pruned}"
        );
        ensure!(cached(&built(host, &dir, "c:7", &[])?) == 0);
        ensure!(
            run(host, "c:6", "cat /in.txt")? == "2",
            "images keep their layers"
        );
        Ok(())
    });
}

#[test]
fn mounts_of_run_leave_nothing_in_layers() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token,required=true --mount=type=secret,id=var,env=TOKEN \
            --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch,size=1m \
            grep -qx 's3.*t-file' /run/secrets/token && echo $TOKEN | grep -qx 's3.*t-env' && echo x >>/cache/f && echo y >/scratch/f && wc -l </cache/f >/count\n";
        let dir = context(
            host,
            "mounts",
            &[("Dockerfile", dockerfile), ("../token", "s3cr3t-file")],
        )?;
        let secret = format!("id=token,src={}", host.folder().join("token").display());
        let mut command = host.command(&[
            "build",
            "-t",
            "m",
            "--secret",
            &secret,
            "--secret",
            "id=var,env=MY_SECRET",
            &dir.display().to_string(),
        ]);
        command.env("MY_SECRET", "s3cr3t-env");
        let output = pontoon_tests::process::run(command)?;
        ensure!(output.code == 0, "{output}");
        let out = run(
            host,
            "m",
            "cat /count; ls -d /cache /scratch /run/secrets /run 2>/dev/null; true",
        )?;
        ensure!(out == "1", "{out}");
        let archive = host.folder().join("m.tar");
        host.ok(&["save", "-o", &archive.display().to_string(), "m"])?;
        let bytes = fs::read(&archive)?;
        let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        ensure!(
            !has("s3cr3t-file") && !has("s3cr3t-env"),
            "a secret is in the image"
        );
        for folder in ["data", "run"] {
            let found = pontoon_tests::process::tool(
                "sh",
                &[
                    "-c",
                    &format!("grep -rl s3cr3t {}/{folder} || true", host.folder().display()),
                ],
            )?;
            ensure!(found.is_empty(), "{found}");
        }
        // The folder stays from build to build.
        let more = fs::read_to_string(dir.join("Dockerfile"))?.replace("echo x >>", "echo again >>");
        fs::write(dir.join("Dockerfile"), more)?;
        let mut command = host.command(&[
            "build",
            "-t",
            "m",
            "--secret",
            &secret,
            "--secret",
            "id=var,env=MY_SECRET",
            &dir.display().to_string(),
        ]);
        command.env("MY_SECRET", "s3cr3t-env");
        ensure!(pontoon_tests::process::run(command)?.code == 0);
        ensure!(run(host, "m", "cat /count")? == "2");
        build(host, &dir, &["--no-cache"])?.fails(1, &["secret token: not found"])?;
        Ok(())
    });
}

#[test]
fn an_agent_is_reached_through_the_mount() {
    host(|host, _| {
        let socket = host.folder().join("agent.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket)?;
        let served = std::thread::spawn(move || -> Result<String> {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept()?;
            let mut asked = [0; 4];
            stream.read_exact(&mut asked)?;
            stream.write_all(b"pong")?;
            Ok(String::from_utf8_lossy(&asked).into_owned())
        });
        let dockerfile = "FROM busybox\nCOPY --from=web:1 /web /web\nRUN --mount=type=ssh /web unix $SSH_AUTH_SOCK ping >/answer\n";
        let dir = context(host, "ssh", &[("Dockerfile", dockerfile)])?;
        let ssh = format!("default={}", socket.display());
        let output = build(host, &dir, &["-t", "ssh", "--ssh", &ssh])?;
        ensure!(output.code == 0, "{output}");
        ensure!(served.join().unwrap_or_else(|_| Ok(String::new()))? == "ping");
        ensure!(run(host, "ssh", "cat /answer; ls -d /run/buildkit 2>/dev/null; true")? == "pong");
        Ok(())
    });
}

#[test]
fn ignored_files_are_not_sent() {
    host(|host, _| {
        let dir = context(
            host,
            "ignore",
            &[
                ("Dockerfile", "FROM busybox\nCOPY . /ctx/\n"),
                (".dockerignore", "*.log\n!keep.log\nsecret\nsub/**\n!sub/ok\n"),
                ("a.log", ""),
                ("keep.log", ""),
                ("secret/key", ""),
                ("sub/no", ""),
                ("sub/ok", ""),
                ("other.Dockerfile", "FROM busybox\nCOPY . /ctx/\n"),
                ("other.Dockerfile.dockerignore", "*\n!a.log\n"),
            ],
        )?;
        symlink("keep.log", dir.join("link"))?;
        built(host, &dir, "ign", &[])?;
        let out = run(host, "ign", "cd /ctx && find . -not -type d | sort")?;
        ensure!(
            out == "./.dockerignore\n./Dockerfile\n./keep.log\n./link\n./other.Dockerfile\n./other.Dockerfile.dockerignore\n./sub/ok",
            "{out}"
        );
        built(
            host,
            &dir,
            "ign",
            &["-f", &dir.join("other.Dockerfile").display().to_string()],
        )?;
        ensure!(run(host, "ign", "ls /ctx")? == "a.log");
        let missing = context(
            host,
            "missing",
            &[("Dockerfile", "FROM busybox\nCOPY nothing /x\n")],
        )?;
        build(host, &missing, &[])?.fails(
            1,
            &["\"/nothing\": not found", "Dockerfile:2", ">>> COPY nothing /x"],
        )?;
        Ok(())
    });
}

#[test]
fn contexts_come_from_everywhere() {
    host(|host, _| {
        let dir = context(
            host,
            "from",
            &[("Dockerfile", "FROM busybox\nCOPY f /f\n"), ("f", "content\n")],
        )?;
        let archive = host.folder().join("ctx.tar.gz");
        pontoon_tests::process::tool(
            "tar",
            &[
                "-czf",
                &archive.display().to_string(),
                "-C",
                &dir.display().to_string(),
                ".",
            ],
        )?;
        let command = host.command(&["build", "-t", "tarred", "-"]);
        let output = pontoon_tests::process::run_with_input(command, &fs::read(&archive)?)?;
        ensure!(output.code == 0, "{output}");
        ensure!(run(host, "tarred", "cat /f")? == "content");
        let command = host.command(&["build", "-q", "-t", "piped", "-"]);
        let output = pontoon_tests::process::run_with_input(command, b"FROM busybox\nRUN echo x >/x\n")?;
        ensure!(
            output.code == 0 && output.stdout.starts_with("sha256:"),
            "{output}"
        );
        let command = host.command(&["build", "-t", "dash", "-f", "-", &dir.display().to_string()]);
        let output = pontoon_tests::process::run_with_input(command, b"FROM busybox\nCOPY f /g\n")?;
        ensure!(output.code == 0, "{output}");
        ensure!(run(host, "dash", "cat /g")? == "content");
        let named = context(
            host,
            "named",
            &[("Dockerfile", "FROM base\nCOPY --from=more f /h\n")],
        )?;
        let more = format!("more={}", dir.display());
        built(
            host,
            &named,
            "named",
            &[
                "--build-context",
                &more,
                "--build-context",
                "base=docker-image://busybox",
            ],
        )?;
        ensure!(run(host, "named", "cat /h")? == "content");
        Ok(())
    });
}

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
        let dir = context(host, "flags", &[("Dockerfile", "FROM busybox\n")])?;
        for (flags, part) in [
            (
                &["--cache-to", "type=registry,ref=x"][..],
                "--cache-to type=registry is not supported",
            ),
            (
                &["--output", "type=foo"][..],
                "exporter \"foo\" could not be found",
            ),
            (&["--progress", "rawjson"][..], "rawjson is not supported"),
            (&["--rm=false"][..], "--rm=false"),
            (&["--network", "foo"][..], "network mode \"foo\""),
            (&["-t", "BAD"][..], "invalid tag \"BAD\""),
        ] {
            let output = build(host, &dir, flags)?;
            ensure!(
                output.code != 0 && output.stderr.contains(part),
                "{flags:?}: {output}"
            );
        }
        host.pontoon(&["build", "--squash", "."])?
            .fails(125, &["unknown flag: --squash"])?;
        host.pontoon(&["build", "/no/such/folder"])?
            .fails(1, &["path \"/no/such/folder\" path not found"])?;
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
        let listed = pontoon_tests::process::tool("tar", &["-tf", &tar.display().to_string()])?;
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

#[test]
fn builds_of_one_epoch_are_equal() {
    host(|host, _| {
        let dockerfile =
            "FROM busybox\nWORKDIR /w\nCOPY f f\nRUN mkdir d && echo x >d/y && hostname >h\nADD t.tar .\n";
        let mut ids = Vec::new();
        for name in ["epoch1", "epoch2"] {
            let dir = context(
                host,
                name,
                &[("Dockerfile", dockerfile), ("f", "f\n"), ("in/g", "g\n")],
            )?;
            pontoon_tests::process::tool(
                "tar",
                &[
                    "-cf",
                    &dir.join("t.tar").display().to_string(),
                    "--mtime=@0",
                    "-C",
                    &dir.join("in").display().to_string(),
                    "g",
                ],
            )?;
            let id = dir.join("../epoch-id");
            built(
                host,
                &dir,
                name,
                &[
                    "--no-cache",
                    "--build-arg",
                    "SOURCE_DATE_EPOCH=1700000000",
                    "--iidfile",
                    &id.display().to_string(),
                ],
            )?;
            ids.push(fs::read_to_string(id)?);
        }
        ensure!(ids[0] == ids[1], "{ids:?}");
        let created = host.ok(&["inspect", "-f", "{{.Created}}", "epoch1"])?;
        ensure!(created.starts_with("2023-11-14T22:13:20"), "{created}");
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
