//! Where files come from: folders, archives, repositories, web addresses; what is not sent.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use pontoon_tests::process::{self, Output, tool};
use pontoon_tests::{Host, SHORT, wait_until, wire};

use crate::{build, built, context, host, run};

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

/// A web server for a folder in the host's network. It ends with the value.
struct Server(Child);

impl Server {
    fn start(host: &Host, folder: &Path) -> Result<Self> {
        let child = wire::enter(&host.netns())
            .args(["busybox", "httpd", "-f", "-p", "127.0.0.1:8099", "-h"])
            .arg(folder)
            .spawn()
            .context("cannot start the web server")?;
        let server = Self(child);
        wait_until("the web server answers", SHORT, || {
            host.exec(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8099"])?
                .ok()
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client in the host's network.
fn near(host: &Host, args: &[&str]) -> Result<Output> {
    let inner = host.command(args);
    let mut command: Command = wire::enter(&host.netns());
    command.arg(inner.get_program()).args(inner.get_args());
    process::run(command)
}

/// A repository with a Dockerfile, a branch and a folder, as a plain web server can give it. Gives the commit.
fn repository(folder: &Path) -> Result<String> {
    let script = "set -e; cd \"$0\"; git init -q -b main work; cd work; mkdir sub\n\
        printf 'FROM busybox\\nCOPY f /f\\n' >Dockerfile; cp Dockerfile sub/; echo top >f; echo sub >sub/f\n\
        git add .; git -c user.name=t -c user.email=t@t commit -qm one; git rev-parse HEAD\n\
        git branch other; cd ..; git clone -q --bare work repo.git; git -C repo.git update-server-info";
    Ok(tool("bash", &["-c", script, &folder.display().to_string()])?
        .trim()
        .to_owned())
}

#[test]
fn repositories_and_web_addresses_are_contexts() {
    host(|host, _| {
        let web = context(
            host,
            "web",
            &[("Dockerfile", "FROM busybox\nRUN echo web >/f\n"), ("f", "f\n")],
        )?;
        repository(&web)?;
        let archive = web.join("ctx.tar.gz").display().to_string();
        tool(
            "tar",
            &[
                "-czf",
                &archive,
                "-C",
                &web.join("work").display().to_string(),
                ".",
            ],
        )?;
        let _server = Server::start(host, &web)?;
        let local = format!("file://{}/repo.git#other:sub", web.display());
        for (context, content) in [
            ("http://127.0.0.1:8099/repo.git", "top"),
            ("http://127.0.0.1:8099/repo.git#main:sub", "sub"),
            (local.as_str(), "sub"),
            ("http://127.0.0.1:8099/ctx.tar.gz", "top"),
            ("http://127.0.0.1:8099/Dockerfile", "web"),
        ] {
            let output = near(host, &["build", "-t", "remote", context])?;
            ensure!(output.code == 0, "{context}: {output}");
            ensure!(run(host, "remote", "cat /f")? == content, "{context}");
        }
        near(host, &["build", "http://127.0.0.1:8099/gone"])?.fails(1, &["404"])?;
        near(host, &["build", "http://127.0.0.1:8099/repo.git#main:gone"])?
            .fails(1, &["the repository has no folder gone"])?;
        Ok(())
    });
}

#[test]
fn add_takes_downloads_repositories_and_archives() {
    host(|host, _| {
        let web = context(
            host,
            "web",
            &[("f.txt", "content\n"), ("in/x", "x\n"), ("in/d/y", "y\n")],
        )?;
        let commit = repository(&web)?;
        for (name, flag) in [
            ("a.tar", "-cf"),
            ("a.tar.gz", "-czf"),
            ("a.tar.zst", "--zstd -cf"),
            ("b.tar.bz2", "-cjf"),
            ("b.tar.xz", "-cJf"),
        ] {
            let script = format!("tar {flag} {name} -C in .");
            tool("sh", &["-c", &format!("cd {} && {script}", web.display())])?;
        }
        let sum = tool("sha256sum", &[&web.join("f.txt").display().to_string()])?;
        let sum = sum.split(' ').next().unwrap_or_default();
        let _server = Server::start(host, &web)?;
        let at = "http://127.0.0.1:8099";
        let dockerfile = format!(
            "FROM busybox\nADD --checksum=sha256:{sum} {at}/f.txt /dir/\nADD --chmod=644 --chown=33:50 {at}/f.txt /named\nADD {at}/a.tar.gz /as-is/\n\
             ADD --unpack=true {at}/a.tar.gz /unpacked/\nADD {at}/repo.git#other:sub /git/\n\
             ADD a.tar a.tar.gz /local/\nADD a.tar.zst /zst/\nADD b.tar.bz2 /bz2/\nADD b.tar.xz /xz/\nADD --unpack=false a.tar /packed/\nADD plain.txt /plain/\nADD --keep-git-dir=true --checksum={commit} {at}/repo.git /whole\n"
        );
        let dir = context(
            host,
            "adds",
            &[("Dockerfile", &dockerfile), ("plain.txt", "plain\n")],
        )?;
        for name in ["a.tar", "a.tar.gz", "a.tar.zst", "b.tar.bz2", "b.tar.xz"] {
            fs::copy(web.join(name), dir.join(name))?;
        }
        built(host, &dir, "adds", &[])?;
        let look = "cat /dir/f.txt; stat -c %a:%u:%g /dir/f.txt /named; ls /as-is /packed /git /zst; cat /unpacked/d/y /local/x /zst/d/y /bz2/d/y /xz/x /plain/plain.txt /git/f; test -d /whole/.git && echo kept";
        let out = run(host, "adds", look)?;
        ensure!(
            out == "content\n600:0:0\n644:33:50\n/as-is:\na.tar.gz\n\n/git:\nDockerfile\nf\n\n/packed:\na.tar\n\n/zst:\nd\nx\ny\nx\ny\ny\nx\nplain\nsub\nkept",
            "{out}"
        );
        // What the server has is asked for each time; git's own files are new with each clone, and stand for their commit.
        let same = built(host, &dir, "adds", &[])?;
        ensure!(crate::cached(&same) == 12, "{same}");
        let script = "cd \"$0\"/work && git -c user.name=t -c user.email=t@t commit -q --allow-empty -m two && git push -q ../repo.git main && git -C ../repo.git update-server-info && git rev-parse HEAD";
        let newer = tool("sh", &["-c", script, &web.display().to_string()])?;
        let other = dockerfile.replace(&commit, newer.trim());
        fs::write(dir.join("Dockerfile"), other)?;
        let newer = built(host, &dir, "newer", &[])?;
        ensure!(
            crate::cached(&newer) == 11,
            "another commit with the same files: {newer}"
        );
        for (line, parts) in [
            (
                format!("ADD --checksum=sha256:{} {at}/f.txt /x", "0".repeat(64)),
                "digest mismatch",
            ),
            (format!("ADD {at}/gone /x"), "invalid response status 404"),
            (format!("ADD {at}/repo.git#gone /x"), "git"),
            (
                format!("ADD --checksum={} {at}/repo.git /x", "0".repeat(40)),
                "expected checksum to match",
            ),
        ] {
            let wrong = context(
                host,
                "wrong",
                &[("Dockerfile", &format!("FROM busybox\n{line}\n"))],
            )?;
            build(host, &wrong, &[])?.fails(1, &[parts, "Dockerfile:2", &format!(">>> {line}")])?;
        }
        Ok(())
    });
}

#[test]
fn links_do_not_leave_the_context() {
    host(|host, _| {
        let dir = context(host, "shrinks", &[("Dockerfile", "FROM busybox\nCOPY f /f\n")])?;
        symlink("/proc/self/status", dir.join("f"))?;
        let output = build(host, &dir, &[])?;
        ensure!(
            output.code == 1,
            "a link out of the context leads nowhere: {output}"
        );
        ensure!(output.stderr.contains("\"/f\": not found"), "{output}");
        Ok(())
    });
}
