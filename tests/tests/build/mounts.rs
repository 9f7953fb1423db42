//! What RUN mounts: secrets, caches, agents, other trees. Nothing of it stays in layers.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use pontoon_tests::Host;
use pontoon_tests::process::tool;

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

/// Copies a program of this machine with its libraries into a context, and a script `name` that runs it from `/tools`.
fn take_program(dir: &Path, name: &str) -> Result<()> {
    let program = format!("/usr/bin/{name}");
    let listed = tool("ldd", &[&program])?;
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let mut loader = String::new();
    for path in libraries.chain([program.as_str()]) {
        let file = path.rsplit('/').next().unwrap_or_default();
        fs::copy(path, dir.join(file))?;
        if file.starts_with("ld-") {
            loader = format!("/tools/{file}");
        }
    }
    let script = format!("#!/bin/sh\nexec {loader} --library-path /tools /tools/{name} \"$@\"\n");
    fs::write(dir.join(format!("run-{name}")), script)?;
    Ok(())
}

/// A new key pair in the host's folder; the path of its private half.
fn key(host: &Host, name: &str, more: &[&str]) -> Result<String> {
    let path = host.folder().join(name).display().to_string();
    let arguments = ["-q", "-N", "", "-C", name, "-f", &path];
    tool("ssh-keygen", &[&arguments, more].concat())?;
    Ok(path)
}

/// A key that is lent is listed and signs; the file itself stays with the client.
#[test]
fn keys_are_lent_without_leaving_the_client() {
    host(|host, _| {
        let (one, two) = (
            key(host, "one", &["-t", "ed25519"])?,
            key(host, "two", &["-t", "rsa", "-b", "2048"])?,
        );
        let sign = |name: &str| {
            format!("/tools/run-ssh-keygen -q -Y sign -n test -f /tools/{name}.pub /signed-{name}")
        };
        let dockerfile = format!(
            "FROM busybox\nCOPY --chmod=755 tools /tools\nRUN echo text >/signed-one && echo text >/signed-two\n\
             RUN --mount=type=ssh,id=deploy /tools/run-ssh-add -l >/listed && {} && {} && \
             ! /tools/run-ssh-add -q -D 2>/dev/null\n",
            sign("one"),
            sign("two"),
        );
        let dir = context(host, "keys", &[("Dockerfile", &dockerfile), ("tools/empty", "")])?;
        for name in ["ssh-add", "ssh-keygen"] {
            take_program(&dir.join("tools"), name)?;
        }
        for path in [&one, &two] {
            let public = format!("{path}.pub");
            let name = public.rsplit('/').next().unwrap_or_default();
            fs::copy(&public, dir.join("tools").join(name))?;
        }
        let output = build(
            host,
            &dir,
            &["-t", "keys", "--ssh", &format!("deploy={one},{two}")],
        )?;
        ensure!(output.code == 0, "{output}");
        let listed = run(host, "keys", "cat /listed")?;
        ensure!(
            listed.contains("(ED25519)") && listed.contains("2048 ") && listed.contains("(RSA)"),
            "{listed}"
        );
        let out = host.folder().join("signed");
        let cp = |name: &str| {
            host.ok(&[
                "cp",
                &format!("made:/{name}"),
                &out.join(name).display().to_string(),
            ])
        };
        fs::create_dir(&out)?;
        host.ok(&["create", "--name", "made", "keys"])?;
        for name in ["signed-one", "signed-two"] {
            cp(name)?;
            cp(&format!("{name}.sig"))?;
            let check = format!("ssh-keygen -Y check-novalidate -n test -s {name}.sig <{name}");
            let said = tool("sh", &["-c", &format!("cd {} && {check}", out.display())])?;
            ensure!(said.contains("Good \"test\" signature"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn what_is_no_key_to_lend_is_refused() {
    host(|host, _| {
        let one = key(host, "one", &["-t", "ed25519"])?;
        let locked = key(host, "locked", &["-t", "ed25519"])?;
        tool(
            "ssh-keygen",
            &["-q", "-p", "-P", "", "-N", "secret", "-f", &locked],
        )?;
        let dir = context(host, "refused", &[("Dockerfile", "FROM busybox\n")])?;
        for (ssh, part) in [
            (
                format!("default={locked}"),
                "this private key is passphrase protected",
            ),
            (
                format!("default={one},/dev/log-that-is-none"),
                "/dev/log-that-is-none",
            ),
            (
                format!("default={}", dir.join("Dockerfile").display()),
                "ssh: no key found",
            ),
        ] {
            build(host, &dir, &["--ssh", &ssh])?.fails(1, &["failed to", part])?;
        }
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

/// On a btrfs of the test's own: the daemon's folder lies there from the start.
#[test]
fn btrfs_builds_the_same() {
    host(|host, fleet| {
        let kernel = fs::read_to_string("/proc/filesystems")?;
        if !kernel.contains("\tbtrfs\n") || tool("mkfs.btrfs", &["--version"]).is_err() {
            eprintln!("skipped: needs btrfs in the kernel, and mkfs.btrfs");
            return Ok(());
        }
        host.stop()?;
        let disk = host.folder().join("disk");
        fs::File::create(&disk)?.set_len(512 << 20)?;
        let (disk, data) = (disk.display().to_string(), host.data_dir().display().to_string());
        tool("mkfs.btrfs", &["--quiet", &disk])?;
        tool("mount", &["-o", "loop", &disk, &data])?;
        let built = (|| -> Result<()> {
            host.start_flagged(&["--storage-driver", "btrfs"])?;
            fleet.load_images()?;
            trees(host)?;
            // Layers on layers, and what the cache knows of them after a new start.
            let dir = host.folder().join("trees");
            host.stop()?;
            host.start_flagged(&["--storage-driver", "btrfs"])?;
            let said = crate::built(host, &dir, "again", &[])?;
            ensure!(crate::cached(&said) >= 7, "{said}");
            ensure!(run(host, "again", "cat /a.txt")? == "a");
            Ok(())
        })();
        let stopped = host.stop().map(drop);
        tool("umount", &["--lazy", &data])?;
        built.and(stopped)
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
