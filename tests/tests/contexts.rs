//! How the client finds its daemon: contexts, and ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use pontoon_tests::process::Output;
use pontoon_tests::{Host, process, programs, with_fleet};

/// A stand-in for ssh(1): writes down what it is told and runs the command here, as a far shell would.
const FAKE_SSH: &str = r#"#!/bin/sh
echo "$*" >>"$SSH_LOG"
while [ "$1" != -- ]; do shift; done
[ "$2" = me@far ] || { echo "ssh: unknown host $2" >&2; exit 255; }
shift 2
exec sh -c "$*"
"#;

/// A user with a home of its own and the stand-in on the path.
struct User {
    folder: PathBuf,
    path: String,
}

impl User {
    fn new(host: &Host) -> Result<Self> {
        let folder = host.folder().join("client");
        fs::create_dir_all(folder.join("bin"))?;
        fs::write(folder.join("bin/ssh"), FAKE_SSH)?;
        fs::set_permissions(folder.join("bin/ssh"), fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(programs::pontoon()?, folder.join("bin/pontoon"))?;
        let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH")?);
        Ok(Self { folder, path })
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.folder.join("bin/pontoon"));
        command
            .env_remove("PONTOON_HOST")
            .env("PONTOON_CONFIG_DIR", self.folder.join("config"))
            .env("SSH_LOG", self.log())
            .env("PATH", &self.path)
            .args(args);
        process::run(command)
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("ssh.log")
    }
}

/// The host's socket as an address through ssh.
fn far(host: &Host) -> String {
    format!("ssh://me@far:2222{}", host.socket().trim_start_matches("unix://"))
}

#[test]
fn contexts_lead_to_daemons() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        let user = User::new(host)?;
        let near = format!("host={}", host.socket());
        user.ok(&["context", "create", "near", "--docker", &near])?;
        user.ok(&["context", "use", "near"])?;
        ensure!(user.ok(&["context", "show"])? == "near");
        let id = host.ok(&["info", "--format", "{{.ID}}"])?;
        ensure!(user.ok(&["info", "--format", "{{.ID}}"])? == id);
        ensure!(!user.log().exists(), "no ssh for a socket of this host");

        let address = format!("host={}", far(host));
        user.ok(&[
            "context",
            "create",
            "far",
            "--description",
            "by ssh",
            "--docker",
            &address,
        ])?;
        ensure!(user.ok(&["--context", "far", "info", "--format", "{{.ID}}"])? == id);
        let said = fs::read_to_string(user.log())?;
        ensure!(
            said.contains("-p 2222") && said.contains("-- me@far pontoon --host="),
            "{said}"
        );
        user.run(&["--context", "again", "ps"])?
            .fails(1, &["context not found"])?;
        user.run(&["--context", "far", "--host", &host.socket(), "ps"])?
            .fails(1, &["cannot specify both --host and --context"])?;
        user.run(&["--host", "ssh://nobody@nowhere", "ps"])?.fails(
            1,
            &["Cannot connect to the Pontoon daemon at ssh://nobody@nowhere"],
        )?;
        Ok(())
    });
}

#[test]
fn contexts_are_kept_listed_and_moved() {
    with_fleet(1, |fleet| {
        let host = fleet.host(1);
        let user = User::new(host)?;
        let (socket, far) = (host.socket(), far(host));
        user.ok(&["context", "create", "near", "--docker", &format!("host={socket}")])?;
        user.ok(&["context", "create", "far", "--docker", &format!("host={far}")])?;
        user.ok(&["context", "use", "near"])?;
        let listed = user.ok(&[
            "context",
            "ls",
            "--format",
            "{{.Name}} {{.Current}} {{.DockerEndpoint}}",
        ])?;
        ensure!(
            listed
                == format!(
                    "default false unix:///run/pontoon/pontoon.sock\nfar false {far}\nnear true {socket}"
                ),
            "{listed}"
        );
        let archive = user.folder.join("far.tar").display().to_string();
        user.ok(&["context", "export", "far", &archive])?;
        user.ok(&["context", "import", "again", &archive])?;
        ensure!(user.ok(&["context", "inspect", "again", "-f", "{{.Endpoints.docker.Host}}"])? == far);
        user.ok(&[
            "context",
            "update",
            "again",
            "--description",
            "moved",
            "--docker",
            &format!("host={socket}"),
        ])?;
        ensure!(
            user.ok(&[
                "context",
                "inspect",
                "again",
                "-f",
                "{{.Metadata.Description}} {{.Endpoints.docker.Host}}"
            ])? == format!("moved {socket}")
        );
        user.run(&["context", "rm", "near"])?
            .fails(1, &["is in use, set -f flag"])?;
        user.ok(&["context", "rm", "-f", "near", "far"])?;
        ensure!(user.ok(&["context", "show"])? == "default");
        user.run(&["context", "create", "again", "--docker", "host=unix:///x"])?
            .fails(1, &["already exists"])?;
        user.run(&["context", "create", "tls", "--docker", "host=tcp://1.2.3.4:2376"])?
            .fails(1, &["invalid host"])?;
        user.run(&["context", "create", "tls", "--docker", "ca=/x"])?
            .fails(1, &["--docker ca is not supported"])?;
        Ok(())
    });
}
