//! What RUN mounts: secrets, caches, agents, other trees. Nothing of it stays in layers.

use std::fs;

use anyhow::{Result, ensure};
use pontoon_tests::Host;

use crate::{build, built, context, host, run};

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

fn trees(host: &Host) -> Result<()> {
    let dockerfile = "FROM busybox AS one\nRUN mkdir -p /out/sub && echo one >/out/f\nFROM busybox\nRUN mkdir /empty\n\
        RUN --mount=type=bind,target=/src cat /src/a.txt >/read && ! touch /src/x\n\
        RUN --mount=type=bind,target=/src,rw echo more >>/src/a.txt && cat /src/a.txt >/written\n\
        RUN --mount=type=bind,from=one,target=/whole cat /whole/out/f >/whole.txt && ! touch /whole/x\n\
        RUN --mount=type=bind,from=one,target=/whole,rw echo two >>/whole/out/f && cat /whole/out/f >/both\n\
        RUN --mount=type=bind,from=one,source=/out/f,target=/deep/in/file cat /deep/in/file >/file\n\
        RUN --mount=type=cache,target=/empty,from=one,source=/out,uid=33,mode=0750 cat /empty/f >/seeded && stat -c %u:%a /empty >/rights && echo x >/empty/new\n\
        COPY a.txt /a.txt\n";
    let dir = context(host, "trees", &[("Dockerfile", dockerfile), ("a.txt", "a\n")])?;
    built(host, &dir, "trees", &[])?;
    let look = "cat /read /written /whole.txt /both /file /seeded /a.txt /rights; ls /empty; ls -d /src /whole /deep 2>/dev/null; true";
    let out = run(host, "trees", look)?;
    ensure!(out == "a\na\nmore\none\none\ntwo\none\none\na\n33:750", "{out}");
    ensure!(
        fs::read_to_string(dir.join("a.txt"))? == "a\n",
        "the context is not written to"
    );
    Ok(())
}

#[test]
fn trees_are_mounted_and_written_to_without_a_trace() {
    host(|host, _| trees(host));
}

#[test]
fn storage_drivers_of_whole_trees_build_the_same() {
    host(|host, fleet| {
        host.stop()?;
        host.start_flagged(&["--storage-driver", "vfs"])?;
        fleet.load_images()?;
        trees(host)
    });
}

#[test]
fn caches_are_shared_locked_and_private() {
    host(|host, _| {
        // Two steps at once that take a lock would see each other's mark; with a private cache each has its own.
        let step = |stage: &str, sharing: &str| {
            format!(
                "FROM busybox AS {stage}\nRUN --mount=type=cache,id={sharing},sharing={sharing},target=/c mkdir /c/mark && sleep 0.3 && rmdir /c/mark && echo {stage} >/{stage}\n"
            )
        };
        let mut dockerfile = String::new();
        for sharing in ["locked", "private"] {
            for number in 1..=3 {
                dockerfile.push_str(&step(&format!("{sharing}{number}"), sharing));
            }
        }
        dockerfile.push_str("FROM busybox\n");
        for sharing in ["locked", "private"] {
            for number in 1..=3 {
                dockerfile.push_str(&format!("COPY --from={sharing}{number} /{sharing}{number} /\n"));
            }
        }
        let dir = context(host, "sharing", &[("Dockerfile", &dockerfile)])?;
        built(host, &dir, "sharing", &[])?;
        ensure!(run(host, "sharing", "cat /locked3 /private3")? == "locked3\nprivate3");
        Ok(())
    });
}
