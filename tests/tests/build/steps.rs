//! Instructions and stages in real containers.

use anyhow::{Result, ensure};
use pontoon_tests::Host;

use crate::{build, built, context, host, run};

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
fn settings_of_the_image_and_of_steps() {
    host(|host, _| {
        let dockerfile = "# escape=`\n# syntax=docker/dockerfile:1\nFROM busybox\nSHELL [\"/bin/sh\", \"-uc\"]\nRUN echo `\n  $- >/flags\n\
            HEALTHCHECK --interval=30s --retries=2 CMD true\nVOLUME /data\nONBUILD RUN true\nENTRYPOINT [\"/bin/sh\"]\nCMD [\"-c\", \"true\"]\n\
            ENV DIR=/opt\nWORKDIR $DIR/a\nWORKDIR b\nRUN pwd >/dir\nUSER 33:50\nRUN id -u >/tmp/ids && id -g >>/tmp/ids\n";
        let dir = context(host, "settings", &[("Dockerfile", dockerfile)])?;
        built(
            host,
            &dir,
            "settings",
            &["--platform", "linux", "--shm-size", "8m", "--ulimit", "nofile=77"],
        )?;
        let look = "grep -c u /flags; cat /dir; cat /tmp/ids";
        let out = host.ok(&["run", "--rm", "--entrypoint", "sh", "settings", "-c", look])?;
        ensure!(out == "1\n/opt/a/b\n33\n50", "{out}");
        for (template, wanted) in [
            (
                "{{json .Config.Healthcheck}}",
                r#"{"Interval":30000000000,"Retries":2,"Test":["CMD-SHELL","true"]}"#,
            ),
            ("{{json .Config.Shell}}", r#"["/bin/sh","-uc"]"#),
            ("{{json .Config.Volumes}}", r#"{"/data":{}}"#),
            ("{{json .Config.OnBuild}}", r#"["RUN true"]"#),
            ("{{json .Config.Entrypoint}}", r#"["/bin/sh"]"#),
            ("{{json .Config.Cmd}}", r#"["-c","true"]"#),
        ] {
            let found = host.ok(&["image", "inspect", "-f", template, "settings"])?;
            ensure!(found == wanted, "{template}: {found}");
        }
        // Another platform than any image here has.
        host.ok(&["tag", "busybox", "localhost:1/base"])?;
        let other = context(
            host,
            "other",
            &[("Dockerfile", "FROM localhost:1/base\nRUN true\n")],
        )?;
        build(host, &other, &["--platform", "linux/s390x"])?.fails(
            1,
            &["failed to resolve source metadata", ">>> FROM localhost:1/base"],
        )?;
        Ok(())
    });
}

#[test]
fn files_are_copied_as_the_flags_say() {
    host(|host, _| {
        let dockerfile = "FROM busybox AS linked\nRUN mkdir /real && ln -s real /way\nCOPY a.txt /way/\n\
            FROM busybox\nRUN mkdir /real && ln -s real /way\nCOPY --exclude=*.md --exclude=deep docs /docs/\nCOPY --chmod=u=rwX,go=rX a.txt docs/x.md /modes/\n\
            COPY --chown=33 a.txt /owned\nCOPY *.txt docs/?.md /wild/\nCOPY a.txt /new/dir/renamed\nCOPY --from=linked /way/a.txt /through\n\
            COPY --from=linked --parents /real/a.txt /parents/\nCOPY --link --chown=www a.txt /way2/\nCOPY [\"with blank.txt\", \"/blank\"]\n\
            COPY <<one <<\"two\" /here/\n$HOME\none\n$HOME\ntwo\n";
        let files = [
            ("Dockerfile", dockerfile),
            ("a.txt", "a\n"),
            ("b.txt", "b\n"),
            ("with blank.txt", "blank\n"),
            ("docs/x.md", "x\n"),
            ("docs/keep", "keep\n"),
            ("docs/deep/f", "f\n"),
            ("docs/more/y.md", "y\n"),
        ];
        let dir = context(host, "copies", &files)?;
        built(host, &dir, "copies", &[])?;
        let look = "cd /; find docs modes wild new parents here -type f | sort; stat -c '%a %n' modes/a.txt modes; stat -c '%u:%g' owned way2/a.txt; cat through blank here/one here/two; readlink way";
        let out = run(host, "copies", look)?;
        // The pattern is about paths below the source: only what is directly in it fits *.md.
        ensure!(
            out == "docs/keep\ndocs/more/y.md\nhere/one\nhere/two\nmodes/a.txt\nmodes/x.md\nnew/dir/renamed\nparents/real/a.txt\nwild/a.txt\nwild/b.txt\nwild/with blank.txt\nwild/x.md\n\
                644 modes/a.txt\n755 modes\n33:33\n33:33\na\nblank\n\n$HOME\nreal",
            "{out}"
        );
        Ok(())
    });
}

#[test]
fn stages_run_side_by_side() {
    host(|host, _| {
        // Each waits for the other: one after the other they would never end.
        let wait = |own: &str, other: &str| {
            format!(
                "RUN --mount=type=cache,id=meet,target=/meet touch /meet/{own}; for i in $(seq 600); do test -e /meet/{other} && exit 0; sleep 0.1; done; exit 1\n"
            )
        };
        let dockerfile = format!(
            "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM busybox\nCOPY --from=a /etc/group /a\nCOPY --from=b /etc/group /b\n",
            wait("a", "b"),
            wait("b", "a")
        );
        let dir = context(host, "parallel", &[("Dockerfile", &dockerfile)])?;
        built(host, &dir, "parallel", &[])?;
        Ok(())
    });
}

#[test]
fn steps_have_the_network_and_rights_they_ask_for() {
    host(|host, _| {
        let dockerfile = "FROM busybox\nRUN readlink /proc/self/ns/net >/own && ls /sys/class/net >/devices && grep CapEff /proc/self/status >/few && grep extra /etc/hosts >/hosts\n\
            RUN --network=none ls /sys/class/net >/none\nRUN --network=host readlink /proc/self/ns/net >/host\n\
            RUN --security=insecure grep CapEff /proc/self/status >/all\n";
        let dir = context(host, "rights", &[("Dockerfile", dockerfile)])?;
        let flags = [
            "--allow",
            "network.host,security.insecure",
            "--add-host",
            "extra:10.1.2.3",
        ];
        built(host, &dir, "rights", &flags)?;
        let out = run(host, "rights", "cat /none; grep -c eth0 /devices; cat /hosts")?;
        ensure!(out == "lo\n1\n10.1.2.3\textra", "{out}");
        let namespace = host.exec(&["readlink", "/proc/self/ns/net"])?.ok()?;
        ensure!(
            run(host, "rights", "cat /host")? == namespace,
            "the host's network"
        );
        ensure!(
            run(host, "rights", "cat /own")? != namespace,
            "a network of its own"
        );
        let (few, all) = (run(host, "rights", "cat /few")?, run(host, "rights", "cat /all")?);
        ensure!(few != all, "{few} {all}");
        // --network is that of steps that name none.
        let plain = context(
            host,
            "quiet",
            &[("Dockerfile", "FROM busybox\nRUN ls /sys/class/net >/none\n")],
        )?;
        built(host, &plain, "quiet", &["--network", "none"])?;
        ensure!(run(host, "quiet", "cat /none")? == "lo");
        Ok(())
    });
}

/// A field of an image's configuration.
fn field(host: &Host, image: &str, name: &str) -> Result<String> {
    host.ok(&[
        "image",
        "inspect",
        "-f",
        &format!("{{{{json .Config.{name}}}}}"),
        image,
    ])
}

#[test]
fn commit_import_and_build_agree() {
    host(|host, _| {
        let changes = [
            "CMD [\"cat\", \"x\"]",
            "ENTRYPOINT [\"/bin/sh\", \"-c\"]",
            "ENV A=1 B=\"two words\"",
            "EXPOSE 80 53/udp",
            "LABEL l=v m=\"w x\"",
            "USER www:staff",
            "WORKDIR /srv",
            "VOLUME /data /more",
            "HEALTHCHECK --timeout=3s CMD true",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
        ];
        let dockerfile = format!("FROM busybox\n{}\n", changes.join("\n"));
        let dir = context(host, "agree", &[("Dockerfile", &dockerfile)])?;
        built(host, &dir, "by-build", &[])?;
        let mut flags = Vec::new();
        for change in changes {
            flags.extend(["--change", change]);
        }
        host.ok(&["create", "--name", "made", "busybox"])?;
        host.ok(&[&["commit"], flags.as_slice(), &["made", "by-commit"]].concat())?;
        let archive = host.folder().join("c.tar").display().to_string();
        host.ok(&["export", "-o", &archive, "made"])?;
        host.ok(&[&["import"], flags.as_slice(), &[&archive, "by-import"]].concat())?;
        let fields = [
            "Cmd",
            "Entrypoint",
            "ExposedPorts",
            "Labels",
            "User",
            "WorkingDir",
            "Volumes",
            "Healthcheck",
            "StopSignal",
            "OnBuild",
        ];
        for name in fields {
            let built = field(host, "by-build", name)?;
            for other in ["by-commit", "by-import"] {
                let found = field(host, other, name)?;
                ensure!(
                    found == built,
                    "{name} of {other}: {found}, of the build: {built}"
                );
            }
        }
        ensure!(field(host, "by-build", "Env")? == field(host, "by-commit", "Env")?);
        Ok(())
    });
}

#[test]
fn a_build_on_a_commit_has_its_history_and_files() {
    host(|host, _| {
        host.ok(&[
            "run",
            "--name",
            "other",
            "busybox",
            "sh",
            "-c",
            "echo made >/made",
        ])?;
        host.ok(&["commit", "-m", "by hand", "other", "base"])?;
        let top = context(
            host,
            "top",
            &[("Dockerfile", "FROM base\nRUN cat /made >/copy\nLABEL x=y\n")],
        )?;
        built(host, &top, "top", &[])?;
        ensure!(run(host, "top", "cat /copy")? == "made");
        let history = host.ok(&[
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}|{{.Comment}}",
            "top",
        ])?;
        let lines: Vec<&str> = history.lines().collect();
        ensure!(
            lines.len() >= 3
                && lines[0] == "LABEL x=y|buildkit.dockerfile.v0"
                && lines[1] == "RUN /bin/sh -c cat /made >/copy # buildkit|buildkit.dockerfile.v0"
                && lines[2] == "sh -c echo made >/made|by hand",
            "{history}"
        );
        Ok(())
    });
}
